//! Copies of requests for another backend (`mirror`): whole or not at all, and never waited for.

use std::{thread, time::Duration};

use crate::rig::{OK, PATIENCE, Rig, Server, snapshot};

/// What every forwarded request ends with.
const FORWARDED: &str =
    "x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: a\r\n";

/// A server, one that gets copies, a proxy whose rule says so much of them, and its keys.
struct Bed {
    server: Server,
    shadow: Server,
    rig: Rig,
    keys: [String; 2],
}

impl Bed {
    fn new(mirror: &str) -> Self {
        let (server, shadow) = (Server::new(), Server::new());
        let frontend = format!("rules: [{{mirror: {{backend: shadow{mirror}}}}}]");
        // Two backends in the place of one.
        let backend = format!(
            "servers: {{s1: \"{}\"}}}}, shadow: {{servers: {{s1: \"{}\"}}",
            server.address, shadow.address
        );
        let rig = Rig::with(&frontend, &backend);
        Self { server, shadow, rig, keys: [frontend, backend] }
    }

    /// What became of copies so far: sent, too large, busy, without a server, incomplete.
    fn copies(&self) -> [u64; 5] {
        let snapshot = snapshot(self.rig.address, &self.keys[0], &self.keys[1]);
        self.rig.report(&snapshot).frontends.values().next().expect("a frontend").copies
    }

    /// Waits until that is so.
    #[track_caller]
    fn comes_to(&self, expected: [u64; 5]) {
        for _ in 0..PATIENCE.as_millis() / 10 {
            if self.copies() == expected {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.copies(), expected);
    }

    /// A request and its answer, whatever becomes of the copy.
    #[track_caller]
    fn answered(&self, request: &str) {
        let mut client = self.rig.connect();
        client.send(request.as_bytes());
        let mut connection = self.server.accept();
        let body = request.split_once("\r\n\r\n").expect("a header").1;
        connection.until(&format!("\r\n\r\n{body}"));
        connection.send(OK.as_bytes());
        assert_eq!(client.response().1, "ok");
    }
}

fn post(body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         {length:x}\r\n{body}\r\n0\r\n\r\n"
    )
}

#[test]
fn a_request_with_a_body_is_copied_once_that_is_whole() {
    let bed = Bed::new("");
    let mut client = bed.rig.connect();
    let request = post("hello");
    let (start, end) = request.split_at(request.len() - 3);
    client.send(start.as_bytes());
    let mut connection = bed.server.accept();
    connection.until("\r\n\r\nhe");
    assert_eq!(bed.copies(), [0; 5]);
    client.send(end.as_bytes());
    let mut copy = bed.shadow.accept();
    let expected =
        format!("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n{FORWARDED}\r\nhello");
    assert_eq!(copy.take(expected.len()), expected);
    // The shadow's silence is nobody's.
    connection.take(3);
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
    client.send(chunked("again").as_bytes());
    let mut connection = bed.server.next(connection);
    connection.until("again\r\n0\r\n\r\n");
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
    let expected = format!(
        "POST /x HTTP/1.1\r\nhost: a\r\n{FORWARDED}transfer-encoding: chunked\r\n\r\n\
         5\r\nagain\r\n0\r\n\r\n"
    );
    assert_eq!(bed.shadow.accept().take(expected.len()), expected);
    bed.comes_to([2, 0, 0, 0, 0]);
}

#[test]
fn a_larger_body_is_not_copied() {
    let bed = Bed::new(", body_bytes: 4B");
    bed.answered(&post("hello"));
    bed.answered(&chunked("hello"));
    bed.comes_to([0, 2, 0, 0, 0]);
    bed.answered(&post("hell"));
    bed.shadow.accept().until("\r\n\r\nhell");
    bed.answered("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    bed.shadow.accept().until("\r\n\r\n");
    bed.comes_to([2, 2, 0, 0, 0]);
    let bed = Bed::new(", body_bytes: 0B");
    bed.answered(&post("h"));
    bed.answered(&chunked("h"));
    bed.comes_to([0, 2, 0, 0, 0]);
}

#[test]
fn copies_beyond_those_that_may_be_on_their_way_are_not_made() {
    let bed = Bed::new(", max_concurrent: 1");
    // One connection, and so one worker.
    let mut client = bed.rig.connect();
    client.send(post("one").as_bytes());
    let mut connection = bed.server.accept();
    connection.until("one");
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
    let _silent = bed.shadow.accept();
    // Each with as much as fits.
    let large = post(&"x".repeat(60_000));
    for _ in 0..3 {
        client.send(large.as_bytes());
        connection = bed.server.next(connection);
        connection.until("\r\n\r\n");
        connection.take(60_000);
        connection.send(OK.as_bytes());
        assert_eq!(client.response().1, "ok");
    }
    bed.comes_to([1, 0, 3, 0, 0]);
}

#[test]
fn a_body_that_does_not_come_is_not_copied() {
    let bed = Bed::new("");
    let mut client = bed.rig.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe");
    bed.server.accept().until("he");
    drop(client);
    bed.comes_to([0, 0, 0, 0, 1]);
    // Its place is free again.
    bed.answered(&post("hello"));
    bed.shadow.accept().until("hello");
    bed.comes_to([1, 0, 0, 0, 1]);
}
