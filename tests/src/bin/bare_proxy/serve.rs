//! A client's connection, and the way of its requests.

use std::{cell::RefCell, net::SocketAddr};

use anyhow::Result;
use hyper::{
    Request, Response, Version,
    body::Incoming,
    client::conn::http1::{self as client, SendRequest},
    header::{CONNECTION, HOST, HeaderName, HeaderValue},
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task,
};
use tokio_rustls::TlsAcceptor;

use crate::body::Relayed;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

thread_local! {
    /// Connections to the server that no request has.
    static POOL: RefCell<Vec<SendRequest<Incoming>>> = const { RefCell::new(Vec::new()) };
}

/// The response has come in full.
pub(crate) fn keep(connection: SendRequest<Incoming>) {
    POOL.with_borrow_mut(|pool| pool.push(connection));
}

/// Serves a client, encrypted if there is an acceptor.
pub(crate) fn spawn(
    socket: TcpStream,
    client: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    server: SocketAddr,
) {
    task::spawn_local(async move {
        // What goes wrong with a client ends its connection, and the load counts it.
        let _ = match acceptor {
            None => connection(socket, false, client, server).await,
            Some(acceptor) => match acceptor.accept(socket).await {
                Ok(stream) => {
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    connection(stream, is_http2, client, server).await
                }
                Err(_) => Ok(()),
            },
        };
    });
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    is_http2: bool,
    client: SocketAddr,
    server: SocketAddr,
) -> hyper::Result<()> {
    let client = HeaderValue::try_from(client.ip().to_string()).ok();
    let io = TokioIo::new(stream);
    let service = service_fn(move |request| forward(request, client.clone(), server));
    if is_http2 {
        http2::Builder::new(Local).serve_connection(io, service).await
    } else {
        http1::Builder::new().header_read_timeout(None).serve_connection(io, service).await
    }
}

async fn forward(
    mut request: Request<Incoming>,
    client: Option<HeaderValue>,
    server: SocketAddr,
) -> Result<Response<Relayed>> {
    let authority = request.uri().authority().map(|host| HeaderValue::from_str(host.as_str()));
    if let Some(host) = authority.transpose()? {
        request.headers_mut().insert(HOST, host);
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        *request.uri_mut() = target.parse()?;
    }
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().remove(CONNECTION);
    if let Some(client) = client {
        request.headers_mut().insert(X_FORWARDED_FOR, client);
    }
    let mut connection = match kept() {
        Some(kept) => kept,
        None => connect(server).await?,
    };
    let (mut parts, body) = connection.send_request(request).await?.into_parts();
    parts.version = Version::HTTP_11;
    parts.headers.remove(CONNECTION);
    Ok(Response::from_parts(parts, Relayed::new(body, connection)))
}

fn kept() -> Option<SendRequest<Incoming>> {
    POOL.with_borrow_mut(|pool| {
        while let Some(connection) = pool.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    })
}

async fn connect(server: SocketAddr) -> Result<SendRequest<Incoming>> {
    let socket = TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    let (sender, connection) = client::handshake(TokioIo::new(socket)).await?;
    task::spawn_local(async move {
        // The request that has it is told.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Runs tasks of HTTP/2 on this thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        task::spawn_local(future);
    }
}
