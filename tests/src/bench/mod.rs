//! What benchmarks share: scenarios, the load, the servers, and from rounds to figures.

pub mod core;
pub mod datapath;
pub mod nginx;
pub mod statistics;
pub mod wrk;
