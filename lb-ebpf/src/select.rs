//! Picking the server of a new flow from the backend's ring.
//!
//! BPF functions of their own, without packet pointers, so that the verifier walks them once
//! and not once for each way that leads to a new flow.

use lb_common::{
    abi::RING_SLOTS,
    address::Address,
    drop_reason::DropReason,
    flow::{FlowKey, Handle},
    hash, ring,
    server::{self, ServerEntry, state},
    vip::{VipEntry, hash_by, vip_flag},
};

use crate::{
    affinity, atomic,
    maps::{LARGE_RINGS, REMEMBERED, RINGS, SERVER_FLOWS, SERVERS, TURNS},
};

/// Further ring positions that are tried. The first is right unless the server in that slot
/// died in the instant before the agent swapped the ring, or has no room.
const TRIES: u32 = 32;

/// No server; its generation is 0.
const NONE: u32 = 0;
/// No server, and those found have no room; its generation is 0.
const FULL: u32 = 1;

/// How a server is chosen: the less loaded one.
const LEAST: u32 = 1;
/// How a server is chosen: the next one.
const IN_TURN: u32 = 2;
/// A server without room is not passed over.
const REFUSE: u32 = 4;
/// Servers always have room: the flow is there already, only not known.
const ALWAYS_ROOM: u32 = 8;

/// The server for a flow of a VIP that nothing else is known of; none if it was chosen by load
/// or in turn.
#[inline(always)]
#[must_use]
pub fn select_for<A: Address>(
    vip: &VipEntry,
    key: &FlowKey<A>,
) -> Option<(Handle, &'static ServerEntry)> {
    let hash = match vip.hash_by {
        hash_by::SOURCE => hash::source_hash(key),
        hash_by::TUPLE => hash::tuple_hash(key),
        _ => return None,
    };
    server_of(choose(vip.backend.into(), hash, ALWAYS_ROOM)).ok()
}

/// The server for a new flow of a VIP.
///
/// By least connections it is the less loaded of the servers at two positions that do not
/// depend on each other (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing",
/// 2001). The less loaded one of those and of the one remembered is remembered for the next
/// flow (Mitzenmacher, Prabhakar and Shah, "Load Balancing with Memory", 2002), which goes to
/// it while it has far fewer flows than both.
///
/// # Errors
/// If the backend has no ring, no live server was found, or none with room.
#[inline(always)]
pub fn select(
    vip: &VipEntry,
    tuple_hash: u64,
    source_hash: impl FnOnce() -> u64,
) -> Result<(Handle, &'static ServerEntry), DropReason> {
    let hash = if vip.hash_by == hash_by::SOURCE { source_hash() } else { tuple_hash };
    let how = match vip.hash_by {
        hash_by::LEAST_CONNECTIONS => LEAST,
        hash_by::ROUND_ROBIN => IN_TURN,
        _ => 0,
    };
    let refuse = if vip.flags & vip_flag::REFUSE_WHEN_FULL != 0 { REFUSE } else { 0 };
    if vip.affinity_s != 0 {
        let found = belonging(vip.backend.into(), hash, vip.affinity_s.into());
        if is_server(found) || (found == FULL && refuse != 0) {
            return server_of(found);
        }
    }
    server_of(choose(vip.backend.into(), hash, how | refuse))
}

#[inline(always)]
fn server_of(bits: u32) -> Result<(Handle, &'static ServerEntry), DropReason> {
    let handle = Handle::from_bits(bits);
    if handle.generation == 0 {
        return Err(if bits == FULL { DropReason::ServerFull } else { DropReason::NoServer });
    }
    match SERVERS.get(u32::from(handle.id)) {
        Some(server) => Ok((handle, server)),
        None => Err(DropReason::Internal),
    }
}

/// The server for a hash as a number; [`NONE`] or [`FULL`] if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn choose(backend: u32, hash: u64, how: u32) -> u32 {
    let slot = if how & IN_TURN == 0 { hash::ring_slot(hash) } else { next_slot(backend) };
    let mut first = at(backend, slot, how);
    if first == FULL && how & REFUSE != 0 {
        return first;
    }
    if !is_server(first) {
        first = elsewhere(backend, hash, how);
    }
    if how & LEAST == 0 || !is_server(first) {
        return first;
    }
    less_loaded(backend, slot, hash::mix(hash), first)
}

/// The server that the source of this hash belongs to, if it gets new flows.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn belonging(backend: u32, source: u64, timeout_s: u32) -> u32 {
    let bits = affinity::belongs_to(source, backend, timeout_s);
    let handle = Handle::from_bits(bits);
    let owner = SERVERS.get(u32::from(handle.id)).map(|server| u32::from(server.backend));
    if owner == Some(backend) { usable(handle, 0) } else { NONE }
}

/// Whose turn it is.
#[inline(always)]
fn next_slot(backend: u32) -> u32 {
    let Some(turn) = TURNS.get_ptr_mut(backend) else { return 0 };
    // SAFETY: array elements are never freed, and the number is aligned.
    let before = unsafe { atomic::add32(turn, 1) };
    before % RING_SLOTS
}

/// What is at one position of the ring.
#[inline(always)]
fn at(backend: u32, slot: u32, how: u32) -> u32 {
    usable(Handle::from_bits(listed(backend, slot)), how)
}

/// The server that one position of the ring names, as a number; its generation is 0 if there is no
/// ring.
#[inline(always)]
fn listed(backend: u32, slot: u32) -> u32 {
    let Some(ring) = RINGS.get(backend) else { return listed_among_many(backend, slot) };
    let (Some(list), Some(line)) = (ring.get(ring::LIST), ring.get(ring::line_of(slot))) else {
        return NONE;
    };
    list.listed(line.place(slot))
}

/// The same of a backend with many servers.
#[inline(always)]
fn listed_among_many(backend: u32, slot: u32) -> u32 {
    let line = LARGE_RINGS.get_value(backend, &ring::large_line_of(slot));
    line.map_or(NONE, |line| line.server(slot))
}

/// A server as a number, if it gets new flows.
#[inline(always)]
fn usable(handle: Handle, how: u32) -> u32 {
    let Some(server) = SERVERS.get(u32::from(handle.id)) else { return NONE };
    if server.generation != handle.generation || server.state != state::UP || handle.generation == 0
    {
        return NONE;
    }
    let most = u32::from(server.most_flows);
    if most != 0 && how & ALWAYS_ROOM == 0 && flows(handle.id.into()) >= most {
        return FULL;
    }
    handle.to_bits()
}

/// The same as a function of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn found_at(backend: u32, slot: u32, how: u32) -> u32 {
    at(backend, slot, how)
}

/// A server at some other position. Where most have no room, a position where there was some
/// is remembered, so that the last one that has any is found.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn elsewhere(backend: u32, hash: u64, how: u32) -> u32 {
    let (mut hash, mut refusal) = (hash, NONE);
    for _ in 0..TRIES {
        hash = hash.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let slot = hash::ring_slot(hash);
        let found = found_at(backend, slot, how);
        if is_server(found) {
            if refusal == FULL && how & LEAST == 0 {
                remember(backend, slot);
            }
            return found;
        }
        refusal |= found;
    }
    let last = found_at(backend, remembered(backend), how);
    if is_server(last) { last } else { refusal | last }
}

/// The less loaded one of `first`, what is at the second position, and what is remembered.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn less_loaded(backend: u32, first_slot: u32, second_hash: u64, first: u32) -> u32 {
    let second_slot = hash::ring_slot(second_hash);
    let second = found_at(backend, second_slot, LEAST);
    let (mut slot, mut best, mut best_load) = (first_slot, first, load(first & 0xffff));
    if is_server(second) {
        let second_load = load(second & 0xffff);
        if is_less(second_load, best_load) {
            (slot, best, best_load) = (second_slot, second, second_load);
        }
    }
    let third = found_at(backend, remembered(backend), LEAST);
    if is_server(third) {
        let third_load = load(third & 0xffff);
        let ((flows, weight), (than_flows, than_weight)) = (parts(third_load), parts(best_load));
        if server::is_far_less_loaded(flows, weight, than_flows, than_weight) {
            return third;
        }
        if !is_less(best_load, third_load) {
            return best;
        }
    }
    remember(backend, slot);
    best
}

#[inline(always)]
const fn is_server(bits: u32) -> bool {
    bits > FULL
}

#[inline(always)]
fn remembered(backend: u32) -> u32 {
    // SAFETY: the value belongs to this CPU.
    REMEMBERED.get_ptr(backend).map_or(0, |slot| unsafe { *slot })
}

#[inline(always)]
fn remember(backend: u32, slot: u32) {
    if let Some(place) = REMEMBERED.get_ptr_mut(backend) {
        // SAFETY: the value belongs to this CPU.
        unsafe { *place = slot };
    }
}

/// Whether one load is less than another.
#[inline(always)]
fn is_less(one: u64, other: u64) -> bool {
    let ((flows, weight), (than_flows, than_weight)) = (parts(one), parts(other));
    server::is_less_loaded(flows, weight, than_flows, than_weight)
}

/// Flows and weight of a load.
#[inline(always)]
const fn parts(load: u64) -> (u32, u16) {
    (load as u32, (load >> 32) as u16)
}

/// Flows of a server, and its weight in the high half.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load(id: u32) -> u64 {
    let Some(server) = SERVERS.get(id) else { return 0 };
    u64::from(flows(id)) | u64::from(server.weight) << 32
}

/// Confirmed flows of a server.
#[inline(always)]
fn flows(id: u32) -> u32 {
    // A count that has gone below nothing is nothing.
    SERVER_FLOWS.get(id).map_or(0, |count| if count.flows >> 31 == 0 { count.flows } else { 0 })
}
