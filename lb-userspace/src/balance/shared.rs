//! What the servers of one pool share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;

use super::{breaker::Share, queue::Queue};
use crate::model::balance::Balancing;

/// What the servers of one pool share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Times are counted from here: just before the pool began, so that none is 0.
    pub(super) epoch: Instant,
    balancing: ArcSwap<Balancing>,
    /// What requests say of servers matters ([`Balancing::passive`]).
    is_watched: AtomicBool,
    /// Requests that its servers have, those that are not used any more included.
    pub(super) active: AtomicU32,
    pub(super) queue: Queue,
    pub(super) share: Share,
    /// Traffic took a server out and the pool has not looked since.
    changed: AtomicBool,
    /// Whom to tell of it.
    notify: Arc<Notify>,
}

impl Shared {
    pub(super) fn new(balancing: Balancing, notify: Arc<Notify>, begun: Instant) -> Arc<Self> {
        let epoch = begun.checked_sub(Duration::from_nanos(1)).unwrap_or(begun);
        Arc::new(Self {
            epoch,
            is_watched: AtomicBool::new(balancing.passive.is_some()),
            balancing: ArcSwap::from_pointee(balancing),
            active: AtomicU32::new(0),
            queue: Queue::default(),
            share: Share::default(),
            changed: AtomicBool::new(false),
            notify,
        })
    }

    /// How requests are spread.
    pub(super) fn balancing(&self) -> Guard<Arc<Balancing>> {
        self.balancing.load()
    }

    /// Whether it matters how requests went: asked for each of them, and nearly always no.
    pub(super) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// From now on they are spread like this.
    pub(super) fn follow(&self, balancing: &Balancing) {
        self.balancing.store(Arc::new(balancing.clone()));
        self.is_watched.store(balancing.passive.is_some(), Ordering::Relaxed);
    }

    /// Nanoseconds from the epoch to `now`; 1 at least, so that 0 can mean never.
    pub(super) fn nanos(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(elapsed).unwrap_or(u64::MAX).max(1)
    }

    pub(super) fn tell_change(&self) {
        self.changed.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Whether something changed since this was last asked.
    pub(super) fn take_change(&self) -> bool {
        self.changed.swap(false, Ordering::Acquire)
    }
}
