//! The test bed: namespaces wired around a balancer, the real agent in it, servers and
//! clients, and everything put back as it was.
//!
//! Nothing here is part of the product, and nothing here helps it: the bed prepares what a
//! veth pair needs ([`bed`]), the agent does the rest.

pub mod agent;
pub mod bed;
pub mod bench;
pub mod bpffs;
pub mod bpftool;
pub mod clients;
pub mod configuration;
pub mod content;
pub mod demo;
pub mod fixture;
pub mod fleet;
pub mod loopback;
pub mod namespace;
pub mod packet;
#[path = "../../lb-userspace/tests/ports/mod.rs"]
pub mod ports;
pub mod process;
pub mod python;
pub mod real;
pub mod report;
pub mod servers;
pub mod stub;
pub mod sweep_bench;
pub mod web;
