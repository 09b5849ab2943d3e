//! Counts of servers' flows that the agent found wrong: they change where all others count, by the
//! same instruction.
//!
//! The agent runs this program by `BPF_PROG_TEST_RUN`; it is attached to nothing. Its packet
//! is a list of [`Miscount`].

use core::mem::size_of;

use aya_ebpf::bindings::xdp_action;
use lb_common::{
    flow::Handle,
    server::{MOST_MISCOUNTS, Miscount},
};

use crate::{context::Context, counters, packet::Packet};

const RECORD: usize = size_of::<Miscount>();

/// Takes what is too many off the counts.
#[inline(always)]
#[must_use]
pub fn settle(ctx: Context) -> u32 {
    let packet = Packet::new(ctx);
    for index in 0..MOST_MISCOUNTS {
        let Some(record) = packet.at::<[u8; RECORD]>(index * RECORD) else { break };
        // SAFETY: `at` checked the bounds; this machine reads words anywhere.
        let Miscount { server, flows, .. } = unsafe { record.cast::<Miscount>().read_unaligned() };
        counters::add_flows(Handle::from_bits(server), flows.wrapping_neg().cast_signed());
    }
    xdp_action::XDP_PASS
}
