//! WebSockets over HTTP/1.1: when bytes are let through, and how the end is logged.

use std::time::Duration;

use socket2::SockRef;

use crate::rig::{Client, OK, Rig, Server};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const AGREED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                        Upgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";
const WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                         Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

#[test]
fn nothing_is_tunnelled_before_the_server_agrees() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(format!("{WEBSOCKET}early").as_bytes());
    let mut connection = server.accept();
    let head = connection.until("\r\n\r\n");
    assert!(head.contains("connection: upgrade\r\n"), "{head}");
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(connection.is_silent(Duration::from_millis(100)), "bytes before the 101");
    connection.send(&[AGREED, b"hello"].concat());
    let head = client.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(client.take(5), "hello");
    assert_eq!(connection.take(5), "early");
    client.send(b"ping");
    assert_eq!(connection.take(4), "ping");
    connection.send(b"pong");
    assert_eq!(client.take(4), "pong");
    drop(connection);
    assert_eq!(client.rest(), "");
    drop(client);
    rig.logged(" 101 9 - - ");
}

#[test]
fn a_refused_upgrade_is_an_answer_like_any_other() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(format!("{WEBSOCKET}{GET}").as_bytes());
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
    // What had come after it was a request.
    connection.until("\r\n\r\n");
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
}

/// A tunnel's ends, with a byte through it each way.
fn tunnel(rig: &Rig, server: &Server) -> (Client, Client) {
    let mut client = rig.connect();
    client.send(WEBSOCKET.as_bytes());
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    connection.send(&[AGREED, b"d"].concat());
    client.until("\r\n\r\nd");
    client.send(b"u");
    connection.take(1);
    (client, connection)
}

/// Lets the end of a connection be a reset.
fn reset_on_close(end: &Client) {
    SockRef::from(&end.0).set_linger(Some(Duration::ZERO)).expect("a socket");
}

#[test]
fn the_side_that_breaks_a_tunnel_is_named() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let (mut client, connection) = tunnel(&rig, &server);
    reset_on_close(&connection);
    drop(connection);
    client.rest();
    let line = rig.logged("server_broke");
    assert!(line.contains(" 101 1 - - SD-- "), "{line}");
    let (client, mut connection) = tunnel(&rig, &server);
    reset_on_close(&client);
    drop(client);
    connection.rest();
    let line = rig.logged("client_broke");
    assert!(line.contains(" 101 1 - - CD-- "), "{line}");
}

#[test]
fn what_the_end_cuts_off_is_logged_as_such() {
    let server = Server::new();
    let mut rig = Rig::new("", server.address);
    let _open = tunnel(&rig, &server);
    let mut waiting = rig.connect();
    waiting.send(GET.as_bytes());
    let mut asked = server.accept();
    asked.until("\r\n\r\n");
    rig.stop(Duration::ZERO);
    for state in [" 101 1 - - KD-- ", " -1 0 - - KH-- "] {
        let line = rig.logged(state);
        assert!(line.contains("{stopped}"), "{line}");
    }
}

#[test]
fn a_side_that_takes_nothing_is_named_when_the_time_is_over() {
    for (name, letters) in [("client", " cD-- "), ("server", " sD-- ")] {
        let server = Server::new();
        let rig = Rig::new("timeouts: {tunnel: 300ms}", server.address);
        let (client, far) = tunnel(&rig, &server);
        let sender = if name == "server" { &client } else { &far };
        // Until no buffer on the way has room.
        sender.0.set_write_timeout(Some(Duration::from_millis(100))).expect("it takes timeouts");
        let block = vec![b'x'; 1 << 20];
        while std::io::Write::write_all(&mut &sender.0, &block).is_ok() {}
        let line = rig.logged(&format!("{{{name}_stalled}}"));
        assert!(line.contains(letters), "{line}");
    }
}
