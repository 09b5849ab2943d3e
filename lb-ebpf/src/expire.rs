//! Removing flows that the agent's sweep found idle (`lb_common::expiry` says why not the agent
//! removes them).
//!
//! The agent runs these programs by `BPF_PROG_TEST_RUN`; they are attached to nothing. Their packet
//! is a list of [`IdleFlow`], in which they say what became of each.

use aya_ebpf::bindings::xdp_action;
use lb_common::{
    expiry::{self, Glimpse, IdleFlow, fate},
    hash,
    tcp_state::Progress,
};

use crate::{
    confirmed::{self, Guard},
    context::Context,
    family::{Family, V4, V6},
    maps::{Draft, SETTINGS},
    packet::Packet,
};

/// A record as it stands in a packet, at any even address.
#[repr(C, packed(2))]
struct Record<A>(IdleFlow<A>);

/// Removes those of the flows that are as the agent saw them.
#[inline(always)]
#[must_use]
pub fn expire<F: Family>(ctx: Context) -> u32 {
    let packet = Packet::new(ctx);
    for index in 0..expiry::MOST {
        let offset = index * size_of::<Record<F::Address>>();
        let Some(record) = packet.at::<Record<F::Address>>(offset) else { break };
        let Some(draft) = F::scratch() else { break };
        // SAFETY: `at` checked the bounds; fields of a packed record are read where they are.
        unsafe {
            let seen = &raw const (*record).0;
            draft.flow.from_client = (&raw const (*seen).client).read_unaligned();
            draft.flow.from_server = (&raw const (*seen).server).read_unaligned();
            (draft.forward.created_ns, draft.forward.last_seen_ns) =
                words(&raw const (*seen).forward);
            (draft.reply.created_ns, draft.reply.last_seen_ns) = words(&raw const (*seen).reply);
        }
        let fate = F::expire();
        // SAFETY: as above.
        unsafe { (&raw mut (*record).0.fate).write_unaligned(fate) };
    }
    xdp_action::XDP_PASS
}

/// # Safety
/// There is one.
#[inline(always)]
unsafe fn words(glimpse: *const Glimpse) -> (u64, u64) {
    // SAFETY: the caller's promise.
    let Glimpse { created_ns, last_seen_ns } = unsafe { glimpse.read_unaligned() };
    (created_ns, last_seen_ns)
}

// BPF functions of their own, without packet pointers, so that the verifier walks them once.

/// Removes the IPv4 flow of which this CPU's draft has tuples and times, if it is still that.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn expire_one4() -> u32 {
    expire_one::<V4>().unwrap_or(fate::KEPT)
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn expire_one6() -> u32 {
    expire_one::<V6>().unwrap_or(fate::KEPT)
}

#[inline(always)]
fn expire_one<F: Family>() -> Option<u32> {
    let (settings, draft) = (SETTINGS.get(0)?, F::scratch()?);
    let guard = Guard::take::<F>(hash::tuple_hash(&draft.flow.from_client), settings)?;
    let fate = end::<F>(draft);
    guard.release();
    fate
}

/// Under the guard of the client's tuple: nobody adds or removes its entries meanwhile.
#[inline(always)]
fn end<F: Family>(draft: &Draft<F::Address>) -> Option<u32> {
    let (client, server) = (&draft.flow.from_client, &draft.flow.from_server);
    let forward = F::flows().get_ptr_mut(client);
    let reply = F::flows().get_ptr_mut(server);
    // What is another flow's is not this one's.
    // SAFETY: entries stay mapped for the run of the program; other CPUs may write to them, which
    // every field allows for.
    let (forward, reply) = unsafe {
        (
            forward.filter(|entry| (**entry).partner_key().is(server)),
            reply.filter(|entry| (**entry).answers(client)),
        )
    };
    // SAFETY: as above.
    let (there, answer) = unsafe { (forward.map(|entry| &*entry), reply.map(|entry| &*entry)) };
    if !Glimpse::of(Some(&draft.forward)).is_still(there)
        || !Glimpse::of(Some(&draft.reply)).is_still(answer)
    {
        return None;
    }
    let (one, other) = match forward {
        Some(forward) => (forward, reply),
        None => (reply?, None),
    };
    // SAFETY: as above.
    let before = unsafe { confirmed::mark(one, other, Progress::REPORTED) };
    confirmed::remove::<F>(client, server, there, answer);
    let reported = before.0 & Progress::REPORTED != 0;
    Some(if reported { fate::REPORTED } else { fate::ENDED })
}
