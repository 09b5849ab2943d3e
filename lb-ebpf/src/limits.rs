//! What a source may take: new flows and packets in a time, flows at a time (`SOURCES`).
//!
//! A frontend's limits stand in `ADMISSION`, so that a VIP without any costs nothing. What a
//! source has used up is looked for when it opens a flow, and by a confirmed flow once in up
//! to [`lb_common::sources::MOST_CREDIT`] packets: it takes that many out of the bucket.
//! Two processors that handle one flow may let a packet more through than it has taken.
//!
//! BPF functions of their own, for the reasons that `access` has.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use lb_common::{
    drop_reason::DropReason,
    flow::{FlowEntry, Handle},
    settings::{Settings, flag},
    sources::{self, SourceEntry, SourceKey},
    token_bucket,
};

use crate::{
    access::{admission, code_of},
    atomic,
    family::Family,
    maps::{SETTINGS, SOURCES},
    parse::Segment,
};

const BPF_NOEXIST: u64 = 1;
/// Nothing is said against it.
const PASS: u32 = 0;
/// Packets that a flow without a limit may send before it asks again.
const PLENTY: u32 = u8::MAX as u32;

/// Why a new flow is not let in.
#[inline(always)]
pub fn open_flow<F: Family>(segment: &Segment<F>, vip: Handle) -> Option<DropReason> {
    const NEW_RATE: u32 = DropReason::NewRate as u32 + 1;
    match limit_flow(vip.to_bits(), F::source_bits(&segment.key.source), F::NUMBER) {
        PASS => None,
        NEW_RATE => Some(DropReason::NewRate),
        _ => Some(DropReason::FlowsPerSource),
    }
}

/// Whether a client's packet of a confirmed flow is too many.
#[inline(always)]
pub fn is_too_many<F: Family>(
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
    settings: &Settings,
) -> bool {
    if settings.flags & flag::PACKET_RATES == 0 {
        return false;
    }
    if entry.credit == 0 {
        let source = F::source_bits(&segment.key.source);
        let given = take_packets(entry.vip.to_bits(), source, F::NUMBER, entry.last_credit.into());
        // A full byte at most.
        (entry.credit, entry.last_credit) = (given as u8, given as u8);
        if given == 0 {
            return true;
        }
    }
    entry.credit -= 1;
    false
}

/// Takes a packet that belongs to no confirmed flow out of its source's bucket; a reason as
/// the result of a BPF function if it is too many.
#[inline(always)]
#[must_use]
pub fn take_one(vip: u32, address: u64, family: u32) -> u32 {
    match SETTINGS.get(0) {
        Some(settings) if settings.flags & flag::PACKET_RATES != 0 => {
            match take_packets(vip, address, family, 0) {
                0 => code_of(DropReason::PacketRate),
                _ => PASS,
            }
        }
        _ => PASS,
    }
}

/// What came of counting a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Its source's flows are not counted.
    No,
    /// It counts from now on.
    Yes,
    /// Its source has as many as it may have.
    TooMany,
}

/// Counts a flow that becomes a confirmed one.
#[inline(always)]
pub fn count_flow<F: Family>(source: &F::Address, vip: Handle, settings: &Settings) -> Counted {
    if settings.flags & flag::FLOW_COUNTS == 0 {
        return Counted::No;
    }
    match add_flow(vip.to_bits(), F::source_bits(source), F::NUMBER) {
        PASS => Counted::No,
        1 => Counted::Yes,
        _ => Counted::TooMany,
    }
}

/// A flow that was counted is over.
#[inline(always)]
pub fn forget_flow<F: Family>(source: &F::Address, vip: Handle) {
    let _done = remove_flow(vip.to_bits(), F::source_bits(source), F::NUMBER);
}

/// Judges a new flow by the rate of its source and by how many it has.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn limit_flow(vip: u32, address: u64, family: u32) -> u32 {
    let Some(limits) = admission(vip) else { return PASS };
    if !limits.limits_flows() {
        return PASS;
    }
    let key = SourceKey { address, scope: limits.scope, family };
    let Some(source) = find_or_make(&key) else { return PASS };
    let now_ns = exact_ns();
    let Some(source) = lock(source) else { return PASS };
    let mut code = PASS;
    // SAFETY: a field of the entry; others add to it without the lock.
    let flows = unsafe { (&raw const source.flows).read_volatile() }.cast_signed();
    if limits.flows_per_source != 0 && i64::from(flows) >= i64::from(limits.flows_per_source) {
        code = code_of(DropReason::FlowsPerSource);
    } else if limits.flow_interval_ns != 0 {
        let (interval_ns, burst_ns) = (limits.flow_interval_ns, limits.flow_burst_ns);
        match token_bucket::take_one(source.flows_full_ns, now_ns, interval_ns, burst_ns) {
            Some(full_ns) => source.flows_full_ns = full_ns,
            None => code = code_of(DropReason::NewRate),
        }
    }
    unlock(source);
    code
}

/// How many packets a flow may send before it asks again; `last` is what it was told the last
/// time.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_packets(vip: u32, address: u64, family: u32, last: u32) -> u32 {
    let Some(limits) = admission(vip) else { return PLENTY };
    let (interval_ns, burst_ns) = (limits.packet_interval_ns, limits.packet_burst_ns);
    if interval_ns == 0 {
        return PLENTY;
    }
    let key = SourceKey { address, scope: limits.scope, family };
    let Some(source) = find_or_make(&key) else { return 1 };
    let wanted = sources::next_credit(last as u8, interval_ns, burst_ns);
    let now_ns = exact_ns();
    let Some(source) = lock(source) else { return 1 };
    let full_ns = source.packets_full_ns;
    let (taken, full_ns) =
        token_bucket::take(full_ns, now_ns, wanted.into(), interval_ns, burst_ns);
    source.packets_full_ns = full_ns;
    unlock(source);
    taken
}

/// Counts a flow: 1 if it counts, 2 if it is one too many.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_flow(vip: u32, address: u64, family: u32) -> u32 {
    let Some(limits) = admission(vip) else { return PASS };
    if limits.flows_per_source == 0 {
        return PASS;
    }
    let key = SourceKey { address, scope: limits.scope, family };
    let Some(source) = find_or_make(&key) else { return PASS };
    let before = add_flows(source, 1);
    if i64::from(before) < i64::from(limits.flows_per_source) {
        1
    } else {
        add_flows(source, -1);
        2
    }
}

/// Counts a flow that is over.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remove_flow(vip: u32, address: u64, family: u32) -> u32 {
    let Some(limits) = admission(vip) else { return 0 };
    // Nothing if the source was forgotten meanwhile, and none of those that came before it was.
    if let Some(source) = SOURCES.get_ptr_mut(&SourceKey { address, scope: limits.scope, family })
        && add_flows(source, -1) < 1
    {
        add_flows(source, 1);
    }
    0
}

/// Adds to the flows of a source; how many there were. Never under the lock: whoever does not
/// get that goes without, and a flow that is over and counts would shut its source out one day.
/// Below zero for the instant in which [`remove_flow`] finds none.
#[inline(always)]
fn add_flows(source: *mut SourceEntry, flows: i32) -> i32 {
    // SAFETY: the entry stays mapped for the run of the program.
    unsafe { atomic::add32(&raw mut (*source).flows, flows.cast_unsigned()).cast_signed() }
}

#[inline(always)]
fn find_or_make(key: &SourceKey) -> Option<*mut SourceEntry> {
    if let Some(source) = SOURCES.get_ptr_mut(key) {
        return Some(source);
    }
    // If another processor was faster, that is as good.
    let _there = SOURCES.insert(key, SourceEntry::default(), BPF_NOEXIST);
    SOURCES.get_ptr_mut(key)
}

/// Takes the lock of a source; none if it can not be had, then nothing is held against it.
#[inline(always)]
fn lock(source: *mut SourceEntry) -> Option<&'static mut SourceEntry> {
    // SAFETY: the entry stays mapped for the run of the program, and the lock is one of its
    // fields.
    unsafe { atomic::lock(&raw mut (*source).lock).then(|| &mut *source) }
}

#[inline(always)]
fn unlock(source: &mut SourceEntry) {
    // SAFETY: whoever has the reference has the lock.
    unsafe { atomic::unlock(&raw mut source.lock) };
}

/// `CLOCK_MONOTONIC`: the coarse clock moves in steps that some rates are faster than.
#[inline(always)]
fn exact_ns() -> u64 {
    // SAFETY: the helper takes no arguments and has no effects.
    unsafe { bpf_ktime_get_ns() }
}
