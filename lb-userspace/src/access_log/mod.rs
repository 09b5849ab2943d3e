//! The layer-4 access log: one line a finished flow.
//!
//! [`record`] turns an event of the data plane into a line, without I/O; [`writer`] brings
//! lines to a file or standard output on a thread of its own, and never slows the rest of
//! the agent: what does not fit its queue is lost and counted.

mod appended;
pub mod record;
mod syslog;
pub mod writer;
