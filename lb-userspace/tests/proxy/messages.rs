//! Messages of every kind come through whole.

use std::thread;

use crate::rig::{OK, PATIENCE, Rig, Server, free};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn connections_are_used_again_on_both_sides() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(GET.as_bytes());
    let mut connection = server.accept();
    for _ in 0..3 {
        connection.until("\r\n\r\n");
        connection.send(OK.as_bytes());
        assert_eq!(client.response().1, "ok");
        client.send(GET.as_bytes());
    }
    connection.until("\r\n\r\n");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let rig = Rig::new("", Server::answering(OK));
    let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers = rig.exchange(format!("{GET}{GET}{last}").as_bytes());
    assert_eq!(answers.matches("\r\n\r\nok").count(), 3, "{answers}");
}

#[test]
fn a_server_that_says_more_than_it_was_asked_is_not_used_again() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(GET.as_bytes());
    let mut first = server.accept();
    first.until("\r\n\r\n");
    first.send(format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison").as_bytes());
    assert_eq!(client.response().1, "ok");
    client.send(GET.as_bytes());
    let mut second = server.accept();
    second.until("\r\n\r\n");
    second.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
}

#[test]
fn head_has_a_length_and_no_body() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
    assert!(client.until("\r\n\r\n").contains("content-length: 1000\r\n"));
    client.send(GET.as_bytes());
    connection.until("\r\n\r\n");
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
}

#[test]
fn trailers_go_both_ways() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: x-sum\r\n\
          Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    let mut connection = server.accept();
    let head = connection.until("\r\n\r\n");
    assert!(head.contains("te: trailers\r\n"), "{head}");
    let body = connection.until("0\r\nx-sum: 7\r\n\r\n");
    assert_eq!(body, "3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n");
    connection.send(
        b"HTTP/1.1 200 OK\r\ntrailer: x-end\r\ntransfer-encoding: chunked\r\n\r\n\
          2\r\nok\r\n0\r\nx-end: 1\r\n\r\n",
    );
    client.until("\r\n\r\n");
    assert_eq!(client.until("x-end: 1\r\n\r\n"), "2\r\nok\r\n0\r\nx-end: 1\r\n\r\n");
}

#[test]
fn a_client_that_expects_it_is_told_to_go_on() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send(b"abc");
    let mut connection = server.accept();
    let head = connection.until("\r\n\r\n");
    assert!(!head.contains("expect"), "{head}");
    assert_eq!(connection.take(3), "abc");
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
}

#[test]
fn a_client_whose_request_is_refused_is_not_told_to_go_on() {
    let rules = "rules: [{if: {path: /no}, deny: 403}], limits: {body_bytes: 5B}";
    let rig = Rig::with(rules, &format!("retries: 0, servers: {{s1: \"{}\"}}", free()));
    for (path, length, status) in [("/no", 3, 403), ("/", 9, 413), ("/", 3, 502)] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        // And it is closed: nobody knows whether the body comes.
        let answer = rig.exchange(request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
}

#[test]
fn old_clients_are_answered_and_closed() {
    let rig = Rig::new("", Server::answering(OK));
    let answer = rig.exchange(b"GET / HTTP/1.0\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nok"),
        "{answer}"
    );
}

#[test]
fn large_bodies_go_both_ways_while_both_sides_talk() {
    const SIZE: usize = 8 << 20;
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    let echo = thread::spawn(move || {
        let mut connection = server.accept();
        connection.until("\r\n\r\n");
        connection.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes());
        let mut left = SIZE;
        let mut chunk = vec![0; 64 * 1024];
        while left > 0 {
            let count = std::io::Read::read(&mut connection.0, &mut chunk).expect("bytes come");
            connection.send(&chunk[..count]);
            left -= count;
        }
    });
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes());
    let mut up = rig_clone(&client);
    let sender = thread::spawn(move || {
        for block in 0..SIZE / 1024 {
            up.send(&[b'a' + u8::try_from(block % 26).expect("less than 26"); 1024]);
        }
    });
    client.until("\r\n\r\n");
    for block in 0..SIZE / 1024 {
        let expected = char::from(b'a' + u8::try_from(block % 26).expect("less than 26"));
        assert!(client.take(1024).chars().all(|c| c == expected), "block {block}");
    }
    sender.join().expect("all is sent");
    echo.join().expect("all is echoed");
}

fn rig_clone(client: &crate::rig::Client) -> crate::rig::Client {
    crate::rig::Client(client.0.try_clone().expect("a descriptor is left"))
}

#[test]
fn http2_by_prior_knowledge() {
    let rig = Rig::new("", Server::answering(OK));
    let output = std::process::Command::new("curl")
        .args(["--silent", "--show-error", "--http2-prior-knowledge", "--max-time"])
        .arg(PATIENCE.as_secs().to_string())
        .args(["--write-out", "%{http_version} %{http_code}"])
        .arg(format!("http://{}/", rig.address))
        .output()
        .expect("curl is installed");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok2 200", "{output:?}");
    rig.logged("\"GET http://");
}
