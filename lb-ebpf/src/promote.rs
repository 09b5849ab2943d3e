//! Moving a flow from the half-open table to the table of confirmed flows.

use lb_common::flow::{Direction, FlowEntry, FlowKey};

use crate::{
    counters,
    family::{Draft, Family},
    parse::Segment,
};
use lb_common::drop_reason::DropReason;

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;

/// Moves both entries. If the table is full the flow stays half-open and goes on working
/// from there; if one half has been evicted it is made anew from the other. Gives the
/// packet's entry where it is now, if it was moved.
#[inline(always)]
pub fn promote<F: Family>(
    segment: &Segment<F>,
    entry: &FlowEntry<F::Address>,
) -> Option<&'static mut FlowEntry<F::Address>> {
    let pair = F::scratch()?;
    let partner_key = entry.partner_key();
    let partner = F::half_open().get_ptr_mut(&partner_key);
    let (forward_key, reply_key) = match entry.direction() {
        Direction::Forward => {
            copy(entry, &mut pair.forward);
            fill::<F>(partner, &segment.key, entry, &mut pair.reply);
            (segment.key, partner_key)
        }
        Direction::Reply => {
            copy(entry, &mut pair.reply);
            fill::<F>(partner, &segment.key, entry, &mut pair.forward);
            (partner_key, segment.key)
        }
    };
    if !insert::<F>(&forward_key, &reply_key, pair) {
        counters::count_drop(DropReason::FlowTableFull);
        return None;
    }
    let _absent = F::half_open().remove(&forward_key);
    let _absent = F::half_open().remove(&reply_key);
    // SAFETY: the entry stays mapped for the run of the program; other CPUs may write to
    // it too, which every field allows for.
    F::flows().get_ptr_mut(&segment.key).map(|moved| unsafe { &mut *moved })
}

/// Writes both entries; leaves nothing behind if one can not be written.
#[inline(always)]
fn insert<F: Family>(
    forward_key: &FlowKey<F::Address>,
    reply_key: &FlowKey<F::Address>,
    pair: &Draft<F::Address>,
) -> bool {
    if F::flows().insert(reply_key, &pair.reply, BPF_NOEXIST).is_err() {
        return false;
    }
    if F::flows().insert(forward_key, &pair.forward, BPF_ANY).is_err() {
        let _absent = F::flows().remove(reply_key);
        return false;
    }
    true
}

/// The other half: as it is in the table, or as it follows from this one.
#[inline(always)]
fn fill<F: Family>(
    found: Option<*mut FlowEntry<F::Address>>,
    key: &FlowKey<F::Address>,
    entry: &FlowEntry<F::Address>,
    target: &mut FlowEntry<F::Address>,
) {
    if let Some(found) = found {
        // SAFETY: the entry stays mapped for the run of the program.
        copy(unsafe { &*found }, target);
        return;
    }
    copy(entry, target);
    target.packets = 0;
    target.bytes = 0;
    target.source = key.destination;
    target.destination = key.source;
    target.source_port = key.destination_port;
    target.destination_port = key.source_port;
    target.header_delta = !entry.header_delta;
    target.transport_delta = !entry.transport_delta;
    target.direction = match entry.direction() {
        Direction::Forward => Direction::Reply.to_raw(),
        Direction::Reply => Direction::Forward.to_raw(),
    };
}

/// Copies between map values word by word, without a detour over the stack.
#[inline(always)]
fn copy<A: Copy>(from: &FlowEntry<A>, to: &mut FlowEntry<A>) {
    // SAFETY: two distinct live values of one type.
    unsafe { core::ptr::copy_nonoverlapping(from, to, 1) };
}
