//! pointsman's agent: it fills the maps of the XDP program, checks servers and evicts
//! dead ones, and answers the operator.
//!
//! `docs/ARCHITECTURE.md` has the code map. Features know [`model`]; features do not know
//! each other; `app` wires them.

pub mod access_log;
pub mod admin;
pub mod allocator;
pub mod app;
pub mod balance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod datapath;
pub mod descriptors;
mod dial;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod network;
pub mod proxy;
pub mod reconcile;
