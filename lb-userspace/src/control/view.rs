//! What the operator sees, made from what the control loop knows. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use lb_common::abi::map;

use super::book::ServerBook;
use crate::{
    admin::api::{BackendView, ServerView, TableView, Traffic, VipView},
    clock::rfc3339,
    datapath::sweep::TableFill,
    model::{
        address::ServerAddress,
        name::Name,
        snapshot::{Backend, Bind, CheckKind, Snapshot},
        state::{ServerId, ServerState},
    },
};

/// Counters of the data plane under names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficBook {
    /// By VIP.
    pub vips: HashMap<Bind, Traffic>,
    /// By backend and address of the server.
    pub servers: HashMap<(Name, ServerAddress), Traffic>,
    /// Confirmed flows at the moment, by backend and address of the server.
    pub flows: HashMap<(Name, ServerAddress), u32>,
    /// Shares of their weights that growing servers have, in thousandths.
    pub grown: BTreeMap<ServerId, u32>,
}

/// Every VIP of every frontend of layer 4.
#[must_use]
pub fn vips(snapshot: &Snapshot, traffic: &TrafficBook) -> Vec<VipView> {
    let vips = snapshot.l4_frontends().flat_map(|(name, frontend)| {
        frontend.bind.iter().map(move |bind| VipView {
            frontend: name.to_string(),
            address: bind.address,
            protocol: bind.protocol,
            backend: frontend.backend.to_string(),
            forward: match snapshot.is_in_user_space() {
                true => "proxy".to_owned(),
                false => frontend.forward.name().to_owned(),
            },
            snat: snapshot.is_in_user_space() || frontend.snat && !frontend.forward.is_one_way(),
            traffic: traffic.vips.get(bind).copied().unwrap_or_default(),
        })
    });
    vips.collect()
}

/// Every backend with its servers: what is known of them, and what was told because the
/// maps have it.
#[must_use]
pub fn backends(
    snapshot: &Snapshot,
    (book, told): (&ServerBook, &ServerBook),
    traffic: &TrafficBook,
    now: SystemTime,
) -> Vec<BackendView> {
    let backends = snapshot.backends.iter();
    let views = backends.map(|(name, backend)| {
        let ids = backend.servers.keys().map(|server| (name.clone(), server.clone()));
        let servers: Vec<_> = ids.filter_map(|id| server(&id, book, told, traffic, now)).collect();
        BackendView {
            name: name.to_string(),
            hash: backend.hash,
            on_down: backend.on_down,
            check: check_name(backend).to_owned(),
            usable: usable(&servers),
            proxy: None,
            servers,
        }
    });
    views.collect()
}

/// One server, as it was told of, with the state that is known if that is another one;
/// none if it is not configured.
#[must_use]
pub fn server(
    id: &ServerId,
    book: &ServerBook,
    told: &ServerBook,
    traffic: &TrafficBook,
    now: SystemTime,
) -> Option<ServerView> {
    let (backend, name) = id;
    let (known, told) = book.compare(told, id)?;
    let record = told.unwrap_or(known);
    let in_force = told.is_some_and(|told| told.state() == known.state());
    let place = (backend.clone(), record.server.address);
    Some(ServerView {
        name: name.to_string(),
        address: record.server.address,
        state: record.state(),
        applying: (!in_force).then_some(known.state()),
        admin: record.status.admin,
        health: record.status.health,
        reason: record.status.reason.clone(),
        since: rfc3339(record.since),
        state_s: now.duration_since(record.since).unwrap_or_default().as_secs(),
        weight: record.weight(),
        configured_weight: record.server.weight,
        grown_percent: traffic.grown.get(id).map(|thousandths| thousandths / 10),
        backup: record.server.backup,
        max_connections: record.server.max_connections,
        flows_now: traffic.flows.get(&place).copied().unwrap_or_default().into(),
        traffic: traffic.servers.get(&place).copied().unwrap_or_default(),
        proxy: None,
        ejected: None,
    })
}

/// The tables of flows as the last sweep found them.
#[must_use]
pub fn tables(fill: &[TableFill]) -> Vec<TableView> {
    let view = |table: &TableFill| TableView {
        name: table.map.to_owned(),
        entries: table.entries,
        capacity: table.capacity.into(),
    };
    fill.iter().map(view).collect()
}

/// Said as long as it lasts.
pub const FLOOD_WARNING: &str = "more SYNs come than connections are made (a flood?): they are \
                                 answered with SYN cookies, see pointsman drops";

/// A warning for each table of confirmed flows that is nearly full. A half-open table may
/// fill up: it forgets the oldest.
#[must_use]
pub fn table_warnings(fill: &[TableFill]) -> Vec<String> {
    nearly_full(fill).map(table_warning).collect()
}

/// The tables of confirmed flows that are nearly full.
pub fn nearly_full(fill: &[TableFill]) -> impl Iterator<Item = &TableFill> {
    let never_evicts = |table: &&TableFill| [map::FLOWS4, map::FLOWS6].contains(&table.map);
    let nearly = |table: &&TableFill| table.entries * 10 > u64::from(table.capacity) * 9;
    fill.iter().filter(never_evicts).filter(nearly)
}

/// What follows from a table of confirmed flows that is nearly full, and what to do.
#[must_use]
pub fn table_warning(table: &TableFill) -> String {
    format!(
        "{} holds {} of {} entries; raise datapath.max_flows or lower datapath.timeouts: flows \
         beyond it are kept among the half-open ones, where silence of datapath.timeouts.half_open \
         ends them",
        table.map, table.entries, table.capacity
    )
}

/// A warning for each backend that is used and has no server for new flows.
#[must_use]
pub fn warnings(snapshot: &Snapshot, backends: &[BackendView]) -> Vec<String> {
    let used = |backend: &&BackendView| {
        snapshot.frontends.values().any(|frontend| frontend.backend().as_str() == backend.name)
    };
    let empty = backends.iter().filter(used).filter(|backend| backend.usable == 0);
    empty.map(|backend| format!("backend {} has no usable server", backend.name)).collect()
}

fn check_name(backend: &Backend) -> &'static str {
    match backend.check.as_ref().map(|check| &check.kind) {
        None => "none",
        Some(CheckKind::Tcp) => "tcp",
        Some(CheckKind::Http(_)) => "http",
    }
}

/// How many servers take new flows: backups do while no other can.
fn usable(servers: &[ServerView]) -> usize {
    let count = |backup| {
        let takes = |server: &&ServerView| {
            server.state == ServerState::Up && server.weight > 0 && server.backup == backup
        };
        servers.iter().filter(takes).count()
    };
    match count(false) {
        0 => count(true),
        number => number,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{
        fixture::{name, pg, snapshot},
        state::Health,
    };

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn views(
        configure: impl FnOnce(&mut Snapshot, &mut ServerBook),
    ) -> (Vec<BackendView>, Vec<String>) {
        let mut snapshot = snapshot(&[("pg1", "10.0.1.20:5432"), ("pg2", "10.0.1.21:5432")]);
        let pg2 = snapshot.backends.get_mut(&name("pg")).expect("is there");
        pg2.servers.get_mut(&name("pg2")).expect("is there").backup = true;
        let mut book = ServerBook::new(&snapshot, Vec::new(), START);
        configure(&mut snapshot, &mut book);
        let traffic = TrafficBook {
            servers: [(
                (name("pg"), "10.0.1.20:5432".parse().expect("is an address")),
                Traffic { flows: 7, ..Traffic::default() },
            )]
            .into(),
            ..TrafficBook::default()
        };
        let now = START + Duration::from_secs(90);
        let views = backends(&snapshot, (&book, &book), &traffic, now);
        let warnings = warnings(&snapshot, &views);
        (views, warnings)
    }

    #[test]
    fn servers_are_shown_with_state_and_traffic() {
        let (views, warnings) = views(|_, book| {
            let now = START + Duration::from_secs(30);
            book.note_health(&pg("pg2"), Health::Down, "status 503".into(), now);
        });
        assert_eq!((views[0].usable, views[0].check.as_str()), (1, "tcp"));
        let [pg1, pg2] = views[0].servers.as_slice() else { panic!("two servers") };
        assert_eq!((pg1.state, pg1.state_s, pg1.traffic.flows), (ServerState::Up, 90, 7));
        assert_eq!((pg2.state, pg2.state_s, pg2.traffic.flows), (ServerState::Down, 60, 0));
        assert_eq!(
            (pg2.reason.as_str(), pg2.since.as_str()),
            ("status 503", "1970-01-01T00:00:30.000Z")
        );
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_state_the_maps_do_not_have_is_shown_as_being_applied() {
        let servers = [("pg1", "10.0.1.20:5432"), ("pg2", "10.0.1.21:5432")];
        let snapshot = snapshot(&servers);
        let told = ServerBook::new(&snapshot, Vec::new(), START);
        let mut book = told.clone();
        book.note_health(&pg("pg1"), Health::Down, "timeout".into(), START);
        let check = |told: &ServerBook, expected: [(ServerState, Option<ServerState>); 2]| {
            let views = backends(&snapshot, (&book, told), &TrafficBook::default(), START);
            let states = views[0].servers.iter().map(|server| (server.state, server.applying));
            assert_eq!(states.collect::<Vec<_>>(), expected);
        };
        use ServerState::{Down, Up};
        check(&told, [(Up, Some(Down)), (Up, None)]);
        check(&book, [(Down, None), (Up, None)]);
        // Nothing was told yet: nothing is in force.
        check(&ServerBook::default(), [(Down, Some(Down)), (Up, Some(Up))]);
    }

    #[test]
    fn only_a_table_that_never_evicts_is_warned_of() {
        let fill = |map, entries| TableFill { map, entries, capacity: 1000 };
        let warnings = table_warnings(&[
            fill(map::FLOWS4, 900),
            fill(map::FLOWS6, 901),
            fill(map::HALF_OPEN4, 1000),
        ]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("FLOWS6 holds 901 of 1000 entries; "));
    }

    #[test]
    fn a_backup_counts_when_nothing_else_is_usable() {
        let down = |book: &mut ServerBook, server| {
            book.note_health(&pg(server), Health::Down, String::new(), START);
        };
        let (views_with_backup, warnings) = views(|_, book| down(book, "pg1"));
        assert_eq!((views_with_backup[0].usable, warnings.len()), (1, 0));
        let (views, warnings) = views(|_, book| {
            down(book, "pg1");
            down(book, "pg2");
        });
        assert_eq!(views[0].usable, 0);
        assert_eq!(warnings, ["backend pg has no usable server"]);
    }
}
