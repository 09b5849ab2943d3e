//! Forgetting idle flows. The confirmed tables never evict, so this is what keeps them
//! from filling up.
//!
//! Half-open flows leave by themselves; a sweep tells which have timed out since the last.
//!
//! A sweep reads the tables [`BATCH`](super::batch::BATCH) entries a call and holds no lock longer than the
//! kernel's on one hash bucket. Of whatever looks idle it reads the other half, and has it removed
//! if both are still what was read ([`Expirer`]).

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use aya::{Pod, programs::Xdp};
use lb_common::{
    abi::map,
    address::Address,
    event::{FlowEnd, cause},
    expiry::{IdleFlow, MOST, fate},
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
    error::{DatapathError, MapAccessError},
    expire::{Expirer, Idle, expire},
    expiry::{Verdict, decide, may_be_over},
    settle::Settler,
    tables::{Family, FlowTables, Half, Table, flow_end},
};
use crate::clock::Moment;

/// What one sweep found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// When it began, nanoseconds of `CLOCK_MONOTONIC_COARSE`; half-open flows are judged by that.
    pub began_ns: u64,
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
    /// The longest it took to look at the other halves of what seemed idle in one batch, and to
    /// remove it.
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
/// `since_ns`, when the last sweep began.
///
/// # Errors
/// If a table can not be read, or a program not be run; what was removed stays removed.
pub fn sweep(
    tables: &FlowTables,
    expirer: Expirer<'_>,
    timeouts: &Timeouts,
    since_ns: u64,
    mut report: impl FnMut(FlowEnd),
) -> Result<SweepReport, DatapathError> {
    let mut report = |end| report(tables.servers().complete(end));
    let start = Instant::now();
    let mut result = SweepReport { began_ns: Moment::now().monotonic_ns, ..SweepReport::default() };
    let (four, six) = ((map::FLOWS4, expirer.four), (map::FLOWS6, expirer.six));
    sweep_confirmed(&tables.four, four, timeouts, &mut report, &mut result)?;
    sweep_confirmed(&tables.six, six, timeouts, &mut report, &mut result)?;
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
    /// Removes flows, and puts counts right.
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
            let last_ns = since_ns;
            let task = spawn_blocking(move || {
                let before = settler.counts();
                let report = |end| {
                    // Nobody listening means nobody wants to know.
                    let _closed = sender.blocking_send(end);
                };
                let result = sweep(&tables, settler.expirer(), &limits, last_ns, report);
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
                    // What times out while a sweep goes on is the next one's to tell.
                    since_ns = report.began_ns;
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

/// Puts counts of servers right that do not agree with what a sweep found.
fn put_right(
    settler: &mut Settler,
    before: Result<HashMap<Handle, u32>, MapAccessError>,
    report: &SweepReport,
) {
    let done = before
        .map_err(DatapathError::from)
        .and_then(|before| settler.put_right(&before, &report.by_server()));
    if let Err(error) = done {
        warn!(%error, "could not compare the counts of flows with the flows");
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
    let now_ns = result.began_ns;
    let addresses = &mut result.addresses;
    let look = |found: super::half_open::Found<A>| {
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
    (name, program): (&'static str, &Xdp),
    timeouts: &Timeouts,
    report: &mut impl FnMut(FlowEnd),
    result: &mut SweepReport,
) -> Result<(), DatapathError>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod + Default,
    Bucket<A>: Pod,
    IdleFlow<A>: Pod,
{
    let map = &family.confirmed;
    let mut fill = TableFill { map: name, entries: 0, capacity: map.capacity() };
    let (mut keys, mut entries, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    let mut batches = map.batches();
    loop {
        let start = Instant::now();
        // Before anything is read: what seems idle then was last seen in an earlier tick of this
        // clock than any flow that takes its tuple after it was read.
        let now_ns = Moment::now().monotonic_ns;
        let more = batches.next_into(&mut keys, &mut entries)?;
        let read = start.elapsed();
        result.longest_read = result.longest_read.max(read);
        if !more {
            break;
        }
        fill.entries += keys.len() as u64;
        for (key, entry) in keys.iter().zip(&entries) {
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
                idle.extend(look_closer(family, seen, timeouts, now_ns)?);
            }
        }
        for part in idle.chunks(MOST) {
            let records: Vec<IdleFlow<A>> = part.iter().map(Idle::record).collect();
            for (flow, fate) in part.iter().zip(expire(program, &records)?) {
                note_end(flow, fate, now_ns, report, result);
            }
        }
        idle.clear();
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

/// Looks at the other half and decides.
fn look_closer<A: Address>(
    family: &Family<A>,
    half: Half<A>,
    timeouts: &Timeouts,
    now_ns: u64,
) -> Result<Option<Idle<A>>, MapAccessError>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let key = half.entry.partner_key();
    let partner = family.confirmed.get(&key)?.map(|entry| Half { key, entry, table: half.table });
    // The place may be another flow's by now: of a tuple that was opened anew, or a stray half.
    let partner = partner.filter(|partner| partner.entry.answers(&half.key));
    let verdict = decide(&half, partner.as_ref(), timeouts, now_ns);
    Ok((verdict != Verdict::Keep).then_some(Idle { half, partner, verdict }))
}

/// Notes what became of a flow that was idle, and reports its end.
fn note_end<A: Address>(
    Idle { half, partner, verdict }: &Idle<A>,
    fate: u32,
    now_ns: u64,
    report: &mut impl FnMut(FlowEnd),
    result: &mut SweepReport,
) {
    if fate == fate::KEPT {
        return;
    }
    if partner.is_none() && !Progress(half.entry.progress).is_one_way() {
        result.stranded += 1;
    }
    result.expired += 1;
    if fate == fate::ENDED && *verdict == Verdict::Report {
        report(flow_end(half, partner.as_ref(), now_ns, cause_of_silence(half)));
    }
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
