//! One backend as a proxy's requests see it: who gets the next one.
//!
//! [`Pool::pick`] reads one immutable view of the servers and takes a slot with an atomic
//! instruction. Views are made by [`Pool::configure`], when the configuration, the operator
//! or the checks say something new, and by [`Pool::tick`], when time has: a server that is
//! let in again, or whose share grows. One view follows the other whole: servers are open
//! before a view has them, and close when there is another.
//!
//! A server's states are those of layer 4. UP takes everybody; DOWN and MAINT take nobody;
//! DRAIN, NOLB and weight 0 take the clients that belong to the server by a cookie, and
//! nobody else (as HAProxy has it: their sessions are what is to be drained).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;

use super::{
    budget::Budget,
    choose::{Choice, Draw},
    counters::{Counters, Totals},
    lease::{Lease, Ticket},
    member::{Member, NO_LIMIT},
    queue::{self, Entrant},
    shared::Shared,
    timings::Timings,
    view::{self, Roster, View},
};
use crate::model::{
    address::ServerAddress,
    balance::{Balancing, QueueOrder},
    name::Name,
    state::ServerState,
};

/// What a request says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickFacts<'a> {
    /// What the algorithm hashes ([`super::key`]); none if the request does not have it.
    pub hash: Option<u64>,
    /// Random bits, new ones for each request.
    pub random: u64,
    /// Whose turn in the queue it is: a hash of the client's address.
    pub client: Option<u64>,
    /// Priority in the queue: lower comes first.
    pub priority: i16,
    /// The server the client belongs to ([`Pool::by_cookie`]).
    pub own: Option<&'a Arc<Member>>,
    /// Servers that this request has tried in vain, by [`Member::id`]: taken again only if
    /// there are no others.
    pub avoid: &'a [u64],
    /// It is not served if the first server that the algorithm finds is full.
    pub is_firm: bool,
    /// The request had a server before: no new one, which would earn retries.
    pub is_again: bool,
}

/// What a request gets.
#[derive(Debug)]
pub enum Picked {
    /// A server.
    Server(Lease),
    /// A place in the queue.
    Queued(Ticket),
}

/// Why a request gets no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// There is none.
    #[error("no server is usable")]
    NoServer,
    /// The client's own is not usable, and others are not wanted (`redispatch: false`).
    #[error("the client's own server is not usable")]
    OwnServer,
    /// All are full, and so is the queue.
    #[error("every server is full, and {waiting} requests wait already")]
    QueueFull {
        /// How many wait.
        waiting: u32,
    },
}

/// What is known of a server: configuration, operator and checks taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownServer {
    /// Where it listens: this is what it is known by.
    pub address: ServerAddress,
    /// The weight in force, 0 to 256.
    pub weight: u16,
    /// Used only while no other is usable.
    pub backup: bool,
    /// Most requests at a time; none for no limit.
    pub most: Option<u32>,
    /// Its state.
    pub state: ServerState,
}

/// How one server of a pool is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// Its name.
    pub name: Name,
    /// Requests it has now.
    pub active: u32,
    /// Requests that wait for it alone.
    pub waiting: u32,
    /// Requests it ever got.
    pub total: u64,
    /// What those came to that are over.
    pub totals: Totals,
    /// Traffic took it out: why, and for how long still, none for until checks say so.
    pub out: Option<(String, Option<Duration>)>,
}

/// One backend as a proxy's requests see it.
#[derive(Debug)]
pub struct Pool {
    view: ArcSwap<View>,
    /// Requests so far; where the algorithms begin.
    turns: AtomicU64,
    /// Where they began: as many requests there never were.
    first_turn: u64,
    /// Those of requests that had one before.
    turns_again: AtomicU64,
    counters: Counters,
    timings: Timings,
    budget: Budget,
    shared: Arc<Shared>,
    /// Who makes views, one after the other; never taken by a request.
    roster: Mutex<Roster>,
}

impl Pool {
    /// A pool without servers. `notify` is told when traffic takes a server out, `turn`
    /// (random) is where this node begins to deal out.
    #[must_use]
    pub fn new(balancing: Balancing, notify: Arc<Notify>, turn: u64, now: Instant) -> Self {
        let shared = Shared::new(balancing, notify, now);
        let first_turn = turn & 0xffff_ffff;
        Self {
            view: ArcSwap::from_pointee(View::empty(Guard::into_inner(shared.balancing()))),
            turns: AtomicU64::new(first_turn),
            first_turn,
            turns_again: AtomicU64::new(0),
            counters: Counters::default(),
            timings: Timings::default(),
            budget: Budget::default(),
            shared,
            roster: Mutex::new(Roster::default()),
        }
    }

    /// Takes over what is known of the servers.
    pub fn configure(
        &self,
        balancing: &Balancing,
        servers: &BTreeMap<Name, KnownServer>,
        now: Instant,
    ) {
        let mut roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.view.load();
        if *before.balancing != *balancing {
            self.shared.follow(balancing);
        }
        roster.follow(servers, &self.shared, now);
        self.renew(&mut roster, now);
    }

    /// Does what time brings. Returns when to come again, if nothing else happens.
    pub fn tick(&self, now: Instant) -> Option<Instant> {
        let mut roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.shared.take_change();
        if changed || roster.due.is_some_and(|due| due <= now) {
            self.renew(&mut roster, now);
        }
        roster.due
    }

    /// Takes a slot of a server for a request, or a place in the queue.
    ///
    /// # Errors
    /// [`PickError`]: the request can not be served now.
    pub fn pick(&self, facts: &PickFacts<'_>) -> Result<Picked, PickError> {
        let mut view = self.view.load();
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        if facts.is_again {
            self.turns_again.fetch_add(1, Ordering::Relaxed);
        }
        let redispatch = view.balancing.persistence.as_ref().is_none_or(|rules| rules.redispatch);
        if let Some(member) = facts.own {
            let tried = redispatch && facts.avoid.contains(&member.id());
            if member.takes_its_own() && !tried {
                return self.pick_own(member, &view.balancing, facts);
            }
            if !redispatch {
                return Err(PickError::OwnServer);
            }
        }
        let draw = Draw {
            turn,
            random: facts.random,
            hash: facts.hash,
            avoid: facts.avoid,
            is_firm: facts.is_firm,
        };
        if self.shared.queue.has_any() {
            // Nobody overtakes those who wait.
            return self.enter(&view.balancing, facts);
        }
        loop {
            match view.choose(draw) {
                Choice::Taken(member) => {
                    return Ok(Picked::Server(Lease::of(Arc::clone(member))));
                }
                Choice::Full => return self.enter(&view.balancing, facts),
                Choice::Nobody => {}
            }
            // Servers close once another view is in force.
            let now = self.view.load();
            if Arc::ptr_eq(&view, &now) {
                return Err(PickError::NoServer);
            }
            view = now;
        }
    }

    /// Whether a request that failed may be sent again: takes one retry from the budget.
    /// That the request bears it, and how many attempts it has had, is the caller's to know.
    #[must_use]
    pub fn may_retry(&self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.shared.epoch);
        // What is sent again earns nothing, or failures would feed each other.
        let again = self.turns_again.load(Ordering::Relaxed).saturating_add(self.first_turn);
        let requests = self.turns.load(Ordering::Relaxed).saturating_sub(again);
        self.budget.withdraw(&self.shared.balancing().retries, requests, elapsed)
    }

    /// How requests are spread.
    #[must_use]
    pub fn balancing(&self) -> Arc<Balancing> {
        Arc::clone(&self.view.load().balancing)
    }

    /// The server that a cookie's value names, if it is one of ours and, where cookies are
    /// signed, not too old at `unix_s` seconds since 1970.
    #[must_use]
    pub fn by_cookie(&self, value: &[u8], unix_s: u64) -> Option<Arc<Member>> {
        let view = self.view.load();
        view.members.get(view.cookies.as_ref()?.find(value, unix_s)?).cloned()
    }

    /// The value of a cookie that names a server; none if there is no persistence.
    #[must_use]
    pub fn cookie_of(&self, member: &Member, unix_s: u64) -> Option<String> {
        Some(self.view.load().cookies.as_ref()?.issue(member.address(), unix_s))
    }

    /// A server by its name.
    #[must_use]
    pub fn by_name(&self, name: &Name) -> Option<Arc<Member>> {
        let view = self.view.load();
        view.members.iter().find(|member| member.name() == name).cloned()
    }

    /// Requests that its servers have. Counted once more, not summed up: each line of the
    /// access log has it, and there may be thousands of servers.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.shared.active.load(Ordering::Relaxed)
    }

    /// How many servers take requests, those that step in as backups included.
    #[must_use]
    pub fn usable(&self) -> usize {
        let view = self.view.load();
        view.members.iter().filter(|member| member.is_open()).count()
    }

    /// What its requests came to.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How long its requests took.
    #[must_use]
    pub const fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.shared.queue.length()
    }

    /// How every server is doing.
    #[must_use]
    pub fn report(&self, now: Instant) -> Vec<MemberReport> {
        let now_ns = self.shared.nanos(now);
        let report = |member: &Arc<Member>| MemberReport {
            name: member.name().clone(),
            active: member.active(),
            waiting: member.waiting.load(Ordering::Relaxed),
            total: member.total(),
            totals: member.counters().totals(),
            out: member.breaker.is_out().then(|| {
                let left = member.breaker.back_at().map(|at| at.saturating_sub(now_ns));
                (member.trip_reason(), left.map(Duration::from_nanos))
            }),
        };
        self.view.load().members.iter().map(report).collect()
    }

    /// The servers that traffic has marked down, each with why, until checks find them up.
    #[must_use]
    pub fn marked_down(&self) -> BTreeMap<Name, String> {
        let view = self.view.load();
        let marked = view.members.iter().filter(|member| member.breaker.is_marked());
        marked.map(|member| (member.name().clone(), member.trip_reason())).collect()
    }

    /// A client's own server: a slot, or a place in the line for it.
    fn pick_own(
        &self,
        member: &Arc<Member>,
        balancing: &Balancing,
        facts: &PickFacts<'_>,
    ) -> Result<Picked, PickError> {
        if member.waiting.load(Ordering::SeqCst) == 0 && member.take(NO_LIMIT) {
            return Ok(Picked::Server(Lease::of(Arc::clone(member))));
        }
        let ticket = self.ticket(balancing, Some(member), facts)?;
        queue::hand_on(member);
        if !member.takes_its_own() {
            // It went away meanwhile, perhaps before who saw to that could see the ticket.
            self.give_up(member, balancing);
            self.look_again();
        }
        Ok(Picked::Queued(ticket))
    }

    /// Into the queue.
    fn enter(&self, balancing: &Balancing, facts: &PickFacts<'_>) -> Result<Picked, PickError> {
        let ticket = self.ticket(balancing, None, facts)?;
        self.look_again();
        Ok(Picked::Queued(ticket))
    }

    /// Somebody has entered the queue: is there room? In the view of now, not in the one
    /// that sent him there: see `queue`.
    fn look_again(&self) {
        let view = self.view.load();
        view.tier().seats.iter().for_each(|seat| queue::hand_on(&seat.member));
        if view.tier().seats.is_empty() {
            self.shared.queue.abandon_any();
        }
    }

    /// A server takes nobody: those who wait for it take another, or go.
    fn give_up(&self, member: &Member, balancing: &Balancing) {
        match balancing.persistence.as_ref().is_none_or(|rules| rules.redispatch) {
            true => self.shared.queue.reassign(member),
            false => self.shared.queue.abandon(member),
        }
    }

    fn ticket(
        &self,
        balancing: &Balancing,
        own: Option<&Arc<Member>>,
        facts: &PickFacts<'_>,
    ) -> Result<Ticket, PickError> {
        let fair = balancing.queue.order == QueueOrder::Fair;
        let entrant = Entrant { priority: facts.priority, client: facts.client.filter(|_| fair) };
        let most = balancing.queue.length;
        queue::enter(&self.shared, own, entrant, most)
            .map_err(|queue::Full| PickError::QueueFull { waiting: most })
    }

    /// Makes the next view, and lets the queue see it.
    fn renew(&self, roster: &mut Roster, now: Instant) {
        let before = self.view.load_full();
        let after = Arc::new(view::next(&before, roster, &self.shared, now));
        self.view.store(Arc::clone(&after));
        roster.close_doors();
        let ids: BTreeSet<u64> = after.members.iter().map(|member| member.id()).collect();
        let gone = before.members.iter().filter(|member| !ids.contains(&member.id()));
        for member in gone.chain(after.members.iter().filter(|member| !member.takes_its_own())) {
            self.give_up(member, &after.balancing);
        }
        if after.tier().seats.is_empty() {
            self.shared.queue.abandon_any();
        }
        after.members.iter().for_each(queue::hand_on);
    }
}
