//! What benchmarks of the data plane share: scenarios, the tables they need, and the programs
//! that are driven.

pub mod flood;
pub mod measure;
pub mod scenario;
pub mod tables;
