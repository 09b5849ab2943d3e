//! On which processor a benchmark runs.

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// Keeps this thread, and those it starts, on one core, the last if none is named; gives its
/// number.
///
/// # Errors
/// There is no such core, or this process may not use it.
pub fn pin(core: Option<usize>) -> Result<usize> {
    let last = std::thread::available_parallelism().map_or(0, |count| count.get() - 1);
    let core = core.unwrap_or(last);
    let mut set = CpuSet::new();
    set.set(core).with_context(|| format!("there is no core {core}"))?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .with_context(|| format!("could not keep to core {core}"))?;
    Ok(core)
}
