//! HTTP/2 on both sides, as gRPC uses it: streams both ways at once, trailers at the end.

use std::{convert::Infallible, net::SocketAddr, pin::Pin, thread, time::Duration};

use hyper::{
    Method, Request, Response,
    body::{Body, Bytes, Frame, Incoming},
    client::conn::http2,
    server::conn::http2 as server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime,
    sync::mpsc,
    time::timeout,
};

use crate::rig::{OK, PATIENCE, Rig, Server};

/// A body whose frames the test sends one by one.
struct Fed(mpsc::Receiver<Frame<Bytes>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

/// Sends every chunk back as it comes, and then a trailer with how many there were.
async fn echo(request: Request<Incoming>) -> Result<Response<Fed>, Infallible> {
    assert_eq!(
        request.uri().authority().map(hyper::http::uri::Authority::as_str),
        Some("grpc.example")
    );
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(request.headers()["x-forwarded-proto"], "http");
    let (sender, frames) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut body = request.into_body();
        let mut count = 0;
        while let Some(Ok(frame)) = next(&mut body).await {
            // How a stream ends may be a frame without bytes.
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                count += 1;
                if sender.send(Frame::data(data)).await.is_err() {
                    return;
                }
            }
        }
        let mut trailers = hyper::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("a value"));
        trailers.insert("x-count", count.to_string().parse().expect("a value"));
        // The client may have left.
        let _ = sender.send(Frame::trailers(trailers)).await;
    });
    Ok(Response::new(Fed(frames)))
}

async fn next(body: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
    let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
    timeout(PATIENCE, frame).await.expect("frames come")
}

/// A server of HTTP/2 by prior knowledge.
fn echo_server() -> SocketAddr {
    let (sender, address) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            sender.send(listener.local_addr().expect("it is bound")).expect("the test waits");
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(echo);
                let builder = server::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
    });
    address.recv_timeout(PATIENCE).expect("the server starts")
}

async fn connect(address: SocketAddr) -> http2::SendRequest<Fed> {
    let stream = tokio::net::TcpStream::connect(address).await.expect("the proxy listens");
    let io = TokioIo::new(stream);
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), io).await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    sender
}

fn call() -> (mpsc::Sender<Frame<Bytes>>, Request<Fed>) {
    let (sender, frames) = mpsc::channel(1);
    let request = Request::builder()
        .method(Method::POST)
        .uri("http://grpc.example/echo.Echo/Stream")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Fed(frames));
    (sender, request.expect("a good request"))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

#[test]
fn streams_go_both_ways_at_once_and_end_with_trailers() {
    let keys = format!("protocol: http2, servers: {{s1: \"{}\"}}", echo_server());
    let rig = Rig::with("", &keys);
    block_on(async {
        let mut sender = connect(rig.address).await;
        for _ in 0..3 {
            let (frames, request) = call();
            let response = sender.send_request(request).await.expect("an answer");
            assert_eq!(response.status(), 200);
            let mut body = response.into_body();
            for text in ["one", "two", "three"] {
                frames.send(Frame::data(Bytes::from(text))).await.expect("it is taken");
                // Before the next one is sent.
                let frame = next(&mut body).await.expect("a frame").expect("a good one");
                assert_eq!(frame.into_data().expect("data"), text);
            }
            drop(frames);
            let last = next(&mut body).await.expect("a frame").expect("a good one");
            let trailers = last.into_trailers().expect("trailers");
            assert_eq!(trailers["grpc-status"], "0");
            assert_eq!(trailers["x-count"], "3");
        }
    });
    let line = rig.logged("/echo.Echo/Stream HTTP/2.0");
    assert!(line.contains(" 200 11 - - ---- "), "{line}");
}

#[test]
fn many_streams_share_a_connection() {
    let keys = format!("protocol: http2, servers: {{s1: \"{}\"}}", echo_server());
    let rig = Rig::with("", &keys);
    block_on(async {
        let sender = connect(rig.address).await;
        let calls = (0..50).map(|number| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let (frames, request) = call();
                let text = format!("call {number}");
                frames.send(Frame::data(Bytes::from(text.clone()))).await.expect("room for one");
                drop(frames);
                let response = sender.send_request(request).await.expect("an answer");
                let mut body = response.into_body();
                let frame = next(&mut body).await.expect("a frame").expect("a good one");
                assert_eq!(frame.into_data().expect("data"), text);
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("the call succeeded");
        }
    });
}

#[test]
fn an_idle_connection_is_told_to_go() {
    let keys = format!("protocol: http2, servers: {{s1: \"{}\"}}", echo_server());
    let rig = Rig::with("timeouts: {keep_alive: 200ms, http_request: 200ms}", &keys);
    block_on(async {
        let sender = connect(rig.address).await;
        let closed = async {
            while !sender.is_closed() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, closed).await.expect("it is closed");
    });
}

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
