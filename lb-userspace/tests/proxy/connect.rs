//! `CONNECT` where a frontend takes it: what a forward proxy behind it gets, byte for byte, when
//! bytes are let through, what is refused, and how the end is logged.

use std::{
    fs,
    net::{Shutdown, TcpStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime,
    sync::mpsc,
};

use crate::{
    http2::{Fed, connect},
    rig::{Client, OK, PATIENCE, Rig, Server, free},
};

const KEY: &str = "connect: true";
const CONNECT: &str = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n";
const OPEN: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
/// What is said of the client to servers.
const FORWARDED: &str = "x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n";

/// A request, the bytes that a server gets for it, the bytes it answers, and how the answer to
/// the client begins. A `!` in front of the answer: no tunnel is open after it.
const TABLE: &[(&str, &str, &str, &str)] = &[
    (
        CONNECT,
        "CONNECT a.test:443 HTTP/1.1\r\nhost: a.test:443\r\n{F}x-forwarded-host: a.test:443\r\n\r\n",
        "HTTP/1.1 200 Connection established\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
    ),
    // A Host without the port is the same host; a field for the forward proxy gets there, one
    // for this connection does not.
    (
        "CONNECT A.test:8443 HTTP/1.1\r\nHost: a.test\r\nProxy-Authorization: Basic eA==\r\n\
         Proxy-Connection: keep-alive\r\nUser-Agent: x\r\n\r\n",
        "CONNECT A.test:8443 HTTP/1.1\r\nhost: A.test:8443\r\n\
         proxy-authorization: Basic eA==\r\nuser-agent: x\r\n{F}\
         x-forwarded-host: A.test:8443\r\n\r\n",
        // Any success opens a tunnel, and has no body whatever it says.
        "HTTP/1.1 202 Accepted\r\nVia: p\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 202 Accepted\r\nvia: p\r\n",
    ),
    (
        "CONNECT [2001:db8::1]:22 HTTP/1.1\r\nHost: [2001:db8::1]:22\r\n\r\n",
        "CONNECT [2001:db8::1]:22 HTTP/1.1\r\nhost: [2001:db8::1]:22\r\n{F}\
         x-forwarded-host: [2001:db8::1]:22\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
    ),
    // As older clients ask.
    (
        "CONNECT a.test:443 HTTP/1.0\r\n\r\n",
        "CONNECT a.test:443 HTTP/1.1\r\nhost: a.test:443\r\n{F}x-forwarded-host: a.test:443\r\n\r\n",
        "HTTP/1.0 200 Connection established\r\n\r\n",
        "HTTP/1.0 200 OK\r\n",
    ),
    (
        CONNECT,
        "CONNECT a.test:443 HTTP/1.1\r\n",
        "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n\
         Content-Length: 2\r\n\r\nno",
        "!HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm=x\r\n\
         content-length: 2\r\nconnection: close\r\n",
    ),
    (
        CONNECT,
        "CONNECT a.test:443 HTTP/1.1\r\n",
        "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        "!HTTP/1.1 403 Forbidden\r\nconnection: close\r\ntransfer-encoding: chunked\r\n",
    ),
    (
        CONNECT,
        "CONNECT a.test:443 HTTP/1.1\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "!HTTP/1.1 502 Bad Gateway\r\n",
    ),
    // hyper knows no tunnel after this one.
    (
        CONNECT,
        "CONNECT a.test:443 HTTP/1.1\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "!HTTP/1.1 502 Bad Gateway\r\n",
    ),
    (CONNECT, "CONNECT a.test:443 HTTP/1.1\r\n", "SSH-2.0-x\r\n", "!HTTP/1.1 502 Bad Gateway\r\n"),
];

#[test]
fn what_goes_each_way() {
    let server = Server::new();
    let rig = Rig::new(KEY, server.address);
    for (request, forwarded, answer, expected) in TABLE {
        let mut client = rig.connect();
        client.send(format!("{request}early").as_bytes());
        let mut connection = server.accept();
        let forwarded = forwarded.replace("{F}", FORWARDED);
        assert_eq!(connection.take(forwarded.len()), forwarded, "for {request:?}");
        if !forwarded.ends_with("\r\n\r\n") {
            connection.until("\r\n\r\n");
        }
        let early = connection.heard(Duration::from_millis(30));
        assert_eq!(early, None, "bytes before the success of {request:?}");
        connection.send(answer.as_bytes());
        if let Some(expected) = expected.strip_prefix('!') {
            let got = client.rest();
            assert!(got.starts_with(expected), "{request:?}: {got}");
            assert_eq!(got.matches("HTTP/1.").count(), 1, "one answer, then the end: {got}");
            drop(client);
            // It may be kept for others, and nothing of this client's comes over it.
            assert!(
                !matches!(connection.heard(Duration::from_millis(30)), Some(it) if it == "early")
            );
            connection.0.shutdown(Shutdown::Both).ok();
            continue;
        }
        let head = client.until("\r\n\r\n");
        assert!(head.starts_with(expected), "{request:?}: {head}");
        for field in ["content-length", "transfer-encoding", "connection", "upgrade"] {
            assert!(!head.contains(&format!("\r\n{field}:")), "{request:?}: {head}");
        }
        assert_eq!(connection.take(5), "early");
        connection.send(b"\x16\x03hello");
        assert_eq!(client.take(7), "\x16\x03hello");
        client.0.shutdown(Shutdown::Write).expect("a socket");
        // One direction ends, the other goes on.
        assert_eq!(connection.rest(), "");
        connection.send(b"late");
        drop(connection);
        assert_eq!(client.rest(), "late");
    }
    let line = rig.logged("\"CONNECT a.test:443 HTTP/1.1\"");
    assert!(line.contains(" web app/s1 ") && line.contains(" 200 11 - - ---- "), "{line}");
    let line = rig.logged(" 407 ");
    assert!(line.contains(" 407 2 - - ---- "), "{line}");
    rig.logged("{unexpected_101} \"CONNECT");
    rig.logged("{unexpected_204} \"CONNECT");
    rig.logged("{response_malformed} \"CONNECT");
}

/// `request` is answered with this status and never reaches a server.
#[track_caller]
fn refused(rig: &Rig, request: &str, status: u16) {
    let smuggled = format!("{request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = rig.exchange(smuggled.as_bytes());
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "one answer, then the end: {answer}");
}

#[test]
fn what_names_no_place_or_has_content_is_refused() {
    let rig = Rig::new(KEY, Server::answering(OK));
    let to = |target: &str, host: &str, fields: &str| {
        format!("CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")
    };
    for target in ["a", "a:", "a:0", "a:080", "a:65536", "a:x", "[::1]", "u@a:443", "u:p@a:443"] {
        refused(&rig, &to(target, "a:443", ""), 400);
    }
    for target in ["/", "/a:443", "*", "http://a:443", "http://a:443/", "a:443/", "a:443?x"] {
        refused(&rig, &to(target, "a:443", ""), 400);
    }
    for host in ["b:443", "a:80", "b", "a b", "u@a:443"] {
        refused(&rig, &to("a:443", host, ""), 400);
    }
    refused(&rig, "CONNECT a:443 HTTP/1.1\r\n\r\n", 400);
    refused(&rig, &to("a:443", "a:443", "Host: a:443\r\n"), 400);
    for content in [
        "Content-Length: 0",
        "Content-Length: 3",
        "Transfer-Encoding: chunked",
        "Content-Length: x",
    ] {
        refused(&rig, &to("a:443", "a:443", &format!("{content}\r\n")), 400);
    }
    rig.logged("{connect_content} \"CONNECT a:443 ");
    rig.logged("{request_target} \"CONNECT u@a:443 ");
    rig.logged("{other_host} \"CONNECT a:443 ");
}

#[test]
fn without_the_key_there_is_none() {
    for keys in ["", "connect: false"] {
        let rig = Rig::new(keys, Server::answering(OK));
        refused(&rig, CONNECT, 405);
        let line = rig.logged("{connect}");
        assert!(line.ends_with("\"CONNECT a.test:443 HTTP/1.1\""), "{line}");
    }
}

#[test]
fn rules_say_where_it_may_lead() {
    let server = Server::new();
    let rules = "connect: true, rules: [\
                 {if: {method: CONNECT, not: {host: a.test}}, deny: 403}, \
                 {if: {header_present: x-ok}, return: 200}, \
                 {set_request_header: {X-Rule: \"1\", Host: other}, rewrite: {prefix: {from: /, to: /x/}}}]";
    let rig = Rig::new(rules, server.address);
    refused(&rig, "CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\n", 403);
    // No success but a server's opens a tunnel.
    refused(&rig, "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nX-Ok: 1\r\n\r\n", 501);
    let mut client = rig.connect();
    client.send(CONNECT.as_bytes());
    let mut connection = server.accept();
    let head = connection.until("\r\n\r\n");
    assert!(head.starts_with("CONNECT a.test:443 HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains("\r\nhost: a.test:443\r\n") && head.contains("\r\nx-rule: 1\r\n"),
        "{head}"
    );
}

/// A tunnel's ends.
fn tunnel(rig: &Rig, server: &Server) -> (Client, Client) {
    let mut client = rig.connect();
    client.send(CONNECT.as_bytes());
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    connection.send(OPEN);
    client.until("\r\n\r\n");
    (client, connection)
}

#[test]
fn a_tunnel_is_one_of_the_servers_connections_and_ends_by_its_silence() {
    let server = Server::new();
    let backend = format!(
        "servers: {{s1: {{address: \"{}\", max_connections: 1}}}}, timeouts: {{queue: 200ms, server: 300ms}}",
        server.address
    );
    let rig = Rig::with("connect: true, timeouts: {tunnel: 1s}", &backend);
    let (mut client, _connection) = tunnel(&rig, &server);
    let answer = rig.exchange(CONNECT.as_bytes());
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("connection: close"),
        "{answer}"
    );
    let line = rig.logged("{queue_timeout}");
    assert!(line.contains(" sQ-- ") && line.contains("\"CONNECT "), "{line}");
    client.rest();
    let line = rig.logged("{tunnel_timeout}");
    assert!(line.contains(" cD-- "), "{line}");
    // The server is free again, takes it, and says nothing.
    let mut client = rig.connect();
    client.send(CONNECT.as_bytes());
    let _connection = server.accept();
    assert!(client.rest().starts_with("HTTP/1.1 504 "));
    let line = rig.logged(" sH-- ");
    assert!(line.contains("{server_timeout}"), "{line}");
}

#[test]
fn it_is_sent_once() {
    let server = Server::new();
    let rig = Rig::new(KEY, server.address);
    let mut client = rig.connect();
    client.send(CONNECT.as_bytes());
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    drop(connection);
    assert!(client.rest().starts_with("HTTP/1.1 502 "));
    let line = rig.logged("{response_missing}");
    assert!(line.contains(" SH-- ") && line.contains("/0 0/0 "), "{line}");
}

#[test]
fn a_server_that_is_down_is_passed_over() {
    let server = Server::new();
    let dead = free();
    let backend =
        format!("balance: first, servers: {{s1: \"{dead}\", s2: \"{}\"}}", server.address);
    let rig = Rig::with(KEY, &backend);
    let (client, connection) = tunnel(&rig, &server);
    drop((client, connection));
    let line = rig.logged(" app/s2 ");
    assert!(line.contains("/1 0/0 \"CONNECT"), "{line}");
}

#[test]
fn a_stream_of_http2_is_a_tunnel_too() {
    let server = Server::new();
    let rig = Rig::new(KEY, server.address);
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut sender = connect(rig.address).await;
        let far = thread::spawn(move || {
            let mut connection = server.accept();
            let head = connection.until("\r\n\r\n");
            connection.send(OPEN);
            assert_eq!(connection.take(4), "ping");
            connection.send(b"pong");
            assert_eq!(connection.rest(), "");
            drop(connection);
            let mut connection = server.accept();
            connection.until("\r\n\r\n");
            connection.send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
            head
        });
        let ask = || {
            let request = Request::builder().method(Method::CONNECT).uri("a.test:443");
            request.body(Fed(mpsc::channel(1).1)).expect("a good request")
        };
        let response = sender.send_request(ask()).await.expect("an answer");
        assert_eq!(response.status(), 200);
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.expect("it is open"));
        stream.write_all(b"ping").await.expect("bytes go");
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.expect("bytes come");
        assert_eq!(&bytes, b"pong");
        stream.shutdown().await.expect("it is finished");
        assert_eq!(stream.read(&mut bytes).await.expect("it ends"), 0);
        let response = sender.send_request(ask()).await.expect("an answer");
        assert_eq!(response.status(), 403);
        let head = far.join().expect("the server is content");
        assert_eq!(head, TABLE[0].1.replace("{F}", FORWARDED));
    });
    let line = rig.logged("\"CONNECT a.test:443 HTTP/2.0\"");
    assert!(line.contains(" 200 4 - - ---- "), "{line}");
}

#[test]
fn servers_of_http2_are_not_asked() {
    let backend = format!("protocol: http2, servers: {{s1: \"{}\"}}", free());
    let rig = Rig::with(KEY, &backend);
    refused(&rig, CONNECT, 501);
    rig.logged("{connect_to_http2}");
}

/// curl, tunnelling through the proxy and a tinyproxy behind it to a server of its own choice.
#[test]
fn curl_tunnels_through_a_pool_of_forward_proxies() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let far = free();
    let configuration = directory.path().join("tinyproxy.conf");
    let server = Server::new();
    let port = server.address.port();
    let text = format!(
        "Port {}\nListen 127.0.0.1\nAllow 127.0.0.1\nBasicAuth user secret\nConnectPort {port}\n",
        far.port()
    );
    fs::write(&configuration, text).expect("the directory is writable");
    server.answer(OK);
    let mut tinyproxy = Command::new("tinyproxy")
        .arg("-d")
        .arg("-c")
        .arg(&configuration)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("tinyproxy is installed");
    for _ in 0..PATIENCE.as_millis() / 10 {
        if TcpStream::connect(far).is_ok() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let rig = Rig::new(KEY, far);
    let curl = |user: &str, port: u16| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "--proxytunnel", "-w", "|%{http_connect}"]);
        command.args(["-x", &format!("http://{}", rig.address), "-U", user]);
        command.arg(format!("http://127.0.0.1:{port}/"));
        let output = command.output().expect("curl is installed");
        String::from_utf8(output.stdout).expect("curl's words are text")
    };
    assert_eq!(curl("user:secret", port), "ok|200");
    assert_eq!(curl("user:wrong", port), "|401");
    // Where the forward proxy does not let it go.
    assert_eq!(curl("user:secret", 1), "|403");
    tinyproxy.kill().and_then(|()| tinyproxy.wait()).expect("it ran");
    let line = rig.logged(" 200 ");
    let request = format!("\"CONNECT 127.0.0.1:{port} HTTP/1.1\"");
    assert!(line.contains(" ---- ") && line.ends_with(&request), "{line}");
}
