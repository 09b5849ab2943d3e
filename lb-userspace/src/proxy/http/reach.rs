//! Getting a response: choose a server, connect, send the request, and start over where that
//! may be.
//!
//! A request is sent again only where that is safe: it did not leave this host; a server of
//! HTTP/2 said that it has not looked at it (RFC 9113, 8.7); or a connection that had been idle
//! broke without a byte of response, the method is idempotent and there is no body (RFC 9110,
//! 9.2.2; RFC 9112, 9.3.1). The same holds for statuses after which the configuration wants
//! another server tried. All but the first are within the backend's budget of retries.

use std::{
    future::pending,
    pin::pin,
    time::{Duration, Instant},
};

use hyper::{Request, StatusCode};

use super::{
    body::RequestBody,
    choose,
    exchange::Exchange,
    prepare::Prepared,
    respond::Failure,
    send::{Wanted, answer, begun, is_repeatable, spare, too_long},
};
use crate::{
    balance,
    model::backend::ServerProtocol,
    proxy::{
        far_end::Tunnel,
        outcome::{Cause, Phase},
        plan::BackendPlan,
        timer::{RETRY_PAUSE, within},
        upstream::ConnectError,
    },
};

/// A connection that was idle for longer may be closed by its server just now.
const STALE: Duration = Duration::from_secs(1);

/// For a WebSocket where a server speaks HTTP/2 without them.
const NO_WEBSOCKET: Failure =
    Failure::new(StatusCode::NOT_IMPLEMENTED, Cause::Policy, Phase::Request, "websocket_to_http2");
/// The server closed a connection before it could be asked for a WebSocket.
pub(super) const CLOSED_AT_ONCE: Failure =
    Failure::new(StatusCode::BAD_GATEWAY, Cause::Server, Phase::Headers, "response_missing");

/// [`reach`], within the time for the request as a whole, if that needs a timer.
pub(super) async fn in_time(
    exchange: &mut Exchange,
    prepared: &mut Prepared,
) -> Result<Option<Tunnel>, Failure> {
    let Some(left) = exchange.left() else { return reach(exchange, prepared).await };
    // Boxed, so that the future of a request is not as large as both ways together.
    match Box::pin(within(left, reach(exchange, prepared))).await {
        Some(done) => done,
        None => Err(too_long(exchange)),
    }
}

/// Gets a response from a server, and the stream if it has changed the protocol.
async fn reach(
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
