//! TLS that ends at a frontend, and clients that are introduced, with curl and openssl as the
//! clients.

use std::{
    io::Write,
    process::{Child, Command, Stdio},
};

use crate::{
    rig::{OK, Rig, Server, snapshot_on},
    site::{Site, curl, printed},
};

#[test]
fn alpn_decides_the_protocol_and_servers_learn_of_tls() {
    let site = Site::new();
    for (arguments, version) in [
        (&["--http2"][..], "HTTP/2 200"),
        (&["--http1.1"], "HTTP/1.1 200 OK"),
        (&["--no-alpn"], "HTTP/1.1 200 OK"),
    ] {
        let server = Server::new();
        let servers = format!("servers: {{s1: \"{}\"}}", server.address);
        let rig = Rig::on(&site.tls(), "", &servers);
        let client = site.curl(rig.address, "www.test", arguments);
        let mut connection = server.accept();
        let head = connection.until("\r\n\r\n").to_ascii_lowercase();
        connection.send(OK.as_bytes());
        let (status, said) = printed(client);
        assert_eq!(status, Some(0), "{arguments:?}: {said}");
        assert!(said.starts_with(version) && said.ends_with("ok"), "{arguments:?}: {said}");
        assert!(head.contains("\r\nx-forwarded-proto: https\r\n"), "{head}");
        assert!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{head}");
        let line = rig.logged("/path?query");
        assert!(line.contains(" web~ "), "{line}");
    }
}

#[test]
fn a_failed_handshake_is_logged_and_nobody_elses_concern() {
    let site = Site::new();
    let server = Server::answering(OK);
    let rig = Rig::on(&site.tls(), "", &format!("servers: {{s1: \"{server}\"}}"));
    // With garbage, with an old version, and not at all for a while.
    let waiting = rig.connect();
    rig.exchange(b"\x17garbage that is no hello\r\n");
    rig.logged("tls_protocol");
    let old = ["--tlsv1.1", "--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0"];
    let (status, said) = printed(site.curl(rig.address, "www.test", &old));
    assert_ne!(status, Some(0), "{said}");
    rig.logged("tls_incompatible");
    let (status, said) = printed(site.curl(rig.address, "www.test", &[]));
    assert_eq!(status, Some(0), "{said}");
    drop(waiting);
    rig.logged("tls_gone");
}

#[test]
fn what_comes_in_the_clear_is_sent_to_https() {
    let site = Site::new();
    let server = Server::answering(OK);
    let servers = format!("servers: {{s1: \"{server}\"}}");
    let rules = "rules: [{if: {tls: false}, redirect: {scheme: https, code: 301}}]";
    let clear = Rig::with(rules, &servers);
    let (_, said) = printed(curl(&site.file("ca.crt"), clear.address, "http://www.test", &[]));
    assert!(said.starts_with("HTTP/1.1 301 "), "{said}");
    assert!(said.to_ascii_lowercase().contains("\r\nlocation: https://www.test"), "{said}");
    let encrypted = Rig::on(&site.tls(), rules, &servers);
    let (_, said) = printed(site.curl(encrypted.address, "www.test", &[]));
    assert!(said.starts_with("HTTP/2 200"), "{said}");
}

#[test]
fn a_reload_brings_the_new_certificate() {
    let site = Site::new();
    let server = Server::answering(OK);
    let servers = format!("servers: {{s1: \"{server}\"}}");
    let mut rig = Rig::on(&site.tls(), "", &servers);
    let status = |address, name| printed(site.curl(address, name, &[])).0;
    assert_eq!(status(rig.address, "www.test"), Some(0));
    // 60: the certificate is not for this name.
    assert_eq!(status(rig.address, "new.test"), Some(60));
    let mut before = start_s_client(&rig, &["-servername", "www.test"]);
    let mut input = before.stdin.take().expect("it is piped");
    let request = "HTTP/1.1\r\nHost: www.test\r\n";
    write!(input, "GET /before {request}\r\n").expect("it reads");
    rig.logged("GET /before");
    site.issue("new.test");
    rig.install(&snapshot_on(rig.address, &site.tls(), "", &servers));
    assert_eq!(status(rig.address, "new.test"), Some(0));
    assert_eq!(status(rig.address, "www.test"), Some(60));
    // Who was there before is served on.
    write!(input, "GET /after {request}Connection: close\r\n\r\n").expect("it reads");
    let output = before.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 2, "{said}");
}

#[test]
fn clients_are_introduced_before_tls_and_the_header_is_due() {
    let site = Site::new();
    let server = Server::new();
    let servers = format!("servers: {{s1: \"{}\"}}", server.address);
    let bind = format!("{}, accept_proxy: {{from: [127.0.0.0/8]}}", site.tls());
    let rig = Rig::on(&bind, "", &servers);
    let mut client = rig.connect();
    client.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\nno hello");
    drop(client);
    let line = rig.logged("192.0.2.7:4711");
    assert!(line.contains("tls_"), "{line}");
    let client = site.curl(rig.address, "www.test", &["--haproxy-protocol"]);
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    connection.send(OK.as_bytes());
    assert_eq!(printed(client).0, Some(0));
    assert_ne!(printed(site.curl(rig.address, "www.test", &[])).0, Some(0));
    rig.logged("proxy_header_missing");
}

#[test]
fn a_request_in_the_clear_is_told_what_is_wrong() {
    let site = Site::new();
    let server = Server::answering(OK);
    let rig = Rig::on(&site.tls(), "", &format!("servers: {{s1: \"{server}\"}}"));
    let answer = rig.exchange(b"GET / HTTP/1.1\r\nHost: www.test\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(
        answer.ends_with("\r\n\r\nA plain request came to a port that wants TLS.\n"),
        "{answer}"
    );
    let line = rig.logged("not_tls");
    assert!(line.contains(" 400 ") && line.contains(" CR-- "), "{line}");
}

fn start_s_client(rig: &Rig, arguments: &[&str]) -> Child {
    Command::new("openssl")
        .args(["s_client", "-connect", &rig.address.to_string(), "-ign_eof"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed")
}

/// What openssl s_client says, after this request.
fn s_client(rig: &Rig, arguments: &[&str], request: &str) -> String {
    let mut client = start_s_client(rig, arguments);
    let mut input = client.stdin.take().expect("it is piped");
    // It may have been refused already.
    let _ = input.write_all(request.as_bytes());
    let output = client.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_session_is_resumed_and_still_knows_the_client() {
    let site = Site::new();
    site.issue_as("alice.pem", "alice");
    let ca = site.file("ca.crt");
    let bind = format!(
        "tls: {{certificates: {}, client_auth: {{ca: {}}}}}",
        site.file("site.pem").display(),
        ca.display()
    );
    let rules = "rules: [{set_response_header: {X-Client: \
                 \"${tls.client.common_name} ${tls.sni} ${tls.version}\"}}, \
                 {if: {client_certificate: {common_name: alice}}, backend: app}, {deny: 403}]";
    let rig = Rig::on(&bind, rules, &format!("servers: {{s1: \"{}\"}}", Server::answering(OK)));
    let session = site.file("session").display().to_string();
    let alice = site.file("alice.pem").display().to_string();
    let request = "GET / HTTP/1.1\r\nHost: www.test\r\nConnection: close\r\n\r\n";
    let common = ["-servername", "www.test", "-cert", &alice];
    let first = s_client(&rig, &[&common[..], &["-sess_out", &session]].concat(), request);
    assert!(first.contains("HTTP/1.1 200 OK") && first.contains("\nNew, "), "{first}");
    let again = s_client(&rig, &[&common[..], &["-sess_in", &session]].concat(), request);
    assert!(again.contains("HTTP/1.1 200 OK") && again.contains("\nReused, "), "{again}");
    for answer in [first, again] {
        assert!(answer.contains("\r\nx-client: alice www.test TLSv1.3\r\n"), "{answer}");
    }
    let nobody = s_client(&rig, &["-servername", "www.test"], request);
    assert!(!nobody.contains("HTTP/1.1 200"), "{nobody}");
}

#[test]
fn a_connection_is_good_for_hosts_of_its_certificate_where_names_matter() {
    let site = Site::new();
    site.issue_as("other.pem", "other.test");
    let [www, other] = ["site.pem", "other.pem"].map(|file| site.file(file).display().to_string());
    let backend = format!("servers: {{s1: \"{}\"}}", Server::answering(OK));
    let get = |rig: &Rig, host: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        s_client(rig, &["-servername", "www.test"], &request)
    };
    let strict = format!("tls: {{certificates: [{www}, {other}], strict_sni: true}}");
    let strict = Rig::on(&strict, "", &backend);
    assert!(get(&strict, "WWW.test:443").contains("HTTP/1.1 200 "));
    for host in ["other.test", "nobody.test"] {
        assert!(get(&strict, host).contains("HTTP/1.1 421 Misdirected Request"), "{host}");
    }
    strict.logged("{other_server_name}");
    let lax = Rig::on(&format!("tls: {{certificates: [{www}, {other}]}}"), "", &backend);
    assert!(get(&lax, "other.test").contains("HTTP/1.1 200 "));
}
