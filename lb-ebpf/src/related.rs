//! Finding the flow of a packet that does not carry its tuple: an error about one of its
//! packets, a fragment behind the first.
//!
//! Such packets say nothing of the connection, so all they need is a copy of its entry.

use lb_common::{
    drop_reason::DropReason,
    flow::{Direction, FlowEntry, FlowKey, Handle, Hop},
    hash,
    server::ServerEntry,
};

use crate::{
    clock,
    context::Context,
    family::Family,
    half_open::{self, Note, Now},
    hit,
    maps::{SERVERS, SETTINGS},
    verdict::Verdict,
    words,
};

/// The entry of a tuple as a copy in this CPU's draft: of a confirmed flow, or as a half-open
/// one would have it.
#[inline(always)]
pub fn find<F: Family>(key: &FlowKey<F::Address>) -> Option<&'static FlowEntry<F::Address>> {
    let draft = F::scratch()?;
    if let Some(entry) = F::flows().get_ptr(key) {
        // SAFETY: the entry stays mapped for the run of the program, and any bits are valid
        // while others write.
        words::copy(unsafe { &*entry }, &mut draft.related);
        return Some(&draft.related);
    }
    let settings = SETTINGS.get(0)?;
    let now = Now::new(clock::now_ns(), settings);
    let (found, direction) = half_open::find::<F>(key, hash::tuple_hash(key), settings)?;
    if !found.read_whole(key, draft, now) {
        return None;
    }
    draft.flow.write_entry(direction, now.ns, &mut draft.related);
    Some(&draft.related)
}

/// Counts a packet of the flow that [`find`] has found.
#[inline(always)]
pub fn count<F: Family>(key: &FlowKey<F::Address>, bytes: u64, arrival: Hop) {
    let now_ns = clock::now_ns();
    if let Some(entry) = F::flows().get_ptr_mut(key) {
        // SAFETY: the entry stays mapped for the run of the program.
        unsafe {
            (*entry).last_seen_ns = now_ns;
            (*entry).packets += 1;
            (*entry).bytes += bytes;
        }
        return;
    }
    let (Some(settings), Some(draft)) = (SETTINGS.get(0), F::scratch()) else { return };
    if let Some((found, direction)) = half_open::find::<F>(key, hash::tuple_hash(key), settings) {
        let note = Note { direction, flags: None, bytes, hop: arrival, sequence: 0 };
        // If it has left by now, the packet is missing in its count.
        let _noted = found.note(&note, draft, Now::new(now_ns, settings));
    }
}

/// Where packets that match the entry go.
///
/// # Errors
/// The verdict if its server is not configured any more, or no way to it is known.
#[inline(always)]
pub fn hop<F: Family>(ctx: Context, entry: &FlowEntry<F::Address>) -> Result<Hop, Verdict> {
    if entry.direction() == Direction::Reply {
        return Ok(entry.client_hop);
    }
    hit::server_hop::<F>(ctx, server(entry.server)?)
}

/// The server that a flow is bound to.
///
/// # Errors
/// The verdict if it is not configured any more.
#[inline(always)]
pub fn server(handle: Handle) -> Result<&'static ServerEntry, Verdict> {
    SERVERS
        .get(u32::from(handle.id))
        .filter(|server| server.generation == handle.generation)
        .ok_or(Verdict::Drop(DropReason::ServerDown))
}
