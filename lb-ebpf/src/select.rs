//! Picking the server of a new flow from the backend's Maglev ring.
//!
//! A BPF function of its own, without packet pointers, so that the verifier walks it once
//! and not once for each way that leads to a new flow.

use lb_common::{
    address::Address,
    backend::RingLine,
    flow::{FlowKey, Handle},
    hash,
    server::{self, ServerEntry, state},
    vip::{VipEntry, hash_by},
};

use crate::{
    access::to_bits,
    maps::{RINGS, SERVER_FLOWS, SERVERS},
};

/// Ring positions that are tried. The first is right unless the server in that slot died
/// in the instant before the agent swapped the ring.
const TRIES: u32 = 4;

/// No server; its generation is 0.
const NONE: u32 = 0;

/// The server for a flow of a VIP that nothing else is known of; none if it was chosen by load.
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
    select(vip.backend, hash, false)
}

/// The server for a hash; none if the backend has no ring, or no live server was found. With
/// `least`, the less loaded of the servers at two positions that do not depend on each other
/// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
#[inline(always)]
#[must_use]
pub fn select(backend: u16, hash: u64, least: bool) -> Option<(Handle, &'static ServerEntry)> {
    let bits = choose(backend.into(), hash, least.into());
    let handle = Handle { id: bits as u16, generation: (bits >> 16) as u16 };
    if handle.generation == 0 {
        return None;
    }
    SERVERS.get(u32::from(handle.id)).map(|server| (handle, server))
}

/// The server for a hash as a number; [`NONE`] if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn choose(backend: u32, hash: u64, least: u32) -> u32 {
    let first = usable(backend, hash);
    if least == 0 || first == NONE {
        return first;
    }
    let second = usable(backend, hash::mix(hash));
    if second != NONE && is_less_loaded(second, first) { second } else { first }
}

#[inline(always)]
fn usable(backend: u32, hash: u64) -> u32 {
    let mut hash = hash;
    for _ in 0..TRIES {
        let slot = hash::ring_slot(hash);
        let Some(line) = RINGS.get_value(backend, &RingLine::index_of(slot)) else { return NONE };
        let handle = line.slot(slot).server;
        let Some(server) = SERVERS.get(u32::from(handle.id)) else { return NONE };
        if server.generation == handle.generation
            && server.state == state::UP
            && handle.generation != 0
        {
            return to_bits(handle);
        }
        hash = hash.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    NONE
}

#[inline(always)]
fn is_less_loaded(one: u32, other: u32) -> bool {
    let (first, second) = (load(one & 0xffff), load(other & 0xffff));
    // The high half is the weight.
    let (first_weight, second_weight) = ((first >> 32) as u16, (second >> 32) as u16);
    server::is_less_loaded(first as u32, first_weight, second as u32, second_weight)
}

/// Flows of a server, and its weight in the high half.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load(id: u32) -> u64 {
    let Some(count) = SERVER_FLOWS.get(id) else { return 0 };
    // A count that has gone below nothing is nothing.
    let flows = u64::from(if count.flows >> 31 == 0 { count.flows } else { 0 });
    let Some(server) = SERVERS.get(id) else { return 0 };
    flows | u64::from(server.weight) << 32
}
