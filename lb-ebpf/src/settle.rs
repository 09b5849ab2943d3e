//! Flows that ended outside of the data plane: the agent's sweep deletes entries, and what
//! they counted for has to be counted down where all others count, under the same locks.
//!
//! The agent runs this program by `BPF_PROG_TEST_RUN`; it is attached to nothing. Its packet
//! is a list of [`EndedFlows`].

use core::mem::size_of;

use aya_ebpf::bindings::xdp_action;
use lb_common::{
    flow::Handle,
    sources::{EndedFlows, MOST_ENDED, SourceKey},
};

use crate::{context::Context, counters, limits, packet::Packet};

const RECORD: usize = size_of::<EndedFlows>();

/// Takes the ended flows off their sources' counts.
#[inline(always)]
#[must_use]
pub fn settle(ctx: Context) -> u32 {
    let packet = Packet::new(ctx);
    for index in 0..MOST_ENDED {
        let Some(record) = packet.at::<[u8; RECORD]>(index * RECORD) else { break };
        // SAFETY: `at` checked the bounds; this machine reads words anywhere.
        let EndedFlows { key, flows, server } =
            unsafe { record.cast::<EndedFlows>().read_unaligned() };
        if server != 0 {
            let server = Handle::from_bits(server);
            counters::add_flows(server, flows.wrapping_neg().cast_signed());
            continue;
        }
        let _done = subtract_flows(key.address, key.scope, key.family, flows);
    }
    xdp_action::XDP_PASS
}

/// A function of its own, so that the verifier walks it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn subtract_flows(address: u64, scope: u32, family: u32, flows: u32) -> u32 {
    limits::subtract(&SourceKey { address, scope, family }, flows);
    0
}
