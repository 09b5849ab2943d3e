//! Servers of HTTP/2 that refuse streams, go away, or are started again.

use std::{
    io::Read,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use hyper::{
    Method, Request,
    body::{Bytes, Frame},
    server::conn::http2 as server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpListener,
    runtime,
    sync::{mpsc, watch},
};

use crate::{
    http2::{Fed, block_on, connect, echo, next},
    rig::{Client, PATIENCE, Rig, Server},
};

/// Frames of a server (RFC 9113, 6), on stream 1.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const OK: &[u8] = b"\0\0\x01\x01\x05\0\0\0\x01\x88";
const REFUSED: &[u8] = b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x07";
const CANCELLED: &[u8] = b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08";
/// The last stream that was looked at is none, or this one.
const GOES_BEFORE: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
const GOES_AFTER: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0";

/// Takes a whole request.
fn take_request(connection: &mut Client) {
    connection.send(SETTINGS);
    let mut preface = [0; 24];
    connection.0.read_exact(&mut preface).expect("a preface");
    loop {
        let mut head = [0; 9];
        connection.0.read_exact(&mut head).expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        connection.0.read_exact(&mut vec![0; length]).expect("a whole one");
        // DATA or HEADERS, and the end of the stream.
        if head[3] <= 1 && head[4] & 1 != 0 {
            return;
        }
    }
}

#[test]
fn what_a_server_says_it_has_not_looked_at_goes_over_another_connection() {
    let get = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned();
    let post = |length: usize| {
        let body = "x".repeat(length);
        format!(
            "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    for (request, says, is_sent_again) in [
        (get.clone(), REFUSED, true),
        (get, GOES_BEFORE, true),
        (post(5), REFUSED, true),
        (post(5), GOES_BEFORE, true),
        // It may have been looked at, or is not kept.
        (post(5), CANCELLED, false),
        (post(5), GOES_AFTER, false),
        (post(100_000), REFUSED, false),
    ] {
        let server = Server::new();
        let keys = format!("protocol: http2, servers: {{s1: \"{}\"}}", server.address);
        // A body larger than a window needs somebody who opens it.
        let is_large = request.len() > 65_000;
        let rig = Rig::with("", &keys);
        let mut client = rig.connect();
        client.send(request.as_bytes());
        let mut first = server.accept();
        if is_large {
            // The window of the stream and that of the connection.
            first.send(b"\0\0\x04\x08\0\0\0\0\0\0\x0f\0\0");
            first.send(b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\x0f\0\0");
        }
        take_request(&mut first);
        first.send(says);
        if says == GOES_AFTER {
            drop(first);
        }
        if is_sent_again {
            let mut second = server.accept();
            take_request(&mut second);
            second.send(OK);
            let answer = client.rest();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{request:.40} {says:?}: {answer}");
            assert!(rig.logged(" app/s1 ").contains("/1 0/0 "), "{}", rig.logged(" app/s1 "));
        } else {
            let answer = client.rest();
            assert!(answer.starts_with("HTTP/1.1 502 "), "{request:.40} {says:?}: {answer}");
        }
    }
}

/// A server of HTTP/2 at this address, until it is told to stop, which it does in good order.
fn serve(
    address: SocketAddr,
    mut stop: watch::Receiver<bool>,
) -> (SocketAddr, thread::JoinHandle<()>) {
    let (sender, bound) = std::sync::mpsc::channel();
    let running = thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let listener = TcpListener::bind(address).await.expect("a free port");
            sender.send(listener.local_addr().expect("it is bound")).expect("the test waits");
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection").0,
                    _ = stop.wait_for(|stop| *stop) => break,
                };
                let mut stop = stop.clone();
                connections.spawn(async move {
                    let builder = server::Builder::new(TokioExecutor::new());
                    let mut connection =
                        pin!(builder.serve_connection(TokioIo::new(stream), service_fn(echo)));
                    tokio::select! {
                        _ = connection.as_mut() => return,
                        _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
                    }
                    // A client that is gone is none of its concern.
                    let _ = connection.await;
                });
            }
            drop(listener);
            connections.join_all().await;
        });
    });
    (bound.recv_timeout(PATIENCE).expect("the server starts"), running)
}

#[test]
fn calls_go_on_while_their_server_is_started_again() {
    let (stop, stopped) = watch::channel(false);
    let (address, running) = serve("127.0.0.1:0".parse().expect("an address"), stopped);
    let keys = format!("protocol: http2, servers: {{s1: \"{address}\"}}");
    let rig = Rig::with("", &keys);
    let (done, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (done, calls, front) = (Arc::clone(&done), Arc::clone(&calls), rig.address);
            thread::spawn(move || {
                block_on(async {
                    let mut sender = connect(front).await;
                    while !done.load(Ordering::Relaxed) {
                        let (frames, body) = mpsc::channel(1);
                        let request = Request::builder()
                            .method(Method::POST)
                            .uri("http://grpc.example/echo.Echo/Unary")
                            .header("te", "trailers")
                            .body(Fed(body))
                            .expect("a good request");
                        frames.send(Frame::data(Bytes::from("call"))).await.expect("room for one");
                        drop(frames);
                        let response = sender.send_request(request).await.expect("an answer");
                        assert_eq!(response.status(), 200);
                        let mut body = response.into_body();
                        let data = next(&mut body).await.expect("a frame").expect("a good one");
                        assert_eq!(data.into_data().expect("data"), "call");
                        let last = next(&mut body).await.expect("a frame").expect("a good one");
                        assert_eq!(last.into_trailers().expect("trailers")["grpc-status"], "0");
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                });
            })
        })
        .collect();
    let more = |than: u32| {
        while calls.load(Ordering::Relaxed) < than
            && !clients.iter().any(thread::JoinHandle::is_finished)
        {
            thread::sleep(Duration::from_millis(5));
        }
    };
    more(50);
    stop.send(true).expect("it runs");
    running.join().expect("it stopped in good order");
    let (stop, stopped) = watch::channel(false);
    let (_, running) = serve(address, stopped);
    let before = calls.load(Ordering::Relaxed);
    more(before + 50);
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no call failed");
    }
    drop(rig);
    stop.send(true).expect("it runs");
    running.join().expect("it stopped in good order");
}
