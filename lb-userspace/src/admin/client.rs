//! The command line's end of the admin interface: one request over the unix socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time};
use tokio_util::task::AbortOnDropHandle;

use super::api::ErrorView;

/// Longest time for a whole request; the agent gives up sooner and says why.
const TIMEOUT: Duration = Duration::from_secs(40);
/// Largest answer read: room for `FlowQuery::MAX_LIMIT` flows.
const ANSWER_BYTES: usize = 128 << 20;

/// Talks to the agent behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No agent is there.
    #[error(
        "no agent answers on {}; start one with `pointsman run`, or name its socket with --socket",
        .0.display()
    )]
    NoAgent(PathBuf),
    /// The socket is somebody else's.
    #[error("no permission for {}; run this as root", .0.display())]
    Permission(PathBuf),
    /// The socket could not be opened.
    #[error("can not connect to {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The agent did not answer.
    #[error("no answer from the agent on {} within {} s", .0.display(), TIMEOUT.as_secs())]
    Timeout(PathBuf),
    /// The exchange broke off.
    #[error("the exchange with the agent broke off")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer makes no sense to this version.
    #[error("can not read the agent's answer; is it of another version?")]
    Answer(#[source] serde_json::Error),
    /// The agent said no: the request can not be met.
    #[error("{}; {}", .0.error, .0.hint)]
    Refused(ErrorView),
    /// The agent could not carry it out.
    #[error("{}; {}", .0.error, .0.hint)]
    Failed(ErrorView),
}

impl Client {
    /// A client of the agent behind `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks for `target`.
    ///
    /// # Errors
    /// [`ClientError`] unless the agent answered with success.
    pub async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.request(Method::GET, target, Bytes::new()).await
    }

    /// Sends `body` to `target`.
    ///
    /// # Errors
    /// [`ClientError`] unless the agent answered with success.
    pub async fn post<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Answer)?;
        self.request(Method::POST, target, body.into()).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let request = request_of(method, target, body)?;
        let (status, body) = time::timeout(TIMEOUT, self.exchange(request))
            .await
            .map_err(|_| ClientError::Timeout(self.socket.clone()))??;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(ClientError::Answer);
        }
        Err(refusal(status, &body))
    }

    /// Sends `body` to `target`, whose answer goes on until either end has had enough.
    ///
    /// # Errors
    /// [`ClientError`] unless the agent's answer begins with success.
    pub async fn stream(&self, target: &str, body: &impl Serialize) -> Result<Parts, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Answer)?;
        let request = request_of(Method::POST, target, body.into())?;
        let begin = async {
            let stream = UnixStream::connect(&self.socket).await;
            let stream = stream.map_err(|error| self.refine(error))?;
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
            // Its end is the end of the body.
            let connection = AbortOnDropHandle::new(tokio::spawn(connection));
            let response = sender.send_request(request).await.map_err(broken)?;
            let (head, body) = response.into_parts();
            if head.status.is_success() {
                return Ok(Parts { body, _connection: connection });
            }
            let body = Limited::new(body, ANSWER_BYTES).collect().await;
            Err(refusal(head.status, &body.map_err(ClientError::Exchange)?.to_bytes()))
        };
        time::timeout(TIMEOUT, begin)
            .await
            .map_err(|_| ClientError::Timeout(self.socket.clone()))?
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.refine(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
            Ok((status, body.map_err(ClientError::Exchange)?.to_bytes()))
        };
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            result = connection => match result {
                Ok(()) => answer.await,
                Err(error) => Err(broken(error)),
            },
        }
    }

    fn refine(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoAgent(socket)
            }
            io::ErrorKind::PermissionDenied => ClientError::Permission(socket),
            _ => ClientError::Connect { socket, source },
        }
    }
}

/// An answer that goes on.
#[derive(Debug)]
pub struct Parts {
    body: Incoming,
    /// What moves its bytes.
    _connection: AbortOnDropHandle<Result<(), hyper::Error>>,
}

impl Parts {
    /// What comes next of it; none at its end.
    ///
    /// # Errors
    /// If the exchange breaks off.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

fn request_of(
    method: Method,
    target: &str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, ClientError> {
    Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, "pointsman")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| ClientError::Exchange(error.into()))
}

/// What an answer without success says.
fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice(body) {
        Err(error) => ClientError::Answer(error),
        Ok(error) => match status {
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::CONFLICT => {
                ClientError::Refused(error)
            }
            _ => ClientError::Failed(error),
        },
    }
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Exchange(error.into())
}
