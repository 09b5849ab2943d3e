//! Counters. Those of a CPU take plain additions: it runs one XDP program at a time.

use lb_common::{
    counters::TrafficCounters,
    drop_reason::DropReason,
    flow::{Direction, Handle},
};

use crate::{
    atomic,
    maps::{DROP_COUNTERS, SERVER_COUNTERS, SERVER_FLOWS, SERVERS, VIP_COUNTERS},
};

/// Counts one packet that was not forwarded for a reason.
#[inline(always)]
pub fn count_drop(reason: DropReason) {
    if let Some(counter) = DROP_COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the value belongs to this CPU.
        unsafe { (*counter).packets += 1 };
    }
}

/// Counts one packet of a flow for its VIP and its server.
#[inline(always)]
pub fn count_packet(vip: Handle, server: Handle, direction: Direction, bytes: u64) {
    for_both(vip, server, |counters| match direction {
        Direction::Forward => {
            counters.forward_packets += 1;
            counters.forward_bytes += bytes;
        }
        Direction::Reply => {
            counters.reply_packets += 1;
            counters.reply_bytes += bytes;
        }
    });
}

/// Counts a new flow and its first packet.
#[inline(always)]
pub fn count_open(vip: Handle, server: Handle, bytes: u64) {
    for_both(vip, server, |counters| {
        counters.flows += 1;
        counters.forward_packets += 1;
        counters.forward_bytes += bytes;
    });
}

/// Adds to the confirmed flows of a server; takes off with a negative number.
#[inline(always)]
pub fn add_flows(server: Handle, flows: i32) {
    if let Some(count) = SERVER_FLOWS.get_ptr_mut(u32::from(server.id)) {
        // SAFETY: array elements are never freed, and the number is an aligned field.
        unsafe {
            if (*count).generation == u32::from(server.generation) {
                let _before = atomic::add32(&raw mut (*count).flows, flows.cast_unsigned());
            }
        }
    }
}

/// Counts a flow of a server that is about to be confirmed. False, and it is not counted, if
/// the server has as many as it may have.
#[inline(always)]
#[must_use]
pub fn reserve_flow(server: Handle) -> bool {
    reserve(server.to_bits()) != 0
}

/// A function of its own: the stages have no stack to spare. Flows that are being confirmed at
/// the same time may refuse each other at the edge, but never go beyond it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn reserve(server: u32) -> u32 {
    let handle = Handle::from_bits(server);
    let Some(count) = SERVER_FLOWS.get_ptr_mut(u32::from(handle.id)) else { return 1 };
    let most = SERVERS.get(u32::from(handle.id)).map_or(0, |entry| u32::from(entry.most_flows));
    // SAFETY: array elements are never freed, and the number is an aligned field.
    unsafe {
        if (*count).generation != u32::from(handle.generation) {
            return 1;
        }
        let before = atomic::add32(&raw mut (*count).flows, 1);
        // A count that has gone below nothing is nothing.
        if most != 0 && before.cast_signed() >= most.cast_signed() {
            let _after = atomic::add32(&raw mut (*count).flows, u32::MAX);
            return 0;
        }
    }
    1
}

/// Counts a client that was answered with a RST. A server of generation 0 is none.
#[inline(always)]
pub fn count_reset(vip: Handle, server: Handle) {
    for_both(vip, server, |counters| counters.resets += 1);
}

/// Does the same to the counters of the VIP and of the server, where they are current.
#[inline(always)]
fn for_both(vip: Handle, server: Handle, mut count: impl FnMut(&mut TrafficCounters)) {
    if let Some(counters) = current(VIP_COUNTERS.get_ptr_mut(u32::from(vip.id)), vip) {
        count(counters);
    }
    if let Some(counters) = current(SERVER_COUNTERS.get_ptr_mut(u32::from(server.id)), server) {
        count(counters);
    }
}

/// The counters, unless the id has been given to something else since.
#[inline(always)]
fn current(
    counters: Option<*mut TrafficCounters>,
    handle: Handle,
) -> Option<&'static mut TrafficCounters> {
    // SAFETY: the value belongs to this CPU and array elements are never freed.
    let counters = unsafe { &mut *counters? };
    (counters.generation == u64::from(handle.generation)).then_some(counters)
}
