//! One server as requests see it: how many it has, how many it may have, whether it takes
//! more. Atomics only; the configuration and the checks' findings are written into them by
//! the pool, never by a request.

use crate::model::address::ServerAddress;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    breaker::{Breaker, Trip},
    counters::Counters,
    lease::Outcome,
    shared::Shared,
};
use crate::model::{balance::Passive, name::Name};

/// One server of a pool. It outlives reloads that leave its address as it is.
#[derive(Debug)]
// The counters of two servers are never on one cache line.
#[repr(align(128))]
pub struct Member {
    active: AtomicU32,
    /// Most requests at a time; [`NO_LIMIT`] if there is no limit.
    most: AtomicU32,
    /// Requests that wait for this server alone.
    pub(super) waiting: AtomicU32,
    door: AtomicU8,
    total: AtomicU64,
    counters: Counters,
    pub(super) breaker: Breaker,
    /// Why it was last taken out.
    trip: Mutex<Option<Trip>>,
    id: u64,
    name: Name,
    address: ServerAddress,
    pub(super) shared: Arc<Shared>,
}

/// Whom a server takes, as far as configuration, operator and checks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Door {
    /// Nobody.
    Closed = 0,
    /// Clients who are its own: it drains, has no weight, or is a backup not needed.
    Own = 1,
    /// Everybody.
    Open = 2,
}

/// The limit of a server that has none.
pub(super) const NO_LIMIT: u32 = u32::MAX;

/// Ids of members: never used twice in a process, so connections kept for one server can
/// not be lent to another.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Member {
    pub(super) fn new(name: Name, address: ServerAddress, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            active: AtomicU32::new(0),
            most: AtomicU32::new(NO_LIMIT),
            waiting: AtomicU32::new(0),
            door: AtomicU8::new(Door::Closed as u8),
            total: AtomicU64::new(0),
            counters: Counters::default(),
            breaker: Breaker::default(),
            trip: Mutex::new(None),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name,
            address,
            shared,
        })
    }

    /// A number that no other server of this process has or had.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name in the backend.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> ServerAddress {
        self.address
    }

    /// Requests it has now.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Requests it ever got.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// What its requests came to.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether it takes whatever the algorithm gives it.
    pub(super) fn is_open(&self) -> bool {
        self.door.load(Ordering::SeqCst) == Door::Open as u8 && !self.breaker.is_out()
    }

    /// Whether it takes a client that is its own.
    pub(super) fn takes_its_own(&self) -> bool {
        self.door.load(Ordering::SeqCst) != Door::Closed as u8 && !self.breaker.is_out()
    }

    pub(super) fn set_door(&self, door: Door) {
        self.door.store(door as u8, Ordering::SeqCst);
    }

    pub(super) fn set_most(&self, most: u32) {
        self.most.store(most, Ordering::SeqCst);
    }

    /// Whether there was room a moment ago.
    pub(super) fn has_room(&self) -> bool {
        self.active.load(Ordering::SeqCst) < self.most.load(Ordering::SeqCst)
    }

    /// Takes a slot if there is one below `limit` and the server's own limit.
    pub(super) fn take(&self, limit: u32) -> bool {
        let limit = limit.min(self.most.load(Ordering::SeqCst));
        if limit == NO_LIMIT {
            self.active.fetch_add(1, Ordering::SeqCst);
        } else {
            let update = |active: u32| (active < limit).then_some(active + 1);
            if self.active.fetch_update(Ordering::SeqCst, Ordering::SeqCst, update).is_err() {
                return false;
            }
        }
        self.shared.active.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Gives a slot back. Whoever waits for it must be told: see `queue`.
    pub(super) fn put_back(&self) {
        self.shared.active.fetch_sub(1, Ordering::Relaxed);
        self.active.fetch_sub(1, Ordering::SeqCst);
    }

    /// Gives back a slot that no request had.
    pub(super) fn put_back_unused(&self) {
        self.total.fetch_sub(1, Ordering::Relaxed);
        self.put_back();
    }

    /// Notes how a request went, and takes the server out if that was one failure too many.
    pub(super) fn note(&self, outcome: Outcome, now: Instant) {
        let failed = match outcome {
            Outcome::Success => false,
            Outcome::Failure => true,
            Outcome::Unknown => return,
        };
        if !self.shared.is_watched() {
            return;
        }
        let balancing = self.shared.balancing();
        if let Some(rules) = &balancing.passive {
            self.judge(failed, rules, self.shared.nanos(now));
        }
    }

    fn judge(&self, failed: bool, rules: &Passive, now_ns: u64) {
        let Some(trip) = self.breaker.note(failed, rules, now_ns) else { return };
        // Whoever sees that it is out asks why, and waits for the answer.
        let mut why = self.trip.lock().unwrap_or_else(PoisonError::into_inner);
        if self.breaker.take_out(rules, &self.shared.share, now_ns) {
            *why = Some(trip);
            drop(why);
            self.shared.tell_change();
        }
    }

    /// Why it was last taken out, for people.
    pub(super) fn trip_reason(&self) -> String {
        match *self.trip.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Trip::InARow(count)) => format!("{count} requests in a row failed"),
            Some(Trip::Ratio(failed, all)) => format!("{failed} of {all} requests failed"),
            None => "requests failed".into(),
        }
    }
}
