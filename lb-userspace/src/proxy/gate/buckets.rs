//! What sources have used up of their rates: token buckets in a table of fixed size.
//!
//! A source is an IPv4 address or an IPv6 network of 64 bits ([`SourceKey`]). The table is
//! divided into sets of [`WAYS`] places with a lock each. A source without a place takes that
//! of its set whose bucket is the fullest, for which the least is forgotten: whoever sends as
//! a million sources pushes out those that have used up little, not those that are held back.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Mutex, OnceLock, PoisonError},
};

use lb_common::{
    address::{Address4, Address6},
    sources::SourceKey,
    token_bucket,
};

use crate::clock::Moment;

/// Places of a set.
const WAYS: usize = 8;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// New flows.
    Flows,
    /// Packets.
    Packets,
}

/// The buckets of all sources.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// None while nothing is limited.
    table: OnceLock<Table>,
}

#[derive(Debug)]
struct Table {
    sets: Box<[Mutex<[Place; WAYS]>]>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    key: SourceKey,
    is_for_packets: bool,
    /// When the bucket is full again; a place that nobody has is full.
    full_ns: u64,
}

impl Buckets {
    /// Makes the table for so many sources if it is `needed` and not there yet.
    pub(super) fn make(&self, max_sources: u32, needed: bool) {
        if needed {
            self.table.get_or_init(|| {
                let sets = (max_sources as usize).div_ceil(WAYS).max(1);
                Table {
                    sets: (0..sets).map(|_| Mutex::default()).collect(),
                    hasher: RandomState::new(),
                }
            });
        }
    }

    /// Takes a token out of a source's bucket; whether there was one. `rate` is interval and
    /// burst, nanoseconds.
    pub(super) fn take(&self, kind: Kind, scope: u32, source: IpAddr, rate: (u32, u64)) -> bool {
        let Some(table) = self.table.get() else { return true };
        let key = match source.to_canonical() {
            IpAddr::V4(address) => SourceKey::v4(scope, Address4::new(address.octets())),
            IpAddr::V6(address) => SourceKey::v6(scope, Address6::new(address.octets())),
        };
        table.take(kind, key, rate, Moment::now().monotonic_ns)
    }
}

impl Table {
    fn take(
        &self,
        kind: Kind,
        key: SourceKey,
        (interval_ns, burst_ns): (u32, u64),
        now_ns: u64,
    ) -> bool {
        let is_for_packets = kind == Kind::Packets;
        // The high half times the number of sets is below 2^64.
        let hash = self.hasher.hash_one((key, is_for_packets)) >> 32;
        let index = usize::try_from((hash * self.sets.len() as u64) >> 32).unwrap_or(0);
        let Some(set) = self.sets.get(index) else { return true };
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let is_own =
            |place: &&mut Place| place.key == key && place.is_for_packets == is_for_packets;
        let place = match set.iter_mut().find(is_own) {
            Some(place) => place,
            None => {
                let Some(fullest) = set.iter_mut().min_by_key(|place| place.full_ns) else {
                    return true;
                };
                *fullest = Place { key, is_for_packets, full_ns: 0 };
                fullest
            }
        };
        match token_bucket::take_one(place.full_ns, now_ns, interval_ns, burst_ns) {
            Some(full_ns) => {
                place.full_ns = full_ns;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::token_bucket::Rate;

    use super::*;

    fn key(number: u64) -> SourceKey {
        SourceKey { address: number, scope: 2, family: 4 }
    }

    #[test]
    fn one_that_is_held_back_is_not_pushed_out_by_a_million_others() {
        let buckets = Buckets::default();
        buckets.make(256, true);
        let table = buckets.table.get().unwrap();
        let Rate { interval_ns, burst_ns } = Rate::new(1, 50);
        let take = |number| table.take(Kind::Flows, key(number), (interval_ns, burst_ns), 1);
        while take(0) {}
        for other in 1..1_000_000 {
            assert!(take(other), "a bucket that was never used is full");
        }
        assert!(!take(0));
        // Nor is what it has left of another limit.
        assert!(table.take(Kind::Packets, key(0), (interval_ns, burst_ns), 1));
        assert_eq!(size_of::<Place>(), 32);
    }

    #[test]
    fn nothing_is_limited_before_there_is_a_table() {
        let buckets = Buckets::default();
        buckets.make(256, false);
        let source = "192.0.2.1".parse().unwrap();
        assert!((0..10).all(|_| buckets.take(Kind::Flows, 2, source, (1 << 30, 1))));
        assert!(buckets.table.get().is_none());
    }
}
