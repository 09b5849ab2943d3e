//! The way of a request: judge it, choose a server, send it, relay the response.
//!
//! A request is sent again only where that is safe: it did not leave this host, or a
//! connection that had been idle broke without a byte of response, the method is idempotent
//! and there is no body (RFC 9110, 9.2.2; RFC 9112, 9.3.1). The same holds for statuses after
//! which the configuration wants another server tried.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::{Body, Incoming},
    client::conn::TrySendError,
    header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue},
    http::{request, uri::Scheme},
    upgrade::OnUpgrade,
};
use tokio::sync::oneshot;

use super::{
    admit::admit,
    body::{RequestBody, ResponseBody, Upload, UploadLimits},
    choose,
    client::Client,
    exchange::Exchange,
    headers, length, mirror,
    outcome::{Cause, Outcome, Phase},
    persist,
    respond::{self, Failure},
    route::{Destination, Route},
    upgrade::{self, Asked},
};
use crate::{
    balance,
    model::backend::ServerProtocol,
    proxy::{
        plan::BackendPlan,
        rules::{Answer, Edits},
        server_io,
        timer::Deadline,
        tls::error::{Blame, HandshakeError},
        upstream::{Checkout, ConnectError, Tunnel, within},
    },
};

/// A connection that was idle for longer may be closed by its server just now.
const STALE: Duration = Duration::from_secs(1);

/// For a host that this connection is not good for.
const MISDIRECTED: Failure = Failure::new(
    StatusCode::MISDIRECTED_REQUEST,
    Cause::Client,
    Phase::Request,
    "other_server_name",
);

/// For a WebSocket on a stream where servers speak HTTP/2.
const NO_WEBSOCKET: Failure =
    Failure::new(StatusCode::NOT_IMPLEMENTED, Cause::Policy, Phase::Request, "websocket_to_http2");

/// Answers one request.
pub(super) async fn serve(
    client: Rc<Client>,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let mut exchange = Exchange::new(&client, client.frontend.plan(), &request);
    let is_http1 = request.version() < Version::HTTP_2;
    let asked = Asked::by(&request);
    if asked == Asked::Other {
        client.decide(false);
    }
    let on_stream = (asked == Asked::Stream).then(|| hyper::upgrade::on(&mut request));
    let frontend = Arc::clone(&exchange.frontend);
    let judged = admit(&mut request, &frontend.config.limits);
    let Route { to, edits } = match judged.map_err(Failure::from).and_then(|()| {
        let host = request.headers().get(HOST);
        if host.is_some_and(|host| client.is_misdirected(host)) { Err(MISDIRECTED) } else { Ok(()) }
    }) {
        Ok(()) => {
            // Rules see what is true of the client, and not what it says.
            client.introduce(request.headers_mut());
            if asked == Asked::Stream {
                // As they see it on HTTP/1.1.
                *request.method_mut() = Method::GET;
            }
            Route::of(&frontend, &mut exchange, &request, asked.is_websocket())
        }
        Err(failure) => Route::failing(failure),
    };
    let mut has_tunnel = false;
    let mut response = match to {
        Destination::Backend(backend) => {
            match in_time(&mut exchange, request, backend, &edits, asked).await {
                Ok(begun) => {
                    has_tunnel = begun.tunnel.is_some();
                    relay(exchange, begun, on_stream)
                }
                Err(failure) => respond(exchange, failure, &edits),
            }
        }
        Destination::Answer(answer) => give(exchange, answer, &edits),
        Destination::Failure(failure) => respond(exchange, failure, &edits),
    };
    match asked {
        Asked::Upgrade if !has_tunnel => client.decide(false),
        // On a stream success means that it is open.
        Asked::Stream if !has_tunnel && response.status().is_success() => {
            *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
        }
        _ => {}
    }
    edits.apply_to_response(response.headers_mut());
    Ok(if client.is_leaving() && is_http1 { closing(response) } else { response })
}

/// A response that a server has begun.
struct Begun {
    response: Response<Incoming>,
    connection: Checkout,
    /// The server changed the protocol.
    tunnel: Option<Tunnel>,
}

fn closing(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The answer of a rule.
fn give(mut exchange: Box<Exchange>, answer: Answer, edits: &Edits<'_>) -> Response<ResponseBody> {
    let response = respond::of_rule(answer, edits);
    exchange.status = Some(response.status());
    exchange.bytes_out = response.body().size_hint().exact().unwrap_or(0);
    let is_denied = response.status().is_client_error() || response.status().is_server_error();
    let denied = Outcome::new(Cause::Policy, Phase::Request, "rule");
    exchange.end(if is_denied { denied } else { Outcome::ANSWERED });
    response
}

fn respond(
    mut exchange: Box<Exchange>,
    failure: Failure,
    edits: &Edits<'_>,
) -> Response<ResponseBody> {
    let mut response = failure.response(edits);
    if exchange.version == Version::HTTP_2 && failure.is_of_malformed_request() {
        let body = response.body_mut();
        if let ResponseBody::Whole(bytes) = body {
            *body = ResponseBody::Malformed(bytes.take());
        }
    }
    exchange.status = Some(failure.status);
    exchange.bytes_out = response.body().size_hint().exact().unwrap_or(0);
    if failure.closes {
        exchange.client.linger();
    }
    exchange.end(failure.outcome);
    response
}

/// The response to the client, its body to come.
fn relay(
    mut exchange: Box<Exchange>,
    begun: Begun,
    on_stream: Option<OnUpgrade>,
) -> Response<ResponseBody> {
    let Begun { response, connection, tunnel } = begun;
    let (mut parts, incoming) = response.into_parts();
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    exchange.capture_response(&parts.headers);
    persist::name_server(&exchange, &mut parts.headers);
    exchange.status = Some(parts.status);
    exchange.phase.set(Phase::Data);
    if let Some(tunnel) = tunnel {
        return upgrade::agree(parts, exchange, tunnel, on_stream);
    }
    let silence = exchange.backend.as_ref().map(|backend| exchange.timeouts.server(backend));
    let body = match silence {
        Some(silence) if !incoming.is_end_stream() => {
            ResponseBody::relayed(incoming, exchange, connection, silence)
        }
        _ => {
            if exchange.upload_is_complete() {
                connection.give_back();
            }
            exchange.end(Outcome::ANSWERED);
            ResponseBody::Empty
        }
    };
    Response::from_parts(parts, body)
}

/// [`forward`], within the time for the request as a whole, if that has a limit.
async fn in_time(
    exchange: &mut Exchange,
    request: Request<Incoming>,
    backend: Arc<BackendPlan>,
    edits: &Edits<'_>,
    asked: Asked,
) -> Result<Begun, Failure> {
    let left = exchange.left();
    let forwarding = forward(exchange, request, backend, edits, asked);
    let Some(left) = left else { return forwarding.await };
    match within(left, forwarding).await {
        Some(done) => done,
        None => Err(Failure::new(
            StatusCode::GATEWAY_TIMEOUT,
            Cause::Policy,
            exchange.phase.get(),
            "total_timeout",
        )),
    }
}

/// Gets a response from a server.
async fn forward(
    exchange: &mut Exchange,
    request: Request<Incoming>,
    backend: Arc<BackendPlan>,
    edits: &Edits<'_>,
    asked: Asked,
) -> Result<Begun, Failure> {
    exchange.backend = Some(Arc::clone(&backend));
    if asked == Asked::Stream && backend.settings.protocol == ServerProtocol::Http2 {
        return Err(NO_WEBSOCKET);
    }
    let (mut parts, incoming) = request.into_parts();
    parts.extensions.clear();
    exchange.own = persist::own_server(&backend, &mut parts.headers);
    edit(&mut parts, edits)?;
    if incoming.is_end_stream() && !asked.is_websocket() {
        mirror::send_copies(exchange, &parts, &edits.mirrors);
    }
    prepare(&mut parts, &backend, asked.is_websocket());
    let hash = choose::hash(&backend, &exchange.client, &parts.uri, &parts.headers);
    let body = body(exchange, incoming);
    let mut message = Request::from_parts(parts, body);
    let mut tried = Vec::new();
    let mut only_new = false;
    // The clock is read where there was something to wait for.
    let mut at = exchange.received;
    loop {
        let (lease, waited) = choose::choose(exchange, &backend, hash, &tried).await?;
        exchange.queue_time = Some(waited);
        exchange.phase.set(Phase::Connect);
        let upstreams = &exchange.client.worker.upstreams;
        let kept = upstreams.reuse(lease.server(), &backend).filter(|_| !only_new);
        let connected = match kept {
            Some(kept) => {
                exchange.connect_time = Some(Duration::ZERO);
                if !waited.is_zero() {
                    at = Instant::now();
                }
                Ok(kept)
            }
            None => {
                let after = exchange.timeouts.connect(&backend);
                let client = exchange.client.introduction();
                let began = Instant::now();
                // A large future that few requests need.
                let connect = upstreams.connect(lease.server(), &backend, &client, after);
                let connected = Box::pin(connect).await;
                at = Instant::now();
                exchange.connect_time = Some(at - began);
                connected
            }
        };
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(error) => {
                lease.report(balance::Outcome::Failure, Instant::now());
                tried.push(lease.server().id());
                exchange.lease = Some(lease);
                if !may_retry(exchange, &backend) {
                    return Err(not_connected(&error));
                }
                exchange.retries += 1;
                exchange.lease = None;
                continue;
            }
        };
        exchange.lease = Some(lease);
        exchange.reused = connection.idle().is_some();
        exchange.phase.set(Phase::Headers);
        let statuses = backend.settings.balancing.retries.statuses;
        let is_stale = connection.idle().is_some_and(|idle| idle > STALE);
        let spare = spare(&message, is_stale || !statuses.is_empty());
        let tunnel = asked.is_websocket().then(|| connection.tunnel());
        match send(exchange, &backend, &mut connection, message).await {
            Ok(response) => {
                if statuses.contains(response.status().as_u16())
                    && let Some(again) = spare
                    && may_retry(exchange, &backend)
                    && let Some(lease) = exchange.lease.take()
                {
                    lease.report(balance::Outcome::Failure, Instant::now());
                    tried.push(lease.server().id());
                    exchange.retries += 1;
                    // The response goes with its connection.
                    message = again;
                    continue;
                }
                exchange.response_time = Some(at.elapsed());
                return answer(response, connection, tunnel, exchange, asked).await;
            }
            Err(failed) => {
                let spare = spare.filter(|_| is_stale);
                let unsent = failed.unsent.or(spare).filter(|_| exchange.reused);
                match unsent {
                    Some(unsent) if exchange.upload_failure().is_none() => message = unsent,
                    _ => return Err(failed.failure),
                }
                // Whatever broke it, a new connection tells.
                only_new = true;
                exchange.lease = None;
                at = Instant::now();
            }
        }
    }
}

/// Whether a request that reached no server may go to another one.
fn may_retry(exchange: &Exchange, backend: &BackendPlan) -> bool {
    exchange.retries < backend.settings.balancing.retries.attempts
        && backend.pool.may_retry(Instant::now())
}

fn not_connected(error: &ConnectError) -> Failure {
    let (status, cause) = match error {
        ConnectError::Timeout | ConnectError::Tls(HandshakeError::Timeout { .. }) => {
            (StatusCode::GATEWAY_TIMEOUT, Cause::ServerTimeout)
        }
        ConnectError::Tls(error) if error.blame() == Blame::Us => {
            (StatusCode::BAD_GATEWAY, Cause::Host)
        }
        ConnectError::Refused(_)
        | ConnectError::Tls(_)
        | ConnectError::NoHttp2
        | ConnectError::Handshake(_) => (StatusCode::BAD_GATEWAY, Cause::Server),
    };
    Failure::new(status, cause, Phase::Connect, error.word())
}

/// The request as rules change it.
fn edit(parts: &mut request::Parts, edits: &Edits<'_>) -> Result<(), Failure> {
    if let Some(target) = edits.path_and_query()? {
        parts.uri = Uri::from(target);
    }
    edits.apply_to_request(&mut parts.headers);
    Ok(())
}

/// The header as a server of the backend gets it.
pub(super) fn prepare(parts: &mut request::Parts, backend: &BackendPlan, is_websocket: bool) {
    match backend.settings.protocol {
        ServerProtocol::Http1 => {
            parts.version = Version::HTTP_11;
            if is_websocket {
                upgrade::ask(&mut parts.headers);
            }
        }
        ServerProtocol::Http2 => {
            parts.version = Version::HTTP_2;
            let scheme = if backend.encryption.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
            let host = parts.headers.remove(HOST);
            parts.uri = with_authority(&parts.uri, scheme, host.as_ref());
        }
    }
}

/// A target with the host in it, as HTTP/2 has it.
fn with_authority(target: &Uri, scheme: Scheme, host: Option<&HeaderValue>) -> Uri {
    let mut parts = hyper::http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = host.and_then(|host| host.as_bytes().try_into().ok());
    parts.path_and_query = target.path_and_query().cloned();
    Uri::from_parts(parts).unwrap_or_else(|_| target.clone())
}

fn body(exchange: &mut Exchange, incoming: Incoming) -> RequestBody {
    if incoming.is_end_stream() {
        return RequestBody::Empty;
    }
    let upload = Rc::new(Upload::default());
    exchange.upload = Some(Rc::clone(&upload));
    let config = &exchange.frontend.config;
    let limits = UploadLimits {
        bytes: config.limits.body_bytes,
        silence: config.timeouts.client,
        rate: config.limits.body_rate,
    };
    RequestBody::relayed(incoming, upload, limits)
}

/// A copy to send again, if that may be wanted and is safe.
fn spare(message: &Request<RequestBody>, may_be_wanted: bool) -> Option<Request<RequestBody>> {
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
struct Failed {
    failure: Failure,
    /// The request, if nothing of it was sent.
    unsent: Option<Request<RequestBody>>,
}

/// Sends a request and waits for the header of its response, for as long as the server, and
/// not the client, is what is waited for.
async fn send(
    exchange: &Exchange,
    backend: &BackendPlan,
    connection: &mut Checkout,
    message: Request<RequestBody>,
) -> Result<Response<Incoming>, Failed> {
    let silence = exchange.timeouts.server(backend);
    let deadline = Deadline::default();
    deadline.set(silence);
    let mut sent = 0;
    let mut response = pin!(connection.send(message));
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

/// Judges the header of a response.
async fn answer(
    mut response: Response<Incoming>,
    connection: Checkout,
    tunnel: Option<oneshot::Receiver<Tunnel>>,
    exchange: &Exchange,
    asked: Asked,
) -> Result<Begun, Failure> {
    let bad = |why| Failure::new(StatusCode::BAD_GATEWAY, Cause::Server, Phase::Headers, why);
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
