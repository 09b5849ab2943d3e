//! The examples of configs/ that have rules, served and asked.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use super::bed::{Example, Server, get};

#[test]
fn the_gateway_tells_services_apart_by_path_host_and_header() {
    let example = Example::serve("api-gateway.yaml", &[]);
    let port = example.port("gateway");
    let ask = |target: &str, host: &str, lines: &[&str]| get(port, target, host, lines);

    let users = ask("/api/v1/users/7?full=1", "www.example.com", &[]);
    assert!(users.server().starts_with("users/"), "{users:?}");
    assert!(users.body.starts_with("GET /users/7?full=1 HTTP/1.1\r\n"), "{users:?}");
    assert_eq!(users.header("x-content-type-options"), "nosniff");
    let id = users.body.lines().find_map(|line| line.strip_prefix("x-request-id: "));
    assert!(id.is_some_and(|id| id.len() == 32), "{users:?}");

    let preview = ask("/api/v2/users", "www.example.com", &["X-Preview: yes"]);
    assert_eq!(preview.server(), "users-next/n1");
    assert!(preview.body.starts_with("GET /users HTTP/1.1\r\n"), "{preview:?}");
    assert_eq!(ask("/api/v1/orders", "a", &[]).server(), "orders-read/r1");
    assert_eq!(ask("/", "www.example.com", &[]).server(), "web/w1");

    let moved = ask("/x?y=1", "legacy.example.com", &[]);
    assert_eq!((moved.status, moved.header("location")), (308, "http://api.example.com/x?y=1"));
    assert_eq!(moved.header("x-content-type-options"), "nosniff");

    let missing = ask("/api/%22quoted%22", "a", &[]);
    assert_eq!((missing.status, missing.header("content-type")), (404, "application/json"));
    assert_eq!(missing.body, r#"{"error": "no such service", "path": "/api/%22quoted%22"}"#);

    let healthy = ask("/healthz", "a", &[]);
    assert_eq!((healthy.status, &*healthy.body), (200, "ok\n"));
    for path in ["/admin/", "//admin/x", "/%61dmin/", "/./admin/", "/x/../admin/"] {
        let denied = ask(path, "a", &[]);
        assert_eq!((denied.status, &*denied.body), (403, "ask the office\n"), "{path}");
    }
    assert_eq!(ask("/x/..%2fadmin/", "a", &[]).status, 400);
}

#[test]
fn the_office_may_enter() {
    let example = Example::serve("api-gateway.yaml", &[("203.0.113.0/24", "127.0.0.0/8")]);
    assert_eq!(get(example.port("gateway"), "/admin/", "a", &[]).server(), "web/w1");
}

#[test]
fn a_canary_gets_its_share_and_keeps_it() {
    let example = Example::serve("canary.yaml", &[("blue: 95, green: 5", "blue: 50, green: 50")]);
    let port = example.port("shop");
    assert_eq!(get(port, "/", "a", &["X-Version: green"]).server(), "green/g1");
    assert_eq!(get(port, "/", "a", &["Cookie: version=green"]).server(), "green/g1");
    assert_eq!(get(port, "/", "a", &["X-Version: blue"]).server(), "blue/b1");
    let of_session = |session: usize| {
        let answer = get(port, "/", "a", &[&format!("Cookie: session=s{session}")]);
        answer.server().to_owned()
    };
    let first: Vec<String> = (0..30).map(of_session).collect();
    let again: Vec<String> = (0..30).map(of_session).collect();
    assert_eq!(first, again);
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 2, "{first:?}");
}

#[test]
fn a_shadow_sees_copies_that_nobody_waits_for() {
    let example = Example::serve("canary.yaml", &[]);
    let answer = get(example.port("shadowed"), "/copied?x=1", "a", &[]);
    assert_eq!(answer.server(), "blue/b1");
    let green = &example.servers["green/g1"].requests;
    let start = Instant::now();
    while green.lock().unwrap().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "no copy came");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(*green.lock().unwrap(), ["GET /copied?x=1 HTTP/1.1"]);
}

#[test]
fn regions_are_told_by_header_or_network() {
    let abroad = Example::serve("regions.yaml", &[]);
    let port = abroad.port("app");
    let check =
        |port: u16, target: &str, lines: &[&str], status: u16, server: &str, region: &str| {
            let answer = get(port, target, "a", lines);
            let got = (answer.status, answer.server(), answer.header("x-served-region"));
            assert_eq!(got, (status, server, region), "{target} {lines:?}");
        };
    check(port, "/", &[], 200, "americas/a1", "americas");
    check(port, "/", &["X-Region: eu-west"], 200, "europe/e1", "europe");
    check(port, "/", &["X-Country: DE-BY"], 200, "europe/e1", "europe");
    check(port, "/", &["X-Region: us"], 200, "americas/a1", "americas");
    check(port, "/reports/x", &[], 404, "", "americas");
    let inside = Example::serve("regions.yaml", &[("192.168.0.0/16", "127.0.0.0/8")]);
    let port = inside.port("app");
    check(port, "/", &[], 200, "europe/e1", "internal");
    check(port, "/reports/x", &[], 200, "reports/r1", "internal");
}

#[test]
fn two_hundred_services_are_behind_one_port() {
    let example = Example::serve("microservices.yaml", &[]);
    let port = example.port("mesh");
    let services: Vec<&str> =
        example.servers.keys().filter_map(|name| name.strip_suffix("/s1")).collect();
    assert_eq!(services.len(), 200);
    for service in services.iter().step_by(7) {
        let expected = format!("{service}/s1");
        let by_host = get(port, "/x", &format!("{service}.svc.example.com"), &[]);
        assert_eq!(by_host.server(), expected);
        let by_path = get(port, &format!("/{service}/x"), "SVC.example.com:80", &[]);
        assert_eq!(by_path.server(), expected);
    }
    assert_eq!(get(port, "/none/", "svc.example.com", &[]).server(), "unknown/u1");
}

#[test]
fn https_sends_each_kind_of_request_to_its_servers() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let issued = rcgen::generate_simple_self_signed(["www.example.com".to_owned()]);
    let issued = issued.expect("a certificate");
    let pem = directory.path().join("site.pem");
    fs::write(&pem, issued.cert.pem() + &issued.signing_key.serialize_pem()).expect("it is ours");
    let own = directory.path().display().to_string();
    let example = Example::serve("https.yaml", &[("/etc/pointsman/certs", &own)]);

    let moved = get(example.port("redirect"), "/x?y=1", "www.example.com", &[]);
    assert_eq!((moved.status, moved.header("location")), (308, "https://www.example.com/x?y=1"));

    let port = example.port("site");
    let curl = |target: &str, arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "-i", "--noproxy", "*", "--max-time", "10", "--cacert"])
            .arg(&pem)
            .args(["--resolve", &format!("www.example.com:{port}:127.0.0.1")])
            .args(arguments)
            .arg(format!("https://www.example.com:{port}{target}"))
            .output()
            .expect("curl is installed");
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        out.to_lowercase() + &err
    };
    let check = |target: &str, arguments: &[&str], version: &str, backend: &str| {
        let answer = curl(target, arguments);
        assert!(answer.starts_with(&format!("{version} 200")), "{answer}");
        assert!(answer.contains(&format!("\r\nx-server: {backend}/")), "{target}: {answer}");
        assert!(answer.contains("\r\nx-forwarded-proto: https\r\n"), "{answer}");
        let expected = "\r\nstrict-transport-security: max-age=31536000; includesubdomains\r\n";
        assert!(answer.contains(expected) && !answer.contains("\r\nserver:"), "{answer}");
    };
    check("/", &["--http2"], "http/2", "web");
    check("/api/users", &["--http1.1"], "http/1.1", "api");
    let upgrade = ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
    // The server of the test does not agree, and is asked all the same.
    check("/socket/x", &upgrade, "http/1.1", "sockets");
}

#[test]
fn postgresql_has_a_port_for_writes_and_one_for_reads() {
    let patroni = Server::start("patroni", Duration::ZERO);
    let port = format!("port: {}", patroni.address.port());
    let example = Example::serve("postgres-split.yaml", &[("port: 8008", &port)]);
    // Every machine says yes to both questions; what is joined is bytes.
    let server = |frontend| get(example.port(frontend), "/", "a", &[]).server().to_owned();
    assert_eq!([server("writes"), server("writes")], ["primary/pg1", "primary/pg1"]);
    assert!(server("reads").starts_with("primary/pg"));
    // Before a check has an answer, servers are taken to be up.
    let start = Instant::now();
    let is_asked = |path: &str| {
        let asked = patroni.requests.lock().expect("no test panics with it");
        asked.iter().any(|line| line.starts_with(path))
    };
    for path in ["GET /primary ", "GET /replica?lag=1MB "] {
        while !is_asked(path) {
            assert!(start.elapsed() < Duration::from_secs(20), "no check asked for {path}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
