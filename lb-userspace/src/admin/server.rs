//! The HTTP/1.1 server of the admin interface (hyper, RFC 9112).
//!
//! Everything a client controls is bounded: connections, time to send a request, size of
//! its head and body, time to answer. It must not block and must not touch the data plane:
//! commands go to the control loop.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes, Frame},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time,
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::{
    command::{Command, CommandError, Reply},
    routes::{self, Access, ApiRequest, Refusal},
    scrape::{self, PageBody, PageFormat},
};

/// What a client may take up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once over one listener; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Longest time for a request's head to arrive, idle time between requests included.
    pub head: Duration,
    /// Longest time for a request's body to arrive.
    pub body: Duration,
    /// Largest body in bytes.
    pub body_bytes: usize,
    /// Longest time the control loop may take to answer.
    pub answer: Duration,
    /// Pages of metrics at once over all listeners, made or being sent; further ones wait for as
    /// long as an answer may take.
    pub pages: usize,
    /// Longest time a client over TCP may take to let the next bytes of an answer through.
    pub stall: Duration,
    /// Longest time a page of metrics may take to be sent.
    pub page: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            body_bytes: 64 * 1024,
            answer: Duration::from_secs(30),
            pages: 4,
            stall: Duration::from_secs(10),
            page: Duration::from_secs(30),
        }
    }
}

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// The admin socket; everything is allowed to who may open it.
    Unix(UnixListener),
    /// `admin.listen`; read-only.
    Tcp(TcpListener),
}

/// Answers requests by asking the control loop.
#[derive(Clone, Debug)]
pub struct AdminServer {
    commands: mpsc::Sender<Command>,
    limits: Limits,
    /// Room for pages of metrics.
    pages: Arc<Semaphore>,
}

/// Why a listener stopped for good.
#[derive(Debug, thiserror::Error)]
#[error("the admin listener failed")]
pub struct ListenerFailed(#[source] io::Error);

impl AdminServer {
    /// A server that sends its commands to `commands`.
    #[must_use]
    pub fn new(commands: mpsc::Sender<Command>, limits: Limits) -> Self {
        Self { commands, limits, pages: Arc::new(Semaphore::new(limits.pages)) }
    }

    /// Serves one listener until `cancel`, then lets nothing more in and drops what is
    /// still open.
    ///
    /// # Errors
    /// [`ListenerFailed`] if no further connection can ever be accepted.
    pub async fn run(
        self,
        listener: Listener,
        cancel: CancellationToken,
    ) -> Result<(), ListenerFailed> {
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let mut connections = JoinSet::new();
        let mut accepting = pin!(async {
            loop {
                // The semaphore is never closed.
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
                match listener.accept(self.limits.stall).await {
                    Ok((io, access)) => {
                        let server = self.clone();
                        connections.spawn(async move {
                            server.serve(io, access).await;
                            drop(slot);
                        });
                        while connections.try_join_next().is_some() {}
                    }
                    Err(error) if is_passing(&error) => {
                        tracing::warn!(%error, "the admin listener could not accept a connection");
                        time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(error) => return Err(ListenerFailed(error)),
                }
            }
        });
        tokio::select! {
            () = cancel.cancelled() => Ok(()),
            result = &mut accepting => result,
        }
    }

    async fn serve(&self, io: Box<dyn Stream>, access: Access) {
        let service =
            service_fn(
                |request| async move { Ok::<_, Infallible>(self.answer(request, access).await) },
            );
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(io), service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an admin connection ended early");
        }
    }

    /// Answers one request; what went wrong is in the answer.
    async fn answer<B>(&self, request: Request<B>, access: Access) -> Response<Answer>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let body = match self.read_body(body).await {
            Ok(body) => body,
            Err(refusal) => return whole(refused(&refusal)),
        };
        let (path, query) = (head.uri.path(), head.uri.query());
        let answer = match routes::read(&head.method, path, query, &body, access) {
            Err(refusal) => Err(refusal),
            Ok(ApiRequest::Status) => self.ask(Command::Status).await,
            Ok(ApiRequest::Flows(query)) => self.ask(|reply| Command::Flows(query, reply)).await,
            Ok(ApiRequest::Drops) => self.ask(Command::Drops).await,
            Ok(ApiRequest::Metrics) => match self.page(PageFormat::of(&head.headers)).await {
                Ok(page) => return page.map(Either::Left).map(Either::Right),
                Err(refusal) => Err(refusal),
            },
            Ok(ApiRequest::SetServer(id, set)) => {
                self.ask(|reply| Command::SetServer(id, set, reply)).await
            }
            Ok(ApiRequest::Blocks) => self.ask(Command::Blocks).await,
            Ok(ApiRequest::Block(order)) => self.ask(|reply| Command::Block(order, reply)).await,
            Ok(ApiRequest::Unblock(order)) => {
                self.ask(|reply| Command::Unblock(order, reply)).await
            }
            Ok(ApiRequest::Access) => self.ask(Command::Access).await,
            Ok(ApiRequest::SetAccess(order)) => {
                self.ask(|reply| Command::SetAccess(order, reply)).await
            }
            Ok(ApiRequest::SetLimits(order)) => {
                self.ask(|reply| Command::SetLimits(order, reply)).await
            }
            Ok(ApiRequest::Reload) => self.ask(Command::Reload).await,
            Ok(ApiRequest::Trace(order)) => {
                match self.question(|reply| Command::Trace(order, reply)).await {
                    Ok(records) => return stream(records).map(Either::Right).map(Either::Right),
                    Err(refusal) => Err(refusal),
                }
            }
        };
        whole(answer.unwrap_or_else(|refusal| refused(&refusal)))
    }

    async fn read_body<B>(&self, body: B) -> Result<Bytes, Refusal>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limit = self.limits.body_bytes;
        let whole = Limited::new(body, limit).collect();
        match time::timeout(self.limits.body, whole).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {limit} bytes"),
                "send one small JSON object",
            )),
            Ok(Err(error)) => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("can not read the body: {error}"),
                "send the request again",
            )),
            Err(_) => Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not arrive in time",
                "send the request again",
            )),
        }
    }

    /// A page of metrics, once there is room for it.
    async fn page(&self, format: PageFormat) -> Result<Response<PageBody>, Refusal> {
        let room = time::timeout(self.limits.answer, Arc::clone(&self.pages).acquire_owned());
        let Ok(Ok(slot)) = room.await else {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many pages of metrics are being sent",
                "look for scrapers that do not read their answers",
            ));
        };
        let page = self.question(|reply| Command::Metrics(format, reply)).await?;
        let deadline = time::Instant::now() + self.limits.page;
        Ok(scrape::response(page, format, deadline, slot))
    }

    /// Sends one command to the control loop and turns its answer into a response.
    async fn ask<T: Serialize>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        Ok(json(StatusCode::OK, &self.question(command).await?))
    }

    /// Sends one command to the control loop and waits for its answer.
    async fn question<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Refusal> {
        let busy = |error| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error, "try again in a few seconds")
        };
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(command(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => busy("the agent is busy"),
            mpsc::error::TrySendError::Closed(_) => busy("the agent is stopping"),
        })?;
        match time::timeout(self.limits.answer, answer).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(error))) => Err(refusal_of(&error)),
            Ok(Err(_)) => Err(busy("the agent is stopping")),
            Err(_) => Err(busy("the agent did not answer in time")),
        }
    }
}

/// A body of any kind.
type Answer = Either<Full<Bytes>, Either<PageBody, RecordBody>>;

fn whole(response: Response<Full<Bytes>>) -> Response<Answer> {
    response.map(Either::Left)
}

/// Records as they come. hyper drops it when the client is gone.
struct RecordBody(mpsc::Receiver<Bytes>);

impl Body for RecordBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|record| record.map(|record| Ok(Frame::data(record))))
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Listener {
    /// The next connection. One over TCP fails if it lets nothing through for as long as `stall`.
    async fn accept(&self, stall: Duration) -> io::Result<(Box<dyn Stream>, Access)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), Access::ReadWrite))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let mut stream = TimeoutStream::new(stream);
                stream.set_write_timeout(Some(stall));
                Ok((Box::new(Box::pin(stream)), Access::ReadOnly))
            }
        }
    }
}

/// Errors of accept(2) that say nothing about the next connection: the peer is gone
/// already, or descriptors and memory are short for the moment.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EPROTO
        )
    )
}

fn refusal_of(error: &CommandError) -> Refusal {
    let (status, hint) = match error {
        CommandError::UnknownServer { hint, .. } | CommandError::UnknownBackend { hint, .. } => {
            (StatusCode::NOT_FOUND, hint.as_str())
        }
        CommandError::Unknown { .. } => {
            (StatusCode::NOT_FOUND, "see the names with `pointsman status`")
        }
        CommandError::NotBlocked { .. } => {
            (StatusCode::NOT_FOUND, "see what is with `pointsman blocks`")
        }
        CommandError::OtherKind(_) => {
            (StatusCode::CONFLICT, r#"to mean that, say `--force` ("force": true)"#)
        }
        CommandError::NoRoom(_) => (
            StatusCode::CONFLICT,
            "take something back (`pointsman unblock`, `pointsman access reset`), or put long lists into \
             a file (`deny_file`)",
        ),
        CommandError::Datapath(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "see the agent's log for more")
        }
        CommandError::NoPage => (StatusCode::INTERNAL_SERVER_ERROR, "please report it"),
        CommandError::NotApplied(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "the agent goes on trying; `pointsman status` shows how it stands",
        ),
        CommandError::Traced => (StatusCode::CONFLICT, "try again when they have finished"),
        CommandError::NotTraced(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "tracing needs Linux 5.18 or later; see the agent's log for more",
        ),
        CommandError::NoDatapath => {
            (StatusCode::CONFLICT, "set datapath.mode to auto and start the agent again")
        }
    };
    Refusal::new(status, error.to_string(), hint)
}

/// Records for as long as there are any.
fn stream(records: mpsc::Receiver<Bytes>) -> Response<RecordBody> {
    let mut response = Response::new(RecordBody(records));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn refused(refusal: &Refusal) -> Response<Full<Bytes>> {
    let mut response = json(refusal.status, &refusal.body);
    if let Some(allow) = refusal.allow {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    response
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Full<Bytes>> {
    let (status, mut body) = match serde_json::to_vec_pretty(value) {
        Ok(body) => (status, body),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!(r#"{{"error": "the answer has no JSON form: {error}", "hint": "report it"}}"#)
                .into_bytes(),
        ),
    };
    body.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
