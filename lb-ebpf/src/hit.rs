//! Packets of confirmed flows.

use lb_common::{
    drop_reason::DropReason,
    event::cause,
    flow::{Direction, FlowEntry, FlowKey, Hop},
    forward::Forward,
    hash,
    server::ServerEntry,
    tcp_state::{Belief, Progress, TcpFlags},
};

use crate::{
    access, clock,
    confirmed::{self, Guard},
    context::Context,
    counters,
    dead::{self, Settlement},
    ended, event,
    family::Family,
    handshake, limits,
    maps::{SERVERS, SETTINGS},
    one_way::{self, Way},
    parse::{Segment, TCP},
    rewrite,
    splice::{self, Numbers},
    transmit,
    verdict::{Step, Verdict},
    verifier,
};

/// Looks for the flow of a packet and handles the packet if the flow is confirmed; whether
/// it has just ended, and left word of that (`ended`).
#[inline(always)]
pub fn find_and_hit<F: Family>(ctx: Context, segment: &Segment<F>) -> (Step, bool) {
    if let Some(reason) = access::screen_syn(segment) {
        return (Step::Settled(Verdict::Drop(reason)), false);
    }
    let Some(entry) = F::flows().get_ptr_mut(&segment.key) else {
        return (handshake::look_further(segment), false);
    };
    // SAFETY: the entry stays mapped for the run of the program; other CPUs may write to
    // it too, which every field allows for.
    hit(ctx, segment, unsafe { &mut *entry })
}

#[inline(always)]
fn hit<F: Family>(
    ctx: Context,
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
) -> (Step, bool) {
    if let Some(reason) = refuse(segment, entry) {
        return (Step::Settled(Verdict::Drop(reason)), false);
    }
    let mut ended = false;
    if segment.key.protocol == TCP && Progress(entry.progress).needs_attention(segment.flags) {
        if Progress(entry.progress).is_behind_cookie() {
            return (Step::Shift, false);
        }
        if recycles(segment, entry) {
            return (forget(segment, entry, cause::RECYCLED), false);
        }
        ended = advance(segment, entry);
    }
    let step = forward(ctx, segment, entry, &mut ended, None);
    (step, ended)
}

/// Handles a packet of a confirmed flow behind a cookie, which the entry stage has let through.
#[inline(always)]
pub fn find_and_shift<F: Family>(ctx: Context, segment: &Segment<F>) -> (Step, bool) {
    let Some(entry) = F::flows().get_ptr_mut(&segment.key) else {
        return (handshake::look_further(segment), false);
    };
    // SAFETY: the entry stays mapped for the run of the program.
    let entry = unsafe { &mut *entry };
    if recycles(segment, entry) {
        return (forget(segment, entry, cause::RECYCLED), false);
    }
    let mut ended = advance(segment, entry);
    if entry.direction() == Direction::Reply && segment.flags.is_syn_ack() {
        return (answer_again(segment, entry), ended);
    }
    let Some(numbers) = splice::numbers(ctx, segment) else {
        return (Step::Settled(Verdict::Drop(DropReason::Internal)), ended);
    };
    let shift = Some((numbers, entry.sequence_shift));
    let step = forward(ctx, segment, entry, &mut ended, shift);
    (step, ended)
}

/// The server has not heard the client's ACK: what made the client send one goes to it once
/// more.
#[inline(always)]
fn answer_again<F: Family>(segment: &Segment<F>, entry: &mut FlowEntry<F::Address>) -> Step {
    let Some(draft) = F::scratch() else {
        return Step::Settled(Verdict::Drop(DropReason::Internal));
    };
    entry.last_seen_ns = clock::now_ns();
    entry.packets += 1;
    entry.bytes += segment.bytes;
    counters::count_packet(entry.vip, entry.server, Direction::Reply, segment.bytes);
    draft.flow.from_client = entry.partner_key();
    draft.flow.from_server = segment.key;
    draft.flow.progress = entry.progress;
    draft.flow.sequence_shift = entry.sequence_shift;
    splice::hand_over(Direction::Reply, entry.client_hop)
}

/// Why a packet is not let through, before its flow takes note of it: its client may not be
/// one any more, or sends too many.
#[inline(always)]
fn refuse<F: Family>(
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
) -> Option<DropReason> {
    if entry.direction() == Direction::Reply {
        return None;
    }
    let Some(settings) = SETTINGS.get(0) else { return Some(DropReason::Internal) };
    if let Some(reason) = access::screen(segment, entry, settings) {
        return Some(reason);
    }
    limits::is_too_many(segment, entry, settings).then_some(DropReason::PacketRate)
}

/// A client opens a new connection on a tuple whose last one is over, or has lost the entry for the
/// server's packets and so can not go on.
#[inline(always)]
fn recycles<F: Family>(segment: &Segment<F>, entry: &FlowEntry<F::Address>) -> bool {
    segment.flags.is_fresh_syn()
        && entry.direction() == Direction::Forward
        && is_free::<F>(&segment.key, entry)
}

/// Whether the tuple of a client's entry may be another flow's.
#[inline(always)]
fn is_free<F: Family>(key: &FlowKey<F::Address>, entry: &FlowEntry<F::Address>) -> bool {
    let progress = Progress(entry.progress);
    progress.recyclable() || !progress.is_one_way() && confirmed::other::<F>(key, entry).is_none()
}

/// Takes note of SYN, FIN, RST and the ACKs that answer them, in both entries, and
/// reports the end of a flow once; whether this is the end.
#[inline(always)]
fn advance<F: Family>(segment: &Segment<F>, entry: &mut FlowEntry<F::Address>) -> bool {
    let before = Progress(entry.progress);
    let seen = before.observe(entry.direction(), segment.flags);
    let seen = if segment.flags.has(TcpFlags::RST) {
        Progress::believe(seen, belief(segment, entry))
    } else {
        seen
    };
    let mut bits = verifier::forget(seen) & !before.0;
    let after = Progress(before.0 | bits);
    let ends = after.is_over() && !before.is_over() && before.0 & Progress::REPORTED == 0;
    if ends {
        bits |= Progress::REPORTED;
    }
    if bits == 0 {
        return false;
    }
    let (partner, before) = mark(segment, entry, bits);
    // Another processor may have seen the end at the same time.
    let ends = ends && before.0 & Progress::REPORTED == 0;
    if ends {
        finish::<F>(segment, entry, partner, cause_of(after));
    }
    ends
}

/// What a RST is worth. All, where nobody knows what its receiver expects: flows of which only
/// the client's packets are seen, and those of older programs.
#[inline(always)]
fn belief<F: Family>(segment: &Segment<F>, entry: &FlowEntry<F::Address>) -> Belief {
    let direction = entry.direction();
    let Some(partner) = confirmed::partner::<F>(&segment.key, &entry.partner_key()) else {
        return Belief::Full;
    };
    let expected = partner.acknowledged.get();
    if expected == 0 || Progress(entry.progress).is_one_way() {
        return Belief::Full;
    }
    // The client knows the server's numbers shifted.
    let shift = match direction {
        Direction::Forward => 0,
        Direction::Reply => entry.sequence_shift,
    };
    Belief::of_rst(segment.sequence.get().wrapping_add(shift), expected)
}

/// Reports the end of a flow and leaves word of it.
#[inline(always)]
fn finish<F: Family>(
    segment: &Segment<F>,
    entry: &FlowEntry<F::Address>,
    partner: Option<&FlowEntry<F::Address>>,
    cause: u8,
) {
    event::report(&segment.key, entry, partner, cause);
    if let Some(draft) = F::scratch() {
        ended::leave_word(&segment.key, entry, draft);
    }
}

/// Adds bits to the progress in both entries; the partner, if it is there, and what the progress
/// was before ([`confirmed::mark`]).
#[inline(always)]
fn mark<F: Family>(
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
    bits: u32,
) -> (Option<&'static FlowEntry<F::Address>>, Progress) {
    let partner = confirmed::other::<F>(&segment.key, entry);
    // SAFETY: both were just looked up, and stay mapped for the run of the program.
    unsafe {
        let before = confirmed::mark(entry, partner, bits);
        (partner.map(|partner| &*partner), before)
    }
}

/// How a flow that is over ended.
#[inline(always)]
#[must_use]
pub fn cause_of(progress: Progress) -> u8 {
    if progress.0 & Progress::CLIENT_RST != 0 {
        cause::CLIENT_RESET
    } else if progress.0 & Progress::SERVER_RST != 0 {
        cause::SERVER_RESET
    } else {
        cause::FIN
    }
}

/// Rewrites the packet and sends it, if the server lives. Sets `ended` if the flow ends with
/// its server. `shift` is what sequence numbers are shifted by, behind a cookie.
#[inline(always)]
fn forward<F: Family>(
    ctx: Context,
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
    ended: &mut bool,
    shift: Option<(Numbers, u32)>,
) -> Step {
    let direction = entry.direction();
    let hop = match direction {
        Direction::Forward => {
            let server = SERVERS
                .get(u32::from(entry.server.id))
                .filter(|server| server.generation == entry.server.generation);
            let lives = server.is_some_and(ServerEntry::lives);
            let known = server.is_some_and(ServerEntry::is_known);
            if !lives && let Some(step) = settle(segment, entry, known, ended) {
                return step;
            }
            let Some(server) = server else {
                return Step::Settled(Verdict::Drop(DropReason::Internal));
            };
            let forward = Progress(entry.progress).forward();
            if forward.is_one_way() {
                return forward_one_way(ctx, segment, entry, server, forward);
            }
            follow_client(ctx, segment, entry);
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
    // A RST or SYN without ACK acknowledges nothing.
    if segment.flags.has(TcpFlags::ACK) {
        entry.acknowledged = segment.acknowledgement;
    }
    counters::count_packet(entry.vip, entry.server, direction, segment.bytes);
    if let Some((numbers, shift)) = shift {
        splice::shift_numbers(segment, &numbers, direction, shift);
    }
    rewrite::translate(segment, &entry.translation());
    Step::Settled(transmit::transmit(ctx, segment, &hop))
}

/// Counts a packet to a server that answers the client itself, and sends it if it stays as it
/// is.
#[inline(always)]
fn forward_one_way<F: Family>(
    ctx: Context,
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
    server: &ServerEntry,
    forward: Forward,
) -> Step {
    if let Err(verdict) = rewrite::check_ttl(segment) {
        return Step::Settled(verdict);
    }
    if let Err(step) = one_way::check(segment.ip_bytes(), server, forward) {
        return step;
    }
    entry.last_seen_ns = clock::now_ns();
    entry.packets += 1;
    entry.bytes += segment.bytes;
    entry.acknowledged = segment.acknowledgement;
    counters::count_packet(entry.vip, entry.server, Direction::Forward, segment.bytes);
    if !forward.encapsulates() {
        // SAFETY: the parser checked the bounds; nothing else refers to these bytes.
        F::decrement_ttl(unsafe { &mut *segment.ip });
        return Step::Settled(transmit::transmit(ctx, segment, &transmit::hop_to(server)));
    }
    let hash = if one_way::spreads(forward, server) { hash::tuple_hash(&segment.key) } else { 0 };
    Step::OneWay(Way::new(entry.server, forward, hash))
}

/// A client's packet to a server that is dead or gone. None: forward it all the same.
#[inline(always)]
fn settle<F: Family>(
    segment: &Segment<F>,
    entry: &mut FlowEntry<F::Address>,
    known: bool,
    ended: &mut bool,
) -> Option<Step> {
    match dead::judge(segment, known) {
        Settlement::Forward => None,
        Settlement::Move => Some(forget(segment, entry, cause::SERVER_DOWN)),
        Settlement::End => {
            let bits = Progress::SERVER_DOWN | Progress::REPORTED;
            let (partner, before) = mark(segment, entry, bits);
            if before.0 & Progress::REPORTED == 0 {
                finish::<F>(segment, entry, partner, cause::SERVER_DOWN);
                *ended = true;
            }
            Some(dead::answer(segment, entry.vip, entry.server))
        }
    }
}

/// Removes both entries of a client's flow, reports its end unless that was done, and looks
/// where the packet belongs instead.
#[inline(always)]
fn forget<F: Family>(segment: &Segment<F>, seen: &FlowEntry<F::Address>, cause: u8) -> Step {
    let (Some(settings), Some(draft)) = (SETTINGS.get(0), F::scratch()) else {
        return Step::Settled(Verdict::Drop(DropReason::Internal));
    };
    let (created_ns, server, recycled) = (seen.created_ns, seen.server, cause == cause::RECYCLED);
    draft.hash = hash::tuple_hash(&segment.key);
    let Some(guard) = Guard::take::<F>(draft.hash, settings) else {
        return Step::Again;
    };
    // Another processor may have been faster: what is there now may be a new flow.
    let mut replaced = false;
    if let Some(pointer) = F::flows().get_ptr_mut(&segment.key) {
        // SAFETY: the entry stays mapped for the run of the program.
        let entry = unsafe { &*pointer };
        replaced = entry.created_ns != created_ns
            || entry.server != server
            || (recycled && !is_free::<F>(&segment.key, entry));
        if !replaced {
            let other = confirmed::other::<F>(&segment.key, entry);
            // SAFETY: as above, of both.
            let (before, partner) = unsafe {
                let before = confirmed::mark(pointer, other, Progress::REPORTED);
                (before, other.map(|partner| &*partner))
            };
            if before.0 & Progress::REPORTED == 0 {
                event::report(&segment.key, entry, partner, cause);
            }
            confirmed::remove::<F>(&segment.key, &entry.partner_key(), Some(entry), partner);
        }
    }
    guard.release();
    if replaced { Step::Again } else { handshake::look_further(segment) }
}

/// The next hop towards a server: the agent's, else the kernel's.
#[inline(always)]
pub fn server_hop<F: Family>(ctx: Context, server: &ServerEntry) -> Result<Hop, Verdict> {
    if server.ifindex == 0 {
        return transmit::resolve::<F>(ctx, server);
    }
    Ok(transmit::hop_to(server))
}

/// Sends replies after the client when its packets arrive from another last hop: routers
/// in front fail over, and the new one has another MAC address.
#[inline(always)]
fn follow_client<F: Family>(ctx: Context, segment: &Segment<F>, entry: &mut FlowEntry<F::Address>) {
    let hop = transmit::arrival_hop(ctx, segment);
    if transmit::is_same(&hop, &entry.client_hop) {
        return;
    }
    entry.client_hop = hop;
    if let Some(partner) = confirmed::other::<F>(&segment.key, entry) {
        // SAFETY: the entry stays mapped for the run of the program.
        unsafe { (*partner).client_hop = hop };
    }
}
