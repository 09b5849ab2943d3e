//! Settling the flows of a server that is dead or gone.

use lb_common::{
    address::Address,
    drop_reason::DropReason,
    event::cause,
    flow::FlowEntry,
    tcp_state::{Progress, TcpFlags},
    vip::{VipKey, on_down},
};

use crate::{
    atomic, counters, event,
    family::Family,
    maps::VIPS,
    parse::{Segment, UDP},
    table::{self, Table},
    verdict::{Step, Verdict},
};

/// Decides about a client's packet to a dead server, as the VIP's `on_down` says. None
/// means: forward it all the same. `known` says whether the server is still configured.
#[inline(always)]
pub fn settle<F: Family>(
    table: Table,
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
    known: bool,
) -> Option<Step> {
    let policy = policy(segment);
    if policy == on_down::KEEP && known {
        return None;
    }
    // Nothing is lost by moving a connection that has not begun, and UDP has no reset.
    let movable = segment.key.protocol == UDP || segment.flags.is_fresh_syn();
    if policy == on_down::REROUTE || movable {
        table::forget::<F>(table, segment, entry, cause::SERVER_DOWN);
        return Some(Step::Admit);
    }
    let before = Progress(entry.progress);
    let partner = table.get::<F>(&entry.partner_key());
    let bits = Progress::SERVER_DOWN | Progress::REPORTED;
    // SAFETY: aligned fields of live map values.
    unsafe {
        atomic::or32(&raw mut entry.progress, bits);
        if let Some(partner) = partner {
            atomic::or32(&raw mut (*partner).progress, bits);
        }
    }
    if before.0 & Progress::REPORTED == 0 {
        // SAFETY: the entry stays mapped for the run of the program.
        let partner = partner.map(|partner| unsafe { &*partner });
        event::report(&segment.key, entry, partner, cause::SERVER_DOWN);
    }
    if segment.flags.has(TcpFlags::RST) {
        // Never answered: two ends that reset each other would not stop.
        return Some(Step::Settled(Verdict::Drop(DropReason::ServerDown)));
    }
    counters::count_reset(entry.vip, entry.server);
    Some(Step::Reset(DropReason::ServerDown))
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
