//! The way of a request: judge it, choose a server, send it, relay the response.
//!
//! A request is sent again only where that is safe: it did not leave this host; a server of
//! HTTP/2 said that it has not looked at it (RFC 9113, 8.7); or a connection that had been idle
//! broke without a byte of response, the method is idempotent and there is no body (RFC 9110,
//! 9.2.2; RFC 9112, 9.3.1). The same holds for statuses after which the configuration wants
//! another server tried. All but the first are within the backend's budget of retries.

use std::{
    convert::Infallible,
    future::pending,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{
    admit::admit,
    body::{RequestBody, ResponseBody},
    choose,
    client::Client,
    exchange::Exchange,
    headers::Present,
    persist,
    prepare::Prepared,
    respond::{self, Failure},
    route::{Destination, Route},
    send::{Wanted, answer, begun, is_repeatable, spare, too_long},
    upgrade::{self, Asked},
};
use crate::{
    balance,
    model::backend::ServerProtocol,
    proxy::{
        far_end::Tunnel,
        outcome::{Cause, Outcome, Phase},
        plan::BackendPlan,
        rules::{Answer, Edits},
        timer::{RETRY_PAUSE, within},
        upstream::ConnectError,
    },
};
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    header::{CONNECTION, HeaderValue},
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

/// For a WebSocket where a server speaks HTTP/2 without them.
const NO_WEBSOCKET: Failure =
    Failure::new(StatusCode::NOT_IMPLEMENTED, Cause::Policy, Phase::Request, "websocket_to_http2");
/// The server closed a connection before it could be asked for a WebSocket.
const CLOSED_AT_ONCE: Failure =
    Failure::new(StatusCode::BAD_GATEWAY, Cause::Server, Phase::Headers, "response_missing");

/// The answer to a request, which may be there already. hyper moves it, so what is large is on
/// the heap.
pub(super) enum Serving {
    Done(Option<Box<Response<ResponseBody>>>),
    Waiting(Pin<Box<dyn Future<Output = Response<ResponseBody>>>>),
}

impl Future for Serving {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            // hyper does not ask again.
            Self::Done(response) => {
                response.take().map_or(Poll::Pending, |it| Poll::Ready(Ok(*it)))
            }
            Self::Waiting(future) => future.as_mut().poll(cx).map(Ok),
        }
    }
}

/// Answers one request.
pub(super) fn serve(client: &Rc<Client>, mut request: Request<Incoming>) -> Serving {
    let mut exchange = Exchange::new(client, client.frontend.plan(), &request);
    let is_http1 = request.version() < Version::HTTP_2;
    let present = Present::of(request.headers());
    let asked = Asked::by(&request, present, exchange.frontend.config.takes_connect);
    if asked == Asked::Other {
        client.decide(false);
    }
    let is_stream = asked == Asked::Stream || asked == Asked::Connect && !is_http1;
    let on_stream = is_stream.then(|| hyper::upgrade::on(&mut request));
    let limits = &exchange.frontend.config.limits;
    let judged = match (client.expelled(), admit(&mut request, present, limits, asked)) {
        (Some(reason), _) => Err(Failure::expelled(reason)),
        // Where a tunnel leads is not what this connection is for.
        (None, Ok(host)) if asked != Asked::Connect && client.is_misdirected(host.as_ref()) => {
            Err(MISDIRECTED)
        }
        (None, judged) => judged.map_err(Failure::from),
    };
    let Route { to, edits } = match judged {
        Ok(host) => {
            // Rules see what is true of the client, and not what it says.
            exchange.learn_source(request.headers());
            client.introduce(request.headers_mut(), present, host);
            if asked == Asked::Stream {
                // As they see it on HTTP/1.1.
                *request.method_mut() = Method::GET;
            }
            Route::of(&mut exchange, &request, asked.is_websocket())
        }
        Err(failure) => Route::failing(&exchange.frontend, failure),
    };
    let (mut response, edits) = match to {
        Destination::Backend(backend) => {
            match Prepared::new(&mut exchange, request, backend, edits, asked) {
                Ok(mut prepared) => {
                    prepared.on_stream = on_stream;
                    return Serving::Waiting(Box::pin(send(exchange, prepared)));
                }
                Err(refused) => {
                    let (failure, edits) = *refused;
                    (respond(exchange, failure, &edits), edits)
                }
            }
        }
        Destination::Answer(answer) => (give(exchange, answer, &edits, asked), edits),
        Destination::Failure(failure) => (respond(exchange, failure, &edits), edits),
    };
    last(client, (asked, is_http1), false, &mut response, &edits);
    Serving::Done(Some(Box::new(response)))
}

/// The response of a server, or ours if none is to be had.
async fn send(mut exchange: Box<Exchange>, mut prepared: Box<Prepared>) -> Response<ResponseBody> {
    let done = in_time(&mut exchange, &mut prepared).await;
    let client = Rc::clone(&exchange.client);
    let is_http1 = exchange.version < Version::HTTP_2;
    let (has_tunnel, mut response) = match done {
        Ok(tunnel) => (tunnel.is_some(), relay(exchange, &mut prepared, tunnel)),
        Err(failure) => (false, respond(exchange, failure, &prepared.edits)),
    };
    last(&client, (prepared.asked, is_http1), has_tunnel, &mut response, &prepared.edits);
    response
}

/// The last that is done to any response.
fn last(
    client: &Client,
    (asked, is_http1): (Asked, bool),
    has_tunnel: bool,
    response: &mut Response<ResponseBody>,
    edits: &Edits,
) {
    match asked {
        Asked::Upgrade if !has_tunnel => client.decide(false),
        _ => {}
    }
    edits.apply_to_response(response.headers_mut());
    // What a client has sent on the chance that there is a tunnel must never be a request.
    let is_in_doubt = asked == Asked::Connect && !has_tunnel && is_http1;
    if is_in_doubt {
        client.linger();
    }
    if is_in_doubt || client.is_leaving() && is_http1 && !has_tunnel {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// The answer of a rule.
fn give(
    mut exchange: Box<Exchange>,
    answer: Answer,
    edits: &Edits,
    asked: Asked,
) -> Response<ResponseBody> {
    let mut response = respond::of_rule(answer, edits);
    // There success means that a tunnel is open.
    let is_success_open = matches!(asked, Asked::Stream | Asked::Connect);
    if is_success_open && response.status().is_success() {
        *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
    }
    exchange.status = Some(response.status());
    exchange.bytes_out = response.body().size_hint().exact().unwrap_or(0);
    let is_denied = response.status().is_client_error() || response.status().is_server_error();
    let denied = Outcome::new(Cause::Policy, Phase::Request, "rule");
    exchange.end(if is_denied { denied } else { Outcome::DONE });
    response
}

fn respond(mut exchange: Box<Exchange>, failure: Failure, edits: &Edits) -> Response<ResponseBody> {
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
    prepared: &mut Prepared,
    tunnel: Option<Tunnel>,
) -> Response<ResponseBody> {
    let (Some(response), Some(connection)) = (prepared.response.take(), prepared.connection.take())
    else {
        return respond(exchange, CLOSED_AT_ONCE, &prepared.edits);
    };
    let (mut parts, incoming) = response.into_parts();
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    exchange.capture_response(&parts.headers);
    persist::name_server(&exchange, &mut parts.headers);
    exchange.status = Some(parts.status);
    exchange.phase.set(Phase::Data);
    if let Some(tunnel) = tunnel {
        return upgrade::agree(parts, exchange, tunnel, prepared.on_stream.take(), prepared.asked);
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
            exchange.end(Outcome::DONE);
            ResponseBody::Empty
        }
    };
    Response::from_parts(parts, body)
}

/// [`forward`], within the time for the request as a whole, if that needs a timer.
async fn in_time(
    exchange: &mut Exchange,
    prepared: &mut Prepared,
) -> Result<Option<Tunnel>, Failure> {
    let Some(left) = exchange.left() else { return forward(exchange, prepared).await };
    // Boxed, so that the future of a request is not as large as both ways together.
    match Box::pin(within(left, forward(exchange, prepared))).await {
        Some(done) => done,
        None => Err(too_long(exchange)),
    }
}

/// Gets a response from a server, and the stream if it has changed the protocol.
async fn forward(
    exchange: &mut Exchange,
    prepared: &mut Prepared,
) -> Result<Option<Tunnel>, Failure> {
    let Prepared { message, connection, response, backend, introduction, accept, .. } = prepared;
    let (asked, hash) = (prepared.asked, prepared.hash);
    let mut tried = Vec::new();
    let (mut only_new, mut is_again, mut was_refused) = (false, false, false);
    // The clock is read where there was something to wait for.
    let mut at = exchange.received;
    loop {
        let (lease, waited) = choose::choose(exchange, backend, hash, &tried, is_again).await?;
        exchange.queue_time = Some(waited);
        exchange.phase.set(Phase::Connect);
        if was_refused && tried.contains(&lease.server().id()) {
            // There is no other: it may be starting just now.
            let pause = RETRY_PAUSE.min(exchange.timeouts.connect(backend));
            Box::pin(within(pause, pending::<()>())).await;
        }
        is_again = true;
        let upstreams = &exchange.client.worker.upstreams;
        *connection = match only_new {
            true => None,
            false => upstreams.reuse(lease.server(), backend, introduction.as_ref()),
        };
        if connection.is_some() {
            exchange.connect_time = Some(Duration::ZERO);
            if !waited.is_zero() {
                at = Instant::now();
            }
        } else {
            let after = exchange.timeouts.connect(backend);
            let began = Instant::now();
            // A large future that few requests need.
            let introduction = introduction.clone();
            let connect = upstreams.connect(lease.server(), backend, introduction, after);
            let connected = Box::pin(connect).await;
            at = Instant::now();
            exchange.connect_time = Some(at - began);
            match connected {
                Ok(connected) => *connection = Some(connected),
                Err(error) => {
                    let failure = not_connected(&error);
                    // What this host is short of, it is for other servers, too.
                    if failure.outcome.cause == Cause::Host || !may_retry(exchange, backend) {
                        exchange.lease = Some(lease);
                        return Err(failure);
                    }
                    lease.report(balance::Outcome::Failure, Instant::now());
                    exchange.retry_after(lease.server());
                    tried.push(lease.server().id());
                    was_refused = true;
                    continue;
                }
            }
        }
        exchange.lease = Some(lease);
        let Some(connection) = connection else { return Err(CLOSED_AT_ONCE) };
        exchange.reused = connection.idle().is_some();
        if asked.is_websocket() {
            match Box::pin(connection.takes_websockets()).await {
                Some(true) => {}
                Some(false) => return Err(NO_WEBSOCKET),
                None => return Err(CLOSED_AT_ONCE),
            }
        }
        exchange.phase.set(Phase::Headers);
        let statuses = backend.settings.balancing.retries.statuses;
        let is_stale = connection.idle().is_some_and(|idle| idle > STALE);
        let is_repeatable = message.as_ref().is_some_and(is_repeatable);
        let may_be_wanted = match backend.settings.protocol {
            ServerProtocol::Http1 => is_repeatable && (is_stale || !statuses.is_empty()),
            ServerProtocol::Http2 => !asked.is_tunnel(),
        };
        let spare = message.as_ref().filter(|_| may_be_wanted).map(spare);
        let wanted = asked.is_tunnel().then(|| match backend.settings.protocol {
            ServerProtocol::Http1 => Wanted::Connection(connection.tunnel()),
            ServerProtocol::Http2 => Wanted::Stream(accept.clone()),
        });
        let Some(request) = message.take() else { return Err(CLOSED_AT_ONCE) };
        let sending = pin!(connection.send(request));
        let done = begun(exchange, backend, sending, response).await;
        let is_unheard = connection.is_unheard();
        connection.answered();
        match (done, &mut *response) {
            (Ok(()), Some(begun)) => {
                if is_repeatable
                    && statuses.contains(begun.status().as_u16())
                    && let Some(again) = spare
                    && may_retry(exchange, backend)
                    && let Some(lease) = exchange.lease.take()
                {
                    lease.report(balance::Outcome::Failure, Instant::now());
                    exchange.retry_after(lease.server());
                    tried.push(lease.server().id());
                    // The response goes with its connection.
                    *response = None;
                    *message = Some(*again);
                    continue;
                }
                exchange.response_time = Some(at.elapsed());
                if let Some(upload) = &exchange.upload {
                    upload.kept.take();
                }
                return answer(begun, wanted, exchange, asked).await;
            }
            (Ok(()), None) => return Err(CLOSED_AT_ONCE),
            (Err(failed), _) => {
                let is_broken = exchange.reused && exchange.upload_failure().is_none();
                // The server may have had it.
                let is_unanswered = is_repeatable && is_stale && failed.is_end && is_unheard;
                match (failed.unsent, spare) {
                    (Some(unsent), _) if is_broken => *message = Some(*unsent),
                    (None, Some(again))
                        if is_broken && is_unanswered && backend.may_retry_now() =>
                    {
                        exchange.retry();
                        *message = Some(*again);
                    }
                    (None, Some(again)) if failed.is_refused && may_retry(exchange, backend) => {
                        let Some(again) = whole(*again, exchange) else {
                            return Err(failed.failure);
                        };
                        // Others are asked first, if there are any.
                        let server = exchange.lease.as_ref().map(|lease| lease.server().id());
                        tried.extend(server);
                        exchange.retry();
                        *message = Some(again);
                    }
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
    exchange.retries < backend.settings.balancing.retries.attempts && backend.may_retry_now()
}

/// A copy of a request with its body, if that is none or was kept.
fn whole(mut copy: Request<RequestBody>, exchange: &Exchange) -> Option<Request<RequestBody>> {
    if let Some(upload) = &exchange.upload {
        *copy.body_mut() = upload.again()?;
    }
    Some(copy)
}

fn not_connected(error: &ConnectError) -> Failure {
    let outcome = error.outcome();
    let status = match outcome.cause {
        Cause::ServerTimeout => StatusCode::GATEWAY_TIMEOUT,
        Cause::Host => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    };
    Failure { status, outcome, closes: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// hyper moves the one, and the allocator hands out blocks of up to a kibibyte at once.
    #[test]
    fn what_a_request_needs_is_small() {
        assert!(size_of::<Serving>() <= 16);
        assert!(
            size(send) <= 1024 && size_of::<Prepared>() <= 1024 && size_of::<Exchange>() <= 1024
        );
    }
}
