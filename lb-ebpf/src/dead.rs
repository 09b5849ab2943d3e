//! What becomes of the flows of a server that is dead or gone.

use lb_common::{
    address::Address,
    drop_reason::DropReason,
    flow::Handle,
    tcp_state::TcpFlags,
    vip::{VipKey, on_down},
};

use crate::{
    counters,
    family::Family,
    maps::VIPS,
    parse::{Segment, UDP},
    verdict::{Step, Verdict},
};

/// What is done about a client's packet to such a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It is forwarded all the same.
    Forward,
    /// The flow is forgotten and a server is selected again.
    Move,
    /// The flow is over and its client learns it ([`answer`]).
    End,
}

/// Decides as the VIP's `on_down` says. `known` says whether the server is still configured.
#[inline(always)]
pub fn judge<F: Family>(segment: &Segment<F>, known: bool) -> Settlement {
    let policy = policy(segment);
    if policy == on_down::KEEP && known {
        return Settlement::Forward;
    }
    // Nothing is lost by moving a connection that has not begun, and UDP has no reset.
    let movable = segment.key.protocol == UDP || segment.flags.is_fresh_syn();
    if policy == on_down::REROUTE || movable { Settlement::Move } else { Settlement::End }
}

/// The answer to a client's packet on a flow that has ended with its server.
#[inline(always)]
pub fn answer<F: Family>(segment: &Segment<F>, vip: Handle, server: Handle) -> Step {
    if segment.flags.has(TcpFlags::RST) {
        // Never answered: two ends that reset each other would not stop.
        return Step::Settled(Verdict::Drop(DropReason::ServerDown));
    }
    counters::count_reset(vip, server);
    Step::Reset(DropReason::ServerDown)
}

/// The policy of the packet's VIP; `RESET` if the VIP is gone.
#[inline(always)]
fn policy<F: Family>(segment: &Segment<F>) -> u8 {
    let key = VipKey::new(
        segment.key.destination.to_common(),
        segment.key.destination_port,
        segment.key.protocol,
    );
    // SAFETY: the reference is not kept.
    unsafe { VIPS.get(key) }.map_or(on_down::RESET, |vip| vip.on_down)
}
