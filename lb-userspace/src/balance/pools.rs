//! All backends, and what is known of their servers. Whoever controls the agent tells it;
//! whoever has a request asks it.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::pool::{KnownServer, Pool};
use crate::model::{balance::Balancing, name::Name, state::ServerId};

/// What is known of one backend.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownBackend {
    /// How its requests are spread.
    pub balancing: Balancing,
    /// Its servers, by name.
    pub servers: BTreeMap<Name, KnownServer>,
}

/// The pools of all backends. A pool lives as long as its backend's name, so counts,
/// queues and turns outlive reloads.
#[derive(Debug)]
pub struct Pools {
    pools: ArcSwap<BTreeMap<Name, Arc<Pool>>>,
    changed: Arc<Notify>,
    /// Where this node begins to deal out.
    seed: u64,
}

impl Pools {
    /// No pools yet. `seed` is random, so that nodes do not all begin with one server.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { pools: ArcSwap::default(), changed: Arc::new(Notify::new()), seed }
    }

    /// The pool of a backend.
    #[must_use]
    pub fn get(&self, backend: &Name) -> Option<Arc<Pool>> {
        self.pools.load().get(backend).cloned()
    }

    /// Takes over what is known. One caller at a time.
    pub fn configure(&self, backends: &BTreeMap<Name, KnownBackend>, now: Instant) {
        let before = self.pools.load_full();
        let mut after = BTreeMap::new();
        for (name, known) in backends {
            let pool = before.get(name).cloned().unwrap_or_else(|| {
                let (balancing, notify) = (known.balancing.clone(), Arc::clone(&self.changed));
                Arc::new(Pool::new(balancing, notify, self.seed, now))
            });
            pool.configure(&known.balancing, &known.servers, now);
            after.insert(name.clone(), pool);
        }
        for (_, pool) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
            // Requests that hold it finish; those that wait are sent away.
            pool.configure(&pool.balancing(), &BTreeMap::new(), now);
        }
        self.pools.store(Arc::new(after));
        // What is known now may bring the next tick forward.
        self.changed.notify_one();
    }

    /// Does what time brings, to all of them. Returns when to come again, if
    /// [`Self::changed`] does not say so before.
    pub fn tick(&self, now: Instant) -> Option<Instant> {
        self.pools.load().values().filter_map(|pool| pool.tick(now)).min()
    }

    /// Waits until a tick may have something to do: traffic took a server out, or other
    /// things are known of servers.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The servers that traffic has marked down, each with why, until checks find them up.
    #[must_use]
    pub fn marked_down(&self) -> BTreeMap<ServerId, String> {
        let pools = self.pools.load();
        let of = |(backend, pool): (&Name, &Arc<Pool>)| {
            let backend = backend.clone();
            pool.marked_down().into_iter().map(move |(name, why)| ((backend.clone(), name), why))
        };
        pools.iter().flat_map(of).collect()
    }
}
