//! What is known of every server at run time: the operator's word, what the checks found,
//! and since when. Pure: time is a parameter.
//!
//! A reload keeps what is known of servers that it leaves as they are. A server whose
//! address changes is another server; a changed weight in the configuration replaces one
//! set at run time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use crate::{
    admin::api::ServerSet,
    health::HealthEvent,
    model::{
        snapshot::{Server, Snapshot},
        state::{AdminState, Health, ServerId, ServerState, ServerStatus, ServerStatuses},
    },
};

/// What is known of every configured server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerBook {
    records: BTreeMap<ServerId, Record>,
}

/// What is known of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The configuration it is known under.
    pub server: Server,
    /// The operator's word and what the checks found.
    pub status: ServerStatus,
    /// The checks have said something, now or in an earlier process.
    pub checked: bool,
    /// When its state last changed.
    pub since: SystemTime,
}

/// What an earlier process knew of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Which server.
    pub id: ServerId,
    /// What was known.
    pub record: Record,
}

impl ServerBook {
    /// The book of `snapshot`, with what `memories` say of its servers.
    #[must_use]
    pub fn new(snapshot: &Snapshot, memories: Vec<Memory>, now: SystemTime) -> Self {
        let records = memories.into_iter().map(|memory| (memory.id, memory.record)).collect();
        let mut book = Self { records };
        book.configure(snapshot, now);
        book
    }

    /// Follows a new configuration.
    pub fn configure(&mut self, snapshot: &Snapshot, now: SystemTime) {
        let mut before = std::mem::take(&mut self.records);
        for (backend_name, backend) in &snapshot.backends {
            for (server_name, server) in &backend.servers {
                let id = (backend_name.clone(), server_name.clone());
                let known = before.remove(&id).filter(|old| old.server.address == server.address);
                let mut record = known.unwrap_or_else(|| Record::unknown(*server, now));
                if record.server.weight != server.weight {
                    record.status.weight = None;
                }
                record.server = *server;
                if backend.check.is_none() {
                    record.status.health = Health::Up;
                    record.status.reason = "has no check".into();
                    record.checked = false;
                }
                self.records.insert(id, record);
            }
        }
    }

    /// Notes what a check found; whether there is such a server. What was found of one that left
    /// the configuration meanwhile, or has another address now, is nobody's.
    pub fn note(&mut self, event: HealthEvent, now: SystemTime) -> bool {
        let HealthEvent { server, address, health, reason, .. } = event;
        let same = self.get(&server).is_some_and(|record| record.server.address == address);
        same && self.note_health(&server, health, reason, now)
    }

    /// Notes the health of the server of this name; whether there is one.
    pub(super) fn note_health(
        &mut self,
        id: &ServerId,
        health: Health,
        reason: String,
        now: SystemTime,
    ) -> bool {
        let Some(record) = self.records.get_mut(id) else { return false };
        record.checked = true;
        record.change(now, |status| {
            status.health = health;
            status.reason = reason;
        });
        true
    }

    /// Notes what the operator asks for. None if there is no such server.
    pub fn set(&mut self, id: &ServerId, set: ServerSet, now: SystemTime) -> Option<&Record> {
        let record = self.records.get_mut(id)?;
        record.change(now, |status| {
            status.admin = set.state.unwrap_or(status.admin);
            status.weight = set.weight.or(status.weight);
        });
        Some(record)
    }

    /// What is known of one server.
    #[must_use]
    pub fn get(&self, id: &ServerId) -> Option<&Record> {
        self.records.get(id)
    }

    /// What is known of one server in this book, and in `told` if that book knows the
    /// same server: name and address.
    #[must_use]
    pub fn compare<'a>(
        &'a self,
        told: &'a Self,
        id: &ServerId,
    ) -> Option<(&'a Record, Option<&'a Record>)> {
        let known = self.get(id)?;
        let same = |told: &&Record| told.server.address == known.server.address;
        Some((known, told.get(id).filter(same)))
    }

    /// Every server.
    pub fn iter(&self) -> impl Iterator<Item = (&ServerId, &Record)> {
        self.records.iter()
    }

    /// The statuses alone.
    #[must_use]
    pub fn statuses(&self) -> ServerStatuses {
        self.records.iter().map(|(id, record)| (id.clone(), record.status.clone())).collect()
    }

    /// The servers that are not to be checked.
    #[must_use]
    pub fn maintenance(&self) -> BTreeSet<ServerId> {
        let in_maintenance = |(_, record): &(_, &Record)| record.state() == ServerState::Maint;
        self.iter().filter(in_maintenance).map(|(id, _)| id.clone()).collect()
    }

    /// What the checks of an earlier process found.
    #[must_use]
    pub fn known_health(&self) -> BTreeMap<ServerId, Health> {
        self.iter()
            .filter(|(_, record)| record.checked)
            .map(|(id, record)| (id.clone(), record.status.health))
            .collect()
    }
}

impl Record {
    /// A server nobody knows anything of.
    #[must_use]
    pub fn unknown(server: Server, now: SystemTime) -> Self {
        Self { server, status: ServerStatus::default(), checked: false, since: now }
    }

    /// Its state, all things considered.
    #[must_use]
    pub fn state(&self) -> ServerState {
        self.status.state()
    }

    /// The weight in force.
    #[must_use]
    pub fn weight(&self) -> u16 {
        self.status.weight.unwrap_or(self.server.weight)
    }

    fn change(&mut self, now: SystemTime, change: impl FnOnce(&mut ServerStatus)) {
        let before = self.state();
        change(&mut self.status);
        if self.state() != before {
            self.since = now;
        }
    }
}

impl Memory {
    /// A server that a data plane without any other memory holds for dead.
    #[must_use]
    pub fn of_death(id: ServerId, server: Server, now: SystemTime) -> Self {
        let reason = "was down when the agent started".to_owned();
        let status = ServerStatus { health: Health::Down, reason, ..ServerStatus::default() };
        Self { id, record: Record { status, checked: true, ..Record::unknown(server, now) } }
    }

    /// The operator's word as found in a data plane without any other memory.
    #[must_use]
    pub fn of_admin(id: ServerId, server: Server, admin: AdminState, now: SystemTime) -> Self {
        let status = ServerStatus { admin, ..ServerStatus::default() };
        Self { id, record: Record { status, ..Record::unknown(server, now) } }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::fixture::{name, pg, snapshot};

    const START: SystemTime = SystemTime::UNIX_EPOCH;
    fn later() -> SystemTime {
        START + Duration::from_secs(60)
    }

    fn book() -> ServerBook {
        let servers = [("pg1", "10.0.1.20:5432"), ("pg2", "10.0.1.21:5432")];
        ServerBook::new(&snapshot(&servers), Vec::new(), START)
    }

    fn drain() -> ServerSet {
        ServerSet { state: Some(AdminState::Drain), weight: None }
    }

    #[test]
    fn servers_start_up_and_unchecked() {
        let book = book();
        assert!(book.iter().all(|(_, record)| record.state() == ServerState::Up));
        assert!(book.known_health().is_empty() && book.maintenance().is_empty());
    }

    #[test]
    fn only_a_change_of_state_moves_since() {
        let mut book = book();
        let note = |book: &mut ServerBook, health, reason: &str| {
            book.note_health(&pg("pg1"), health, reason.into(), later())
        };
        assert!(note(&mut book, Health::Up, "connected"));
        assert_eq!(book.get(&pg("pg1")).unwrap().since, START);
        assert!(note(&mut book, Health::Down, "connection refused"));
        assert_eq!(book.get(&pg("pg1")).unwrap().since, later());
        assert_eq!(book.known_health(), [(pg("pg1"), Health::Down)].into());
        assert!(!book.note_health(&pg("pg9"), Health::Up, String::new(), later()));
    }

    #[test]
    fn the_operators_word_comes_before_the_checks() {
        let mut book = book();
        let maint = ServerSet { state: Some(AdminState::Maint), weight: Some(7) };
        let record = book.set(&pg("pg2"), maint, later()).unwrap();
        assert_eq!((record.state(), record.weight()), (ServerState::Maint, 7));
        assert_eq!(book.maintenance(), [pg("pg2")].into());
        let ready = ServerSet { state: Some(AdminState::Ready), weight: None };
        let record = book.set(&pg("pg2"), ready, later()).unwrap();
        assert_eq!((record.state(), record.weight()), (ServerState::Up, 7));
        assert!(book.set(&pg("pg9"), drain(), later()).is_none());
    }

    #[test]
    fn a_reload_keeps_what_is_known_of_unchanged_servers() {
        let mut book = book();
        book.set(&pg("pg1"), drain(), later());
        book.set(&pg("pg2"), drain(), later());
        let servers = [("pg1", "10.0.1.20:5432"), ("pg2", "10.0.9.9:5432"), ("pg3", "10.0.1.22:1")];
        book.configure(&snapshot(&servers), later());
        let state = |server| book.get(&pg(server)).map(Record::state);
        assert_eq!(state("pg1"), Some(ServerState::Drain));
        // Its address changed: another server.
        assert_eq!(state("pg2"), Some(ServerState::Up));
        assert_eq!(state("pg3"), Some(ServerState::Up));
        book.configure(&snapshot(&[("pg3", "10.0.1.22:1")]), later());
        assert_eq!(book.get(&pg("pg1")), None);
    }

    #[test]
    fn what_was_found_at_an_old_address_says_nothing_of_the_new_one() {
        let event = |server, address: &str| HealthEvent {
            server: pg(server),
            address: address.parse::<std::net::SocketAddr>().unwrap().into(),
            health: Health::Down,
            reason: "connection refused".into(),
            duration: Duration::ZERO,
        };
        let mut book = book();
        book.configure(&snapshot(&[("pg1", "10.0.9.9:5432")]), later());
        let moved = book.clone();
        assert!(!book.note(event("pg1", "10.0.1.20:5432"), later()));
        assert!(!book.note(event("pg2", "10.0.1.21:5432"), later()));
        assert_eq!(book, moved);
        assert!(book.note(event("pg1", "10.0.9.9:5432"), later()));
        assert_eq!(book.get(&pg("pg1")).unwrap().state(), ServerState::Down);
    }

    #[test]
    fn a_weight_changed_in_the_configuration_replaces_one_set_at_run_time() {
        let mut book = book();
        let mut changed = snapshot(&[("pg1", "10.0.1.20:5432")]);
        book.set(&pg("pg1"), ServerSet { state: None, weight: Some(0) }, later());
        book.configure(&changed, later());
        assert_eq!(book.get(&pg("pg1")).unwrap().weight(), 0);
        changed
            .backends
            .get_mut(&name("pg"))
            .unwrap()
            .servers
            .get_mut(&name("pg1"))
            .unwrap()
            .weight = 50;
        book.configure(&changed, later());
        assert_eq!(book.get(&pg("pg1")).unwrap().weight(), 50);
    }

    #[test]
    fn a_server_that_loses_its_check_is_up() {
        let mut book = book();
        book.note_health(&pg("pg1"), Health::Down, "timeout".into(), later());
        let mut unchecked = snapshot(&[("pg1", "10.0.1.20:5432")]);
        unchecked.backends.get_mut(&name("pg")).unwrap().check = None;
        book.configure(&unchecked, later());
        assert_eq!(book.get(&pg("pg1")).unwrap().state(), ServerState::Up);
        assert!(book.known_health().is_empty());
    }
}
