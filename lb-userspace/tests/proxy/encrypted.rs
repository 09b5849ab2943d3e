//! TLS and the PROXY protocol towards servers: a second proxy is the server.

use crate::{
    rig::{Client, OK, Rig, Server, snapshot},
    site::Site,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// A proxy that ends TLS as `www.test` in front of `server`, with these keys in `bind` and
/// `tls`.
fn encrypted(site: &Site, bind: &str, tls: &str, server: &Server) -> Rig {
    let certificate = site.file("site.pem");
    let bind = format!("{bind}tls: {{certificates: {}, {tls}}}", certificate.display());
    Rig::on(&bind, "", &format!("servers: {{s1: \"{}\"}}", server.address))
}

/// The keys of a backend with the proxy `to` as its server.
fn backend(site: &Site, to: &Rig, tls: &str, rest: &str) -> String {
    let ca = site.file("ca.crt");
    let address = to.address;
    format!("tls: {{ca: {}, {tls}}}, {rest}servers: {{s1: \"{address}\"}}", ca.display())
}

#[test]
fn requests_and_upgrades_go_over_tls_and_connections_are_kept() {
    let (site, server) = (Site::new(), Server::new());
    let far = encrypted(&site, "", "", &server);
    let near = Rig::with("", &backend(&site, &far, "sni: www.test", ""));
    let mut client = near.connect();
    client.send(GET);
    let mut connection = server.accept();
    for _ in 0..2 {
        let head = connection.until("\r\n\r\n");
        assert!(head.contains("\r\nx-forwarded-proto: https\r\n"), "{head}");
        connection.send(OK.as_bytes());
        assert_eq!(client.response().1, "ok");
        client.send(GET);
    }
    connection.until("\r\n\r\n");
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
    client.send(
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly",
    );
    connection.until("\r\n\r\n");
    connection.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi",
    );
    client.until("\r\n\r\n");
    assert_eq!(client.take(2), "hi");
    assert_eq!(connection.take(5), "early");
    drop(client);
    assert_eq!(connection.rest(), "");
}

#[test]
fn http2_to_servers_is_agreed_on_by_alpn() {
    let (site, server) = (Site::new(), Server::answering(OK));
    let server = format!("servers: {{s1: \"{server}\"}}");
    let far = Rig::on(&site.tls(), "", &server);
    let near = Rig::with("", &backend(&site, &far, "sni: www.test", "protocol: http2, "));
    let mut client = near.connect();
    client.send(GET);
    assert_eq!(client.response().1, "ok");
    far.logged("\"GET https://a.test/ HTTP/2.0\"");
    // One that does not speak it is no server for it.
    let bind =
        format!("tls: {{certificates: {}, alpn: [http/1.1]}}", site.file("site.pem").display());
    let old = Rig::on(&bind, "", &server);
    let near =
        Rig::with("", &backend(&site, &old, "sni: www.test", "protocol: http2, retries: 0, "));
    let mut client = near.connect();
    client.send(GET);
    assert!(client.response().0.starts_with("HTTP/1.1 502 "));
    near.logged("SC-- ");
}

#[test]
fn servers_are_verified_and_clients_are_shown_a_certificate() {
    let (site, server) = (Site::new(), Server::answering(OK));
    site.issue_as("proxy.pem", "proxy");
    let bind = format!(
        "tls: {{certificates: {}, client_auth: {{ca: {}}}}}",
        site.file("site.pem").display(),
        site.file("ca.crt").display()
    );
    let far = Rig::on(&bind, "", &format!("servers: {{s1: \"{server}\"}}"));
    let shown = format!("client_certificate: {}", site.file("proxy.pem").display());
    let status = |tls: &str| {
        let near = Rig::with("", &backend(&site, &far, tls, "retries: 0, "));
        let mut client = near.connect();
        client.send(GET);
        let head = client.response().0;
        let line = near.logged("GET / ");
        (head.lines().next().unwrap_or_default().to_owned(), line)
    };
    assert_eq!(status(&format!("sni: www.test, {shown}")).0, "HTTP/1.1 200 OK");
    let (answer, line) = status(&format!("sni: other.test, {shown}"));
    assert_eq!(answer, "HTTP/1.1 502 Bad Gateway");
    assert!(line.contains("{server_tls_bad_certificate}") && line.contains(" SC-- "), "{line}");
    assert_eq!(status("sni: www.test").0, "HTTP/1.1 502 Bad Gateway");
}

#[test]
fn a_reload_that_turns_tls_on_leaves_no_plain_connection_in_use() {
    let (site, server) = (Site::new(), Server::new());
    let mut rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(GET);
    let mut plain = server.accept();
    plain.until("\r\n\r\n");
    plain.send(OK.as_bytes());
    client.response();
    let keys = format!(
        "tls: {{ca: {}, sni: www.test}}, retries: 0, servers: {{s1: \"{}\"}}",
        site.file("ca.crt").display(),
        server.address
    );
    rig.install(&snapshot(rig.address, "", &keys));
    // Until the worker has heard of it.
    for _ in 0..100 {
        client.send(GET);
        let mut next = server.next(plain);
        if next.take(1) == "\x16" {
            // A record of a handshake.
            return;
        }
        next.until("\r\n\r\n");
        next.send(OK.as_bytes());
        client.response();
        plain = next;
    }
    panic!("requests still go in the clear");
}

#[test]
fn servers_are_told_who_the_client_is_and_no_other_client_comes_that_way() {
    let server = Server::new();
    let keys = format!("send_proxy: v1, servers: {{s1: \"{}\"}}", server.address);
    let rig = Rig::with("", &keys);
    for _ in 0..2 {
        let mut client = rig.connect();
        client.send(GET);
        let mut connection = server.accept();
        let own = client.0.local_addr().expect("it is connected");
        let header = connection.until("\r\n");
        let (from, to) = (own.port(), rig.address.port());
        assert_eq!(header, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n"));
        connection.until("\r\n\r\n");
        connection.send(OK.as_bytes());
        assert_eq!(client.response().1, "ok");
    }
}

#[test]
fn a_client_comes_over_the_same_connection_again_and_others_do_not() {
    let server = Server::new();
    let keys = format!("send_proxy: v2, servers: {{s1: \"{}\"}}", server.address);
    let rig = Rig::with("", &keys);
    let mut client = rig.connect();
    client.send(GET);
    let mut connection = server.accept();
    connection.skip("GET ");
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
    // No header a second time: the connection is the client's already.
    client.send(GET);
    let head = connection.until("\r\n\r\n");
    assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
    let mut other = rig.connect();
    other.send(GET);
    let mut second = server.accept();
    second.skip("GET ");
    second.send(OK.as_bytes());
    assert_eq!(other.response().1, "ok");
}

#[test]
fn a_connection_that_is_named_is_used_once() {
    let server = Server::new();
    let keys = format!("send_proxy: v2-full, servers: {{s1: \"{}\"}}", server.address);
    let rig = Rig::with("", &keys);
    let mut client = rig.connect();
    for _ in 0..2 {
        client.send(GET);
        let mut connection = server.accept();
        connection.skip("GET ");
        connection.send(OK.as_bytes());
        assert_eq!(client.response().1, "ok");
    }
}

#[test]
fn the_header_comes_before_tls() {
    let (site, server) = (Site::new(), Server::answering(OK));
    let certificate = site.file("site.pem");
    let bind = format!(
        "accept_proxy: {{from: [127.0.0.0/8]}}, tls: {{certificates: {}}}",
        certificate.display()
    );
    let far = Rig::on(&bind, "", &format!("servers: {{s1: \"{server}\"}}"));
    let near = Rig::with("", &backend(&site, &far, "sni: www.test", "send_proxy: v2-full, "));
    let mut client = near.connect();
    client.send(GET);
    assert_eq!(client.response().1, "ok");
    let own = client.0.local_addr().expect("it is connected");
    far.logged(&format!("{own} "));
}

#[test]
fn only_proxies_that_are_trusted_say_who_is_behind_them() {
    let server = Server::new();
    let said = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\
                X-Forwarded-Proto: https\r\n\r\n";
    let rules = "rules: [{if: {header: {X-Forwarded-Proto: https}}, deny: 403}]";
    for (trusted, gets_through) in [("[10.0.0.0/8]", true), ("[127.0.0.0/8]", false)] {
        let keys = format!("trusted_proxies: {trusted}, {rules}");
        let rig = Rig::new(&keys, server.address);
        let mut client = rig.connect();
        client.send(said.as_bytes());
        if !gets_through {
            // The rule sees what the trusted proxy said.
            assert!(client.response().0.starts_with("HTTP/1.1 403 "));
            continue;
        }
        let mut connection = server.accept();
        let head = connection.until("\r\n\r\n");
        assert!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{head}");
        connection.send(OK.as_bytes());
        assert_eq!(client.response().1, "ok");
    }
    let rig = Rig::new("trusted_proxies: [127.0.0.1]", server.address);
    let mut client = rig.connect();
    client.send(said.as_bytes());
    let head = server.accept().until("\r\n\r\n");
    assert!(head.contains("\r\nx-forwarded-for: 192.0.2.1, 127.0.0.1\r\n"), "{head}");
    assert!(head.contains("\r\nx-forwarded-proto: https\r\n"), "{head}");
}

#[test]
fn the_client_is_whom_a_trusted_proxy_asks_for() {
    let (a, b) = (Server::new(), Server::new());
    let rules = "rules: [{if: {source: [192.0.2.0/24]}, set_request_header: {X-Near: \"1\"}}]";
    let keys = format!("trusted_proxies: [127.0.0.0/8, 10.0.0.0/8], {rules}");
    let servers = format!("servers: {{a: \"{}\", b: \"{}\"}}", a.address, b.address);
    let rig =
        Rig::with(&keys, &format!("balance: maglev, hash: source, send_proxy: v1, {servers}"));
    let mut client = rig.connect();
    let mut used = [0, 0];
    for host in 1..=20 {
        // What stands before the last one that is not trusted, anybody may have written.
        let said = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.{host}, 10.0.0.1\r\n\r\n"
        );
        client.send(said.as_bytes());
        let (index, mut connection) = a.first_of(&b);
        used[index] += 1;
        let header = connection.until("\r\n");
        let port = rig.address.port();
        assert_eq!(header, format!("PROXY TCP4 192.0.2.{host} 127.0.0.1 0 {port}\r\n"));
        let head = connection.until("\r\n\r\n");
        assert!(head.contains("\r\nx-near: 1\r\n"), "{head}");
        connection.send(OK.as_bytes());
        assert_eq!(client.response().1, "ok");
        rig.logged(&format!("192.0.2.{host}:0 ["));
    }
    assert!(used.iter().all(|count| *count > 0), "all clients went to one server: {used:?}");
}

#[test]
fn a_client_of_another_family_than_the_trusted_proxy_is_announced_in_one() {
    let server = Server::new();
    let backend = format!("send_proxy: v1, servers: {{a: \"{}\"}}", server.address);
    let rig = Rig::with("trusted_proxies: [127.0.0.0/8]", &backend);
    let mut client = rig.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::7\r\n\r\n");
    let mut connection = server.accept();
    let port = rig.address.port();
    let expected = format!("PROXY TCP6 2001:db8::7 ::ffff:127.0.0.1 0 {port}\r\n");
    assert_eq!(connection.until("\r\n"), expected);
    connection.until("\r\n\r\n");
    connection.send(OK.as_bytes());
    assert_eq!(client.response().1, "ok");
}

#[test]
fn a_proxy_that_is_not_trusted_any_more_is_not_believed_on_its_open_connections() {
    let server = Server::new();
    let mut rig = Rig::new("trusted_proxies: [127.0.0.1]", server.address);
    let mut client = rig.connect();
    let mut ask = |connection: Option<Client>| {
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n");
        let mut connection = match connection {
            None => server.accept(),
            Some(connection) => server.next(connection),
        };
        let head = connection.until("\r\n\r\n");
        connection.send(OK.as_bytes());
        assert_eq!(client.response().1, "ok");
        (head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), connection)
    };
    let (is_own, mut connection) = ask(None);
    assert!(!is_own, "it is trusted");
    let keys = format!("servers: {{s1: \"{}\"}}", server.address);
    rig.install(&snapshot(rig.address, "trusted_proxies: [10.0.0.1]", &keys));
    // Until the worker has heard of it.
    for _ in 0..100 {
        let (is_own, next) = ask(Some(connection));
        if is_own {
            return;
        }
        connection = next;
    }
    panic!("it is still believed");
}
