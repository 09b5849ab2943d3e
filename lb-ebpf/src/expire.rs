//! Removing flows that the agent's sweep found idle (`lb_common::expiry` says why not the agent
//! removes them).
//!
//! The agent runs these programs by `BPF_PROG_TEST_RUN`; they are attached to nothing. Their packet
//! is a list of [`IdleFlow`], in which they say what became of each.

use aya_ebpf::bindings::xdp_action;
use lb_common::{
    expiry::{self, IdleFlow, fate},
    hash,
    tcp_state::Progress,
};

use crate::{
    confirmed::{self, Guard},
    context::Context,
    family::{Family, V4, V6},
    maps::SETTINGS,
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
        let Some(idle) = F::idle() else { break };
        // SAFETY: `at` checked the bounds; fields of a packed record are read where they are.
        unsafe {
            let seen = &raw const (*record).0;
            idle.client = (&raw const (*seen).client).read_unaligned();
            idle.server = (&raw const (*seen).server).read_unaligned();
            idle.forward = (&raw const (*seen).forward).read_unaligned();
            idle.reply = (&raw const (*seen).reply).read_unaligned();
        }
        let fate = F::expire();
        // SAFETY: as above.
        unsafe { (&raw mut (*record).0.fate).write_unaligned(fate) };
    }
    xdp_action::XDP_PASS
}

// BPF functions of their own, without packet pointers, so that the verifier walks them once.

/// Removes the IPv4 flow of which this CPU's [`IDLE4`](crate::maps::IDLE4) has tuples and times, if
/// it is still that.
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
    let (settings, idle) = (SETTINGS.get(0)?, F::idle()?);
    let guard = Guard::take::<F>(hash::tuple_hash(&idle.client), settings)?;
    let fate = end::<F>(idle);
    guard.release();
    fate
}

/// Under the guard of the client's tuple: nobody adds or removes its entries meanwhile.
///
/// Where packets may come in the middle of a test run (before Linux 6.11), one on this CPU that wants
/// the same guard can not wait for it: its flow's entries stay as they are, as with every guard
/// whose holder does not run ([`Guard::take`]).
#[inline(always)]
fn end<F: Family>(idle: &IdleFlow<F::Address>) -> Option<u32> {
    let (client, server) = (&idle.client, &idle.server);
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
    if !idle.forward.is_still(there) || !idle.reply.is_still(answer) {
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
