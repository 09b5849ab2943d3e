//! Who gets a request: the algorithms, over the servers of one tier. Choosing takes a slot.

use std::sync::Arc;

use super::{
    member::{Member, NO_LIMIT},
    tier::{Seat, Tier},
};
use crate::model::balance::{Balance, Balancing};

/// What became of a choice.
#[derive(Debug)]
pub(super) enum Choice<'a> {
    /// A slot of this server was taken.
    Taken(&'a Arc<Member>),
    /// There are servers, and all are full.
    Full,
    /// There is no server.
    Nobody,
}

/// What a choice depends on, besides the servers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw<'a> {
    /// The number of the request.
    pub(super) turn: u64,
    /// Random bits.
    pub(super) random: u64,
    /// What is hashed; none if the request does not have it.
    pub(super) hash: Option<u64>,
    /// Servers that this request has tried, by id.
    pub(super) avoid: &'a [u64],
    /// It is refused if the first server that the algorithm finds is full.
    pub(super) is_firm: bool,
}

impl Draw<'_> {
    fn may_have(&self, seat: &Seat) -> bool {
        seat.member.is_open() && !self.avoid.contains(&seat.member.id())
    }

    fn take(&self, seat: &Seat) -> bool {
        self.may_have(seat) && seat.member.take(NO_LIMIT)
    }
}

/// Chooses a server and takes a slot.
pub(super) fn choose<'a>(tier: &'a Tier, balancing: &Balancing, draw: Draw<'_>) -> Choice<'a> {
    if draw.is_firm {
        return match first(tier, balancing, draw) {
            Some(seat) if draw.take(seat) => Choice::Taken(&seat.member),
            Some(_) => Choice::Full,
            None => Choice::Nobody,
        };
    }
    let chosen = match (&balancing.algorithm, draw.hash) {
        (Balance::Maglev | Balance::Hash(_), Some(hash)) => match balancing.load_factor {
            None => tier.along_ring(hash).find(|seat| draw.take(seat)),
            Some(factor) => bounded(tier, hash, factor, draw),
        },
        (Balance::RoundRobin | Balance::Maglev | Balance::Hash(_), _) => in_turn(tier, draw),
        (Balance::LeastConnections, _) => None,
        (Balance::Random, _) => lighter_of_two(tier, draw),
        (Balance::First, _) => tier.seats.iter().find(|seat| draw.take(seat)),
    };
    // Where the algorithm's own way leads past full or missing servers, and for the
    // algorithm whose way this is.
    let chosen = chosen.or_else(|| least_loaded(tier, draw));
    match chosen {
        Some(seat) => Choice::Taken(&seat.member),
        None if tier.seats.iter().any(|seat| draw.may_have(seat)) => Choice::Full,
        None => Choice::Nobody,
    }
}

/// The server that the algorithm finds, whether it has room or not.
fn first<'a>(tier: &'a Tier, balancing: &Balancing, draw: Draw<'_>) -> Option<&'a Seat> {
    let found = match (&balancing.algorithm, draw.hash) {
        (Balance::Maglev | Balance::Hash(_), Some(hash)) => {
            tier.along_ring(hash).find(|seat| draw.may_have(seat))
        }
        (Balance::LeastConnections, _) => None,
        _ => tier.at_turn(draw.turn).filter(|seat| draw.may_have(seat)),
    };
    let open = tier.seats.iter().filter(|seat| draw.may_have(seat));
    found.or_else(|| open.reduce(|best, seat| if is_lighter(seat, best) { seat } else { best }))
}

/// The next in turn with room, at most twice around.
fn in_turn<'a>(tier: &'a Tier, draw: Draw<'_>) -> Option<&'a Seat> {
    let tries = tier.seats.len() as u64 * 2;
    (0..tries)
        .filter_map(|step| tier.at_turn(draw.turn.wrapping_add(step)))
        .find(|seat| draw.take(seat))
}

/// The one with the least requests for its weight, the new one included. Among equals the
/// search starts somewhere else each time.
fn least_loaded<'a>(tier: &'a Tier, draw: Draw<'_>) -> Option<&'a Seat> {
    let seats = &tier.seats;
    let start = usize::try_from(draw.turn % (seats.len() as u64).max(1)).unwrap_or(0);
    // Each failure means that somebody else filled the one found.
    for _ in 0..seats.len() {
        let around = seats.iter().skip(start).chain(seats.iter().take(start));
        let free = around.filter(|seat| draw.may_have(seat) && seat.member.has_room());
        let least = free.reduce(|best, seat| if is_lighter(seat, best) { seat } else { best })?;
        if draw.take(least) {
            return Some(least);
        }
    }
    None
}

/// Two drawn by weight, different ones if that happens soon; the lighter takes it.
fn lighter_of_two<'a>(tier: &'a Tier, draw: Draw<'_>) -> Option<&'a Seat> {
    let mut bits = draw.random;
    let mut next = || {
        bits = lb_common::hash::mix(bits.wrapping_add(1));
        tier.drawn((bits >> 32) as u32)
    };
    let first = next()?;
    let is_other = |seat: &&Seat| !Arc::ptr_eq(&seat.member, &first.member);
    let second = (0..4).filter_map(|_| next()).find(is_other).unwrap_or(first);
    let (better, worse) = if is_lighter(second, first) { (second, first) } else { (first, second) };
    [better, worse].into_iter().find(|seat| draw.take(seat))
}

/// Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, SODA 2018): on
/// along the ring past servers that have `factor` percent of their share.
fn bounded<'a>(tier: &'a Tier, hash: u64, factor: u16, draw: Draw<'_>) -> Option<&'a Seat> {
    let active: u64 = tier.seats.iter().map(|seat| u64::from(seat.member.active())).sum();
    let take = |seat: &&Seat| {
        let bound = bound(active + 1, factor, seat.weight, tier.weight);
        draw.may_have(seat) && seat.member.take(bound)
    };
    // The ring's walk is bounded; there is always somebody below the bound.
    tier.along_ring(hash).find(take).or_else(|| tier.seats.iter().find(take))
}

/// The most requests of a server with `weight` of `all`, if there are `requests` in all.
pub(super) fn bound(requests: u64, factor: u16, weight: u32, all: u64) -> u32 {
    let share = u128::from(requests) * u128::from(factor) * u128::from(weight);
    let bound = share.div_ceil(u128::from(all.max(1)) * 100);
    u32::try_from(bound).unwrap_or(NO_LIMIT).max(1)
}

/// Whether `one` would have less for its weight than `other` with one request more.
fn is_lighter(one: &Seat, other: &Seat) -> bool {
    let load = |seat: &Seat| u64::from(seat.member.active()) + 1;
    load(one) * u64::from(other.weight) < load(other) * u64::from(one.weight)
}
