//! WebSockets on streams of HTTP/2 (RFC 8441), on either side of the proxy.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::mpsc as std_mpsc,
    thread,
    time::{Duration, Instant},
};

use hyper::{
    Method, Request, Response, body::Incoming, client::conn::http2, server::conn::http2 as server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime,
    sync::mpsc,
};

use crate::{
    http2::{Fed, connect, listen, next},
    rig::{OK, PATIENCE, Rig, Server},
};

/// An upgrade as a stream asks for it.
fn connect_websocket() -> Request<Fed> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://a.test/ws?x=1")
        .header("sec-websocket-version", "13")
        .body(Fed(mpsc::channel(1).1))
        .expect("a good request");
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    request
}

/// A client that knows the proxy's settings.
async fn acquainted(rig: &Rig, server: &Server) -> http2::SendRequest<Fed> {
    let mut sender = connect(rig.address).await;
    let get = Request::builder().uri("http://a.test/").body(Fed(mpsc::channel(1).1));
    let request = sender.send_request(get.expect("a good request"));
    let answer = tokio::spawn(request);
    let mut connection = tokio::task::block_in_place(|| server.accept());
    connection.until("\r\n\r\n");
    connection.send(OK.as_bytes());
    let answer = answer.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    while next(&mut body).await.is_some() {}
    sender
}

#[test]
fn a_websocket_on_a_stream_is_an_upgrade_for_the_server() {
    let server = Server::new();
    let rule = "rules: [{if: {websocket: true, method: GET}, set_request_header: {X-Ws: \"1\"}}]";
    let rig = Rig::new(rule, server.address);
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut sender = acquainted(&rig, &server).await;
        let far = thread::spawn(move || {
            let mut connection = server.accept();
            let head = connection.until("\r\n\r\n");
            connection.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                  Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\
                  Sec-WebSocket-Protocol: chat\r\n\r\nhello",
            );
            assert_eq!(connection.take(4), "ping");
            connection.send(b"pong");
            // Until the client has finished.
            assert_eq!(connection.rest(), "");
            head
        });
        let response = sender.send_request(connect_websocket()).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        for name in ["sec-websocket-accept", "upgrade", "connection"] {
            assert!(!response.headers().contains_key(name), "{name}");
        }
        let stream = hyper::upgrade::on(response).await.expect("it is open");
        let mut stream = TokioIo::new(stream);
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.expect("bytes come");
        assert_eq!(&bytes, b"hello");
        stream.write_all(b"ping").await.expect("bytes go");
        stream.read_exact(&mut bytes[..4]).await.expect("bytes come");
        assert_eq!(&bytes[..4], b"pong");
        stream.shutdown().await.expect("it is finished");
        // Before that a client that goes breaks off.
        assert_eq!(stream.read(&mut bytes).await.expect("the server has finished, too"), 0);
        let head = far.join().expect("the server is content");
        assert!(head.starts_with("GET /ws?x=1 HTTP/1.1\r\n"), "{head}");
        for field in ["host: a.test", "connection: upgrade", "upgrade: websocket", "x-ws: 1"] {
            assert!(head.contains(&format!("\r\n{field}\r\n")), "{field}: {head}");
        }
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
        assert_eq!(key.map(str::len), Some(24), "{head}");
    });
    let line = rig.logged("\"CONNECT ");
    assert!(line.contains(" 200 9 - - ---- "), "{line}");
}

#[test]
fn a_websocket_that_the_server_does_not_want_is_not_open() {
    for (answer, status) in
        [(OK, 502), ("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", 403)]
    {
        let server = Server::new();
        let rig = Rig::new("", server.address);
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut sender = acquainted(&rig, &server).await;
            let far = thread::spawn(move || {
                let mut connection = server.accept();
                connection.until("\r\n\r\n");
                connection.send(answer.as_bytes());
            });
            let response = sender.send_request(connect_websocket()).await.expect("an answer");
            assert_eq!(response.status(), status);
            far.join().expect("the server is content");
            let mut other = connect_websocket();
            other.extensions_mut().insert(hyper::ext::Protocol::from_static("connect-udp"));
            let response = sender.send_request(other).await.expect("an answer");
            assert_eq!(response.status(), 501);
        });
    }
}

/// A server of HTTP/2 that agrees on every WebSocket and sends back what comes, or, if it does
/// not say that it takes them, answers everything with 200. What it was asked is received.
fn websocket_server(takes_them: bool) -> (SocketAddr, std_mpsc::Receiver<Request<()>>) {
    let (asked, requests) = std_mpsc::channel();
    let address = listen(move |stream| {
        let asked = asked.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let asked = asked.clone();
            async move {
                let stream = hyper::upgrade::on(&mut request);
                let is_websocket = request.method() == Method::CONNECT;
                // Once the test is over nobody wants to know.
                let _ = asked.send(request.map(drop));
                if is_websocket {
                    tokio::spawn(async move {
                        let stream = stream.await.expect("it was agreed on");
                        let (mut from, mut to) = tokio::io::split(TokioIo::new(stream));
                        tokio::io::copy(&mut from, &mut to).await.expect("bytes go back");
                        to.shutdown().await.expect("it is finished");
                    });
                }
                let mut response = Response::new(Fed(mpsc::channel(1).1));
                let chat = "chat".parse().expect("a value");
                response.headers_mut().insert("sec-websocket-protocol", chat);
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = server::Builder::new(TokioExecutor::new());
        if takes_them {
            builder.enable_connect_protocol();
        }
        tokio::spawn(builder.serve_connection(stream, service));
    });
    (address, requests)
}

const UPGRADE: &str = "GET /ws?x=1 HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn a_server_of_http2_is_asked_on_a_stream_for_what_a_client_asks_by_upgrade() {
    let (address, requests) = websocket_server(true);
    let rig = Rig::with("", &format!("protocol: http2, servers: {{s1: \"{address}\"}}"));
    for _ in 0..2 {
        let mut client = rig.connect();
        client.send(UPGRADE.as_bytes());
        let head = client.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        for field in [
            "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            "sec-websocket-protocol: chat",
            "connection: upgrade",
            "upgrade: websocket",
        ] {
            assert!(head.contains(&format!("\r\n{field}\r\n")), "{field}: {head}");
        }
        client.send(b"ping");
        assert_eq!(client.take(4), "ping");
        client.0.shutdown(std::net::Shutdown::Write).expect("a socket");
        assert_eq!(client.rest(), "");
        let asked = requests.recv_timeout(PATIENCE).expect("it was asked");
        assert_eq!(asked.uri(), "http://a.test/ws?x=1");
        let protocol = asked.extensions().get::<hyper::ext::Protocol>();
        assert_eq!(protocol.map(hyper::ext::Protocol::as_str), Some("websocket"));
        assert_eq!(asked.headers()["sec-websocket-version"], "13");
        for name in ["sec-websocket-key", "connection", "upgrade"] {
            assert!(!asked.headers().contains_key(name), "{name}");
        }
    }
    let line = rig.logged(" 101 4 - - ");
    assert!(line.contains(" ---- "), "{line}");
}

#[test]
fn a_websocket_is_a_stream_on_both_sides() {
    let (address, requests) = websocket_server(true);
    let rig = Rig::with("", &format!("protocol: http2, servers: {{s1: \"{address}\"}}"));
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut sender = connect(rig.address).await;
        let get = Request::builder().uri("http://a.test/").body(Fed(mpsc::channel(1).1));
        let answer = sender.send_request(get.expect("a good request")).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let response = sender.send_request(connect_websocket()).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        assert!(!response.headers().contains_key("sec-websocket-accept"));
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.expect("it is open"));
        stream.write_all(b"ping").await.expect("bytes go");
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.expect("bytes come");
        assert_eq!(&bytes, b"ping");
        stream.shutdown().await.expect("it is finished");
        assert_eq!(stream.read(&mut bytes).await.expect("it ends"), 0);
    });
    assert_eq!(requests.iter().take(2).last().expect("two").method(), Method::CONNECT);
}

#[test]
fn a_server_of_http2_that_takes_no_websockets_is_not_asked() {
    let (address, requests) = websocket_server(false);
    let rig = Rig::with("", &format!("protocol: http2, servers: {{s1: \"{address}\"}}"));
    let answer = rig
        .exchange(UPGRADE.replace("Connection: Upgrade", "Connection: Upgrade, close").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
    rig.logged("{websocket_to_http2}");
    assert!(requests.try_recv().is_err());
}

#[test]
fn a_server_of_http2_that_takes_no_websockets_says_so_at_once() {
    let (address, _requests) = websocket_server(false);
    let took = (0..3).map(|_| {
        // With a connection of its own.
        let rig = Rig::with("", &format!("protocol: http2, servers: {{s1: \"{address}\"}}"));
        let began = Instant::now();
        let mut client = rig.connect();
        client.send(UPGRADE.as_bytes());
        assert!(client.until("\r\n\r\n").starts_with("HTTP/1.1 501 "));
        began.elapsed()
    });
    // The machine may be busy, but not each time for as long as settings are waited for.
    assert!(took.min().is_some_and(|least| least < Duration::from_millis(500)));
}
