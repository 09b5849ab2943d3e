//! Requests that are tried elsewhere, put in order, or cut off as a whole.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::rig::{OK, Rig, Server};

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno";

fn request(method: &str, body: &str) -> String {
    let length = match body.is_empty() {
        true => String::new(),
        false => format!("content-length: {}\r\n", body.len()),
    };
    format!("{method} / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{length}\r\n{body}")
}

#[test]
fn chosen_statuses_send_repeatable_requests_to_another_server() {
    let (bad, good) = (Server::answering(UNAVAILABLE), Server::answering(OK));
    let backend =
        |more: &str| format!("balance: first, servers: {{a: \"{bad}\", b: \"{good}\"}}, {more}");
    let rig = Rig::with("", &backend("retry_statuses: [503]"));
    for _ in 0..5 {
        assert!(rig.exchange(request("GET", "").as_bytes()).starts_with("HTTP/1.1 200 "));
    }
    // Who may have been heard is not asked twice; nor is a body kept for that.
    for request in [request("POST", ""), request("PUT", "body")] {
        assert!(rig.exchange(request.as_bytes()).starts_with("HTTP/1.1 503 "), "{request}");
    }
    assert!(rig.logged("app/b").contains("/1 0/0 "), "{}", rig.logged("app/b"));
    // Nothing of it unless asked for, and never more often than allowed.
    for more in ["retry_statuses: [500, 502]", "retry_statuses: [503], retries: 0"] {
        let rig = Rig::with("", &backend(more));
        assert!(rig.exchange(request("GET", "").as_bytes()).starts_with("HTTP/1.1 503 "), "{more}");
    }
}

#[test]
fn the_last_server_has_the_last_word() {
    let bad = [Server::answering(UNAVAILABLE), Server::answering(UNAVAILABLE)];
    let servers = format!("a: \"{}\", b: \"{}\"", bad[0], bad[1]);
    let rig = Rig::with("", &format!("servers: {{{servers}}}, retry_statuses: [503]"));
    let answer = rig.exchange(request("GET", "").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("no"), "{answer}");
}

#[test]
fn a_request_has_so_much_time_as_a_whole() {
    // One that never answers, and one that never ends.
    for (says, status, letters) in [
        ("", "HTTP/1.1 504 ", "sH"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "HTTP/1.1 200 ", "sD"),
    ] {
        let server = Server::new();
        let rig = Rig::new("timeouts: {total: 400ms}", server.address);
        let mut client = rig.connect();
        client.send(request("GET", "").as_bytes());
        let mut connection = server.accept();
        connection.until("\r\n\r\n");
        connection.send(says.as_bytes());
        let drip = thread::spawn(move || {
            use std::io::Write;
            // Often enough for any other timeout.
            while !says.is_empty() && connection.0.write_all(b"1\r\nx\r\n").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
            connection
        });
        let began = Instant::now();
        let answer = client.rest();
        assert!(answer.starts_with(status) && !answer.ends_with("0\r\n\r\n"), "{answer}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(rig.logged("total_timeout").contains(&format!(" {letters}-- ")));
        drop(rig);
        drop(drip.join());
    }
}

#[test]
fn a_client_that_spends_the_time_as_a_whole_is_named() {
    let server = Server::new();
    let rig = Rig::new("timeouts: {total: 300ms}", server.address);
    let answer = rig.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let line = rig.logged("total_timeout");
    assert!(line.contains(" 408 ") && line.contains(" cH-- "), "{line}");
}

#[test]
fn those_of_high_priority_come_first_whoever_waited_longer() {
    let server = Server::new();
    let rules = "rules: [{if: {path: /first}, queue_priority: 10}, \
                 {if: {path: /last}, queue_priority: 90}]";
    let backend = format!(
        "queue_order: arrival, servers: {{s: {{address: \"{}\", max_connections: 1}}}}",
        server.address
    );
    let rig = Rig::with(rules, &backend);
    let ask = |path: &str| {
        let mut client = rig.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
        client
    };
    let mut holder = ask("/holder");
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    let mut waiting = Vec::new();
    for path in ["/last", "/usual", "/first"] {
        let mut client = ask(path);
        // In the queue before the next one asks.
        assert!(client.is_silent(Duration::from_millis(150)), "{path}");
        waiting.push(client);
    }
    // Each over a connection of its own: those that are kept belong to one worker.
    let closing = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    connection.send(closing.as_bytes());
    holder.response();
    for path in ["/first", "/usual", "/last"] {
        let mut connection = server.accept();
        let head = connection.until("\r\n\r\n");
        assert!(head.starts_with(&format!("GET {path} ")), "{path}: {head}");
        connection.send(closing.as_bytes());
    }
    for client in &mut waiting {
        client.response();
    }
}
