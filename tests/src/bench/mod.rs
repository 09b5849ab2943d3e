//! What benchmarks of the whole product share: the load, the servers, and from rounds to
//! figures.

pub mod nginx;
pub mod statistics;
pub mod wrk;
