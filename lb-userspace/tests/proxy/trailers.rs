//! Trailers, from either version of HTTP to either, in both directions. Over HTTP/1.1 those go
//! that `Trailer` announces, to clients that say `TE: trailers`.

use std::{convert::Infallible, net::SocketAddr, sync::mpsc as std_mpsc, thread};

use hyper::{
    HeaderMap, Method, Request, Response,
    body::{Bytes, Frame, Incoming},
    header::{HeaderName, HeaderValue},
    server::conn::http2 as server,
    service::service_fn,
};
use hyper_util::rt::TokioExecutor;
use tokio::{runtime, sync::mpsc};

use crate::{
    http2::{Fed, connect, listen, next},
    rig::{PATIENCE, Rig, Server},
};

/// What is in a body, and behind it.
type Whole = (Vec<u8>, Vec<(String, String)>);

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |&(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    pairs.iter().map(field).collect()
}

async fn whole(body: &mut Incoming) -> Whole {
    let (mut bytes, mut trailers) = (Vec::new(), Vec::new());
    while let Some(frame) = next(body).await {
        match frame.expect("it does not break off").into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => {
                let text = |(name, value): (&HeaderName, &HeaderValue)| {
                    (name.to_string(), value.to_str().expect("text").to_owned())
                };
                trailers.extend(frame.trailers_ref().expect("trailers").iter().map(text));
            }
        }
    }
    (bytes, trailers)
}

fn sum() -> Vec<(String, String)> {
    vec![("x-sum".into(), "7".into())]
}

fn end() -> Vec<(String, String)> {
    vec![("x-end".into(), "1".into())]
}

/// `abc` and a trailer, and one that must not get through, as a request of HTTP/2.
async fn ask(rig: &Rig) -> Whole {
    let mut sender = connect(rig.address).await;
    let (frames, body) = mpsc::channel(2);
    frames.send(Frame::data(Bytes::from_static(b"abc"))).await.expect("there is room");
    let trailers = fields(&[("x-sum", "7"), ("x-forwarded-for", "1.1.1.1")]);
    frames.send(Frame::trailers(trailers)).await.expect("there is room");
    drop(frames);
    let request = Request::builder()
        .method(Method::POST)
        .uri("http://a/")
        .header("te", "trailers")
        .header("trailer", "x-sum");
    let request = request.body(Fed(body)).expect("a good request");
    let response = sender.send_request(request).await.expect("an answer");
    whole(&mut response.into_body()).await
}

/// A server of HTTP/2 that answers `ok` and a trailer, and one that must not get through, and
/// tells what it got.
fn answering() -> (SocketAddr, std_mpsc::Receiver<Whole>) {
    let (told, got) = std_mpsc::channel();
    let address = listen(move |stream| {
        let told = told.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let told = told.clone();
            async move {
                // Once the test is over nobody wants to know.
                let _ = told.send(whole(&mut request.into_body()).await);
                let (frames, body) = mpsc::channel(2);
                let data = Frame::data(Bytes::from_static(b"ok"));
                frames.send(data).await.expect("there is room");
                let trailers = fields(&[("x-end", "1"), ("set-cookie", "a=b")]);
                frames.send(Frame::trailers(trailers)).await.expect("there is room");
                let mut response = Response::new(Fed(body));
                response.headers_mut().extend(fields(&[("trailer", "x-end")]));
                Ok::<_, Infallible>(response)
            }
        });
        let builder = server::Builder::new(TokioExecutor::new());
        tokio::spawn(builder.serve_connection(stream, service));
    });
    (address, got)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

#[test]
fn from_http2_to_http1_and_back() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let far = thread::spawn(move || {
        let mut connection = server.accept();
        let head = connection.until("\r\n\r\n");
        assert!(head.contains("\r\nte: trailers\r\n"), "{head}");
        assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
        assert_eq!(connection.until("x-sum: 7\r\n\r\n"), "3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n");
        // Clients of HTTP/2 need not be told which will come.
        connection.send(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
              2\r\nok\r\n0\r\nx-end: 1\r\nset-cookie: a=b\r\n\r\n",
        );
        connection
    });
    assert_eq!(block_on(ask(&rig)), (b"ok".to_vec(), end()));
    far.join().expect("the server is content");
}

const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: x-sum\r\n\
                      Transfer-Encoding: chunked\r\n\r\n\
                      3\r\nabc\r\n0\r\nx-sum: 7\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n";

#[test]
fn from_http1_to_http2_and_back() {
    let (address, got) = answering();
    let rig = Rig::with("", &format!("protocol: http2, servers: {{s1: \"{address}\"}}"));
    let mut client = rig.connect();
    client.send(POST);
    let head = client.until("\r\n\r\n");
    assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
    assert_eq!(client.until("x-end: 1\r\n\r\n"), "2\r\nok\r\n0\r\nx-end: 1\r\n\r\n");
    assert_eq!(got.recv_timeout(PATIENCE).expect("it was asked"), (b"abc".to_vec(), sum()));
}

#[test]
fn from_http2_to_http2_and_back() {
    let (address, got) = answering();
    let rig = Rig::with("", &format!("protocol: http2, servers: {{s1: \"{address}\"}}"));
    assert_eq!(block_on(ask(&rig)), (b"ok".to_vec(), end()));
    assert_eq!(got.recv_timeout(PATIENCE).expect("it was asked"), (b"abc".to_vec(), sum()));
}

#[test]
fn from_http1_to_http1_and_back() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let mut client = rig.connect();
    client.send(POST);
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    assert_eq!(connection.until("x-sum: 7\r\n\r\n"), "3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n");
    connection.send(
        b"HTTP/1.1 200 OK\r\ntrailer: x-end\r\ntransfer-encoding: chunked\r\n\r\n\
          2\r\nok\r\n0\r\nx-end: 1\r\nset-cookie: a=b\r\n\r\n",
    );
    client.until("\r\n\r\n");
    assert_eq!(client.until("x-end: 1\r\n\r\n"), "2\r\nok\r\n0\r\nx-end: 1\r\n\r\n");
}
