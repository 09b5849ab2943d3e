//! The commands of `cargo xtask`, one a file: its options, and `run`.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod demo;
pub(crate) mod dist;
pub(crate) mod docs;
pub(crate) mod fuzz;
pub(crate) mod packets;
pub(crate) mod races;
pub(crate) mod run;
pub(crate) mod setup;
pub(crate) mod soak;
mod stages;
pub(crate) mod test;
pub(crate) mod tidy;
