//! Responses of servers that are broken or that mean harm: the client gets one with one
//! meaning, or an error that says so.

use std::{io::Write, net::Shutdown, thread};

use crate::rig::{Rig, Server};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";

/// What a client gets for `request` if the server says `response`; and that the request
/// after it is answered by its own response.
fn relayed(rig: &Rig, server: &Server, request: &str, response: &str) -> String {
    let mut client = rig.connect();
    client.send(request.as_bytes());
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    connection.send(response.as_bytes());
    let (head, body) = client.response();
    // Whatever the server said, the next request is answered by its own response.
    client.send(GET.as_bytes());
    let mut next = server.next(connection);
    next.until("\r\n\r\n");
    // It ends with this function: a connection that was kept might be asked once more.
    next.send(LAST.as_bytes());
    assert_eq!(client.response().1, "ok", "after {response:?}");
    head + &body
}

#[test]
fn a_response_has_one_meaning_for_clients() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let check = |request: &str, response: &str, expected: &str| {
        let got = relayed(&rig, &server, request, response);
        let without_date: String =
            got.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect();
        assert_eq!(without_date, expected, "for {response:?}");
    };
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    check(GET, "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", ok);
    check(GET, "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", ok);
    check(GET, &format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX: y\r\n\r\n{ok}"), ok);
    // A body where there can be none is the next response's, and nobody's.
    let poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    check(
        GET,
        &format!("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n{poison}"),
        "HTTP/1.1 204 No Content\r\n\r\n",
    );
    check(
        GET,
        &format!("HTTP/1.1 304 Not Modified\r\nETag: 1\r\n\r\n{poison}"),
        "HTTP/1.1 304 Not Modified\r\netag: 1\r\n\r\n",
    );
    // What is for one connection stays there.
    check(
        GET,
        "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\n\
         Proxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nok",
        ok,
    );
}

#[test]
fn responses_with_two_meanings_are_refused() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let many = "X: y\r\n".repeat(200);
    let large = format!("X: {}\r\n", "y".repeat(80 * 1024));
    let cases = [
        ("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "response_length_and_encoding"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", "response_length_and_encoding"),
        ("Transfer-Encoding: gzip, chunked\r\n", "response_transfer_encoding"),
        ("Transfer-Encoding: identity\r\n", "response_transfer_encoding"),
        ("Content-Length: 2\r\nContent-Length: 3\r\n", "response_malformed"),
        ("Content-Length: +2\r\n", "response_malformed"),
        ("Content-Length: 0x2\r\n", "response_malformed"),
        ("Content-Length : 2\r\n", "response_malformed"),
        ("X: a\r\n b\r\n", "response_malformed"),
        ("X: a\0b\r\n", "response_malformed"),
        ("X: a\rb\r\n", "response_malformed"),
        (": a\r\n", "response_malformed"),
        ("Connection: content-length\r\nContent-Length: 2\r\n", "response_connection_field"),
        (&many, "response_too_large"),
        (&large, "response_too_large"),
    ];
    for (fields, reason) in cases {
        let mut client = rig.connect();
        client.send(GET.as_bytes());
        let mut connection = server.accept();
        connection.until("\r\n\r\n");
        // It may be given up before it has said everything.
        let response = format!("HTTP/1.1 200 OK\r\n{fields}\r\n2\r\nok\r\n0\r\n\r\n");
        let _ = connection.0.write_all(response.as_bytes());
        let (head, body) = client.response();
        let start = &fields[..fields.len().min(60)];
        assert!(head.starts_with("HTTP/1.1 502 "), "{start:?}: {head}");
        assert_eq!(body, "502 Bad Gateway\n");
        let line = rig.logged(&format!("{{{reason}}}"));
        assert!(line.contains(" SH-- "), "{start:?}: {line}");
    }
}

#[test]
fn what_is_no_response_is_the_servers_fault() {
    let answers = [
        ("HTTP/2.0 200 OK\r\n\r\n", "response_malformed"),
        ("HTTP/1.1 20 OK\r\n\r\n", "response_malformed"),
        ("HTTP/1.1 2000 OK\r\n\r\n", "response_malformed"),
        ("ICY 200 OK\r\n\r\n", "response_malformed"),
        ("\x16\x03\r\n\r\n", "response_malformed"),
        ("garbage\r\n\r\n", "response_malformed"),
        ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "response_malformed"),
        ("", "response_missing"),
        ("HTTP/1.1 200 OK\r\n", "response_missing"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "unexpected_101"),
    ];
    for (answer, reason) in answers {
        let server = Server::new();
        let rig = Rig::new("", server.address);
        let mut client = rig.connect();
        client.send(GET.as_bytes());
        let mut connection = server.accept();
        connection.until("\r\n\r\n");
        connection.send(answer.as_bytes());
        drop(connection);
        let (head, _) = client.response();
        assert!(head.starts_with("HTTP/1.1 502 "), "{answer:?}: {head}");
        let line = rig.logged(&format!("{{{reason}}}"));
        assert!(line.contains(" SH-- "), "{line}");
    }
}

#[test]
fn a_body_that_is_cut_short_does_not_look_complete() {
    let cases = [
        "content-length: 10\r\n\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n8\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nx\r\n",
        "transfer-encoding: chunked\r\n\r\n4\r\nhalfway\r\n0\r\n\r\n",
    ];
    for response in cases {
        let server = Server::new();
        let rig = Rig::new("", server.address);
        let mut client = rig.connect();
        client.send(GET.as_bytes());
        let mut connection = server.accept();
        connection.until("\r\n\r\n");
        connection.send(format!("HTTP/1.1 200 OK\r\n{response}").as_bytes());
        drop(connection);
        let got = client.rest();
        assert!(!got.contains("\r\n0\r\n\r\n"), "{response:?}: {got}");
        let line = rig.logged("response_broken");
        assert!(line.contains(" SD-- "), "{line}");
    }
}

#[test]
fn old_clients_are_told_by_a_reset_that_a_body_broke_off() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    // Without a length, and for a client that knows no chunks, nothing else can tell.
    let mut client = rig.connect();
    client.send(b"GET / HTTP/1.0\r\n\r\n");
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n");
    drop(connection);
    assert!(client.rest().ends_with("<reset>"));
}

#[test]
fn informational_responses_without_end_are_too_much() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(GET.as_bytes());
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    let flood = thread::spawn(move || {
        let block = "HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n".repeat(100);
        // Until the proxy has had enough.
        while connection.0.write_all(block.as_bytes()).is_ok() {}
    });
    assert!(client.response().0.starts_with("HTTP/1.1 502 "));
    flood.join().expect("the flood ends with the connection");
    rig.logged("{response_too_large}");
}

#[test]
fn a_response_that_breaks_off_with_its_request_is_the_clients_doing() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\npart");
    let mut connection = server.accept();
    connection.until("part");
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
    client.until("half");
    // It still reads.
    client.0.shutdown(Shutdown::Write).expect("it is connected");
    let line = rig.logged("POST /upload ");
    assert!(line.contains("{request_broken}") && line.contains(" CD-- "), "{line}");
}
