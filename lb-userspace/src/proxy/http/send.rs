//! Sending a request over a connection and judging the header of the response.

use std::{future::poll_fn, pin::Pin, task::Poll};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    client::conn::TrySendError,
    header::{CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT},
};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::{
    body::{RequestBody, Upload},
    exchange::Exchange,
    headers, length,
    respond::Failure,
    upgrade::Asked,
};
use crate::proxy::{
    far_end::{FarEnd, Tunnel},
    outcome::{Cause, Phase},
    plan::BackendPlan,
    server_io,
    timer::Deadline,
    upstream::{Checkout, Sending},
};

/// A response that a server has begun.
pub(super) struct Begun {
    pub(super) response: Response<Incoming>,
    pub(super) connection: Checkout,
    /// The server changed the protocol.
    pub(super) tunnel: Option<Tunnel>,
}

/// A copy to send again, if that may be wanted and is safe.
pub(super) fn spare(
    message: &Request<RequestBody>,
    may_be_wanted: bool,
) -> Option<Request<RequestBody>> {
    let is_safe = message.body().is_end_stream() && message.method().is_idempotent();
    (may_be_wanted && is_safe).then(|| {
        let mut copy = Request::new(RequestBody::Empty);
        *copy.method_mut() = message.method().clone();
        *copy.uri_mut() = message.uri().clone();
        *copy.version_mut() = message.version();
        copy.headers_mut().clone_from(message.headers());
        copy
    })
}

/// Why there is no response.
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// The request, if nothing of it was sent.
    pub(super) unsent: Option<Request<RequestBody>>,
}

/// Waits for the header of the response to a request that was sent, for as long as the server,
/// and not the client, is what is waited for.
pub(super) async fn begun(
    exchange: &Exchange,
    backend: &BackendPlan,
    mut response: Pin<&mut impl Sending>,
) -> Result<Response<Incoming>, Failed> {
    let silence = exchange.timeouts.server(backend);
    let deadline = Deadline::default();
    deadline.set(silence);
    let mut sent = 0;
    let waited = poll_fn(|cx| {
        loop {
            if let Poll::Ready(done) = response.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if deadline.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let upload = exchange.upload.as_deref();
            let moves =
                |upload: &Upload| upload.waits_for_client.get() || upload.bytes.get() != sent;
            if !upload.is_some_and(moves) {
                return Poll::Ready(None);
            }
            sent = upload.map_or(0, |upload| upload.bytes.get());
            deadline.set(silence);
        }
    })
    .await;
    match waited {
        Some(Ok(response)) => Ok(response),
        Some(Err(error)) => Err(broken(exchange, error)),
        None => Err(Failed {
            failure: Failure::new(
                StatusCode::GATEWAY_TIMEOUT,
                Cause::ServerTimeout,
                Phase::Headers,
                "server_timeout",
            ),
            unsent: None,
        }),
    }
}

fn broken(exchange: &Exchange, mut error: TrySendError<Request<RequestBody>>) -> Failed {
    let unsent = error.take_message();
    if let Some(failure) = exchange.upload_failure() {
        return Failed { failure: failure.into(), unsent: None };
    }
    let error = error.into_error();
    let why = if error.is_parse_too_large() || server_io::is_too_much(&error) {
        "response_too_large"
    } else if error.is_parse() {
        "response_malformed"
    } else {
        "response_missing"
    };
    let failure = Failure::new(StatusCode::BAD_GATEWAY, Cause::Server, Phase::Headers, why);
    // Part of a body may have gone; the client must not think it can go on.
    let failure = if exchange.upload.is_some() { failure.closing() } else { failure };
    Failed { failure, unsent }
}

/// How a server gives its stream if it agrees on a WebSocket.
pub(super) enum Wanted {
    /// HTTP/1.1: in place of the connection.
    Connection(oneshot::Receiver<Tunnel>),
    /// HTTP/2: it is one already. A client of HTTP/1.1 is told this of its key.
    Stream(Option<HeaderValue>),
}

fn bad(why: &'static str) -> Failure {
    Failure::new(StatusCode::BAD_GATEWAY, Cause::Server, Phase::Headers, why)
}

/// Judges the header of a response; `wanted` if the request was for a WebSocket.
pub(super) async fn answer(
    mut response: Response<Incoming>,
    connection: Checkout,
    wanted: Option<Wanted>,
    exchange: &Exchange,
    asked: Asked,
) -> Result<Begun, Failure> {
    let tunnel = match wanted {
        Some(Wanted::Stream(accept)) if response.status() == StatusCode::OK => {
            return agreed_on_stream(response, connection, accept).await;
        }
        // By any other success nothing is agreed on.
        Some(Wanted::Stream(_)) if response.status().is_success() => {
            return Err(bad("websocket_refused"));
        }
        Some(Wanted::Connection(tunnel)) => Some(tunnel),
        Some(Wanted::Stream(_)) | None => None,
    };
    let status = response.status();
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let is_agreed = switches && headers::is_websocket(response.headers());
    let fields: &mut HeaderMap = response.headers_mut();
    let has_none =
        exchange.method == Method::HEAD || switches || status == StatusCode::NOT_MODIFIED;
    if status == StatusCode::NO_CONTENT || switches {
        fields.remove(CONTENT_LENGTH);
    }
    length::judge(fields, !has_none && status != StatusCode::NO_CONTENT).map_err(bad)?;
    if !headers::strip_response(fields) {
        return Err(bad("response_connection_field"));
    }
    if asked == Asked::Stream && status.is_success() {
        return Err(bad("websocket_refused"));
    }
    let tunnel = match (switches, tunnel) {
        (false, _) => None,
        (true, Some(tunnel)) if is_agreed => {
            Some(tunnel.await.map_err(|_| bad("response_missing"))?)
        }
        (true, _) => return Err(bad("unexpected_101")),
    };
    Ok(Begun { response, connection, tunnel })
}

/// A WebSocket on a stream of HTTP/2 (RFC 8441, 5). In terms of HTTP/1.1, for the client's side.
async fn agreed_on_stream(
    mut response: Response<Incoming>,
    connection: Checkout,
    accept: Option<HeaderValue>,
) -> Result<Begun, Failure> {
    let upgraded = hyper::upgrade::on(&mut response).await.map_err(|_| bad("response_missing"))?;
    let fields = response.headers_mut();
    fields.remove(CONTENT_LENGTH);
    if !headers::strip_response(fields) {
        return Err(bad("response_connection_field"));
    }
    if let Some(accept) = accept {
        fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let stream = FarEnd::Right(TokioIo::new(upgraded));
    Ok(Begun { response, connection, tunnel: Some(Tunnel { stream, first: Bytes::new() }) })
}
