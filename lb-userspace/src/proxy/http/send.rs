//! Sending a request over a connection and judging the header of the response.

use std::{future::poll_fn, pin::Pin, task::Poll};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::{Body, Bytes, Incoming},
    client::conn::TrySendError,
    header::{CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT},
};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::{
    body::{RequestBody, Upload},
    exchange::Exchange,
    headers::{self, Present},
    length,
    respond::Failure,
    upgrade::Asked,
};
use crate::proxy::{
    far_end::{FarEnd, Tunnel},
    outcome::{Cause, Outcome, Phase, Side},
    plan::BackendPlan,
    server_io,
    timer::Deadline,
    upstream::Sending,
};

/// Whether a server that has had it may have it again: nothing more comes of it, and there is
/// no body.
pub(super) fn is_repeatable(message: &Request<RequestBody>) -> bool {
    message.body().is_end_stream() && message.method().is_idempotent()
}

/// A copy to send again, without the body.
pub(super) fn spare(message: &Request<RequestBody>) -> Box<Request<RequestBody>> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = message.method().clone();
    *copy.uri_mut() = message.uri().clone();
    *copy.version_mut() = message.version();
    copy.headers_mut().clone_from(message.headers());
    Box::new(copy)
}

/// Why there is no response.
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// The request, if nothing of it was sent.
    pub(super) unsent: Option<Box<Request<RequestBody>>>,
    /// The connection ended; nothing that was said on it is at fault.
    pub(super) is_end: bool,
    /// A server of HTTP/2 has said that it has not looked at the request.
    pub(super) is_refused: bool,
}

impl Failed {
    /// Not for anything that was sent.
    fn by(failure: Failure) -> Self {
        Self { failure, unsent: None, is_end: false, is_refused: false }
    }
}

/// The server says nothing for too long.
const SILENT: Failure = Failure::new(
    StatusCode::GATEWAY_TIMEOUT,
    Cause::ServerTimeout,
    Phase::Headers,
    "server_timeout",
);

/// Waits for the header of the response to a request that was sent, for as long as the server,
/// and not the client, is what is waited for; puts it into `begun`.
pub(super) async fn begun(
    exchange: &Exchange,
    backend: &BackendPlan,
    mut response: Pin<&mut impl Sending>,
    begun: &mut Option<Response<Incoming>>,
) -> Result<(), Failed> {
    let silence = exchange.timeouts.server(backend);
    // Requests of HTTP/1 come one by one, and all wake the same task: there is one for all.
    let of_stream = (exchange.version == Version::HTTP_2).then(Deadline::default);
    let deadline = of_stream.as_ref().unwrap_or(&exchange.client.answering);
    deadline.set(silence);
    let mut sent = 0;
    let done = poll_fn(|cx| {
        loop {
            match response.as_mut().poll(cx) {
                Poll::Ready(Ok(response)) => {
                    *begun = Some(response);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(exchange, error))),
                Poll::Pending => {}
            }
            if deadline.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if exchange.is_overdue() {
                return Poll::Ready(Err(Failed::by(too_long(exchange))));
            }
            let upload = exchange.upload.as_deref();
            let moves =
                |upload: &Upload| upload.waits_for_client.get() || upload.bytes.get() != sent;
            if !upload.is_some_and(moves) {
                return Poll::Ready(Err(Failed::by(SILENT)));
            }
            sent = upload.map_or(0, |upload| upload.bytes.get());
            deadline.set(silence);
        }
    })
    .await;
    deadline.clear();
    done
}

/// The time for the request as a whole is over; whoever was waited for last is told so.
pub(super) fn too_long(exchange: &Exchange) -> Failure {
    let upload = exchange.upload.as_deref();
    let (status, side) = match upload.is_some_and(|upload| upload.waits_for_client.get()) {
        true => (StatusCode::REQUEST_TIMEOUT, Side::Client),
        false => (StatusCode::GATEWAY_TIMEOUT, Side::Server),
    };
    let outcome = Outcome::total_timeout(side, exchange.phase.get());
    let failure = Failure { status, outcome, closes: false };
    // The rest of a body is no request.
    if exchange.upload_is_complete() { failure } else { failure.closing() }
}

fn broken(exchange: &Exchange, mut error: TrySendError<Request<RequestBody>>) -> Failed {
    let unsent = error.take_message().map(Box::new);
    if let Some(failure) = exchange.upload_failure() {
        return Failed::by(failure.into());
    }
    let error = error.into_error();
    let is_refused = is_refused(&error);
    let why = if is_refused {
        "server_refused_stream"
    } else if error.is_parse_too_large() || server_io::is_too_much(&error) {
        "response_too_large"
    } else if error.is_parse() {
        "response_malformed"
    } else {
        "response_missing"
    };
    let failure = Failure::new(StatusCode::BAD_GATEWAY, Cause::Server, Phase::Headers, why);
    // Part of a body may have gone; the client must not think it can go on.
    let failure = if exchange.upload.is_some() { failure.closing() } else { failure };
    Failed { failure, unsent, is_end: why == "response_missing", is_refused }
}

/// Whether a server of HTTP/2 says that it has not looked at a request and will not: it has
/// refused the stream, or goes away and has named an earlier one as the last (RFC 9113, 8.7).
fn is_refused(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|it| it.downcast_ref::<h2::Error>());
    source.is_some_and(|error| {
        let is_reset = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (is_reset || error.is_go_away())
    })
}

/// How a server gives its stream if it agrees on a tunnel.
pub(super) enum Wanted {
    /// HTTP/1.1: in place of the connection.
    Connection(oneshot::Receiver<Tunnel>),
    /// HTTP/2: it is one already. A client of HTTP/1.1 is told this of its key.
    Stream(Option<HeaderValue>),
}

fn bad(why: &'static str) -> Failure {
    Failure::new(StatusCode::BAD_GATEWAY, Cause::Server, Phase::Headers, why)
}

/// Judges the header of a response and makes it the client's; `wanted` if the request was for
/// a tunnel, which is returned if the server has agreed on it.
pub(super) async fn answer(
    response: &mut Response<Incoming>,
    wanted: Option<Wanted>,
    exchange: &Exchange,
    asked: Asked,
) -> Result<Option<Tunnel>, Failure> {
    let tunnel = match wanted {
        Some(Wanted::Stream(accept)) if response.status() == StatusCode::OK => {
            return agreed_on_stream(response, accept).await.map(Some);
        }
        // By any other success nothing is agreed on.
        Some(Wanted::Stream(_)) if response.status().is_success() => {
            return Err(bad("websocket_refused"));
        }
        Some(Wanted::Connection(tunnel)) => Some(tunnel),
        Some(Wanted::Stream(_)) | None => None,
    };
    match (judge(response, exchange, asked)?, tunnel) {
        (Switch::None, _) => Ok(None),
        (Switch::Agreed, Some(tunnel)) => {
            tunnel.await.map(Some).map_err(|_| bad("response_missing"))
        }
        (Switch::Agreed | Switch::Other, _) => Err(bad("unexpected_101")),
    }
}

/// What a response changes the protocol to.
enum Switch {
    None,
    /// What was asked for.
    Agreed,
    Other,
}

fn judge(
    response: &mut Response<Incoming>,
    exchange: &Exchange,
    asked: Asked,
) -> Result<Switch, Failure> {
    let status = response.status();
    let is_connect = asked == Asked::Connect;
    if is_connect && status == StatusCode::NO_CONTENT {
        // A success as any other, but hyper keeps the connection for itself.
        return Err(bad("unexpected_204"));
    }
    let switch = match status == StatusCode::SWITCHING_PROTOCOLS {
        false if is_connect && status.is_success() => Switch::Agreed,
        false => Switch::None,
        true if !is_connect && headers::is_websocket(response.headers()) => Switch::Agreed,
        true => Switch::Other,
    };
    let switches = !matches!(switch, Switch::None);
    let fields: &mut HeaderMap = response.headers_mut();
    let mut present = Present::of(fields);
    let has_none =
        exchange.method == Method::HEAD || switches || status == StatusCode::NOT_MODIFIED;
    if status == StatusCode::NO_CONTENT || switches {
        fields.remove(CONTENT_LENGTH);
        present = present.without(Present::CONTENT_LENGTH);
    }
    if is_connect {
        // The proxy that wants to know who asks is the server.
        present = present.without(Present::PROXY_AUTHENTICATE);
    }
    length::judge(fields, present, !has_none && status != StatusCode::NO_CONTENT).map_err(bad)?;
    if !headers::strip_response(fields, present) {
        return Err(bad("response_connection_field"));
    }
    if asked == Asked::Stream && status.is_success() {
        return Err(bad("websocket_refused"));
    }
    Ok(switch)
}

/// A WebSocket on a stream of HTTP/2 (RFC 8441, 5). In terms of HTTP/1.1, for the client's side.
async fn agreed_on_stream(
    response: &mut Response<Incoming>,
    accept: Option<HeaderValue>,
) -> Result<Tunnel, Failure> {
    let upgrade = hyper::upgrade::on(&mut *response);
    let upgraded = upgrade.await.map_err(|_| bad("response_missing"))?;
    let fields = response.headers_mut();
    fields.remove(CONTENT_LENGTH);
    let present = Present::of(fields);
    if !headers::strip_response(fields, present) {
        return Err(bad("response_connection_field"));
    }
    if let Some(accept) = accept {
        fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let stream = FarEnd::Right(TokioIo::new(upgraded));
    Ok(Tunnel { stream, first: Bytes::new() })
}
