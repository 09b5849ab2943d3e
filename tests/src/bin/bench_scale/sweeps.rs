//! What a sweep of the flow tables costs.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_common::timeouts::Timeouts;
use nix::time::{ClockId, clock_gettime};
use pointsman::datapath::{FlowTables, Pins, Settler, sweep::sweep};

use crate::{figure::Figure, scene::Scene};

/// Sweeps three times as the agent does; the median by time. Nothing is idle.
///
/// # Errors
/// If the tables can not be read, or something has expired.
pub(crate) fn measure(scene: &Scene<'_>) -> Result<Vec<Figure>> {
    let pins = Pins::new(scene.agent.pin_directory());
    let (tables, settler) = (FlowTables::open(&pins)?, Settler::open(&pins)?);
    let mut runs = Vec::new();
    for _ in 0..3 {
        let before = processor_time()?;
        let report = sweep(&tables, settler.expirer(), &Timeouts::default(), 0, |_| {})?;
        ensure!(report.expired == 0, "{} flows have expired", report.expired);
        let longest = report.longest_read.max(report.longest_batch);
        runs.push((report.took, processor_time()?.saturating_sub(before), longest));
    }
    runs.sort_unstable();
    let (took, processor, longest) = runs[runs.len() / 2];
    Ok(vec![
        Figure::milliseconds("sweep, in all", took),
        Figure::milliseconds("sweep, processor time", processor),
        Figure::milliseconds("sweep, longest call", longest),
    ])
}

/// What this thread has used.
fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
