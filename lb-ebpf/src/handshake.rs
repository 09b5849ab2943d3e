//! Packets of half-open flows, and their way to the table of confirmed flows.

use lb_common::{
    address::{Address, Be32},
    drop_reason::DropReason,
    event::cause,
    flow::{Direction, FlowEntry, FlowKey, Handle},
    half_open::HalfOpenFlow,
    hash,
    server::ServerEntry,
    tcp_state::Progress,
};

use crate::{
    access, affinity, clock,
    confirmed::Guard,
    context::Context,
    counters,
    dead::{self, Settlement},
    event,
    family::{Family, V4, V6},
    half_open::{self, Entered, Found, Note, Noted, Now},
    hit,
    limits::{self, Counted},
    maps::{Draft, SERVERS, SETTINGS},
    one_way::{self, Way},
    parse::{Segment, TCP},
    rewrite, splice, transmit,
    verdict::{Step, Verdict},
};

const BPF_NOEXIST: u64 = 1;
const EEXIST: i32 = 17;

/// Where a packet goes on that belongs to no confirmed flow: to its half-open flow if there
/// is one. Leaves the hash of the packet's tuple in the draft for the stages that follow.
#[inline(always)]
pub fn look_further<F: Family>(segment: &Segment<F>) -> Step {
    let (Some(settings), Some(draft)) = (SETTINGS.get(0), F::scratch()) else {
        return Step::Settled(Verdict::Drop(DropReason::Internal));
    };
    let hash = hash::tuple_hash(&segment.key);
    draft.hash = hash;
    let known = half_open::find::<F>(&segment.key, hash, settings).is_some();
    if known { Step::HalfOpen } else { Step::Admit }
}

/// Handles the packet of a half-open flow; [`Step::Again`] if the flow has just left, most
/// likely to become a confirmed one.
#[inline(always)]
pub fn hit<F: Family>(ctx: Context, segment: &Segment<F>) -> Step {
    let (Some(settings), Some(draft)) = (SETTINGS.get(0), F::scratch()) else {
        return Step::Settled(Verdict::Drop(DropReason::Internal));
    };
    let Some((found, direction)) = half_open::find::<F>(&segment.key, draft.hash, settings) else {
        return Step::Again;
    };
    found.read(draft);
    let hop = match direction {
        Direction::Forward => {
            if let Some(reason) = access::screen_new(segment, draft.flow.vip, settings) {
                return Step::Settled(Verdict::Drop(reason));
            }
            let server = SERVERS
                .get(u32::from(draft.flow.server.id))
                .filter(|server| server.generation == draft.flow.server.generation);
            let lives = server.is_some_and(ServerEntry::lives);
            let known = server.is_some_and(ServerEntry::is_known);
            if !lives && let Some(step) = settle(segment, &found, draft, known) {
                return step;
            }
            let Some(server) = server else {
                return Step::Settled(Verdict::Drop(DropReason::Internal));
            };
            let forward = Progress(draft.flow.progress).forward();
            if forward.is_one_way() {
                if let Err(step) = one_way::check(segment.ip_bytes(), server, forward) {
                    return step;
                }
                transmit::hop_to(server)
            } else {
                match hit::server_hop::<F>(ctx, server) {
                    Ok(hop) => hop,
                    Err(verdict) => return Step::Settled(verdict),
                }
            }
        }
        Direction::Reply => draft.flow.client_hop,
    };
    if let Err(verdict) = rewrite::check_ttl(segment) {
        return Step::Settled(verdict);
    }
    let mut sequence = 0;
    if Progress(draft.flow.progress).is_behind_cookie() {
        let Some(numbers) = splice::numbers(ctx, segment) else {
            return Step::Settled(Verdict::Drop(DropReason::Internal));
        };
        if direction == Direction::Reply && splice::is_strange(segment, &numbers, &draft.flow) {
            return Step::Reset(DropReason::CookieAnswer);
        }
        sequence = numbers.sequence;
    }
    let now = Now::new(clock::now_ns(), settings);
    let note = Note {
        direction,
        flags: (segment.key.protocol == TCP).then_some(segment.flags),
        bytes: segment.bytes,
        hop: transmit::arrival_hop(ctx, segment),
        sequence,
    };
    let noted = found.note(&note, draft, now);
    draft.write_entries(now.ns);
    if direction == Direction::Reply {
        // The client was judged when it opened the flow; what was said of it since then is told
        // from its last packet.
        draft.forward.last_seen_ns = draft.forward.created_ns;
    }
    draft.take_numbers(segment, direction);
    match noted {
        Noted::Gone => return Step::Again,
        Noted::Recycles => {
            report(draft, cause::RECYCLED);
            return Step::Admit;
        }
        Noted::Seen { ends: true } => event::report(
            &draft.flow.from_client,
            &draft.forward,
            Some(&draft.reply),
            hit::cause_of(Progress(draft.flow.progress)),
        ),
        Noted::Seen { ends: false } => {}
    }
    let confirmed = draft.is_confirmed(direction);
    if confirmed && !counters::reserve_flow(draft.flow.server) {
        return refuse(segment, draft, direction);
    }
    // Before the flow moves on: what is left of the draft then is something else.
    let forward = Progress(draft.flow.progress).forward();
    let step = if forward.is_one_way() {
        Step::OneWay(Way::new(draft.flow.server, forward, draft.hash))
    } else if Progress(draft.flow.progress).is_behind_cookie() {
        splice::hand_over(direction, hop)
    } else {
        rewrite::translate(segment, &draft.flow.translation(direction));
        Step::Settled(transmit::transmit(ctx, segment, &hop))
    };
    if confirmed && !promote::<F>(draft, direction) {
        return Step::Settled(Verdict::Drop(DropReason::FlowsPerSource));
    }
    counters::count_packet(draft.flow.vip, draft.flow.server, direction, segment.bytes);
    step
}

/// The flow's server has got its last flow since this one was opened. The client learns it;
/// by what it then answers the server's SYN-ACK with, the server learns it.
#[inline(always)]
fn refuse<F: Family>(
    segment: &Segment<F>,
    draft: &Draft<F::Address>,
    direction: Direction,
) -> Step {
    if direction == Direction::Reply || segment.key.protocol != TCP {
        return Step::Settled(Verdict::Drop(DropReason::ServerFull));
    }
    counters::count_reset(draft.flow.vip, Handle::default());
    Step::Reset(DropReason::ServerFull)
}

/// A client's packet to a server that is dead or gone. None: forward it all the same.
#[inline(always)]
fn settle<F: Family>(
    segment: &Segment<F>,
    found: &Found<F::Address>,
    draft: &mut Draft<F::Address>,
    known: bool,
) -> Option<Step> {
    match dead::judge(segment, known) {
        Settlement::Forward => None,
        Settlement::Move => {
            draft.write_entries(clock::now_ns());
            if found.leave(draft) {
                report(draft, cause::SERVER_DOWN);
            }
            Some(Step::Admit)
        }
        Settlement::End => {
            draft.write_entries(clock::now_ns());
            if found.mark(Progress::SERVER_DOWN | Progress::REPORTED, draft) {
                report(draft, cause::SERVER_DOWN);
            }
            Some(dead::answer(segment, draft.flow.vip, draft.flow.server))
        }
    }
}

/// Reports the end of a flow unless that was done.
#[inline(always)]
fn report<A: Address>(draft: &Draft<A>, cause: u8) {
    if draft.flow.progress & Progress::REPORTED == 0 {
        event::report(&draft.flow.from_client, &draft.forward, Some(&draft.reply), cause);
    }
}

/// Moves the flow. If the table is full it stays half-open and goes on working from there. A
/// one-way flow has a single entry.
///
/// Its place among the flows of its server is reserved; if it does not move, that is free again.
///
/// False if its source has as many flows as it may have.
#[inline(always)]
fn promote<F: Family>(draft: &mut Draft<F::Address>, direction: Direction) -> bool {
    let client_hash = match direction {
        Direction::Forward => draft.hash,
        Direction::Reply => hash::tuple_hash(&draft.flow.from_client),
    };
    let entered = F::enter(client_hash);
    if entered != ENTERED {
        counters::add_flows(draft.flow.server, -1);
        return entered != TOO_MANY;
    }
    true
}

/// The flow is not a confirmed one; its next packet may make it one.
const LEFT_OUT: u32 = 0;
/// The flow is a confirmed one.
const ENTERED: u32 = 1;
/// Its source has as many flows as it may have.
const TOO_MANY: u32 = 2;

// BPF functions of their own, without packet pointers, because the stages have no stack to
// spare.

/// Adds the IPv4 flow of this CPU's draft to the confirmed ones.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enter4(client_hash: u64) -> u32 {
    enter_guarded::<V4>(client_hash).unwrap_or(LEFT_OUT)
}

/// Adds the IPv6 flow of this CPU's draft to the confirmed ones.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enter6(client_hash: u64) -> u32 {
    enter_guarded::<V6>(client_hash).unwrap_or(LEFT_OUT)
}

/// Counts the flow among those of its source, if those are counted, and adds its entries.
#[inline(always)]
fn enter_guarded<F: Family>(client_hash: u64) -> Option<u32> {
    let (settings, draft) = (SETTINGS.get(0)?, F::scratch()?);
    let counted = limits::count_flow::<F>(&draft.flow.from_client.source, draft.flow.vip, settings);
    match counted {
        Counted::TooMany => return Some(TOO_MANY),
        Counted::No => {}
        Counted::Yes => {
            draft.forward.progress |= Progress::COUNTED;
            draft.reply.progress |= Progress::COUNTED;
        }
    }
    // If the guard is not to be had, the next packet tries again.
    let entered = match Guard::take::<F>(client_hash, settings) {
        None => false,
        Some(guard) => {
            let entered = half_open::leave_by::<F>(draft, settings, enter::<F>);
            guard.release();
            entered
        }
    };
    if entered {
        affinity::confirm(&draft.flow.from_client, draft.flow.server);
        return Some(ENTERED);
    }
    if counted == Counted::Yes {
        limits::forget_flow::<F>(&draft.flow.from_client.source, draft.flow.vip);
    }
    None
}

/// Adds both entries, or the one of a one-way flow. Under the guard of the client's tuple. A flow
/// that its client has already, with another server, stays what the client's packets lead to.
#[inline(always)]
fn enter<F: Family>(draft: &Draft<F::Address>) -> Entered {
    let one_way = Progress(draft.flow.progress).is_one_way();
    if !one_way {
        let added = add::<F>(&draft.flow.from_server, &draft.reply);
        if added != Entered::Yes {
            return added;
        }
    }
    let added = add::<F>(&draft.flow.from_client, &draft.forward);
    if added != Entered::Yes && !one_way {
        let _absent = F::flows().remove(&draft.flow.from_server);
    }
    added
}

/// Adds an entry where none is.
#[inline(always)]
fn add<F: Family>(key: &FlowKey<F::Address>, entry: &FlowEntry<F::Address>) -> Entered {
    match F::flows().insert(key, entry, BPF_NOEXIST) {
        Ok(()) => Entered::Yes,
        Err(error) if error == -EEXIST => Entered::Beaten,
        Err(_) => {
            counters::count_drop(DropReason::FlowTableFull);
            Entered::No
        }
    }
}

impl<A: Address> Draft<A> {
    /// Writes both entries as they follow from the flow.
    #[inline(always)]
    pub fn write_entries(&mut self, now_ns: u64) {
        self.flow.write_entry(Direction::Forward, now_ns, &mut self.forward);
        self.flow.write_entry(Direction::Reply, now_ns, &mut self.reply);
    }

    /// Adds to the entries what has been noted of the flow since they were written.
    #[inline(always)]
    pub fn catch_up(&mut self, flow: &HalfOpenFlow<A>) {
        self.forward.packets = u64::from(flow.forward_packets);
        self.forward.bytes = flow.forward_bytes;
        self.forward.progress |= flow.progress;
        self.reply.packets = u64::from(flow.reply_packets);
        self.reply.bytes = flow.reply_bytes;
        self.reply.progress |= flow.progress;
    }

    /// Takes note of what both ends expect next: the sender of the packet has said so, the other
    /// end, if it has all that was sent before, expects this packet.
    #[inline(always)]
    fn take_numbers<F: Family<Address = A>>(&mut self, segment: &Segment<F>, direction: Direction) {
        let (own, other) = match direction {
            Direction::Forward => (&mut self.forward, &mut self.reply),
            Direction::Reply => (&mut self.reply, &mut self.forward),
        };
        // The client knows the server's numbers shifted.
        let shift = match direction {
            Direction::Forward => 0,
            Direction::Reply => self.flow.sequence_shift,
        };
        own.acknowledged = segment.acknowledgement;
        other.acknowledged = Be32::new(segment.sequence.get().wrapping_add(shift));
    }

    /// Whether the flow has been seen from both sides, at a packet of this direction. In a one-way
    /// flow the client's word is all there is: its ACK, or its second datagram.
    #[inline(always)]
    fn is_confirmed(&self, direction: Direction) -> bool {
        if self.flow.from_client.protocol == TCP {
            let progress = Progress(self.flow.progress);
            progress.is_confirmed() && !progress.is_over()
        } else {
            direction == Direction::Reply || Progress(self.flow.progress).is_one_way()
        }
    }
}
