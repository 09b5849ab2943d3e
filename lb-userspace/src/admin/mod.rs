//! How an operator talks to a running agent: HTTP/1.1 with JSON bodies over a unix socket,
//! and, if asked for, read-only over TCP.
//!
//! [`api`] and [`access`] have the types of every request and answer, [`routes`] reads requests, both
//! without I/O; [`server`] and [`client`] move them. The admin interface decides nothing:
//! it hands a [`command::Command`] to the control loop and waits for the answer.

pub mod access;
pub mod api;
mod blocks;
pub mod client;
pub mod command;
pub mod flow_query;
pub mod routes;
pub mod scrape;
pub mod server;
pub mod socket;
pub mod trace;

/// The admin socket unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/pointsman/admin.sock";
