//! Pools as a proxy uses them, from the outside.

mod spread;
mod states;
mod stress;
mod waiting;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::*;
use crate::model::{
    balance::{Balance, Balancing, Passive, Queue, QueueOrder, Retries, RetryStatuses},
    fixture::name,
    name::Name,
    state::ServerState,
};

/// A pool and what it is made of; changes are made to the parts and then applied.
struct Rig {
    pool: Arc<Pool>,
    balancing: Balancing,
    servers: BTreeMap<Name, KnownServer>,
    now: Instant,
    random: u64,
}

fn balancing(algorithm: Balance) -> Balancing {
    Balancing {
        algorithm,
        load_factor: None,
        slow_start: Duration::ZERO,
        queue: Queue { length: 100, timeout: Duration::from_secs(1), order: QueueOrder::Fair },
        persistence: None,
        retries: Retries {
            attempts: 3,
            budget_percent: 20,
            budget_floor: 1,
            statuses: RetryStatuses::NONE,
        },
        passive: None,
    }
}

fn passive(failures: u32, action: crate::model::balance::PassiveAction, max_share: u8) -> Passive {
    Passive { consecutive: std::num::NonZeroU32::new(failures), ratio: None, action, max_share }
}

impl Rig {
    /// Servers `a`, `b`, ... of these weights, all UP.
    fn new(algorithm: Balance, weights: &[u16]) -> Self {
        let servers = (0_u8..).zip(weights).map(|(index, weight)| {
            let server = KnownServer {
                address: format!("10.0.0.{}:80", index + 1).parse().unwrap(),
                weight: *weight,
                backup: false,
                most: None,
                state: ServerState::Up,
            };
            (letter(index), server)
        });
        let (servers, now) = (servers.collect(), Instant::now());
        let balancing = balancing(algorithm);
        let pool = Arc::new(Pool::new(balancing.clone(), Arc::new(Notify::new()), 0, now));
        let rig = Self { pool, balancing, servers, now, random: 1 };
        rig.apply();
        rig
    }

    fn apply(&self) {
        self.pool.configure(&self.balancing, &self.servers, self.now);
    }

    fn change(&mut self, server: &str, change: impl FnOnce(&mut KnownServer)) {
        change(self.servers.get_mut(&name(server)).unwrap());
        self.apply();
    }

    /// Gives every server room for so many requests.
    fn limit(&mut self, most: u32) {
        self.servers.values_mut().for_each(|server| server.most = Some(most));
        self.apply();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.pool.tick(self.now);
    }

    fn facts(&mut self) -> PickFacts<'static> {
        self.random = lb_common::hash::mix(self.random + 1);
        PickFacts { random: self.random, ..PickFacts::default() }
    }

    /// A server without waiting.
    fn lease(&mut self) -> Lease {
        let facts = self.facts();
        self.lease_with(&facts)
    }

    fn lease_with(&self, facts: &PickFacts<'_>) -> Lease {
        match self.pool.pick(facts) {
            Ok(Picked::Server(lease)) => lease,
            other => panic!("expected a server, got {other:?}"),
        }
    }

    fn ticket(&self, facts: &PickFacts<'_>) -> Ticket {
        match self.pool.pick(facts) {
            Ok(Picked::Queued(ticket)) => ticket,
            other => panic!("expected a place in the queue, got {other:?}"),
        }
    }

    /// The servers of so many requests, one after the other.
    fn sequence(&mut self, count: usize) -> String {
        (0..count).map(|_| self.lease().server().name().as_str().to_owned()).collect()
    }

    fn fail(&mut self, server: &str) {
        let member = self.pool.by_name(&name(server)).unwrap();
        member.note(Outcome::Failure, self.now);
    }
}

fn letter(index: u8) -> Name {
    name(&char::from(b'a' + index).to_string())
}

fn name_of(lease: &Lease) -> &str {
    lease.server().name().as_str()
}
