//! Connections of one worker to servers: made, lent to requests, kept for later ones.
//!
//! A connection is kept once a response has come in full and nothing else has: hyper gives
//! up one on which a server says more than it was asked, and one it gave up is not lent.
//! The last one kept is the first one lent, so that a quiet server's connections age and
//! go. One that began with a PROXY header is its client's, and is neither kept nor shared.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::poll_fn,
    io,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::oneshot, task};

use super::{
    executor::LocalExecutor,
    http::body::RequestBody,
    plan::BackendPlan,
    proxy_protocol::{self, Facts},
    server_io::{Awaited, ServerIo},
    socket::Socket,
    stream::Stream,
    timer::{Deadline, coarse_now},
    tls::{encryption::Encryption, error::HandshakeError},
};
use crate::{
    balance::Member,
    model::backend::{IdleConnections, SendProxy, ServerProtocol},
};

/// Most bytes in the header of a response; of fields hyper takes 100.
const MAX_RESPONSE_HEADER: u32 = 64 * 1024;

/// The connections of one worker that no request has.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    /// By [`Member::id`], which no other server ever has.
    idle: RefCell<HashMap<u64, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    handover: Handover,
    /// The TLS it was made with: another configuration does not get it.
    encryption: Option<Arc<Encryption>>,
    since: Instant,
    timeout: Duration,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    /// Shared by all requests of the worker to this server.
    Http2(http2::SendRequest<RequestBody>),
}

/// What the requests of a connection have in common with its task.
#[derive(Clone, Debug, Default)]
struct Handover {
    /// Whom to give the stream to if the server changes the protocol.
    to: Rc<RefCell<Option<oneshot::Sender<Tunnel>>>>,
    awaited: Awaited,
}

/// The stream of a server that has changed the protocol, and what it has sent already.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) stream: Stream,
    pub(crate) first: Bytes,
}

/// A connection that a request has.
#[derive(Debug)]
pub(crate) struct Checkout {
    sender: Sender,
    handover: Handover,
    upstreams: Rc<Upstreams>,
    encryption: Option<Arc<Encryption>>,
    server: u64,
    keep: IdleConnections,
    /// Other clients may have it.
    is_shared: bool,
    /// How long it had been idle; none if it is new.
    idle: Option<Duration>,
}

/// Why there is no connection to a server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the server can not be connected to")]
    Refused(#[source] io::Error),
    #[error("the server did not answer in time")]
    Timeout,
    #[error("TLS with the server")]
    Tls(#[from] HandshakeError),
    #[error("the server does not speak HTTP/2 over TLS")]
    NoHttp2,
    #[error("the server does not speak HTTP")]
    Handshake(#[source] hyper::Error),
}

impl ConnectError {
    /// In a word, for the log.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Refused(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "connect_refused"
            }
            Self::Refused(_) => "connect_failed",
            Self::Timeout => "connect_timeout",
            Self::Tls(error) => error.server_reason(),
            Self::NoHttp2 => "server_tls_no_http2",
            Self::Handshake(_) => "connect_handshake",
        }
    }
}

impl Upstreams {
    /// A connection that was kept, if there is one.
    pub(crate) fn reuse(
        self: &Rc<Self>,
        member: &Member,
        backend: &BackendPlan,
    ) -> Option<Checkout> {
        let mut all = self.idle.borrow_mut();
        let kept = all.get_mut(&member.id())?;
        while let Some(idle) = kept.pop() {
            if !idle.is_usable(backend) {
                continue;
            }
            if let Sender::Http2(shared) = &idle.sender {
                let sender = Sender::Http2(shared.clone());
                let handover = idle.handover.clone();
                kept.push(Idle { since: coarse_now(), ..idle });
                return Some(self.lend(member, backend, sender, handover, Some(Duration::ZERO)));
            }
            let age = coarse_now().saturating_duration_since(idle.since);
            return Some(self.lend(member, backend, idle.sender, idle.handover, Some(age)));
        }
        None
    }

    /// A new connection, unless it takes longer than `after`; TLS has its own limit.
    /// `client` is who servers are told of, where they are told.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        member: &Member,
        backend: &BackendPlan,
        client: &Facts<'_>,
        after: Duration,
    ) -> Result<Checkout, ConnectError> {
        let stream = open(member, backend, client, after).await?;
        let handover = Handover::default();
        let sender = match backend.settings.protocol {
            ServerProtocol::Http1 => http1_connection(stream, &handover).await,
            ServerProtocol::Http2 => http2_connection(stream).await,
        };
        let sender = sender.map_err(ConnectError::Handshake)?;
        let checkout = self.lend(member, backend, sender, handover, None);
        if let Sender::Http2(shared) = &checkout.sender
            && checkout.is_shared
        {
            let shared = Sender::Http2(shared.clone());
            let handover = checkout.handover.clone();
            let encryption = checkout.encryption.clone();
            self.keep(member.id(), &checkout.keep, shared, handover, encryption);
        }
        Ok(checkout)
    }

    /// Closes connections that have been idle for too long, or were given up.
    pub(crate) fn evict(&self) {
        let now = coarse_now();
        self.idle.borrow_mut().retain(|_, kept| {
            kept.retain(|idle| {
                !idle.is_closed() && now.saturating_duration_since(idle.since) < idle.timeout
            });
            !kept.is_empty()
        });
    }

    fn keep(
        &self,
        server: u64,
        limits: &IdleConnections,
        sender: Sender,
        handover: Handover,
        encryption: Option<Arc<Encryption>>,
    ) {
        let mut all = self.idle.borrow_mut();
        let kept = all.entry(server).or_default();
        if kept.len() < limits.most as usize {
            let (since, timeout) = (coarse_now(), limits.timeout);
            kept.push(Idle { sender, handover, encryption, since, timeout });
        }
    }

    fn lend(
        self: &Rc<Self>,
        member: &Member,
        backend: &BackendPlan,
        sender: Sender,
        handover: Handover,
        idle: Option<Duration>,
    ) -> Checkout {
        Checkout {
            sender,
            handover,
            upstreams: Rc::clone(self),
            encryption: backend.encryption.clone(),
            server: member.id(),
            keep: backend.settings.idle,
            is_shared: backend.settings.send_proxy.is_none(),
            idle,
        }
    }
}

impl Idle {
    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Whether a request to `backend` can have it now.
    fn is_usable(&self, backend: &BackendPlan) -> bool {
        let settings = &backend.settings;
        let is_same = match (&self.encryption, &backend.encryption) {
            (None, None) => true,
            (Some(own), Some(wanted)) => Arc::ptr_eq(own, wanted),
            _ => false,
        };
        let is_ready = match (&self.sender, settings.protocol) {
            (Sender::Http1(sender), ServerProtocol::Http1) => sender.is_ready(),
            (Sender::Http2(sender), ServerProtocol::Http2) => sender.is_ready(),
            _ => false,
        };
        is_same && is_ready && settings.send_proxy.is_none()
    }
}

impl Checkout {
    /// How long it had been idle; none if it is new.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.idle
    }

    /// Sends a request and waits for the header of its response. A request that was not
    /// sent is in the error.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                self.handover.awaited.begin();
                let response = sender.try_send_request(request).await;
                self.handover.awaited.end();
                response
            }
            Sender::Http2(sender) => sender.try_send_request(request).await,
        }
    }

    /// The response has come in full: the connection is there for others.
    pub(crate) fn give_back(self) {
        let Self { sender, handover, upstreams, encryption, server, keep, is_shared, .. } = self;
        if let Sender::Http1(kept) = &sender
            && is_shared
            && !kept.is_closed()
        {
            handover.to.take();
            upstreams.keep(server, &keep, sender, handover, encryption);
        }
    }

    /// The stream, once the server has changed the protocol.
    pub(crate) fn tunnel(&self) -> oneshot::Receiver<Tunnel> {
        let (sender, receiver) = oneshot::channel();
        *self.handover.to.borrow_mut() = Some(sender);
        receiver
    }
}

/// A connection that is ready for HTTP: the client is introduced, TLS is there.
async fn open(
    member: &Member,
    backend: &BackendPlan,
    client: &Facts<'_>,
    after: Duration,
) -> Result<Stream, ConnectError> {
    let begin = async {
        let mut socket = Socket::Tcp(TcpStream::connect(member.address()).await?);
        socket.tune()?;
        if let Some(version) = backend.settings.send_proxy {
            socket.write_all(&introduction(version, client)).await?;
        }
        Ok(socket)
    };
    let begun = within(after, begin).await.ok_or(ConnectError::Timeout)?;
    let socket = begun.map_err(ConnectError::Refused)?;
    let Some(encryption) = &backend.encryption else { return Ok(Stream::Plain(socket)) };
    let protocol: &[u8] = match backend.settings.protocol {
        ServerProtocol::Http1 => b"http/1.1",
        ServerProtocol::Http2 => b"h2",
    };
    let tls = encryption.connect(socket, member.address().ip(), &[protocol]).await?;
    // Over TLS it is ALPN that makes it HTTP/2 (RFC 9113, 3.2).
    if backend.settings.protocol == ServerProtocol::Http2
        && tls.get_ref().1.alpn_protocol() != Some(protocol)
    {
        return Err(ConnectError::NoHttp2);
    }
    Ok(Stream::Server(Box::new(tls)))
}

/// The PROXY header for a connection that one client has.
fn introduction(version: SendProxy, client: &Facts<'_>) -> Vec<u8> {
    let wants_id = matches!(version, SendProxy::V2(tlvs) if tlvs.unique_id);
    let id = wants_id.then(|| format!("{:016x}", fastrand::u64(..)));
    proxy_protocol::encode(version, &Facts { unique_id: id.as_deref(), ..*client })
}

async fn http1_connection(stream: Stream, handover: &Handover) -> hyper::Result<Sender> {
    let io = ServerIo::new(stream, handover.awaited.clone());
    let (sender, mut connection) = http1::Builder::new()
        .max_header_size(MAX_RESPONSE_HEADER as usize)
        .handshake(TokioIo::new(io))
        .await?;
    let to = Rc::clone(&handover.to);
    task::spawn_local(async move {
        let ended = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        // Errors are those of the request that had it.
        let give = to.borrow_mut().take().filter(|_| ended.is_ok());
        if let Some(give) = give {
            let parts = connection.into_parts();
            let tunnel =
                Tunnel { stream: parts.io.into_inner().into_stream(), first: parts.read_buf };
            // The client may have left.
            let _ = give.send(tunnel);
        }
    });
    Ok(Sender::Http1(sender))
}

async fn http2_connection(stream: Stream) -> hyper::Result<Sender> {
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .max_header_list_size(MAX_RESPONSE_HEADER)
        .adaptive_window(true)
        .handshake(TokioIo::new(stream))
        .await?;
    task::spawn_local(async move {
        // Errors are those of the requests on it.
        let _ = connection.await;
    });
    Ok(Sender::Http2(sender))
}

/// What `future` gives, unless it takes too long.
pub(crate) async fn within<T>(after: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let deadline = Deadline::default();
    deadline.set(after);
    poll_fn(|cx: &mut Context<'_>| {
        if let Poll::Ready(done) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        deadline.poll(cx).map(|()| None)
    })
    .await
}
