//! Lists of sources: who is not let in, and who is not any more.

use std::time::Duration;

use crate::rig::{OK, Rig, Server, snapshot};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn who_is_not_on_the_lists_is_cut_off_before_a_word() {
    let cases = [
        ("deny: [127.0.0.0/8]", Err("denied")),
        ("allow: [127.0.0.0/8], deny: [127.0.0.1]", Err("denied")),
        ("allow: [10.0.0.0/8]", Err("not_allowed")),
        ("deny: [127.0.0.0/8], allow: [127.0.0.1]", Ok(())),
        ("deny: [10.0.0.0/8]", Ok(())),
    ];
    for (lists, expected) in cases {
        let rig = Rig::new(lists, Server::answering(OK));
        let mut client = rig.connect();
        match expected {
            Ok(()) => {
                client.send(GET.as_bytes());
                assert_eq!(client.response().1, "ok", "{lists}");
            }
            Err(reason) => {
                // It is told nothing, whatever it would say.
                assert_eq!(client.rest(), "<reset>", "{lists}");
                let line = rig.logged(&format!("{{{reason}}}"));
                assert!(line.contains(" -1 0 - - PR-- ") && line.contains("<BADREQ>"), "{line}");
            }
        }
    }
}

#[test]
fn whom_a_proxy_introduces_is_judged_and_not_the_proxy() {
    let bind = "accept_proxy: {from: [127.0.0.0/8]}";
    let backend = format!("servers: {{s1: \"{}\"}}", Server::answering(OK));
    let rig = Rig::on(bind, "allow: [192.0.2.0/24], deny: [192.0.2.7]", &backend);
    let get = |source: &str| {
        rig.exchange(format!("PROXY TCP4 {source} 10.0.0.1 4711 80\r\n{GET}").as_bytes())
    };
    assert!(get("192.0.2.7").ends_with("<reset>"));
    assert!(rig.logged("{denied}").starts_with("192.0.2.7:4711 "));
    assert!(get("203.0.113.1").ends_with("<reset>"));
    rig.logged("{not_allowed}");
    let mut client = rig.connect();
    client.send(format!("PROXY TCP4 192.0.2.8 10.0.0.1 4711 80\r\n{GET}").as_bytes());
    assert_eq!(client.response().1, "ok");
}

#[test]
fn who_is_blocked_is_answered_no_more_and_loses_what_is_open() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let same = snapshot(rig.address, "", &format!("servers: {{s1: \"{}\"}}", server.address));
    let mut client = rig.connect();
    client.send(GET.as_bytes());
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
    let mut socket = rig.connect();
    socket.send(
        b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    // Another worker has a connection of its own.
    let mut connection = server.next(connection);
    connection.until("\r\n\r\n");
    connection.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    socket.until("\r\n\r\n");
    // Somebody else is blocked.
    rig.block(&same, "127.9.0.0/16");
    assert!(socket.is_silent(Duration::from_millis(100)));
    rig.block(&same, "127.0.0.1/32");
    socket.rest();
    let line = rig.logged("GET /chat ");
    assert!(line.contains("{blocked}") && line.contains(" PD-- "), "{line}");
    client.send(GET.as_bytes());
    let answer = client.rest();
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("connection: close"),
        "{answer}"
    );
    let mut new = rig.connect();
    assert_eq!(new.rest(), "<reset>");
    rig.block(&same, "127.9.0.0/16");
    let mut new = rig.connect();
    new.send(GET.as_bytes());
    assert!(new.is_silent(Duration::from_millis(100)), "it waits for the server");
}
