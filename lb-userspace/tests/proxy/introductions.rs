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
