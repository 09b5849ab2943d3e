//! Requests that are tried elsewhere, put in order, or cut off as a whole.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::rig::{OK, Rig, Server, free};

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

#[test]
fn a_server_that_is_starting_is_waited_for() {
    let address = free();
    let rig = Rig::new("", address);
    let mut client = rig.connect();
    client.send(request("GET", "").as_bytes());
    // Refused at once, and asked again when it is there.
    let line = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        Server::answering_at(address, OK);
    });
    let began = Instant::now();
    assert!(client.rest().starts_with("HTTP/1.1 200 "));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    line.join().expect("the address is free");
    assert!(rig.logged("app/s1").contains("/1 0/0 "), "{}", rig.logged("app/s1"));
}

#[test]
fn what_may_have_been_heard_is_sent_again_once_if_nothing_was_said() {
    // A connection that has been idle for so long may be closed by its server just now.
    const IDLE: Duration = Duration::from_millis(1300);
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";
    for (request, says, is_sent_again) in [
        (get, "", true),
        (get, "HTTP/1.1 200 ", false),
        (get, "\x01\r\n\r\n", false),
        (post, "", false),
    ] {
        let server = Server::new();
        let rig = Rig::new("", server.address);
        let mut client = rig.connect();
        client.send(get.as_bytes());
        let mut kept = server.accept();
        kept.until("\r\n\r\n");
        kept.send(OK.as_bytes());
        client.response();
        thread::sleep(IDLE);
        client.send(request.as_bytes());
        kept.until(if request == post { "body" } else { "\r\n\r\n" });
        kept.send(says.as_bytes());
        drop(kept);
        if is_sent_again {
            let mut new = server.accept();
            new.until("\r\n\r\n");
            new.send(OK.as_bytes());
        }
        let status = if is_sent_again { "HTTP/1.1 200 " } else { "HTTP/1.1 502 " };
        let head = client.response().0;
        assert!(head.starts_with(status), "{request:?} {says:?}: {head}");
    }
}

#[test]
fn a_server_that_says_nothing_on_a_kept_connection_is_not_asked_twice() {
    let server = Server::new();
    let rig = Rig::with(
        "",
        &format!("timeouts: {{server: 300ms}}, servers: {{s1: \"{}\"}}", server.address),
    );
    let mut client = rig.connect();
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut kept = server.accept();
    kept.until("\r\n\r\n");
    kept.send(OK.as_bytes());
    client.response();
    thread::sleep(Duration::from_millis(1300));
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = client.response().0;
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    assert!(rig.logged("server_timeout").contains("/0 0/0 "));
}

#[test]
fn a_failure_counts_once_however_it_ends() {
    let (dead, alive) = (free(), Server::answering(OK));
    // Two failures in a row would take the first server out.
    let keys = format!(
        "balance: first, retries: 0, passive: {{failures: 2}}, \
         servers: {{a: \"{dead}\", b: \"{alive}\"}}"
    );
    let rig = Rig::with("", &keys);
    for status in ["502", "502", "200"] {
        let head = rig.exchange(request("GET", "").as_bytes());
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {head}");
    }
}

#[test]
fn hosts_are_hashed_in_one_form_whatever_servers_speak() {
    for protocol in ["http1", "http2"] {
        // Which one is chosen shows although none is there.
        let servers: Vec<_> = (0..4).map(|number| format!("s{number}: \"{}\"", free())).collect();
        let keys = format!(
            "balance: maglev, hash: {{header: Host}}, retries: 0, protocol: {protocol}, \
             servers: {{{}}}",
            servers.join(", ")
        );
        let rig = Rig::with("", &keys);
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..20 {
            let ask = |host: String| {
                let path = format!("/{}", host.replace([':', '.'], "-"));
                let get =
                    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
                rig.exchange(get.as_bytes());
                let line = rig.logged(&format!("{path} "));
                line.split(" app/")
                    .nth(1)
                    .and_then(|rest| rest.split(' ').next().map(str::to_owned))
            };
            let server = ask(format!("h{number}.example"));
            assert_eq!(server, ask(format!("H{number}.Example:8080")), "{protocol} {number}");
            seen.insert(server);
        }
        assert!(seen.len() > 2, "{protocol}: {seen:?}");
    }
}
