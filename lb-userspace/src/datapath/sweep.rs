//! Forgetting idle flows. The confirmed tables never evict, so this is what keeps them
//! from filling up.
//!
//! A sweep reads the tables [`BATCH`](super::batch::BATCH) entries a call and holds no lock longer than the
//! kernel's on one hash bucket. Whatever looks idle is read again, both halves, right
//! before it is deleted; a packet that slips in between finds no flow and opens one.

use std::{
    thread,
    time::{Duration, Instant},
};

use aya::Pod;
use lb_common::{
    abi::map,
    address::Address,
    event::{FlowEnd, cause},
    flow::{FlowEntry, FlowKey},
    timeouts::Timeouts,
};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    error::MapAccessError,
    expiry::{Verdict, decide, may_be_over},
    tables::{Family, FlowTables, Half, Table, flow_end},
};
use crate::clock::Moment;

/// What one sweep found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// How full each table was.
    pub fill: Vec<TableFill>,
    /// Flows deleted because they were idle.
    pub expired: u64,
    /// Of those, flows of which only one half was left.
    pub stranded: u64,
    /// Time from first to last call.
    pub took: Duration,
    /// The longest a call that reads a batch took.
    pub longest_read: Duration,
    /// The longest it took to look again at what seemed idle in one batch, and delete it.
    pub longest_batch: Duration,
}

/// How full a table was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFill {
    /// The table's name.
    pub map: &'static str,
    /// Entries found; a flow has two.
    pub entries: u64,
    /// Its capacity in entries.
    pub capacity: u32,
}

/// Sweeps all four tables once. Blocks: about a second for a million flows, in calls of a
/// millisecond with a chance for other threads between them. `report` gets each flow that
/// ended, save those the data plane has reported.
///
/// # Errors
/// If a table can not be read or written; what was deleted stays deleted.
pub fn sweep(
    tables: &FlowTables,
    timeouts: &Timeouts,
    mut report: impl FnMut(FlowEnd),
) -> Result<SweepReport, MapAccessError> {
    let start = Instant::now();
    let mut result = SweepReport::default();
    let names = [(map::FLOWS4, map::FLOWS6), (map::HALF_OPEN4, map::HALF_OPEN6)];
    for (table, (four, six)) in [Table::Confirmed, Table::HalfOpen].into_iter().zip(names) {
        sweep_table(&tables.four, table, four, timeouts, &mut report, &mut result)?;
        sweep_table(&tables.six, table, six, timeouts, &mut report, &mut result)?;
    }
    result.took = start.elapsed();
    Ok(result)
}

/// The task that sweeps at intervals.
#[derive(Debug)]
pub struct Sweeper {
    /// The tables.
    pub tables: FlowTables,
    /// Time between two sweeps.
    pub interval: Duration,
    /// The timeouts in force.
    pub timeouts: watch::Receiver<Timeouts>,
    /// Gets the flows that ended. A full channel slows the sweep, not the data plane.
    pub ends: mpsc::Sender<FlowEnd>,
    /// Gets what each sweep found.
    pub reports: watch::Sender<SweepReport>,
}

impl Sweeper {
    /// Sweeps until cancelled; a sweep under way is finished first. A sweep that fails is
    /// logged and tried again at the next interval.
    ///
    /// # Cancel safety
    /// Dropping the future leaves a sweep under way to finish on its own.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { mut tables, interval: time, timeouts, ends, reports } = self;
        let mut ticks = interval(time);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let limits = *timeouts.borrow();
            let sender = ends.clone();
            let task = spawn_blocking(move || {
                let result = sweep(&tables, &limits, |end| {
                    // Nobody listening means nobody wants to know.
                    let _closed = sender.blocking_send(end);
                });
                (tables, result)
            });
            let result = match task.await {
                Ok((same, result)) => {
                    tables = same;
                    result
                }
                Err(error) => {
                    warn!(%error, "the sweep ended unexpectedly, flows are not forgotten any more");
                    return;
                }
            };
            match result {
                Ok(report) => {
                    debug!(?report, "swept the flow tables");
                    reports.send_replace(report);
                }
                Err(error) => warn!(error = %error, "could not sweep the flow tables"),
            }
        }
    }
}

fn sweep_table<A: Address>(
    family: &Family<A>,
    table: Table,
    name: &'static str,
    timeouts: &Timeouts,
    report: &mut impl FnMut(FlowEnd),
    result: &mut SweepReport,
) -> Result<(), MapAccessError>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let map = family.table(table);
    let mut fill = TableFill { map: name, entries: 0, capacity: map.capacity() };
    let (mut keys, mut entries) = (Vec::new(), Vec::new());
    let mut batches = map.batches();
    loop {
        let start = Instant::now();
        let more = batches.next_into(&mut keys, &mut entries)?;
        let read = start.elapsed();
        result.longest_read = result.longest_read.max(read);
        if !more {
            break;
        }
        fill.entries += keys.len() as u64;
        let now_ns = Moment::now().monotonic_ns;
        for (key, entry) in keys.iter().zip(&entries) {
            let seen = Half { key: *key, entry: *entry, table };
            if may_be_over(&seen, timeouts, now_ns) {
                end_if_over(family, &seen, timeouts, report, result)?;
            }
        }
        result.longest_batch = result.longest_batch.max(start.elapsed() - read);
        thread::yield_now();
    }
    result.fill.push(fill);
    Ok(())
}

/// Looks again and decides; deletes both halves.
fn end_if_over<A: Address>(
    family: &Family<A>,
    seen: &Half<A>,
    timeouts: &Timeouts,
    report: &mut impl FnMut(FlowEnd),
    result: &mut SweepReport,
) -> Result<(), MapAccessError>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let Some(half) = family.find(seen.key, seen.table)? else { return Ok(()) };
    let partner = family.find(half.entry.partner_key(), half.table)?;
    let now_ns = Moment::now().monotonic_ns;
    let verdict = decide(&half, partner.as_ref(), timeouts, now_ns);
    if verdict == Verdict::Keep {
        return Ok(());
    }
    family.table(half.table).remove(&half.key)?;
    match &partner {
        Some(partner) => {
            family.table(partner.table).remove(&partner.key)?;
        }
        None => result.stranded += 1,
    }
    result.expired += 1;
    if verdict == Verdict::Report {
        report(flow_end(&half, partner.as_ref(), now_ns, cause::TIMEOUT));
    }
    Ok(())
}
