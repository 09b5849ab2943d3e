//! Taking flows that are over out of the table of confirmed flows (`lb_common::ended` says
//! when).
//!
//! A processor looks at its own ring only, so nothing here is shared but the flows.

use lb_common::{
    address::Address,
    ended::{self, Cursor, Ended, Fate, Patience, Seen},
    flow::{Direction, FlowEntry, FlowKey},
    half_open::milliseconds,
    hash,
    settings::Settings,
    tcp_state::Progress,
};

use crate::{
    clock,
    confirmed::{self, Guard},
    family::Family,
    maps::{Draft, ENDED, SETTINGS},
    words,
};

/// Leaves word of a flow that has just ended for [`make_room`], in the draft.
#[inline(always)]
pub fn leave_word<A: Address>(key: &FlowKey<A>, entry: &FlowEntry<A>, draft: &mut Draft<A>) {
    let client = &mut draft.flow.from_client;
    match entry.direction() {
        Direction::Forward => words::copy(key, client),
        Direction::Reply => *client = entry.partner_key(),
    }
    draft.flow.created_ns = entry.created_ns;
}

/// Looks at the oldest flows of this processor's ring, removes those whose time has come,
/// and gives the flow of which word was left its place.
#[inline(always)]
pub fn make_room<F: Family>() {
    let (Some(settings), Some(draft)) = (SETTINGS.get(0), F::scratch()) else { return };
    confirmed::uncount::<F>(&draft.flow.from_client);
    let Some(cursor) = ENDED.get_ptr_mut(F::CURSOR) else { return };
    // SAFETY: the value belongs to this CPU.
    let cursor = unsafe { &mut *cursor };
    let now_ms = milliseconds(clock::now_ns());
    for _ in 0..ended::LOOKS {
        if !look::<F>(cursor, now_ms, settings) {
            break;
        }
    }
    if cursor.is_full() {
        return;
    }
    if let Some(place) = place::<F>(cursor.taken) {
        words::copy(&draft.flow.from_client, &mut place.client);
        place.created_ms = milliseconds(draft.flow.created_ns);
        place.ended_ms = now_ms;
        cursor.taken = cursor.taken.wrapping_add(1);
    }
}

/// Settles the oldest flow of the ring; false if there is none or it has to wait.
#[inline(always)]
fn look<F: Family>(cursor: &mut Cursor, now_ms: u32, settings: &Settings) -> bool {
    if cursor.occupied() == 0 {
        return false;
    }
    let Some(oldest) = place::<F>(cursor.left) else { return false };
    let full = cursor.occupied() >= settings.ended_places;
    let patience = Patience { now_ms, closed_ms: settings.closed_ms, full };
    if !oldest.is_due(patience) {
        return false;
    }
    let Some(guard) = Guard::take::<F>(hash::tuple_hash(&oldest.client), settings) else {
        return false;
    };
    let fate = settle::<F>(oldest, patience);
    guard.release();
    if fate == Fate::Wait {
        return false;
    }
    if fate == Fate::Renew
        && let Some(place) = place::<F>(cursor.taken)
    {
        words::copy(&oldest.client, &mut place.client);
        place.created_ms = oldest.created_ms;
        place.ended_ms = now_ms;
        cursor.taken = cursor.taken.wrapping_add(1);
    }
    cursor.left = cursor.left.wrapping_add(1);
    true
}

/// Decides, and removes the flow if that is its fate. Under the guard of its client's tuple.
#[inline(always)]
fn settle<F: Family>(oldest: &Ended<F::Address>, patience: Patience) -> Fate {
    let Some(forward) = confirmed::entry::<F>(&oldest.client) else {
        // It was recycled, or is the sweep's.
        return Fate::Pass;
    };
    let server = forward.partner_key();
    let reply = confirmed::partner::<F>(&oldest.client, &server);
    let (seen_ns, progress) = match reply {
        Some(reply) => (reply.last_seen_ns, reply.progress),
        None => (0, 0),
    };
    let seen = Seen {
        created_ns: forward.created_ns,
        last_seen_ns: forward.last_seen_ns.max(seen_ns),
        progress: Progress(forward.progress | progress),
    };
    let fate = oldest.fate(&seen, patience);
    if fate == Fate::Remove {
        confirmed::remove::<F>(&oldest.client, &server, Some(forward), reply);
    }
    fate
}

/// The place in this processor's ring that a count leads to.
#[inline(always)]
fn place<F: Family>(count: u32) -> Option<&'static mut Ended<F::Address>> {
    let line = F::ended().get_ptr_mut(ended::line(count))?;
    // SAFETY: the value belongs to this CPU, and array elements are never freed.
    unsafe { (*line).flows.get_mut(ended::place(count)) }
}
