//! Rules on real requests: the agent's binary with a configuration of rules, clients and
//! servers on loopback. No privilege, no data plane.

mod bed;
mod examples;
mod plain;
#[path = "../ports/mod.rs"]
mod ports;
mod requests;
