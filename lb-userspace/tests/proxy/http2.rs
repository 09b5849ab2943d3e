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
    net::{TcpListener, TcpStream},
    runtime,
    sync::mpsc,
    time::timeout,
};

use crate::rig::{PATIENCE, Rig};

/// A body whose frames the test sends one by one.
pub(crate) struct Fed(pub(crate) mpsc::Receiver<Frame<Bytes>>);

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
pub(crate) async fn echo(request: Request<Incoming>) -> Result<Response<Fed>, Infallible> {
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

pub(crate) async fn next(body: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
    let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
    timeout(PATIENCE, frame).await.expect("frames come")
}

/// A server of HTTP/2 by prior knowledge, which has every connection served by `serve`, in its own
/// runtime.
pub(crate) fn listen(serve: impl Fn(TokioIo<TcpStream>) + Send + 'static) -> SocketAddr {
    let (sender, address) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            sender.send(listener.local_addr().expect("it is bound")).expect("the test waits");
            while let Ok((stream, _)) = listener.accept().await {
                serve(TokioIo::new(stream));
            }
        });
    });
    address.recv_timeout(PATIENCE).expect("the server starts")
}

fn echo_server() -> SocketAddr {
    listen(|stream| {
        let builder = server::Builder::new(TokioExecutor::new());
        tokio::spawn(builder.serve_connection(stream, service_fn(echo)));
    })
}

pub(crate) async fn connect(address: SocketAddr) -> http2::SendRequest<Fed> {
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

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
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
