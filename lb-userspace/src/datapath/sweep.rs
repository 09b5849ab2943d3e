//! Forgetting idle flows. The confirmed tables never evict, so this is what keeps them
//! from filling up.
//!
//! Half-open flows leave by themselves; a sweep tells which have timed out since the last.
//!
//! A sweep reads the tables [`BATCH`](super::batch::BATCH) entries a call and holds no lock longer than the
//! kernel's on one hash bucket. Whatever looks idle is read again, both halves, right
//! before it is deleted; a packet that slips in between finds no flow and opens one.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use aya::Pod;
use lb_common::{
    abi::map,
    address::Address,
    event::{FlowEnd, cause},
    flow::{Direction, FlowEntry, FlowKey, Handle},
    half_open::Bucket,
    tcp_state::Progress,
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
    addresses::AddressBits,
    error::MapAccessError,
    expiry::{Verdict, decide, may_be_over},
    settle::{Ends, Settler},
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
    /// Flows found that count among those of their servers, deleted ones too, by VIP and server.
    pub counted: HashMap<(Handle, Handle), u32>,
    /// Addresses by which flows found are known: VIPs, addresses that servers answer to, and
    /// servers.
    pub addresses: AddressBits,
    /// Time from first to last call.
    pub took: Duration,
    /// The longest a call that reads a batch took.
    pub longest_read: Duration,
    /// The longest it took to look again at what seemed idle in one batch, and delete it.
    pub longest_batch: Duration,
    /// What all sweeps of this agent came to.
    pub totals: SweepTotals,
}

/// What sweeps came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepTotals {
    /// How many there were.
    pub sweeps: u64,
    /// [`SweepReport::expired`], added up.
    pub expired: u64,
    /// [`SweepReport::stranded`], added up.
    pub stranded: u64,
}

impl SweepReport {
    /// Flows by server.
    #[must_use]
    pub fn by_server(&self) -> HashMap<Handle, u32> {
        sums(self.counted.iter().map(|((_, server), count)| (*server, *count)))
    }

    /// Flows by VIP.
    #[must_use]
    pub fn by_vip(&self) -> HashMap<Handle, u32> {
        sums(self.counted.iter().map(|((vip, _), count)| (*vip, *count)))
    }
}

fn sums(counts: impl Iterator<Item = (Handle, u32)>) -> HashMap<Handle, u32> {
    let mut sums = HashMap::new();
    for (handle, count) in counts {
        *sums.entry(handle).or_default() += count;
    }
    sums
}

/// How full a table was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFill {
    /// The table's name.
    pub map: &'static str,
    /// Entries found. A confirmed flow has two, a half-open one has one.
    pub entries: u64,
    /// Its capacity in entries.
    pub capacity: u32,
}

/// Sweeps all four tables once. Blocks: about a second for a million flows, in calls of a
/// millisecond with a chance for other threads between them. `report` gets each flow that
/// ended, save those the data plane has reported and half-open ones that had timed out at
/// `since_ns`, when the last sweep began. `settle` gets what is to be counted down, after each
/// batch: an agent that is killed then has deleted no more than one batch without that.
///
/// # Errors
/// If a table can not be read or written; what was deleted stays deleted and is settled.
pub fn sweep(
    tables: &FlowTables,
    timeouts: &Timeouts,
    since_ns: u64,
    mut report: impl FnMut(FlowEnd),
    mut settle: impl FnMut(&Ends),
) -> Result<SweepReport, MapAccessError> {
    let mut report = |end| report(tables.servers().complete(end));
    let start = Instant::now();
    let mut result = SweepReport::default();
    let mut heard = (&mut report, &mut settle);
    sweep_confirmed(&tables.four, map::FLOWS4, timeouts, &mut heard, &mut result)?;
    sweep_confirmed(&tables.six, map::FLOWS6, timeouts, &mut heard, &mut result)?;
    let limits = (timeouts, since_ns);
    sweep_half_open(&tables.four, map::HALF_OPEN4, limits, &mut report, &mut result)?;
    sweep_half_open(&tables.six, map::HALF_OPEN6, limits, &mut report, &mut result)?;
    result.took = start.elapsed();
    Ok(result)
}

/// The task that sweeps at intervals.
#[derive(Debug)]
pub struct Sweeper {
    /// The tables.
    pub tables: FlowTables,
    /// Counts down what deleted flows counted for.
    pub settler: Settler,
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
        let Self { mut tables, mut settler, interval: time, timeouts, ends, reports } = self;
        let mut ticks = interval(time);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What timed out before this agent is not its to tell.
        let mut since_ns = Moment::now().monotonic_ns;
        let mut totals = SweepTotals::default();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let limits = *timeouts.borrow();
            let sender = ends.clone();
            let last_ns = std::mem::replace(&mut since_ns, Moment::now().monotonic_ns);
            let task = spawn_blocking(move || {
                let before = settler.counts();
                let report = |end| {
                    // Nobody listening means nobody wants to know.
                    let _closed = sender.blocking_send(end);
                };
                let result = sweep(&tables, &limits, last_ns, report, |ends| {
                    count_down(&mut settler, ends);
                });
                if let Ok(report) = &result {
                    put_right(&mut settler, before, report);
                }
                (tables, settler, result)
            });
            let result = match task.await {
                Ok((same_tables, same_settler, result)) => {
                    (tables, settler) = (same_tables, same_settler);
                    result
                }
                Err(error) => {
                    warn!(%error, "the sweep ended unexpectedly, flows are not forgotten any more");
                    return;
                }
            };
            match result {
                Ok(mut report) => {
                    totals.sweeps += 1;
                    totals.expired += report.expired;
                    totals.stranded += report.stranded;
                    report.totals = totals;
                    debug!(?report, "swept the flow tables");
                    reports.send_replace(report);
                }
                Err(error) => warn!(error = %error, "could not sweep the flow tables"),
            }
        }
    }
}

/// Counts down what the sweep has deleted.
fn count_down(settler: &mut Settler, ends: &Ends) {
    if let Err(error) = settler.settle(ends) {
        warn!(%error, "could not count down the flows of servers and sources");
    }
}

/// Puts counts of servers right that do not agree with what a sweep found.
fn put_right(
    settler: &mut Settler,
    before: Result<HashMap<Handle, u32>, MapAccessError>,
    report: &SweepReport,
) {
    match before.and_then(|before| settler.recount(&before, &report.by_server())) {
        Ok(ends) if ends.is_empty() => {}
        Ok(ends) => count_down(settler, &ends),
        Err(error) => warn!(%error, "could not compare the counts of flows with the flows"),
    }
}

/// Counts half-open flows and reports those that timed out in silence.
fn sweep_half_open<A: Address>(
    family: &Family<A>,
    name: &'static str,
    (timeouts, since_ns): (&Timeouts, u64),
    report: &mut impl FnMut(FlowEnd),
    result: &mut SweepReport,
) -> Result<(), MapAccessError>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod + Default,
    Bucket<A>: Pod,
{
    let mut fill = TableFill { map: name, entries: 0, capacity: family.half_open.capacity() };
    let (mut expired, mut longest) = (0, Duration::ZERO);
    let mut start = Instant::now();
    let addresses = &mut result.addresses;
    let look = |found: super::half_open::Found<A>| {
        let now_ns = Moment::now().monotonic_ns;
        addresses.insert(found.flow.from_client.destination);
        addresses.insert(found.flow.from_server.destination);
        addresses.insert(found.flow.from_server.source);
        let (forward, reply) = (found.half(Direction::Forward), found.half(Direction::Reply));
        let verdict = decide(&forward, Some(&reply), timeouts, now_ns);
        if verdict == Verdict::Keep {
            fill.entries += 1;
        } else if verdict == Verdict::Report
            && decide(&forward, Some(&reply), timeouts, since_ns) == Verdict::Keep
        {
            expired += 1;
            report(flow_end(&forward, Some(&reply), now_ns, cause_of_silence(&forward)));
        }
    };
    let pause = || {
        longest = longest.max(start.elapsed());
        thread::yield_now();
        start = Instant::now();
    };
    family.half_open.for_each(look, pause)?;
    result.expired += expired;
    result.longest_read = result.longest_read.max(longest);
    result.fill.push(fill);
    Ok(())
}

fn sweep_confirmed<A: Address>(
    family: &Family<A>,
    name: &'static str,
    timeouts: &Timeouts,
    (report, settle): &mut (impl FnMut(FlowEnd), impl FnMut(&Ends)),
    result: &mut SweepReport,
) -> Result<(), MapAccessError>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod + Default,
    Bucket<A>: Pod,
{
    let map = &family.confirmed;
    let mut ends = Ends::default();
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
        let swept = keys.iter().zip(&entries).try_for_each(|(key, entry)| {
            result.addresses.insert(key.destination);
            if entry.direction() == Direction::Reply {
                // With half NAT the server is known by its own address.
                result.addresses.insert(key.source);
            }
            if is_counted(entry) {
                *result.counted.entry((entry.vip, entry.server)).or_default() += 1;
            }
            let seen = Half { key: *key, entry: *entry, table: Table::Confirmed };
            if may_be_over(&seen, timeouts, now_ns) {
                end_if_over(family, &seen, timeouts, report, (&mut *result, &mut ends))?;
            }
            Ok(())
        });
        if !ends.is_empty() {
            settle(&std::mem::take(&mut ends));
        }
        swept?;
        result.longest_batch = result.longest_batch.max(start.elapsed() - read);
        thread::yield_now();
    }
    result.fill.push(fill);
    Ok(())
}

/// Whether a flow counts among those of its server by this entry: that for the server's packets,
/// or the only one, of a flow that is not over.
fn is_counted<A: Address>(entry: &FlowEntry<A>) -> bool {
    let progress = Progress(entry.progress);
    entry.progress & Progress::UNCOUNTED == 0
        && (progress.is_one_way() || entry.direction() == Direction::Reply)
}

/// Looks again and decides; deletes both halves.
fn end_if_over<A: Address>(
    family: &Family<A>,
    seen: &Half<A>,
    timeouts: &Timeouts,
    report: &mut impl FnMut(FlowEnd),
    (result, ends): (&mut SweepReport, &mut Ends),
) -> Result<(), MapAccessError>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod + Default,
    Bucket<A>: Pod,
{
    let Some(half) = family.find(seen.key, seen.table)? else { return Ok(()) };
    // The place may be another flow's by now: of a tuple that was opened anew, or a stray half.
    let partner = family.find(half.entry.partner_key(), half.table)?;
    let partner = partner.filter(|partner| partner.entry.answers(&half.key));
    let now_ns = Moment::now().monotonic_ns;
    let verdict = decide(&half, partner.as_ref(), timeouts, now_ns);
    if verdict == Verdict::Keep {
        return Ok(());
    }
    let is_one_way = Progress(half.entry.progress).is_one_way();
    for Half { key, entry, .. } in [Some(&half), partner.as_ref()].into_iter().flatten() {
        let there = family.confirmed.remove(key)?;
        // Whoever removes the server's half ends the flow, or the only one that it has.
        if !there || !(is_one_way || entry.direction() == Direction::Reply) {
            continue;
        }
        if entry.progress & Progress::UNCOUNTED == 0 {
            *ends.servers.entry(entry.server).or_default() += 1;
        }
        if entry.progress & Progress::COUNTED != 0 {
            let client = if is_one_way { key.source } else { entry.destination };
            ends.counted.push((entry.vip, client.to_common()));
        }
    }
    if partner.is_none() && !is_one_way {
        result.stranded += 1;
    }
    result.expired += 1;
    if verdict == Verdict::Report {
        report(flow_end(&half, partner.as_ref(), now_ns, cause_of_silence(&half)));
    }
    Ok(())
}

/// Why a flow fell silent: one that was in doubt since a RST has been ended by it. That its client
/// has sent FIN is all that is ever seen of the end of a one-way flow.
fn cause_of_silence<A: Address>(half: &Half<A>) -> u8 {
    let progress = Progress(half.entry.progress);
    if progress.is_one_way() && progress.recyclable() {
        cause::FIN
    } else if progress.0 & Progress::CLIENT_DOUBT != 0 {
        cause::CLIENT_RESET
    } else if progress.0 & Progress::SERVER_DOUBT != 0 {
        cause::SERVER_RESET
    } else {
        cause::TIMEOUT
    }
}
