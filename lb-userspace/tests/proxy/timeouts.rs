//! Whoever keeps the proxy waiting is told so, or cut off, and is named in the log.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use crate::rig::{OK, PATIENCE, Rig, Server, free};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_slow_header_is_answered_408() {
    let server = Server::new();
    let rig = Rig::new("timeouts: {http_request: 200ms}", server.address);
    let answer = rig.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let line = rig.logged("header_timeout");
    assert!(line.contains(" 408 ") && line.contains(" cR-- "), "{line}");
}

#[test]
fn a_client_without_a_further_request_is_closed_in_silence() {
    let rig = Rig::new("timeouts: {keep_alive: 200ms}", Server::answering(OK));
    let mut client = rig.connect();
    client.send(GET.as_bytes());
    assert_eq!(client.response().1, "ok");
    assert_eq!(client.rest(), "");
    // Nor does one that never says anything stay.
    assert_eq!(rig.connect().rest(), "");
}

#[test]
fn a_connection_that_rested_is_served_again() {
    // Longer than it takes a connection to give back what only requests need.
    const REST: Duration = Duration::from_millis(1500);
    let rig = Rig::new("timeouts: {keep_alive: 3s}", Server::answering(OK));
    let mut client = rig.connect();
    for part in [&GET[..7], GET] {
        client.send(GET.as_bytes());
        assert_eq!(client.response().1, "ok");
        assert!(client.is_silent(REST));
        // The next one comes in pieces, or whole.
        client.send(part.as_bytes());
        client.send(if part == GET { b"" } else { &GET.as_bytes()[7..] });
        assert_eq!(client.response().1, "ok");
    }
    // What is left of the time counts, not a new one.
    let since = std::time::Instant::now();
    assert_eq!(client.rest(), "");
    assert!((2..8).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
}

#[test]
fn empty_lines_put_nothing_off() {
    let rig = Rig::new("timeouts: {keep_alive: 200ms, http_request: 200ms}", Server::answering(OK));
    let mut fresh = rig.connect();
    fresh.send(b"\r\n");
    let mut used = rig.connect();
    used.send(GET.as_bytes());
    assert_eq!(used.response().1, "ok");
    used.send(b"\r\n\r\n");
    for client in [&mut fresh, &mut used] {
        let rest = client.rest();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408 "), "{rest}");
    }
}

#[test]
fn a_body_that_stops_is_answered_408() {
    let server = Server::new();
    let rig = Rig::new("timeouts: {client: 200ms}", server.address);
    let answer = rig.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let line = rig.logged("client_timeout");
    assert!(line.contains(" cH-- "), "{line}");
}

#[test]
fn a_server_that_does_not_answer_is_504() {
    let server = Server::new();
    let rig = Rig::with(
        "",
        &format!("timeouts: {{server: 200ms}}, servers: {{s1: \"{}\"}}", server.address),
    );
    let mut client = rig.connect();
    client.send(GET.as_bytes());
    let _silent = server.accept();
    assert!(client.response().0.starts_with("HTTP/1.1 504 "));
    let line = rig.logged("server_timeout");
    assert!(line.contains(" app/s1 ") && line.contains(" sH-- "), "{line}");
}

#[test]
fn a_response_that_stops_breaks_off() {
    let server = Server::new();
    let rig = Rig::with(
        "",
        &format!("timeouts: {{server: 200ms}}, servers: {{s1: \"{}\"}}", server.address),
    );
    let mut client = rig.connect();
    client.send(GET.as_bytes());
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc");
    let answer = client.rest();
    assert!(answer.contains("abc"), "{answer}");
    let line = rig.logged("server_timeout");
    assert!(line.contains(" sD-- "), "{line}");
}

#[test]
fn a_server_that_can_not_be_reached_is_502_and_others_are_tried() {
    let dead = free();
    let rig = Rig::new("", dead);
    let mut client = rig.connect();
    client.send(GET.as_bytes());
    assert!(client.response().0.starts_with("HTTP/1.1 502 "));
    let line = rig.logged("connect_refused");
    assert!(line.contains(" SC-- "), "{line}");
    assert!(line.contains("/3 0/0 "), "{line}");
    let alive = Server::answering(OK);
    let rig = Rig::with("", &format!("balance: first, servers: {{a: \"{dead}\", b: \"{alive}\"}}"));
    let mut client = rig.connect();
    client.send(GET.as_bytes());
    assert_eq!(client.response().1, "ok");
    let line = rig.logged(" app/b ");
    assert!(line.contains("/1 0/0 \"GET"), "{line}");
}

#[test]
fn requests_wait_for_a_server_with_room() {
    let server = Server::new();
    let keys = format!(
        "timeouts: {{queue: 200ms}}, \
         servers: {{s1: {{address: \"{}\", max_connections: 1}}}}",
        server.address
    );
    let rig = Rig::with("", &keys);
    let (mut one, mut two) = (rig.connect(), rig.connect());
    one.send(GET.as_bytes());
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    two.send(GET.as_bytes());
    assert!(two.response().0.starts_with("HTTP/1.1 503 "));
    let line = rig.logged("queue_timeout");
    assert!(line.contains(" sQ-- "), "{line}");
    connection.send(OK.as_bytes());
    assert_eq!(one.response().1, "ok");
}

#[test]
fn a_client_that_leaves_is_no_fault_of_the_server() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(GET.as_bytes());
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    drop(client);
    let line = rig.logged("client_left");
    assert!(line.contains(" CH-- ") && line.contains(" -1 0 "), "{line}");
    // Nobody waits for the server any more.
    assert_eq!(connection.rest(), "");
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let server = Server::new();
    let rig = Rig::new("timeouts: {client: 300ms}", server.address);
    let mut client = rig.connect();
    client.send(GET.as_bytes());
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    connection.0.set_write_timeout(Some(Duration::from_secs(20))).expect("a socket");
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
    // Until nothing more is taken from the server either.
    let chunk = vec![0; 1 << 20];
    while std::io::Write::write_all(&mut connection.0, &chunk).is_ok() {}
    let line = rig.logged("client_timeout");
    assert!(line.contains(" cD-- "), "{line}");
}

#[test]
fn a_rule_may_give_clients_more_or_less_time() {
    let rules =
        "rules: [{if: {path: /short}, set_timeout: {client: 200ms}}], timeouts: {client: 20s}";
    let server = Server::new();
    let rig = Rig::new(rules, server.address);
    let answer = rig.exchange(b"POST /short HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(rig.logged("client_timeout").contains(" cH-- "));
    let mut other = rig.connect();
    other.send(b"POST /long HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    assert!(other.is_silent(Duration::from_millis(600)));
}

#[test]
fn pages_of_rules_for_all_are_also_for_what_comes_to_no_rule() {
    let page = "{status: [400, 408], content_type: text/html, body: <p>sorry}";
    let other = "{if: {path: /x}, error_pages: [{status: 400, body: never}]}";
    let rules = format!("rules: [{{error_pages: [{page}]}}, {other}]");
    let rig = Rig::new(&format!("timeouts: {{http_request: 200ms}}, {rules}"), free());
    let answer = rig.exchange(b"GET /x HTTP/1.1\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("\r\n\r\n<p>sorry"),
        "{answer}"
    );
    assert!(answer.contains("content-type: text/html\r\n"), "{answer}");
    let answer = rig.exchange(b"GET / HTTP/1.1\r\nHost:");
    assert_eq!(
        answer,
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: text/html\r\ncontent-length: 8\r\n\
         connection: close\r\n\r\n<p>sorry"
    );
}

#[test]
fn a_long_limit_for_the_whole_request_needs_no_timer() {
    // Sixteen times what any single wait may take.
    let timeouts = "limits: {body_rate: 0B}, timeouts: {client: 150ms, total: 2400ms}";
    let backend = |server: &Server| {
        let times = "timeouts: {connect: 150ms, server: 150ms, queue: 150ms}";
        format!("{times}, servers: {{s1: \"{}\"}}", server.address)
    };
    let pause = Duration::from_millis(20);
    // The server always has more to say.
    let response = thread::spawn(move || {
        let server = Server::new();
        let rig = Rig::with(timeouts, &backend(&server));
        let mut client = rig.connect();
        client.send(GET.as_bytes());
        let began = Instant::now();
        let mut connection = server.accept();
        connection.until("\r\n\r\n");
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n");
        while connection.0.write_all(b"x").is_ok() {
            thread::sleep(pause);
            assert!(began.elapsed() < PATIENCE, "it has no end");
        }
        assert!(client.rest().ends_with("x<reset>"));
        let line = rig.logged("{total_timeout}");
        assert!(line.contains(" sD-- "), "{line}");
        began.elapsed()
    });
    // The client always has more to say, and the server does not answer.
    let server = Server::new();
    let rig = Rig::with(timeouts, &backend(&server));
    let mut client = rig.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let began = Instant::now();
    let mut writer = client.0.try_clone().expect("a descriptor is left");
    let sending = thread::spawn(move || {
        while writer.write_all(b"x").is_ok() && began.elapsed() < PATIENCE {
            thread::sleep(pause);
        }
    });
    let answer = client.until("\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 408 ") || answer.starts_with("HTTP/1.1 504 "), "{answer}");
    let took = [began.elapsed(), response.join().expect("it is cut off")];
    drop(client);
    sending.join().expect("it ends");
    assert!(rig.logged("{total_timeout}").contains("H-- "));
    for took in took {
        assert!(took >= Duration::from_millis(2300), "{took:?}");
    }
}
