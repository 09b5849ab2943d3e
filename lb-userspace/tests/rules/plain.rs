//! The examples of configs/ without rules: web.yaml, and tcp-proxy.yaml with what is not HTTP.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::pem::PemObject};

use super::bed::{Example, Server, get, get_over};

#[test]
fn two_instances_take_turns_and_a_third_waits() {
    let example = Example::serve("web.yaml", &[("interval: 2s", "interval: 100ms")]);
    let port = example.port("web");
    let answers: Vec<String> =
        (0..10).map(|_| get(port, "/", "a", &[]).server().to_owned()).collect();
    let all: BTreeSet<&str> = answers.iter().map(String::as_str).collect();
    assert_eq!(all, BTreeSet::from(["app/app1", "app/app2"]), "{answers:?}");
    let set = |is_well| {
        for name in ["app/app1", "app/app2"] {
            example.servers[name].is_well.store(is_well, Ordering::Relaxed);
        }
    };
    let wait_for = |wanted: &[&str]| {
        let start = Instant::now();
        while !wanted.contains(&get(port, "/", "a", &[]).server()) {
            assert!(start.elapsed() < Duration::from_secs(20), "never answered: {wanted:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    set(false);
    wait_for(&["app/spare"]);
    set(true);
    wait_for(&["app/app1", "app/app2"]);
}

/// A certificate for a name, and its key: as a file, and for a server of the test.
fn certificate(directory: &Path, names: &[&str]) -> (String, Arc<ServerConfig>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let issued = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let path = directory.join("own.pem");
    let key = issued.signing_key.serialize_pem();
    fs::write(&path, issued.cert.pem() + &key).expect("the directory is ours");
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let chain = vec![issued.cert.der().clone()];
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they belong together");
    (path.display().to_string(), Arc::new(config))
}

/// Takes the header of version 2 of the PROXY protocol off.
fn introduced(mut stream: TcpStream) -> Option<TcpStream> {
    let mut fixed = [0; 16];
    // A check says nothing.
    stream.read_exact(&mut fixed).ok()?;
    assert!(fixed.starts_with(b"\r\n\r\n\0\r\nQUIT\n"), "{fixed:?}");
    let mut rest = vec![0; usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))];
    stream.read_exact(&mut rest).expect("the header is whole");
    Some(stream)
}

#[test]
fn what_is_not_http_is_joined_by_port_name_and_introduction() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let names = ["db.example.com", "www.example.com", "x.shop.example.com", "other.example.com"];
    let (pem, tls) = certificate(directory.path(), &names);
    let redis = directory.path().join("redis.sock").display().to_string();
    let log = directory.path().join("access.log");
    let replacements = [
        ("/etc/pointsman/certs/db.pem", pem.as_str()),
        ("/run/pointsman/redis.sock", &redis),
        ("/var/log/pointsman/access.log", &log.display().to_string()),
        ("accept_proxy: {from: [10.0.0.0/8]}", "accept_proxy: {from: [127.0.0.0/8]}"),
    ];
    let start = |name: &str| match name.split('/').next() {
        Some("www" | "shop") => {
            let tls = Arc::clone(&tls);
            Server::start_over(name, Duration::ZERO, move |stream| {
                let connection = ServerConnection::new(Arc::clone(&tls)).ok()?;
                Some(StreamOwned::new(connection, stream))
            })
        }
        Some("redis") => Server::start_over(name, Duration::ZERO, introduced),
        _ => Server::start(name, Duration::ZERO),
    };
    let example = Example::serve_before("tcp-proxy.yaml", &replacements, start);

    let curl = |frontend: &str, name: &str| {
        let port = example.port(frontend);
        let output = Command::new("curl")
            .args(["-sS", "-i", "--no-alpn", "--noproxy", "*", "--max-time", "10", "--cacert"])
            .args([&pem, "--resolve", &format!("{name}:{port}:127.0.0.1")])
            .arg(format!("https://{name}:{port}/"))
            .output()
            .expect("curl is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let server = text.lines().find_map(|line| line.strip_prefix("X-Server: "));
        server.unwrap_or_else(|| panic!("{name}: {output:?}")).to_owned()
    };
    assert!(curl("postgres", "db.example.com").starts_with("pg/pg"));
    for (name, backend) in [
        ("www.example.com", "www/w"),
        ("x.shop.example.com", "shop/s1"),
        ("other.example.com", "www/w"),
    ] {
        let server = curl("sites", name);
        assert!(server.starts_with(backend), "{name}: {server}");
    }

    let mut introduced =
        TcpStream::connect(("127.0.0.1", example.port("redis"))).expect("it listens");
    introduced.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 6379\r\n").expect("it reads");
    assert_eq!(get_over(introduced, "/", "a", &[]).server(), "redis/redis1");
    let local = UnixStream::connect(&redis).expect("it listens");
    assert_eq!(get_over(local, "/", "a", &[]).server(), "redis/redis1");
    let start = Instant::now();
    // As the PROXY header says, and of a unix socket.
    for client in ["192.0.2.7:4711 [", "unix:0 ["] {
        while !fs::read_to_string(&log).unwrap_or_default().contains(client) {
            assert!(start.elapsed() < Duration::from_secs(20), "{client} is not in the log");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
