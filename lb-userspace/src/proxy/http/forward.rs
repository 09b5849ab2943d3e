//! The way of a request: judge it, send it to a server ([`reach`](super::reach)), relay the
//! response.

use std::{
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use super::{
    admit::admit,
    body::ResponseBody,
    client::Client,
    exchange::Exchange,
    headers::Present,
    persist,
    prepare::Prepared,
    reach::{CLOSED_AT_ONCE, in_time},
    respond::{self, Failure},
    route::{Destination, Route},
    upgrade::{self, Asked},
};
use crate::proxy::{
    far_end::Tunnel,
    outcome::{Cause, Outcome, Phase},
    rules::{Answer, Edits},
};
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    header::{CONNECTION, HeaderValue},
};

/// For a host that this connection is not good for.
const MISDIRECTED: Failure = Failure::new(
    StatusCode::MISDIRECTED_REQUEST,
    Cause::Client,
    Phase::Request,
    "other_server_name",
);

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
