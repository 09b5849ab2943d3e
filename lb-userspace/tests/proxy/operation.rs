//! States of servers, reloads and the end, while clients go on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use pointsman::model::{histogram::Histogram, name::Name, state::AdminState};

use crate::rig::{OK, Rig, Server, snapshot};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const A: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na";
const B: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb";

#[test]
fn requests_follow_the_state_of_servers() {
    let (a, b) = (Server::answering(A), Server::answering(B));
    let keys = format!("servers: {{a: \"{a}\", b: {{address: \"{b}\", backup: true}}}}");
    let rig = Rig::with("", &keys);
    let snapshot = snapshot(rig.address, "", &keys);
    let mut client = rig.connect();
    let mut ask = || {
        client.send(GET.as_bytes());
        client.response()
    };
    assert_eq!(ask().1, "a");
    rig.set(&snapshot, "a", AdminState::Drain);
    assert_eq!(ask().1, "b");
    rig.set(&snapshot, "a", AdminState::Maint);
    assert_eq!(ask().1, "b");
    rig.set(&snapshot, "a", AdminState::Ready);
    assert_eq!(ask().1, "a");
}

#[test]
fn without_a_usable_server_the_answer_is_503() {
    let server = Server::answering(OK);
    let keys = format!("servers: {{a: \"{server}\"}}");
    let rig = Rig::with("", &keys);
    rig.set(&snapshot(rig.address, "", &keys), "a", AdminState::Maint);
    let mut client = rig.connect();
    client.send(GET.as_bytes());
    assert!(client.response().0.starts_with("HTTP/1.1 503 "));
    let line = rig.logged("no_server");
    assert!(line.contains(" app/<NOSRV> "), "{line}");
}

#[test]
fn reloads_under_load_lose_no_request() {
    let (a, b) = (Server::answering(A), Server::answering(B));
    let keys = |server| format!("servers: {{s: \"{server}\"}}");
    let mut rig = Rig::with("", &keys(a));
    let address = rig.address;
    let done = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU32::new(0));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = rig.connect();
            let (done, answered) = (Arc::clone(&done), Arc::clone(&answered));
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    client.send(GET.as_bytes());
                    let (head, body) = client.response();
                    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                    assert!(body == "a" || body == "b", "{body}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for turn in 0..200 {
        let server = if turn % 2 == 0 { b } else { a };
        rig.install(&snapshot(address, "", &keys(server)));
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) == before {
            thread::yield_now();
        }
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no request failed");
    }
}

#[test]
fn the_end_waits_for_requests_and_not_for_idle_connections() {
    let server = Server::new();
    let mut rig = Rig::new("rules: [{if: {path: /no}, deny: 403}]", server.address);
    let (mut busy, mut idle) = (rig.connect(), rig.connect());
    // One that nobody has accepted yet would be reset.
    idle.send(b"GET /no HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(idle.response().0.starts_with("HTTP/1.1 403 "));
    busy.send(GET.as_bytes());
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    let slow = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        connection.send(OK.as_bytes());
        connection
    });
    rig.stop(Duration::from_secs(10));
    assert_eq!(idle.rest(), "");
    let (head, body) = busy.response();
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!(body, "ok");
    assert_eq!(busy.rest(), "");
    slow.join().expect("it has answered");
}

#[test]
fn what_requests_came_to_and_how_long_they_took_is_counted() {
    let unavailable = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let (bad, good) = (Server::answering(unavailable), Server::answering(OK));
    let servers = format!("servers: {{a: \"{bad}\", b: \"{good}\"}}");
    let backend = format!("balance: first, retry_statuses: [503], {servers}");
    let frontend = "rules: [{if: {path: /no}, deny: 403}]";
    let rig = Rig::with(frontend, &backend);
    let get = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        rig.exchange(request.as_bytes())
    };
    for _ in 0..3 {
        assert!(get("/").starts_with("HTTP/1.1 200 "));
    }
    assert!(get("/no").starts_with("HTTP/1.1 403 "));
    assert!(rig.exchange(b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    rig.logged("BADREQ");
    let same = snapshot(rig.address, frontend, &backend);
    rig.block(&same, "127.0.0.1/32");
    assert_eq!(rig.connect().rest(), "<reset>");
    rig.logged("{blocked}");
    let report = rig.report(&same);
    let name = |text| Name::new(text).expect("a good name");
    let (web, app) = (&report.frontends[&name("web")], &report.backends[&name("app")]);
    // Client, server, proxy, policy.
    assert_eq!(web.totals.faults, [1, 0, 0, 2]);
    assert_eq!(app.totals.faults, [0; 4]);
    assert_eq!((web.totals.connections, web.totals.refused), (6, [1, 0]));
    assert_eq!(app.totals.retries, 3);
    let retries: Vec<_> = app.servers.iter().map(|one| one.totals.retries).collect();
    assert_eq!(retries, [3, 0]);
    let count = |of: Histogram| of.counts.iter().sum::<u64>();
    // Four requests that were read, of which a server answered three.
    assert_eq!((count(web.timings.total), count(web.timings.response)), (4, 3));
    assert_eq!((count(app.timings.total), count(app.timings.response)), (3, 3));
    assert!(app.timings.total.sum_us >= app.timings.response.sum_us);
    let connects = count(app.timings.connect);
    assert!((1..=3).contains(&connects), "{connects}");
    assert_eq!(count(app.timings.queue), 0);
}
