//! Packets of flows that are known.

use lb_common::{
    address::Address,
    drop_reason::DropReason,
    event::cause,
    flow::{Direction, FlowEntry, Hop},
    server::{ServerEntry, state},
    tcp_state::Progress,
};

use crate::{
    atomic, clock,
    context::Context,
    counters, dead, event,
    family::Family,
    maps::SERVERS,
    parse::{Segment, TCP},
    promote, rewrite,
    table::{self, Table},
    transmit,
    verdict::{Step, Verdict},
    verifier,
};

/// Looks for the flow of a packet and handles the packet if there is one.
#[inline(always)]
pub fn find_and_hit<F: Family>(ctx: Context, segment: &Segment<F>) -> Step {
    let (table, entry) = if let Some(entry) = F::flows().get_ptr_mut(&segment.key) {
        (Table::Flows, entry)
    } else if let Some(entry) = F::half_open().get_ptr_mut(&segment.key) {
        (Table::HalfOpen, entry)
    } else {
        return Step::Admit;
    };
    // SAFETY: the entry stays mapped for the run of the program; other CPUs may write to
    // it too, which every field allows for.
    hit(ctx, segment, table, unsafe { &mut *entry })
}

/// Handles a packet of a known flow.
#[inline(always)]
fn hit<F: Family>(
    ctx: Context,
    segment: &Segment<F>,
    table: Table,
    entry: &mut FlowEntry<F::Address>,
) -> Step {
    let tcp = segment.key.protocol == TCP;
    if tcp && Progress(entry.progress).needs_attention(segment.flags) {
        if recycles(segment, entry) {
            table::forget::<F>(table, segment, entry, cause::RECYCLED);
            return Step::Admit;
        }
        advance(table, segment, entry);
    }
    if table == Table::HalfOpen
        && is_confirmed(tcp, entry)
        && let Some(moved) = promote::promote::<F>(segment, entry)
    {
        // The old entry is free for another flow by now: nothing may be written to it.
        return forward(ctx, Table::Flows, segment, moved);
    }
    forward(ctx, table, segment, entry)
}

/// Whether a half-open flow has been seen from both sides.
#[inline(always)]
fn is_confirmed<A: Address>(tcp: bool, entry: &FlowEntry<A>) -> bool {
    if tcp {
        let progress = Progress(entry.progress);
        progress.is_confirmed() && !progress.is_over()
    } else {
        entry.direction() == Direction::Reply
    }
}

/// A client opens a new connection on a tuple whose last one is over.
#[inline(always)]
fn recycles<F: Family>(segment: &Segment<F>, entry: &FlowEntry<F::Address>) -> bool {
    segment.flags.is_fresh_syn()
        && entry.direction() == Direction::Forward
        && Progress(entry.progress).recyclable()
}

/// Takes note of SYN, FIN, RST and the ACKs that answer them, in both entries, and
/// reports the end of a flow once.
#[inline(always)]
fn advance<F: Family>(table: Table, segment: &Segment<F>, entry: &mut FlowEntry<F::Address>) {
    let before = Progress(entry.progress);
    let seen = before.observe(entry.direction(), segment.flags);
    let mut bits = verifier::forget(seen) & !before.0;
    let after = Progress(before.0 | bits);
    let ends = after.is_over() && !before.is_over() && before.0 & Progress::REPORTED == 0;
    if ends {
        bits |= Progress::REPORTED;
    }
    if bits == 0 {
        return;
    }
    let partner = table.get::<F>(&entry.partner_key());
    // SAFETY: aligned fields of live map values.
    unsafe {
        atomic::or32(&raw mut entry.progress, bits);
        if let Some(partner) = partner {
            atomic::or32(&raw mut (*partner).progress, bits);
        }
    }
    if ends {
        let cause = if after.0 & Progress::CLIENT_RST != 0 {
            cause::CLIENT_RESET
        } else if after.0 & Progress::SERVER_RST != 0 {
            cause::SERVER_RESET
        } else {
            cause::FIN
        };
        // SAFETY: the entry stays mapped for the run of the program.
        let partner = partner.map(|partner| unsafe { &*partner });
        event::report(&segment.key, entry, partner, cause);
    }
}

/// Rewrites the packet and sends it, if the server lives.
#[inline(always)]
fn forward<F: Family>(
    ctx: Context,
    table: Table,
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
) -> Step {
    let direction = entry.direction();
    let hop = match direction {
        Direction::Forward => {
            let server = SERVERS
                .get(u32::from(entry.server.id))
                .filter(|server| server.generation == entry.server.generation);
            let lives = server.is_some_and(|server| server.state != state::DOWN);
            if !lives && let Some(step) = dead::settle(table, segment, entry, server.is_some()) {
                return step;
            }
            let Some(server) = server else {
                return Step::Settled(Verdict::Drop(DropReason::Internal));
            };
            follow_client(ctx, table, segment, entry);
            match server_hop::<F>(ctx, server) {
                Ok(hop) => hop,
                Err(verdict) => return Step::Settled(verdict),
            }
        }
        Direction::Reply => entry.client_hop,
    };
    if let Err(verdict) = rewrite::check_ttl(segment) {
        return Step::Settled(verdict);
    }
    entry.last_seen_ns = clock::now_ns();
    entry.packets += 1;
    entry.bytes += segment.bytes;
    counters::count_packet(entry.vip, entry.server, direction, segment.bytes);
    rewrite::translate(segment, entry);
    Step::Settled(transmit::transmit(ctx, segment, &hop))
}

/// The next hop towards a server: the agent's, else the kernel's.
#[inline(always)]
pub fn server_hop<F: Family>(ctx: Context, server: &ServerEntry) -> Result<Hop, Verdict> {
    if server.ifindex == 0 {
        return transmit::resolve::<F>(ctx, server);
    }
    Ok(Hop { neighbour: server.neighbour, own: server.own, ifindex: server.ifindex })
}

/// Sends replies after the client when its packets arrive from another last hop: routers
/// in front fail over, and the new one has another MAC address.
#[inline(always)]
fn follow_client<F: Family>(
    ctx: Context,
    table: Table,
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
) {
    let hop = transmit::arrival_hop(ctx, segment);
    if hop == entry.client_hop {
        return;
    }
    entry.client_hop = hop;
    if let Some(partner) = table.get::<F>(&entry.partner_key()) {
        // SAFETY: the entry stays mapped for the run of the program.
        unsafe { (*partner).client_hop = hop };
    }
}
