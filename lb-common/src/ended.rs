//! Flows that are over and wait to leave the table of confirmed flows: `ENDED`, `ENDED4`
//! and `ENDED6`.
//!
//! Each processor has a ring for each family. A flow that ends takes a place in it, and
//! whoever takes a place looks at the two oldest: the flow that has been silent for the
//! `closed` timeout leaves its table, and so does the oldest of a full ring, unless packets
//! still come. Taking out two for each one that enters keeps the rings short, and none of
//! this needs the agent.
//!
//! A ring is a hint, never the owner: a flow that is not in one is found by the agent's
//! sweep.

use crate::{
    flow::FlowKey,
    half_open::{age_ms, is_later, milliseconds},
    tcp_state::Progress,
};

/// Places of a processor's ring; a power of two. Few, so that what leaves is still in the
/// processor's caches.
pub const PLACES: u32 = 512;
/// Places that are one element of the map.
pub const PLACES_PER_LINE: u32 = 32;
/// Elements of `ENDED4` and of `ENDED6`.
pub const LINES: u32 = PLACES / PLACES_PER_LINE;
/// How many of the oldest are looked at when a flow takes a place.
pub const LOOKS: u32 = 2;

const LINE: usize = PLACES_PER_LINE as usize;
const _: () = assert!(PLACES.is_power_of_two() && PLACES.is_multiple_of(PLACES_PER_LINE));

/// Index of the IPv4 cursor in `ENDED`.
pub const CURSOR4: u32 = 0;
/// Index of the IPv6 cursor in `ENDED`.
pub const CURSOR6: u32 = 1;

/// A flow that was over at `ended_ms`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended<A> {
    /// The tuple of the client's packets.
    pub client: FlowKey<A>,
    /// When the flow was created, milliseconds of `CLOCK_MONOTONIC_COARSE`, the low 32 bits.
    pub created_ms: u32,
    /// When it ended, or was looked at last, in the same clock.
    pub ended_ms: u32,
}

/// One element of `ENDED4` or `ENDED6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedLine<A> {
    /// Consecutive places.
    pub flows: [Ended<A>; LINE],
}

/// How far a processor's ring is: one element of `ENDED`. Both numbers only grow and wrap
/// around.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Flows that ever took a place.
    pub taken: u32,
    /// Flows that ever left theirs.
    pub left: u32,
}

impl Cursor {
    /// Places taken.
    #[inline(always)]
    #[must_use]
    pub const fn occupied(self) -> u32 {
        self.taken.wrapping_sub(self.left)
    }

    /// Whether nobody finds a place.
    #[inline(always)]
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.occupied() >= PLACES
    }
}

/// The element of the map that a count leads to.
#[inline(always)]
#[must_use]
pub const fn line(count: u32) -> u32 {
    count % PLACES / PLACES_PER_LINE
}

/// The place in its line that a count leads to.
#[inline(always)]
#[must_use]
pub const fn place(count: u32) -> usize {
    (count % PLACES_PER_LINE) as usize
}

/// How many places may be taken on each of `processors` where each table has `entries`
/// entries: what waits takes half of a table at most, 1 to [`PLACES`] each.
#[must_use]
pub const fn places(entries: u32, processors: u32) -> u32 {
    let processors = if processors == 0 { 1 } else { processors };
    // A flow has two entries.
    match entries / 4 / processors {
        0 => 1,
        places if places > PLACES => PLACES,
        places => places,
    }
}

/// What is to become of the oldest flow of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays, and so do all that came after it.
    Wait,
    /// It leaves the table of flows, and its place.
    Remove,
    /// Packets still come: it takes the newest place.
    Renew,
    /// It leaves its place and is not touched: it is another flow, or the sweep's.
    Pass,
}

/// What the table says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Creation, nanoseconds.
    pub created_ns: u64,
    /// When the last packet of either direction came, nanoseconds.
    pub last_seen_ns: u64,
    /// What was seen, in either entry.
    pub progress: Progress,
}

/// The present and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The clock of [`Ended::ended_ms`].
    pub now_ms: u32,
    /// How long a flow that is over may be silent.
    pub closed_ms: u32,
    /// Whether room is needed.
    pub full: bool,
}

impl<A> Ended<A> {
    /// Whether it is time to look at the flow itself.
    #[inline(always)]
    #[must_use]
    pub const fn is_due(&self, patience: Patience) -> bool {
        patience.full || age_ms(patience.now_ms, self.ended_ms) >= patience.closed_ms
    }

    /// What is to become of the flow that is found at the tuple when it is due.
    ///
    /// Never [`Fate::Remove`] for a flow that is not over. One that is over and of which
    /// packets still come (its RST was forged, and its ends know) is not removed before it has
    /// been silent for the whole timeout.
    #[inline(always)]
    #[must_use]
    pub const fn fate(&self, seen: &Seen, patience: Patience) -> Fate {
        if !self.is_due(patience) {
            return Fate::Wait;
        }
        if milliseconds(seen.created_ns) != self.created_ms || !seen.progress.is_over() {
            return Fate::Pass;
        }
        let last_seen_ms = milliseconds(seen.last_seen_ns);
        if age_ms(patience.now_ms, last_seen_ms) >= patience.closed_ms {
            return Fate::Remove;
        }
        let silent = !is_later(last_seen_ms, self.ended_ms);
        match (silent, patience.full) {
            (true, _) => Fate::Remove,
            (false, true) => Fate::Pass,
            (false, false) => Fate::Renew,
        }
    }
}

const _: () = {
    use core::mem::size_of;

    use crate::address::{Address4, Address6};
    assert!(size_of::<Ended<Address4>>() == 24);
    assert!(size_of::<Ended<Address6>>() == 48);
    assert!(size_of::<EndedLine<Address4>>() == 768);
    assert!(size_of::<EndedLine<Address6>>() == 1536);
    assert!(size_of::<Cursor>() == 8);
};

#[cfg(feature = "user")]
mod pod {
    use super::{Cursor, EndedLine};
    use crate::address::{Address4, Address6};

    // SAFETY: repr(C), no padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for Cursor {}
    // SAFETY: as above.
    unsafe impl aya::Pod for EndedLine<Address4> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for EndedLine<Address6> {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::Address4;

    const CLOSED_MS: u32 = 10_000;
    const OVER: u32 = Progress::CLIENT_FIN | Progress::SERVER_FIN | Progress::LAST_ACK;
    const MS: u64 = 1_000_000;

    fn ended(created_ms: u32, ended_ms: u32) -> Ended<Address4> {
        Ended { created_ms, ended_ms, ..Ended::default() }
    }

    /// A flow created at 1 s that ended at 2 s and was seen last at `last_seen_ms`.
    #[track_caller]
    fn check(progress: u32, last_seen_ms: u64, now_ms: u32, full: bool, expected: Fate) {
        let seen = Seen {
            created_ns: 1000 * MS,
            last_seen_ns: last_seen_ms * MS,
            progress: Progress(progress),
        };
        let patience = Patience { now_ms, closed_ms: CLOSED_MS, full };
        assert_eq!(ended(1000, 2000).fate(&seen, patience), expected);
    }

    #[test]
    fn a_silent_flow_leaves_after_the_timeout() {
        check(OVER, 2000, 11_999, false, Fate::Wait);
        check(OVER, 2000, 12_000, false, Fate::Remove);
        check(Progress::CLIENT_RST, 2000, 12_000, false, Fate::Remove);
    }

    #[test]
    fn a_full_ring_lets_the_oldest_go_early() {
        check(OVER, 2000, 2000, true, Fate::Remove);
        check(OVER, 1999, 2001, true, Fate::Remove);
    }

    #[test]
    fn a_flow_that_still_gets_packets_stays() {
        check(Progress::CLIENT_RST, 2001, 12_000, false, Fate::Renew);
        check(Progress::CLIENT_RST, 2001, 3000, true, Fate::Pass);
        check(Progress::CLIENT_RST, 2001, 12_001, true, Fate::Remove);
    }

    #[test]
    fn another_flow_at_the_tuple_is_not_touched() {
        let seen = Seen {
            created_ns: 5000 * MS,
            last_seen_ns: 5001 * MS,
            progress: Progress(Progress::CLIENT_RST),
        };
        for full in [false, true] {
            let patience = Patience { now_ms: 60_000, closed_ms: CLOSED_MS, full };
            assert_eq!(ended(1000, 2000).fate(&seen, patience), Fate::Pass);
        }
    }

    #[test]
    fn tables_of_any_size_have_room_for_what_waits() {
        assert_eq!(places(524_288, 2), PLACES);
        assert_eq!(places(524_288, 512), 256);
        assert_eq!(places(128, 2), 16);
        assert_eq!(places(2, 64), 1);
        assert_eq!(places(0, 0), 1);
        assert_eq!(places(u32::MAX, 1), PLACES);
    }

    proptest! {
        #[test]
        fn a_flow_that_is_not_over_is_never_removed(
            created_ms: u32,
            ended_ms: u32,
            now_ms: u32,
            closed_ms: u32,
            full: bool,
            seen_ns: u64,
            progress in 0_u32..2048,
        ) {
            let patience = Patience { now_ms, closed_ms, full };
            let created_ns = u64::from(created_ms) * MS;
            let seen = Seen { created_ns, last_seen_ns: seen_ns, progress: Progress(progress) };
            let fate = ended(created_ms, ended_ms).fate(&seen, patience);
            prop_assert!(fate != Fate::Remove || Progress(progress).is_over());
        }

        #[test]
        fn a_flow_with_packets_after_its_end_keeps_its_whole_timeout(
            ended_ms in 0_u32..1 << 30,
            later_ms in 1_u32..1 << 20,
            silent_ms in 0_u32..1 << 20,
            closed_ms in 0_u32..1 << 20,
            full: bool,
        ) {
            let last_seen_ms = ended_ms + later_ms;
            let now_ms = last_seen_ms + silent_ms;
            let seen = Seen {
                created_ns: 0,
                last_seen_ns: u64::from(last_seen_ms) * MS,
                progress: Progress(Progress::SERVER_RST),
            };
            let patience = Patience { now_ms, closed_ms, full };
            let fate = ended(0, ended_ms).fate(&seen, patience);
            prop_assert_eq!(fate == Fate::Remove, silent_ms >= closed_ms);
        }

        #[test]
        fn clocks_and_counts_may_wrap(start: u32, steps in 0_u32..PLACES * 2) {
            let cursor = Cursor { taken: start.wrapping_add(steps), left: start };
            prop_assert_eq!(cursor.occupied(), steps);
            prop_assert_eq!(cursor.is_full(), steps >= PLACES);
            prop_assert!(line(cursor.taken) < LINES && place(cursor.taken) < LINE);
            let patience = Patience {
                now_ms: start.wrapping_add(steps),
                closed_ms: PLACES,
                full: false,
            };
            prop_assert_eq!(ended(0, start).is_due(patience), steps >= PLACES);
        }

        #[test]
        fn neighbours_in_a_ring_have_places_of_their_own(count: u32) {
            let at = |count| line(count) * PLACES_PER_LINE + u32::try_from(place(count)).unwrap();
            prop_assert_eq!(at(count.wrapping_add(1)), (at(count) + 1) % PLACES);
        }
    }
}
