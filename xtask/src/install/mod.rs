//! What the chores need from the machine, found or installed. Each part is fast and silent
//! when nothing is missing.

pub(crate) mod bpffs;
pub(crate) mod debian;
pub(crate) mod python;
pub(crate) mod toolchain;
