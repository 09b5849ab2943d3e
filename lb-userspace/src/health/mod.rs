//! Health checks: asking servers whether they are well, and saying when that changes.
//!
//! Owns the probes ([`tcp`], [`http`]), the decision what a row of results means
//! ([`machine`], pure), when to ask ([`schedule`], pure), and the task that does so for
//! every checked server ([`task`]). It must not know the data plane or the operator's
//! interface: it reads snapshots, sends [`HealthEvent`]s, and has an [`AsTraffic`] send those
//! checks on their way that are to go as traffic does. Checks leave from the network
//! namespace of the process.

pub mod counts;
pub mod error;
pub mod http;
pub mod machine;
pub mod schedule;
pub mod task;
pub mod tcp;
mod way;
mod worker;

pub use counts::{CheckCounts, Checked};
pub use error::{CheckError, Phase};
pub use machine::{CheckMachine, CheckResult, Transition, Verdict};
pub use task::{Checker, HealthEvent};
pub use way::{AsTraffic, Detour, Way};
