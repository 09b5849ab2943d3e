//! States of servers, backups, slow start, cookies, and what traffic says.

use super::*;
use crate::model::balance::{CookieMode, PassiveAction, Persistence};

const SECOND: Duration = Duration::from_secs(1);

fn eject() -> PassiveAction {
    PassiveAction::Eject { first: 10 * SECOND, longest: 60 * SECOND }
}

fn persistent(rig: &mut Rig, redispatch: bool) {
    rig.balancing.persistence = Some(Persistence {
        cookie: "SRV".into(),
        mode: CookieMode::Insert,
        key: None,
        signed: None,
        redispatch,
        attributes: String::new(),
    });
    rig.apply();
}

/// What a client gets that belongs to `server`.
fn own(rig: &mut Rig, server: &str) -> Result<String, PickError> {
    let member = rig.pool.by_name(&name(server)).unwrap();
    let value = rig.pool.cookie_of(&member, 0).unwrap();
    let found = rig.pool.by_cookie(value.as_bytes(), 0).unwrap();
    assert!(Arc::ptr_eq(&member, &found));
    let facts = PickFacts { own: Some(&found), ..rig.facts() };
    match rig.pool.pick(&facts)? {
        Picked::Server(lease) => Ok(name_of(&lease).to_owned()),
        Picked::Queued(_) => Ok("queue".into()),
    }
}

#[test]
fn only_servers_that_are_up_get_new_clients() {
    for state in [ServerState::Down, ServerState::Drain, ServerState::Maint, ServerState::Nolb] {
        let mut rig = Rig::new(Balance::RoundRobin, &[1, 1]);
        rig.change("a", |server| server.state = state);
        assert_eq!((rig.sequence(3).as_str(), rig.pool.usable()), ("bbb", 1), "{state:?}");
        rig.change("a", |server| server.state = ServerState::Up);
        assert_eq!(rig.pool.usable(), 2);
    }
}

#[test]
fn a_client_keeps_its_server_while_that_drains_and_no_longer() {
    let mut rig = Rig::new(Balance::RoundRobin, &[1, 1]);
    persistent(&mut rig, true);
    for state in [ServerState::Up, ServerState::Drain, ServerState::Nolb] {
        rig.change("a", |server| server.state = state);
        assert_eq!(own(&mut rig, "a").unwrap(), "a", "{state:?}");
    }
    rig.change("a", |server| (server.state, server.weight) = (ServerState::Up, 0));
    assert_eq!(own(&mut rig, "a").unwrap(), "a");
    for state in [ServerState::Down, ServerState::Maint] {
        rig.change("a", |server| server.state = state);
        assert_eq!(own(&mut rig, "a").unwrap(), "b", "{state:?}");
    }
    persistent(&mut rig, false);
    assert_eq!(own(&mut rig, "a").unwrap_err(), PickError::OwnServer);
}

#[test]
fn a_client_waits_for_its_own_server_though_others_have_room() {
    let mut rig = Rig::new(Balance::First, &[1, 1]);
    persistent(&mut rig, true);
    rig.limit(1);
    let lease = rig.lease();
    assert_eq!((name_of(&lease), own(&mut rig, "a").unwrap().as_str()), ("a", "queue"));
    assert_eq!(rig.pool.waiting(), 0, "who leaves is not waited for");
}

#[test]
fn backups_step_in_only_for_the_last_of_the_others() {
    let mut rig = Rig::new(Balance::RoundRobin, &[1, 1, 1]);
    rig.change("c", |server| server.backup = true);
    assert_eq!(rig.sequence(4), "abab");
    rig.change("a", |server| server.state = ServerState::Down);
    assert_eq!(rig.sequence(2), "bb");
    rig.change("b", |server| server.state = ServerState::Drain);
    assert_eq!(rig.sequence(2), "cc");
    rig.change("a", |server| server.state = ServerState::Up);
    assert_eq!(rig.sequence(2), "aa");
}

#[test]
fn a_server_that_comes_back_grows_to_its_weight() {
    let mut rig = Rig::new(Balance::RoundRobin, &[100, 100]);
    rig.balancing.slow_start = 20 * SECOND;
    rig.apply();
    assert_eq!(share_of_b(&mut rig), 50, "nothing grows at the start of the process");
    rig.change("b", |server| server.state = ServerState::Down);
    rig.change("b", |server| server.state = ServerState::Up);
    let mut shares = vec![share_of_b(&mut rig)];
    for _ in 0..20 {
        rig.pass(SECOND);
        shares.push(share_of_b(&mut rig));
    }
    assert!(shares[0] <= 3 && shares[10] > 30 && shares[10] < 37, "{shares:?}");
    assert!(shares.is_sorted() && shares[20] == 50, "{shares:?}");
    assert_eq!(rig.pool.tick(rig.now), None, "and then time brings nothing new");
}

/// In percent, of many requests.
fn share_of_b(rig: &mut Rig) -> usize {
    rig.sequence(10_000).matches('b').count() / 100
}

#[test]
fn failures_on_traffic_take_a_server_out_for_a_while() {
    let mut rig = Rig::new(Balance::RoundRobin, &[1, 1, 1]);
    rig.balancing.passive = Some(passive(3, eject(), 50));
    rig.apply();
    (0..2).for_each(|_| rig.fail("a"));
    assert_eq!(rig.pool.usable(), 3);
    rig.fail("a");
    // At once, before anybody has made another view.
    assert!(!rig.sequence(9).contains('a'));
    rig.pass(Duration::ZERO);
    assert_eq!(rig.sequence(4), "cbcb");
    let reports = rig.pool.report(rig.now);
    assert_eq!(reports[0].out, Some(("3 requests in a row failed".into(), Some(10 * SECOND))));
    assert_eq!(rig.pool.tick(rig.now), Some(rig.now + 10 * SECOND));
    rig.pass(10 * SECOND);
    assert_eq!(rig.pool.usable(), 3);
    // On probation.
    rig.fail("a");
    rig.pass(Duration::ZERO);
    assert_eq!(rig.pool.usable(), 2);
    rig.pass(10 * SECOND);
    assert_eq!(rig.pool.usable(), 2, "twice as long the second time");
    rig.pass(10 * SECOND);
    assert_eq!(rig.pool.usable(), 3);
}

#[test]
fn traffic_never_takes_out_more_than_the_share() {
    let mut rig = Rig::new(Balance::RoundRobin, &[1; 5]);
    rig.balancing.passive = Some(passive(1, eject(), 50));
    rig.apply();
    for server in ["a", "b", "c", "d", "e"] {
        rig.fail(server);
        rig.pass(Duration::ZERO);
    }
    assert_eq!(rig.pool.usable(), 3);
    // Half of four is as many as are out, half of three is not: one is let in early.
    rig.change("e", |server| server.state = ServerState::Down);
    assert_eq!(rig.pool.usable(), 2);
    rig.change("d", |server| server.state = ServerState::Down);
    assert_eq!(rig.pool.usable(), 2);
}

#[test]
fn a_single_server_is_never_taken_out_by_half() {
    let mut rig = Rig::new(Balance::RoundRobin, &[1]);
    rig.balancing.passive = Some(passive(1, eject(), 50));
    rig.apply();
    (0..9).for_each(|_| rig.fail("a"));
    assert_eq!(rig.pool.usable(), 1);
}

#[test]
fn a_server_marked_down_waits_until_checks_have_found_it_down_and_then_up() {
    let mut rig = Rig::new(Balance::RoundRobin, &[1, 1]);
    rig.balancing.passive = Some(passive(1, PassiveAction::MarkDown, 50));
    rig.apply();
    rig.fail("a");
    rig.pass(3600 * SECOND);
    assert_eq!(rig.pool.marked_down().keys().map(Name::as_str).collect::<String>(), "a");
    rig.apply();
    assert_eq!(rig.pool.usable(), 1, "that it was up before says nothing");
    rig.change("a", |server| server.state = ServerState::Down);
    rig.fail("b");
    assert_eq!(rig.pool.usable(), 1, "the mark counts towards the share");
    rig.change("a", |server| server.state = ServerState::Up);
    assert_eq!((rig.pool.usable(), rig.pool.marked_down().len()), (2, 0));
}

#[test]
fn retries_are_rationed() {
    let mut rig = Rig::new(Balance::RoundRobin, &[1]);
    rig.sequence(100);
    let retries = (0..100).filter(|_| rig.pool.may_retry(rig.now)).count();
    // A fifth of the requests, and the ten that a pool begins with.
    assert_eq!(retries, 30);
}

#[test]
fn what_is_sent_again_earns_no_retries() {
    // Wherever the turns of a pool begin.
    for turn in [0, 4_000_000_000] {
        let mut rig = Rig::new(Balance::RoundRobin, &[1, 1]);
        rig.balancing.retries.budget_percent = 100;
        rig.pool =
            Arc::new(Pool::new(rig.balancing.clone(), Arc::new(Notify::new()), turn, rig.now));
        rig.apply();
        rig.sequence(5);
        let mut retries = 0;
        while retries < 100 && rig.pool.may_retry(rig.now) {
            retries += 1;
            let facts = PickFacts { is_again: true, ..rig.facts() };
            drop(rig.lease_with(&facts));
        }
        // The ten that a pool begins with, and one for each request.
        assert_eq!(retries, 15, "{turn}");
    }
}

#[test]
fn a_reload_keeps_counts_of_servers_that_stay() {
    let mut rig = Rig::new(Balance::First, &[1, 1]);
    let lease = rig.lease();
    rig.change("a", |server| server.weight = 7);
    assert_eq!(rig.pool.report(rig.now)[0].active, 1);
    // Another address is another server, and the old one's request is none of its.
    rig.change("a", |server| server.address = "10.0.9.9:80".parse().unwrap());
    assert_eq!(rig.pool.report(rig.now)[0].active, 0);
    drop(lease);
    assert_eq!(rig.pool.report(rig.now)[0].active, 0);
    rig.servers.remove(&name("a"));
    rig.apply();
    assert_eq!(rig.sequence(2), "bb");
}

#[test]
fn pools_live_as_long_as_the_name_of_their_backend() {
    let rig = Rig::new(Balance::First, &[1]);
    let known = |servers: &BTreeMap<Name, KnownServer>| {
        let balancing = rig.balancing.clone();
        BTreeMap::from([(name("web"), pools::KnownBackend { balancing, servers: servers.clone() })])
    };
    let pools = Pools::new(7);
    pools.configure(&known(&rig.servers), rig.now);
    let pool = pools.get(&name("web")).unwrap();
    assert_eq!(pool.usable(), 1);
    pools.configure(&known(&BTreeMap::new()), rig.now);
    assert!(Arc::ptr_eq(&pool, &pools.get(&name("web")).unwrap()));
    pools.configure(&known(&rig.servers), rig.now);
    pools.configure(&BTreeMap::new(), rig.now);
    assert!(pools.get(&name("web")).is_none());
    assert_eq!(pool.pick(&PickFacts::default()).unwrap_err(), PickError::NoServer);
}
