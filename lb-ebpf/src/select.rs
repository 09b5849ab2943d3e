//! Picking the server of a new flow from the backend's Maglev ring.

use lb_common::{
    backend::RingLine,
    flow::Handle,
    hash,
    server::{ServerEntry, state},
};

use crate::maps::{RINGS, SERVERS};

/// Ring positions that are tried. The first is right unless the server in that slot died
/// in the instant before the agent swapped the ring.
const TRIES: u32 = 4;

/// The server for a hash; none if the backend has no ring, or no live server was found.
#[inline(always)]
#[must_use]
pub fn select(backend: u16, hash: u64) -> Option<(Handle, &'static ServerEntry)> {
    let mut hash = hash;
    for _ in 0..TRIES {
        let slot = hash::ring_slot(hash);
        let line = RINGS.get_value(u32::from(backend), &RingLine::index_of(slot))?;
        let handle = line.slot(slot).server;
        let server = SERVERS.get(u32::from(handle.id))?;
        if server.generation == handle.generation
            && server.state == state::UP
            && handle.generation != 0
        {
            return Some((handle, server));
        }
        hash = hash.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    None
}
