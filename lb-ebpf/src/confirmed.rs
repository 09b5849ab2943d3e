//! Entering and leaving the table of confirmed flows.
//!
//! What a client's tuple leads to is added and removed only under the guard of that tuple,
//! and only after another look at it: a flow that was over when a packet came may have given
//! way to a new one on the same tuple, which must not lose its entries. The entry for the
//! server's packets belongs to the client that it leads to. Packets that match an entry need
//! no guard. What the agent's sweep found idle is removed under it too ([`crate::expire`]).

use lb_common::{
    address::Address,
    flow::{Direction, FlowEntry, FlowKey},
    half_open,
    settings::Settings,
    tcp_state::Progress,
};

use crate::{affinity, atomic, counters, family::Family, limits};

/// The right to add and remove the entries of clients of one bucket of tuples.
pub struct Guard(*mut u32);

impl Guard {
    /// Takes the guard of the client's tuple that has this hash; none if its holder's
    /// processor does not run.
    #[inline(always)]
    #[must_use]
    pub fn take<F: Family>(client_hash: u64, settings: &Settings) -> Option<Self> {
        let index = half_open::bucket_index(client_hash, settings.half_open_buckets);
        let bucket = F::half_open().get_ptr_mut(index)?;
        // SAFETY: array elements are never freed, and the guard is one of its fields.
        unsafe {
            let word = &raw mut (*bucket).guard;
            atomic::lock(word).then_some(Self(word))
        }
    }

    /// Gives it back.
    #[inline(always)]
    pub fn release(self) {
        // SAFETY: whoever has the guard took the lock.
        unsafe { atomic::unlock(self.0) };
    }
}

/// The entry at a tuple.
#[inline(always)]
#[must_use]
pub fn entry<F: Family>(key: &FlowKey<F::Address>) -> Option<&'static FlowEntry<F::Address>> {
    // SAFETY: the entry stays mapped for the run of the program; other CPUs may write to it,
    // which every field allows for.
    F::flows().get_ptr_mut(key).map(|entry| unsafe { &*entry })
}

/// The entry for the packets of the server of `client`'s flow, at `server`, if it is still
/// that flow's.
#[inline(always)]
#[must_use]
pub fn partner<F: Family>(
    client: &FlowKey<F::Address>,
    server: &FlowKey<F::Address>,
) -> Option<&'static FlowEntry<F::Address>> {
    entry::<F>(server).filter(|entry| entry.answers(client))
}

/// The other entry of the flow that has this one at `key`, to be changed; none if another flow
/// has its place.
#[inline(always)]
#[must_use]
pub fn other<F: Family>(
    key: &FlowKey<F::Address>,
    entry: &FlowEntry<F::Address>,
) -> Option<*mut FlowEntry<F::Address>> {
    let other = F::flows().get_ptr_mut(&entry.partner_key())?;
    // SAFETY: as in `entry`.
    unsafe { (*other).answers(key) }.then_some(other)
}

/// Adds bits to the progress of a flow, in both of its entries; what it was before that where it
/// is decided who was first: in the entry for the server's packets, or the only one.
///
/// # Safety
/// Both are entries that were looked up in this run of the program.
#[inline(always)]
pub unsafe fn mark<A: Address>(
    entry: *mut FlowEntry<A>,
    partner: Option<*mut FlowEntry<A>>,
    bits: u32,
) -> Progress {
    // SAFETY: aligned fields of map values, which stay mapped for the run of the program.
    unsafe {
        let own = atomic::fetch_or32(&raw mut (*entry).progress, bits);
        let Some(partner) = partner else { return Progress(own) };
        let partners = atomic::fetch_or32(&raw mut (*partner).progress, bits);
        Progress(if (*entry).direction() == Direction::Reply { own } else { partners })
    }
}

/// Removes the entries of a flow, and counts it down where it was counted. The caller holds
/// the guard of `client` and has seen there what is to leave: `forward`, if it is there;
/// `reply` is the entry at `server`, if that is the flow's.
#[inline(always)]
pub fn remove<F: Family>(
    client: &FlowKey<F::Address>,
    server: &FlowKey<F::Address>,
    forward: Option<&FlowEntry<F::Address>>,
    reply: Option<&FlowEntry<F::Address>>,
) {
    let one_way = forward.filter(|entry| Progress(entry.progress).is_one_way());
    // Whoever removes the server's half ends the flow, or the only one that it has.
    let last = one_way.or(reply).map(|last| {
        let key = if one_way.is_some() { client } else { server };
        (last.vip, last.server, last.progress & Progress::COUNTED != 0, claim_end::<F>(key))
    });
    // What is there otherwise is another flow's.
    let client_left = forward.is_some() && F::flows().remove(client).is_ok();
    let Some((vip, handle, counted, claimed)) = last else { return };
    let ends = if one_way.is_some() { client_left } else { F::flows().remove(server).is_ok() };
    if !ends {
        return;
    }
    if claimed {
        counters::add_flows(handle, -1);
    }
    if counted {
        limits::forget_flow::<F>(&client.source, vip);
    }
}

/// A client's flow is over: it does not count among those of its server any more, although it
/// stays in the table until its last packets have come.
#[inline(always)]
pub fn uncount<F: Family>(client: &FlowKey<F::Address>) {
    let Some(forward) = entry::<F>(client) else { return };
    affinity::end(client, forward.server);
    if Progress(forward.progress).is_one_way() {
        if claim_end::<F>(client) {
            counters::add_flows(forward.server, -1);
        }
        return;
    }
    let server = forward.partner_key();
    if let Some(reply) = partner::<F>(client, &server)
        && claim_end::<F>(&server)
    {
        counters::add_flows(reply.server, -1);
    }
}

/// Whether it is for the caller to count down the flow that has this entry.
#[inline(always)]
fn claim_end<F: Family>(key: &FlowKey<F::Address>) -> bool {
    let Some(entry) = F::flows().get_ptr_mut(key) else { return false };
    // SAFETY: an aligned field of a live map value, which stays mapped for the run of the
    // program.
    let before = unsafe { atomic::fetch_or32(&raw mut (*entry).progress, Progress::UNCOUNTED) };
    before & Progress::UNCOUNTED == 0
}
