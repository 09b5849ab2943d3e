//! Sources that belong to servers (`AFFINITY`), whatever becomes of the ring.
//!
//! BPF functions of their own, without packet pointers, so that the verifier walks them once.

use lb_common::{
    address::Address,
    affinity::{AffinityEntry, AffinityKey},
    flow::{FlowKey, Handle},
    hash,
    server::flag,
};

use crate::{
    clock,
    maps::{AFFINITY, SERVERS},
};

const BPF_ANY: u64 = 0;

/// The server that a source belongs to as a number; 0 if there is none. Nothing is said of what
/// has become of the server.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn belongs_to(source: u64, backend: u32, timeout_s: u32) -> u32 {
    let key = AffinityKey { source, backend, padding: 0 };
    let Some(entry) = AFFINITY.get_ptr_mut(&key) else { return 0 };
    // SAFETY: the entry stays mapped for the run of the program; any bits are valid while
    // others write.
    let entry = unsafe { *entry };
    if entry.is_fresh(clock::now_ns(), timeout_s as u16) { entry.server.to_bits() } else { 0 }
}

/// A flow was confirmed: its source belongs to its server from now on.
#[inline(always)]
pub fn confirm<A: Address>(client: &FlowKey<A>, server: Handle) {
    if keeps(server) {
        let _done = stick(hash::source_hash(client), server.to_bits());
    }
}

/// A flow has ended: if its source still belongs to its server, it was not idle until now.
#[inline(always)]
pub fn end<A: Address>(client: &FlowKey<A>, server: Handle) {
    if keeps(server) {
        let _done = refresh(hash::source_hash(client), server.to_bits());
    }
}

/// Whether sources belong to this server.
#[inline(always)]
fn keeps(server: Handle) -> bool {
    SERVERS.get(u32::from(server.id)).is_some_and(|entry| entry.flags & flag::AFFINITY != 0)
}

/// The key of a source at the backend of a server.
#[inline(always)]
fn key_at(source: u64, server: Handle) -> Option<AffinityKey> {
    let backend = SERVERS.get(u32::from(server.id))?.backend.into();
    Some(AffinityKey { source, backend, padding: 0 })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn stick(source: u64, server: u32) -> u32 {
    let server = Handle::from_bits(server);
    let Some(key) = key_at(source, server) else { return 0 };
    let seen_ns = clock::now_ns();
    if let Some(entry) = AFFINITY.get_ptr_mut(&key) {
        // SAFETY: the entry stays mapped for the run of the program.
        unsafe { ((*entry).server, (*entry).seen_ns) = (server, seen_ns) };
        return 0;
    }
    // Without room, or with another processor at it, the next flow tries again.
    let _there = AFFINITY.insert(&key, AffinityEntry { seen_ns, server, padding: 0 }, BPF_ANY);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn refresh(source: u64, server: u32) -> u32 {
    let server = Handle::from_bits(server);
    let Some(key) = key_at(source, server) else { return 0 };
    if let Some(entry) = AFFINITY.get_ptr_mut(&key) {
        // SAFETY: the entry stays mapped for the run of the program.
        unsafe {
            if (*entry).server == server {
                (*entry).seen_ns = clock::now_ns();
            }
        }
    }
    0
}
