//! Clients that somebody in front introduces by the PROXY protocol.

use std::{io::ErrorKind, time::Duration};

use crate::rig::{Client, OK, PATIENCE, Rig, Server};

const ACCEPT: &str = "accept_proxy: {from: [127.0.0.0/8]}";

fn request(source: &str) -> String {
    format!("PROXY TCP4 {source} 198.51.100.1 4711 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[test]
fn connections_count_before_they_are_introduced() {
    let rig = Rig::on(
        ACCEPT,
        "limits: {connections: 2}",
        &format!("servers: {{s: \"{}\"}}", Server::answering(OK)),
    );
    let mut clients: Vec<Client> = (0..3).map(|_| rig.connect()).collect();
    let line = rig.logged("{too_many_connections}");
    assert!(line.contains(" PR-- "), "{line}");
    let mut refused = 0;
    for client in &mut clients {
        client.0.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket");
        match client.0.peek(&mut [0]).expect_err("nobody has said anything").kind() {
            ErrorKind::ConnectionReset => refused += 1,
            _ => {
                client.send(request("192.0.2.7").as_bytes());
                client.0.set_read_timeout(Some(PATIENCE)).expect("a socket");
                assert_eq!(client.response().1, "ok");
            }
        }
    }
    assert_eq!(refused, 1);
    rig.logged("192.0.2.7:4711 ");
}

#[test]
fn connections_count_for_whom_they_are_of() {
    let rig = Rig::on(
        ACCEPT,
        "limits: {connections_per_source: 1}",
        &format!("servers: {{s: \"{}\"}}", Server::answering(OK)),
    );
    let ask = |source: &str| {
        let mut client = rig.connect();
        client.send(request(source).as_bytes());
        client
    };
    let mut first = ask("192.0.2.7");
    assert_eq!(first.response().1, "ok");
    assert_eq!(ask("192.0.2.8").response().1, "ok");
    assert_eq!(ask("192.0.2.7").rest(), "<reset>");
    let line = rig.logged("{too_many_of_source}");
    assert!(line.starts_with("192.0.2.7:4711 ") && line.contains(" PR-- "), "{line}");
}

#[test]
fn connections_of_trusted_proxies_are_not_those_of_one_source() {
    let keys = "limits: {connections_per_source: 1}, trusted_proxies: [127.0.0.1]";
    let rig = Rig::new(keys, Server::answering(OK));
    let mut open: Vec<Client> = (0..3).map(|_| rig.connect()).collect();
    for client in &mut open {
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().1, "ok");
    }
}

/// The server's end of a connection after one request of this client on it.
fn asked(server: &Server, client: &mut Client, bytes: &[u8]) -> Client {
    client.send(bytes);
    let mut connection = server.accept();
    connection.skip("GET ");
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
    connection
}

#[test]
fn a_connection_that_speaks_for_a_client_goes_with_the_connection_of_that_client() {
    let server = Server::new();
    let keys = format!(
        "send_proxy: v2, idle_connections: {{timeout: 1h}}, servers: {{s: \"{}\"}}",
        server.address
    );
    let rig = Rig::with("", &keys);
    let mut client = rig.connect();
    let mut connection = asked(&server, &mut client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(connection.is_silent(Duration::from_millis(300)), "it is kept for the client");
    drop(client);
    assert_eq!(connection.rest(), "");
}

#[test]
fn a_client_that_looks_like_another_does_not_get_its_connection() {
    let server = Server::new();
    let backend = format!("send_proxy: v1, servers: {{s: \"{}\"}}", server.address);
    let rig = Rig::on(ACCEPT, "", &backend);
    let said = request("192.0.2.7");
    // Behind one address and port, as after a NAT that uses a port again at once.
    let mut first = rig.connect();
    let _first_connection = asked(&server, &mut first, said.as_bytes());
    let mut second = rig.connect();
    let _second_connection = asked(&server, &mut second, said.as_bytes());
}

#[test]
fn the_oldest_connection_that_speaks_for_a_client_makes_room() {
    let server = Server::new();
    let keys = format!(
        "send_proxy: v2, idle_connections: {{most: 1}}, servers: {{s: \"{}\"}}",
        server.address
    );
    // With more workers there would be as many places.
    let rig = Rig::with("", &keys);
    let mut clients: Vec<_> = (0..9).map(|_| rig.connect()).collect();
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let connections: Vec<_> =
        clients.iter_mut().map(|client| asked(&server, client, get)).collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut open = 0;
    for mut connection in connections {
        open += usize::from(connection.is_silent(Duration::from_millis(200)));
    }
    assert!((1..=workers).contains(&open), "{open} are open still");
}
