//! TLS that ends at a frontend, and clients that are introduced, with curl as the client.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use crate::rig::{OK, Rig, Server, snapshot_on};

/// An authority and the certificate of a site, in a directory.
struct Site {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Site {
    /// With a certificate for `www.test`.
    fn new() -> Self {
        let directory = TempDir::with_prefix("pointsman-https-").expect("a directory");
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Not that of the site, or its certificate looks self-signed.
        parameters.distinguished_name.push(DnType::CommonName, "Test Authority");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("an authority");
        fs::write(directory.path().join("ca.crt"), issuer.pem()).expect("it is written");
        let site = Self { directory, issuer };
        site.issue("www.test");
        site
    }

    /// Puts a certificate for `name` in place.
    fn issue(&self, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let parameters = CertificateParams::new([name.to_owned()]).expect("a good name");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        let path = self.file("site.pem");
        fs::write(&path, certificate.pem() + &key.serialize_pem()).expect("it is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The key `tls` of a bind address.
    fn tls(&self) -> String {
        format!("tls: {{certificates: {}}}", self.file("site.pem").display())
    }

    /// curl on its way to `name`.
    fn curl(&self, address: SocketAddr, name: &str, arguments: &[&str]) -> Child {
        curl(&self.file("ca.crt"), address, &format!("https://{name}"), arguments)
    }
}

/// curl on its way to an origin without a port, which is to be found at `address`.
fn curl(authority: &Path, address: SocketAddr, origin: &str, arguments: &[&str]) -> Child {
    let name = origin.split_once("://").expect("a scheme").1;
    let port = address.port();
    let mut command = Command::new("curl");
    command
        .args(["-sS", "-i", "--noproxy", "*", "--max-time", "10", "--cacert"])
        .arg(authority)
        .args(["--resolve", &format!("{name}:{port}:127.0.0.1")])
        .args(arguments)
        .arg(format!("{origin}:{port}/path?query"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("curl is installed")
}

/// What curl printed, and its exit status.
fn printed(curl: Child) -> (Option<i32>, String) {
    let output = curl.wait_with_output().expect("curl ends");
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    (output.status.code(), format!("{out}{err}"))
}

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
    // In the clear, with an old version, and not at all for a while.
    let waiting = rig.connect();
    let answer = rig.exchange(b"GET / HTTP/1.1\r\nHost: www.test\r\n\r\n");
    assert!(!answer.contains("HTTP/"), "{answer}");
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
    site.issue("new.test");
    rig.install(&snapshot_on(rig.address, &site.tls(), "", &servers));
    assert_eq!(status(rig.address, "new.test"), Some(0));
    assert_eq!(status(rig.address, "www.test"), Some(60));
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
