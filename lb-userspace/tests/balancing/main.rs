//! Balancing end to end: the binary as an operator runs it, with `mode: http` frontends
//! between raw sockets on loopback addresses of their own.

mod bed;

use std::time::{Duration, Instant};

use bed::{Answer, Bed};

/// So long may a state take to come about.
const PATIENCE: Duration = Duration::from_secs(15);

/// Asks until the answer is as wanted.
#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn servers_of(bed: &Bed, count: usize, headers: &[&str]) -> String {
    (0..count).map(|_| bed.get("/", headers).server()).collect()
}

#[test]
fn round_robin_goes_by_weight() {
    let bed = Bed::start(2, "balance: round-robin", &["weight: 200", "weight: 100"]);
    let servers = servers_of(&bed, 300, &[]);
    assert_eq!(servers.matches('a').count(), 200, "{servers}");
}

#[test]
fn a_hash_of_the_uri_keeps_a_path_on_one_server_over_restarts() {
    let mut bed = Bed::start(3, "balance: maglev, hash: uri", &[]);
    let all = |bed: &Bed| -> String {
        (0..30).map(|path| bed.get(&format!("/{path}"), &[]).server()).collect()
    };
    let before = all(&bed);
    assert!(['a', 'b', 'c'].iter().all(|server| before.contains(*server)), "{before}");
    bed.restart();
    assert_eq!(all(&bed), before);
}

#[test]
fn an_inserted_cookie_brings_a_client_back_and_servers_do_not_see_it() {
    let mut bed = Bed::start(3, "persistence: {cookie: SRV, same_site: lax}", &[]);
    let first = bed.get("/", &[]);
    let cookie = first.header("set-cookie").expect("a cookie is set").to_owned();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
    let value = cookie.split(';').next().unwrap().to_owned();
    let header = format!("Cookie: theme=dark; {value}; lang=en");
    let check = |bed: &Bed| {
        for _ in 0..6 {
            let answer = bed.get("/", &[&header]);
            assert_eq!(answer.server(), first.server());
            assert_eq!(answer.header("set-cookie"), None);
            assert_eq!(answer.seen("cookie"), Some("theme=dark; lang=en"));
        }
    };
    check(&bed);
    bed.restart();
    check(&bed);
    let forged = bed.get("/", &["Cookie: SRV=0000000000000000"]);
    assert!(forged.header("set-cookie").is_some() && forged.seen("cookie").is_none());
}

#[test]
fn a_prefix_in_the_applications_cookie_brings_a_client_back() {
    let bed = Bed::start(3, "persistence: {cookie: SID, mode: prefix}", &[]);
    let first = bed.get("/login", &[]);
    let cookie = first.header("set-cookie").expect("the application sets one").to_owned();
    let value = cookie.split(';').next().unwrap();
    assert!(value.ends_with("~session"), "{cookie}");
    for _ in 0..6 {
        let answer = bed.get("/", &[&format!("Cookie: {value}")]);
        assert_eq!(answer.server(), first.server());
        assert_eq!(answer.seen("cookie"), Some("SID=session"));
    }
}

#[test]
fn a_client_of_a_dead_server_gets_another_and_its_cookie() {
    let options = "persistence: {cookie: SRV}, passive: {failures: 1}, \
                   timeouts: {connect: 1s}";
    let mut bed = Bed::start(2, options, &[]);
    let first = bed.get("/", &[]);
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let header = format!("Cookie: {cookie}");
    bed.kill(first.server());
    let next = bed.get("/", &[&header]);
    assert_eq!(next.status, 200, "the request that finds it dead is sent to another");
    assert_ne!(next.server(), first.server());
    let moved = next.header("set-cookie").expect("a new cookie").split(';').next().unwrap();
    assert_ne!(moved, cookie);
}

#[test]
fn without_redispatch_a_client_of_a_dead_server_gets_503() {
    let options = "persistence: {cookie: SRV, redispatch: false}, passive: {failures: 1}, \
                   retries: 0, timeouts: {connect: 1s}";
    let mut bed = Bed::start(2, options, &[]);
    let first = bed.get("/", &[]);
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    bed.kill(first.server());
    let header = format!("Cookie: {cookie}");
    wait_for("503", || bed.get("/", &[&header]).status == 503);
    assert_eq!(bed.get("/", &[]).status, 200, "others are served");
}

#[test]
fn failing_requests_eject_a_server_and_it_comes_back() {
    let passive = "passive: {failures: 3, eject_time: 2s}";
    let bed = Bed::start(2, &format!("balance: round-robin, {passive}"), &[]);
    bed.answer('a', Answer::Status(500));
    let failed = |bed: &Bed| (0..20).filter(|_| bed.get("/", &[]).status == 500).count();
    assert_eq!(failed(&bed), 3, "three are too many, and then there are none");
    bed.answer('a', Answer::Good);
    wait_for("the server to be back", || bed.get("/", &[]).server() == 'a');
}

#[test]
fn the_last_server_is_never_ejected() {
    let bed = Bed::start(1, "passive: {failures: 1}", &[]);
    bed.answer('a', Answer::Status(503));
    let statuses: Vec<u16> = (0..10).map(|_| bed.get("/", &[]).status).collect();
    assert_eq!(statuses, [503; 10]);
    assert!((0..10).all(|_| bed.get("/", &[]).server() == 'a'), "the server itself says 503");
}

#[test]
fn a_server_marked_down_by_traffic_is_down_for_all_until_its_checks_pass() {
    let options = "passive: {failures: 2, action: mark-down}, \
                   check: {type: tcp, interval: 500ms, fall: 3, rise: 2}";
    let bed = Bed::start(2, options, &[]);
    wait_for("both to be checked", || bed.states() == ["UP", "UP"]);
    bed.answer('a', Answer::Status(502));
    wait_for("a to be DOWN", || {
        bed.get("/", &[]);
        bed.states() == ["DOWN", "UP"]
    });
    wait_for("the log to say why", || {
        bed.said("marked down by traffic: 2 requests in a row failed")
    });
    bed.answer('a', Answer::Good);
    wait_for("checks to bring it back", || bed.states() == ["UP", "UP"]);
    wait_for("requests to reach it", || bed.get("/", &[]).server() == 'a');
}

#[test]
fn a_full_server_makes_requests_wait_and_a_full_queue_refuses() {
    let options = "queue_length: 2, timeouts: {queue: 10s}";
    let bed = Bed::start(1, options, &["max_connections: 1"]);
    bed.answer('a', Answer::Hang);
    std::thread::scope(|scope| {
        // Our own question below may be in somebody's place for a moment: who is refused
        // comes again.
        let ask = || loop {
            let status = bed.get("/", &[]).status;
            if status != 503 {
                break status;
            }
        };
        let mut waiting = vec![scope.spawn(ask)];
        wait_for("the first to be at the server", || bed.most_at_once('a') == 1);
        waiting.extend((0..2).map(|_| scope.spawn(ask)));
        // One is at the server, two wait; whoever comes then is refused.
        let question = Duration::from_millis(200);
        wait_for("the queue to be full", || bed.get_within("/", question) == Some(503));
        assert_eq!(bed.most_at_once('a'), 1);
        bed.answer('a', Answer::Good);
        let statuses = waiting.into_iter().map(|request| request.join().unwrap());
        assert!(statuses.into_iter().all(|status| status == 200));
    });
    assert_eq!(bed.most_at_once('a'), 1, "never more than it may have");
}

#[test]
fn a_request_that_waits_too_long_is_answered_503() {
    let bed = Bed::start(1, "timeouts: {queue: 300ms}", &["max_connections: 1"]);
    bed.answer('a', Answer::Hang);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| bed.get("/", &[]));
        wait_for("the first to be at the server", || bed.most_at_once('a') == 1);
        let start = Instant::now();
        assert_eq!(bed.get("/", &[]).status, 503);
        assert!(start.elapsed() >= Duration::from_millis(300));
        bed.answer('a', Answer::Good);
        assert_eq!(first.join().unwrap().status, 200);
    });
}

#[test]
fn a_server_that_refuses_connections_costs_no_request() {
    let mut bed = Bed::start(3, "balance: round-robin, timeouts: {connect: 1s}", &[]);
    bed.kill('b');
    let statuses: Vec<u16> = (0..30).map(|_| bed.get("/", &[]).status).collect();
    assert_eq!(statuses, [200; 30]);
}
