//! The access log: one line for a finished flow of layer 4; lines of the proxy come ready-made.
//!
//! [`record`] turns an event of the data plane into a line, without I/O; [`writer`] brings
//! lines of both to a file, standard output or syslog on a thread of its own, and never slows
//! the rest of the agent: what does not fit its queue is lost and counted.

mod appended;
pub mod record;
mod syslog;
pub mod writer;
