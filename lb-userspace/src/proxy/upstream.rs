//! Connections of one worker to servers: made, lent to requests, kept for later ones.
//!
//! A connection is kept once a response has come in full and nothing else has: hyper gives
//! up one on which a server says more than it was asked, and one it gave up is not lent.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::{Rc, Weak},
    time::Duration,
};

use futures_util::future::Either;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, sync::oneshot, task};

use super::{
    far_end::{FarEnd, Tunnel},
    http::body::RequestBody,
    kept::{Idle, Kept, Lent, Owner, Owning},
    link::{Handover, Link, Sender},
    outcome::{Cause, Outcome, Phase},
    plan::BackendPlan,
    proxy_protocol::{self, Facts},
    server_io::ServerIo,
    settings::UNTOLD_STREAMS,
    socket::Socket,
    stream::Stream,
    timer::{coarse_now, within},
    tls::error::HandshakeError,
};
use crate::{
    balance::Member,
    model::backend::{IdleConnections, SendProxy, ServerProtocol},
};

/// Most bytes in the header of a response; of fields hyper takes 100.
const MAX_RESPONSE_HEADER: u32 = 64 * 1024;

/// The connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    pub(super) kept: Kept,
}

/// How a connection begins, where servers are told of their clients by the PROXY protocol.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    header: Rc<[u8]>,
    /// It names the connection: there are no two of it.
    is_unique: bool,
    /// The client's connection, which alone may have it again, and for as long as it lasts.
    owner: Weak<Owning>,
}

/// A connection that a request has.
#[derive(Debug)]
pub(crate) struct Checkout {
    link: Box<Link>,
    upstreams: Rc<Upstreams>,
    server: u64,
    limits: IdleConnections,
    introduction: Option<Introduction>,
    /// How long it had been idle; none if it is new.
    idle: Option<Duration>,
}

/// Waiting for the header of a response.
pub(crate) trait Sending:
    Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>
{
}

impl<F> Sending for F where
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>
{
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
    /// What a request comes to that has no other way.
    pub(crate) fn outcome(&self) -> Outcome {
        let connect = Phase::Connect;
        match self {
            Self::Refused(error) => Outcome::not_connected(error),
            Self::Timeout => Outcome::new(Cause::ServerTimeout, connect, "connect_timeout"),
            Self::Tls(error) => error.of_server(),
            Self::NoHttp2 => Outcome::new(Cause::Server, connect, "server_tls_no_http2"),
            Self::Handshake(_) => Outcome::new(Cause::Server, connect, "connect_handshake"),
        }
    }
}

impl Upstreams {
    /// A connection that was kept, if there is one; of those that began with an introduction,
    /// one with the same and of the same owner.
    pub(crate) fn reuse(
        self: &Rc<Self>,
        member: &Member,
        backend: &BackendPlan,
        introduction: Option<&Introduction>,
    ) -> Option<Checkout> {
        let Lent { link, idle } = match introduction {
            Some(it) if it.is_unique => return None,
            Some(it) => {
                let owner = it.owner.upgrade()?;
                self.kept.take(member.id(), backend, Some((&owner, &it.header)))?
            }
            None => self.kept.take(member.id(), backend, None)?,
        };
        let introduction = introduction.cloned();
        Some(self.lend(member, backend, link, introduction, Some(idle)))
    }

    /// A new connection, unless it takes longer than `after`; TLS has its own limit.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        member: &Member,
        backend: &BackendPlan,
        introduction: Option<Introduction>,
        after: Duration,
    ) -> Result<Checkout, ConnectError> {
        let stream = open(member, backend, introduction.as_ref(), after).await?;
        let handover = Handover::default();
        let sender = match backend.settings.protocol {
            ServerProtocol::Http1 => http1_connection(stream, &handover).await,
            ServerProtocol::Http2 => http2_connection(stream, &handover).await,
        };
        let sender = sender.map_err(ConnectError::Handshake)?;
        let link = Box::new(Link { sender, handover, encryption: backend.encryption.clone() });
        if let Some(shared) = link.shared() {
            self.lend(member, backend, shared, introduction.clone(), None).keep();
        }
        Ok(self.lend(member, backend, link, introduction, None))
    }

    /// Closes connections that have been idle for too long, or were given up.
    pub(crate) fn evict(&self) {
        self.kept.evict();
    }

    fn lend(
        self: &Rc<Self>,
        member: &Member,
        backend: &BackendPlan,
        link: Box<Link>,
        introduction: Option<Introduction>,
        idle: Option<Duration>,
    ) -> Checkout {
        Checkout {
            link,
            upstreams: Rc::clone(self),
            server: member.id(),
            limits: backend.settings.idle,
            introduction,
            idle,
        }
    }
}

impl Introduction {
    /// That of a client to servers of `backend`; none where they are not told. `owner` is the
    /// connection that it came on.
    pub(crate) fn of(
        backend: &BackendPlan,
        client: &Facts<'_>,
        owner: &Owner,
        upstreams: &Rc<Upstreams>,
    ) -> Option<Self> {
        let version = backend.settings.send_proxy?;
        let is_unique = matches!(version, SendProxy::V2(tlvs) if tlvs.unique_id);
        let id = is_unique.then(|| format!("{:016x}", fastrand::u64(..)));
        let facts = Facts { unique_id: id.as_deref(), ..*client };
        let owner = if is_unique { Weak::new() } else { owner.handle(upstreams) };
        Some(Self { header: proxy_protocol::encode(version, &facts).into(), is_unique, owner })
    }
}

impl Checkout {
    /// How long it had been idle; none if it is new.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.idle
    }

    /// Sends a request; what is given back waits for the header of its response, after which
    /// [`Self::answered`] is due. A request that was not sent is in the error.
    ///
    /// Not an `async fn`: its future would have room for the request, which is large, and a
    /// request is moved into it and out again.
    pub(crate) fn send(&mut self, request: Request<RequestBody>) -> impl Sending + use<> {
        match &mut self.link.sender {
            Sender::Http1(sender) => {
                self.link.handover.awaited.begin();
                Either::Left(sender.try_send_request(request))
            }
            Sender::Http2(sender) => Either::Right(sender.try_send_request(request)),
        }
    }

    /// Whether nothing at all has come for a request that was sent.
    pub(crate) fn is_unheard(&self) -> bool {
        self.link.handover.awaited.is_silent()
    }

    /// The header of the response is there, or none will come.
    pub(crate) fn answered(&self) {
        self.link.handover.awaited.end();
    }

    /// The response has come in full: the connection is there for others.
    pub(crate) fn give_back(self) {
        if matches!(&self.link.sender, Sender::Http1(kept) if !kept.is_closed()) {
            self.link.handover.to.take();
            self.keep();
        }
    }

    /// Leaves it to later requests, if there can be any: one of nobody's is closed.
    fn keep(self) {
        let owner = match self.introduction.as_ref().map(|it| it.owner.upgrade()) {
            Some(None) => return,
            owner => owner.flatten(),
        };
        let idle = Idle {
            link: self.link,
            introduction: self.introduction.map(|it| it.header),
            since: coarse_now(),
            timeout: self.limits.timeout,
        };
        let (kept, server, most) = (&self.upstreams.kept, self.server, self.limits.most);
        match owner {
            Some(owner) => kept.put_owned(server, most, &owner, idle),
            None => kept.put(server, most, idle),
        }
    }

    /// The stream, once the server has changed the protocol.
    pub(crate) fn tunnel(&self) -> oneshot::Receiver<Tunnel> {
        let (sender, receiver) = oneshot::channel();
        *self.link.handover.to.borrow_mut() = Some(sender);
        receiver
    }

    /// Whether the server can be asked for a WebSocket. One of HTTP/2 says so in its settings
    /// (RFC 8441, 3), which are waited for, but not for long. None if the connection has ended.
    pub(crate) async fn takes_websockets(&self) -> Option<bool> {
        let Sender::Http2(sender) = &self.link.sender else { return Some(true) };
        self.link.handover.settings.takes_websockets(|| sender.is_closed()).await
    }
}

/// A connection that is ready for HTTP: the client is introduced, TLS is there.
async fn open(
    member: &Member,
    backend: &BackendPlan,
    introduction: Option<&Introduction>,
    after: Duration,
) -> Result<Stream, ConnectError> {
    let begin = async {
        let mut socket = Socket::connect(member.address()).await?;
        socket.tune()?;
        if let Some(Introduction { header, .. }) = introduction {
            socket.write_all(header).await?;
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
    let tls = encryption.connect(socket, member.address(), &[protocol]).await?;
    // Over TLS it is ALPN that makes it HTTP/2 (RFC 9113, 3.2).
    if backend.settings.protocol == ServerProtocol::Http2
        && tls.get_ref().1.alpn_protocol() != Some(protocol)
    {
        return Err(ConnectError::NoHttp2);
    }
    Ok(Stream::Server(Box::new(tls)))
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
            let stream = FarEnd::Left(parts.io.into_inner().into_stream());
            let tunnel = Tunnel { stream, first: parts.read_buf };
            // The client may have left.
            let _ = give.send(tunnel);
        }
    });
    Ok(Sender::Http1(sender))
}

async fn http2_connection(stream: Stream, handover: &Handover) -> hyper::Result<Sender> {
    let settings = handover.settings.clone();
    let (sender, mut connection) = http2::Builder::new(settings.executor())
        .max_header_list_size(MAX_RESPONSE_HEADER)
        .initial_max_send_streams(UNTOLD_STREAMS)
        .adaptive_window(true)
        .handshake(TokioIo::new(stream))
        .await?;
    // Errors are those of the requests on it.
    task::spawn_local(poll_fn(move |cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        let takes_websockets = connection.is_extended_connect_protocol_enabled();
        settings.look(cx, takes_websockets, connection.current_max_send_streams());
        if ended.is_ready() {
            settings.end();
        }
        ended.map(drop)
    }));
    Ok(Sender::Http2(sender))
}
