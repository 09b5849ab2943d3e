//! The control loop: everything that happens to the agent is an event into one loop, which
//! brings the data plane to what follows from configuration, checks and the operator.

pub mod book;
pub mod memory;
pub mod notify;
pub mod restart;
pub mod signal;
pub mod view;
