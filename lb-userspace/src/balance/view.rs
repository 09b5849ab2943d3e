//! How the servers of a pool stand, as one immutable value for requests to read, and how
//! the next such value follows from what is known.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::Guard;

use super::{
    choose::{Choice, Draw, choose},
    cookie::Cookies,
    member::{Door, Member, NO_LIMIT},
    pool::KnownServer,
    shared::Shared,
    slow_start,
    tier::{Candidate, Tier},
};
use crate::model::{
    balance::{Balance, Balancing},
    name::Name,
    state::ServerState,
};

/// How the servers of a pool stand.
#[derive(Debug)]
pub(super) struct View {
    pub(super) balancing: Arc<Balancing>,
    /// All of them, by name.
    pub(super) members: Box<[Arc<Member>]>,
    main: Tier,
    backup: Tier,
    pub(super) cookies: Option<Cookies>,
}

/// What is known of the servers, for whoever makes views.
#[derive(Debug, Default)]
pub(super) struct Roster {
    records: BTreeMap<Name, Record>,
    /// Servers of the view in force that are not of the next.
    gone: Vec<Arc<Member>>,
    /// The pool has had servers: those that come now are cold.
    is_running: bool,
    /// When time changes the view.
    pub(super) due: Option<Instant>,
}

#[derive(Debug)]
struct Record {
    member: Arc<Member>,
    known: KnownServer,
    /// Whom it takes once the next view is in force.
    door: Door,
    /// Since when it has been usable; none if it was from the start, or is not.
    up_since: Option<Instant>,
    /// It was marked down, and the checks found it down since.
    mark_is_known: bool,
}

impl Roster {
    /// Takes over what is known. A server whose address changed is another server.
    pub(super) fn follow(
        &mut self,
        servers: &BTreeMap<Name, KnownServer>,
        shared: &Arc<Shared>,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.records);
        for (name, known) in servers {
            let old = before.remove(name).filter(|record| record.known.address == known.address);
            let mut record = old.unwrap_or_else(|| Record {
                member: Member::new(name.clone(), known.address, Arc::clone(shared)),
                known: KnownServer { state: ServerState::Down, ..*known },
                door: Door::Closed,
                up_since: None,
                mark_is_known: false,
            });
            record.learn(*known, shared, self.is_running.then_some(now), now);
            self.records.insert(name.clone(), record);
        }
        for record in before.into_values() {
            self.gone.extend(record.retire(shared));
        }
        self.is_running = true;
    }

    /// Closes doors, now that the view that follows from this is in force: whoever finds
    /// nobody in the view he has can count on another one.
    pub(super) fn close_doors(&mut self) {
        for record in self.records.values() {
            record.member.set_door(record.door);
        }
        for member in self.gone.drain(..) {
            member.set_door(Door::Closed);
        }
    }

    /// Lets in whose time is up, and, if more are out than may be, who would be next.
    fn let_in(&mut self, shared: &Shared, max_share: u8, now: Instant) {
        let now_ns = shared.nanos(now);
        let well = |record: &&Record| {
            record.known.state == ServerState::Up || record.member.breaker.is_out()
        };
        let well = self.records.values().filter(well).count() as u64;
        let most = well * u64::from(max_share) / 100;
        shared.share.set_most(u32::try_from(most).unwrap_or(u32::MAX));
        let mut out: Vec<(u64, &mut Record)> = self
            .records
            .values_mut()
            .filter_map(|record| Some((record.member.breaker.back_at()?, record)))
            .collect();
        out.sort_by_key(|(back_at, _)| *back_at);
        for (back_at, record) in out {
            if back_at <= now_ns || shared.share.excess() > 0 {
                record.come_back(shared, now);
            }
        }
    }
}

impl Record {
    /// `cold_since` is when it starts to grow if it comes up with this; none if it was
    /// there from the start.
    fn learn(
        &mut self,
        known: KnownServer,
        shared: &Shared,
        cold_since: Option<Instant>,
        now: Instant,
    ) {
        let was_up = self.known.state == ServerState::Up;
        let is_up = known.state == ServerState::Up;
        self.known = known;
        self.member.set_most(known.most.unwrap_or(NO_LIMIT));
        let is_dead = |state| matches!(state, ServerState::Down | ServerState::Maint);
        if is_up && !was_up {
            self.up_since = cold_since;
        }
        if self.member.breaker.is_marked() {
            if is_up && self.mark_is_known {
                self.come_back(shared, now);
            } else {
                self.mark_is_known |= is_dead(known.state);
            }
        }
    }

    fn come_back(&mut self, shared: &Shared, now: Instant) {
        let balancing = shared.balancing();
        let rules = balancing.passive.as_ref();
        if self.member.breaker.let_in(rules, &shared.share, shared.nanos(now)) {
            self.up_since = Some(now);
        }
        self.mark_is_known = false;
    }

    /// It is no server of the pool any more. Returned is whom requests may still be given.
    fn retire(self, shared: &Shared) -> Option<Arc<Member>> {
        if !self.member.breaker.is_out() {
            return Some(self.member);
        }
        self.member.set_door(Door::Closed);
        self.member.breaker.let_in(None, &shared.share, 0);
        None
    }

    /// Its part in a tier; none without a weight.
    fn candidate(&self, slow_start: Duration, now: Instant) -> Option<Candidate> {
        let is_up = self.known.state == ServerState::Up && !self.member.breaker.is_out();
        let age = self.up_since.map(|since| now.saturating_duration_since(since));
        (self.known.weight > 0).then(|| Candidate {
            member: Arc::clone(&self.member),
            usable: is_up,
            weight: self.known.weight,
            age: age.filter(|age| is_up && *age < slow_start),
        })
    }

    /// The same, if it takes whatever the algorithm gives it.
    fn usable(&self, slow_start: Duration, now: Instant) -> Option<Candidate> {
        self.candidate(slow_start, now).filter(|candidate| candidate.usable)
    }
}

impl View {
    /// The view of a pool without servers.
    pub(super) fn empty(balancing: Arc<Balancing>) -> Self {
        let (main, backup) = (Tier::default(), Tier::default());
        Self { balancing, members: Box::default(), main, backup, cookies: None }
    }

    /// The servers in charge.
    pub(super) fn tier(&self) -> &Tier {
        if self.main.seats.is_empty() { &self.backup } else { &self.main }
    }

    /// Chooses a server and takes a slot; one that was tried already only if there is no
    /// other.
    pub(super) fn choose(&self, draw: Draw<'_>) -> Choice<'_> {
        match choose(self.tier(), &self.balancing, draw) {
            Choice::Taken(member) => Choice::Taken(member),
            _ if !draw.avoid.is_empty() => {
                choose(self.tier(), &self.balancing, Draw { avoid: &[], ..draw })
            }
            other => other,
        }
    }
}

/// The view that follows, and when time will change it. Doors that this opens are open now;
/// [`Roster::close_doors`] is for when it is in force.
pub(super) fn next(before: &View, roster: &mut Roster, shared: &Shared, now: Instant) -> View {
    let balancing = Guard::into_inner(shared.balancing());
    let max_share = balancing.passive.as_ref().map_or(0, |passive| passive.max_share);
    roster.let_in(shared, max_share, now);

    let slow_start = balancing.slow_start;
    let hashed = matches!(balancing.algorithm, Balance::Maglev | Balance::Hash(_));
    let tier = |backup: bool, before: &Tier| {
        let records = roster.records.values().filter(|record| record.known.backup == backup);
        let all: Vec<_> = records.filter_map(|record| record.candidate(slow_start, now)).collect();
        Tier::new(&all, slow_start, hashed, Some(before))
    };
    let (main, backup) = (tier(false, &before.main), tier(true, &before.backup));
    let backup_is_needed = main.seats.is_empty();
    for record in roster.records.values_mut() {
        let is_usable = record.usable(slow_start, now).is_some();
        let is_in_charge = record.known.backup == backup_is_needed;
        record.door = match record.known.state {
            ServerState::Down | ServerState::Maint => Door::Closed,
            ServerState::Up if is_usable && is_in_charge => Door::Open,
            ServerState::Up | ServerState::Drain | ServerState::Nolb => Door::Own,
        };
        if record.door == Door::Open {
            record.member.set_door(Door::Open);
        }
    }
    roster.due = due(roster, shared, slow_start, now);
    let members: Box<[_]> =
        roster.records.values().map(|record| Arc::clone(&record.member)).collect();
    let addresses = members.iter().map(|member| member.address());
    let cookies = balancing.persistence.as_ref().map(|rules| Cookies::new(rules, addresses));
    View { balancing, members, main, backup, cookies }
}

/// When the next server is let in, or grows.
fn due(roster: &Roster, shared: &Shared, slow_start: Duration, now: Instant) -> Option<Instant> {
    let back = |record: &Record| {
        Some(shared.epoch + Duration::from_nanos(record.member.breaker.back_at()?))
    };
    let grown = |record: &Record| {
        record.usable(slow_start, now)?.age.map(|_| now + slow_start::step(slow_start))
    };
    roster.records.values().flat_map(|record| [back(record), grown(record)]).flatten().min()
}
