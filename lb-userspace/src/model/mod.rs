//! What the agent knows, as values: the validated configuration and the state of servers.
//! Pure: no I/O, no clock, no async.

pub mod access;
pub mod access_log;
pub mod address;
pub mod backend;
pub mod balance;
#[cfg(test)]
pub(crate) mod fixture;
pub mod flow;
pub mod frontend;
pub mod histogram;
pub mod index;
pub mod name;
pub mod next_hop;
pub mod rule;
pub mod snapshot;
pub mod state;
pub mod tls;
