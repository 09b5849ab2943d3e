//! Messages that could be understood in two ways are refused, and everything else has one
//! form for servers.

use crate::rig::{OK, Rig, Server};

/// What every forwarded request ends with.
const FORWARDED: &str = "x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n";

/// What a server gets for `request`, byte for byte.
#[track_caller]
fn forwarded(request: &str, expected: &str) {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(request.as_bytes());
    let mut connection = server.accept();
    let got = connection.take(expected.len());
    assert_eq!(got, expected, "for {request:?}");
    connection.send(OK.as_bytes());
    client.until("\r\n\r\nok");
    assert_eq!(connection.heard(std::time::Duration::from_millis(50)), None, "for {request:?}");
}

/// `request` is answered with this status and never reaches a server.
#[track_caller]
fn refused(rig: &Rig, request: &str, status: u16) {
    let answer = rig.exchange(request.as_bytes());
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "one answer, then the end: {answer}");
}

#[test]
fn a_request_has_one_form_for_servers() {
    let plain = |target: &str, host: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nhost: {host}\r\n{FORWARDED}x-forwarded-host: {host}\r\n\r\n"
        )
    };
    forwarded("GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n", &plain("/a?b=c", "a"));
    // A URL as target.
    forwarded("GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", &plain("/x", "a"));
    forwarded("GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n", &plain("/?x", "a"));
    // Bare line feeds are made whole.
    forwarded("GET / HTTP/1.1\nHost: a\n\n", &plain("/", "a"));
    // What is for one connection, or what a client says of itself, stays here.
    forwarded(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
         Keep-Alive: 5\r\nTE: gzip\r\nUpgrade: h2c\r\nProxy-Connection: close\r\n\
         X-Forwarded-For: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\nX-Forwarded-Proto: https\r\n\
         X-Real-IP: 1.1.1.1\r\n\r\n",
        // The order of fields with different names is free.
        "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 127.0.0.1\r\n\
         x-forwarded-proto: http\r\nx-forwarded-host: a\r\n\r\n",
    );
}

#[test]
fn bodies_are_framed_anew() {
    let rest = format!("{FORWARDED}x-forwarded-host: a\r\n\r\n");
    forwarded(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        &format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n{rest}abc"),
    );
    forwarded(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
        &format!(
            "POST / HTTP/1.1\r\nhost: a\r\n{}transfer-encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\n\r\n",
            rest.strip_suffix("\r\n").unwrap()
        ),
    );
}

#[test]
fn ambiguous_requests_are_refused() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    let bad = [
        post("Content-Length: 3\r\nTransfer-Encoding: chunked"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 3"),
        post("Content-Length: 3\r\nContent-Length: 3"),
        post("Content-Length: 3\r\nContent-Length: 4"),
        post("Content-Length: 3, 3"),
        post("Content-Length: +3"),
        post("Content-Length: -3"),
        post("Content-Length: 0x3"),
        post("Content-Length:"),
        post("Content-Length: 99999999999999999999"),
        post("Transfer-Encoding: gzip, chunked"),
        post("Transfer-Encoding: chunked, gzip"),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        post("Transfer-Encoding: xchunked"),
        post("Transfer-Encoding : chunked"),
        post("Content-Length : 3"),
        post("X: a\r\n b"),
        post(" X: a"),
        post("X: a\rb"),
        post("X: a\0b"),
        post("X: a\x0bb"),
        post("X\x01: a"),
        post(": a"),
        post("X y: a"),
        post("Host: a"),
        post("Host: b"),
        post("Connection: host"),
        "GET / HTTP/1.1\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".into(),
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n".into(),
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(),
        "GE\tT / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "\x16\x03\x01\x02\x00\r\n\r\n".into(),
    ];
    for request in bad {
        refused(&rig, &request, 400);
    }
    refused(&rig, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405);
    refused(&rig, &post("Expect: money\r\nContent-Length: 3"), 417);
    rig.logged("{length_and_encoding} \"<BADREQ>");
    rig.logged("{other_host} \"GET");
}

#[test]
fn what_follows_a_refusal_is_never_a_request() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = smuggled.len();
    refused(
        &rig,
        &format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\
             \r\n0\r\n\r\n{smuggled}"
        ),
        400,
    );
    refused(&rig, &format!("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{smuggled}"), 400);
}

#[test]
fn limits_are_told_apart() {
    let server = Server::new();
    let rig = Rig::new(
        "limits: {header_bytes: 2KiB, header_count: 10, uri_bytes: 100B, body_bytes: 10B}",
        server.address,
    );
    let get =
        |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    refused(&rig, &get(&format!("/{}", "x".repeat(100)), ""), 414);
    refused(&rig, &get("/", &"X: y\r\n".repeat(11)), 431);
    refused(&rig, &get("/", &format!("X: {}\r\n", "y".repeat(2048))), 431);
    refused(&rig, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", 413);
    for limit in ["uri_bytes", "header_bytes", "body_bytes"] {
        let line = rig.logged(&format!("{{{limit}}}"));
        assert!(line.contains(" PR-- "), "{line}");
    }
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   b\r\n12345678901\r\n0\r\n\r\n";
    refused(&rig, chunked, 413);
}

#[test]
fn chunks_that_could_be_read_in_two_ways_end_the_connection() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let bad = [
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3;x\ny\r\nabc\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "3 4\r\nabc\r\n0\r\n\r\n",
        "0\r\nX y: 1\r\n\r\n",
        "0\r\nX: a\0b\r\n\r\n",
    ];
    for body in bad {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = rig.exchange(format!("{head}{body}{smuggled}").as_bytes());
        assert!(answer.matches("HTTP/1.1").count() <= 1, "{body:?}: {answer}");
        assert!(!answer.contains("HTTP/1.1 2"), "{body:?}: {answer}");
        let got = server.accept().rest();
        assert!(!got.contains("smuggled"), "{body:?}: {got}");
        assert!(!got.contains("\r\n0\r\n\r\n"), "it looks complete, {body:?}: {got}");
    }
}
