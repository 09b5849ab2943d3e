//! States of servers, reloads and the end, while clients go on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use pointsman::model::state::AdminState;

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
    let mut rig = Rig::new("", server.address);
    let (mut busy, mut idle) = (rig.connect(), rig.connect());
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
