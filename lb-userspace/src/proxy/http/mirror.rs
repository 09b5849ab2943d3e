//! Copies of requests for other backends: sent beside the request, never waited for, and
//! answered to nobody. What is not there at once (a server with room, a free place among the
//! copies) is not waited for.

use std::{rc::Rc, sync::Arc, time::Instant};

use hyper::{
    Request,
    body::Body,
    http::request::{self, Parts},
};
use tokio::task;

use super::{body::RequestBody, exchange::Exchange, prepare::prepare};
use crate::{
    balance::{Lease, Outcome, PickFacts, Picked},
    model::rule::action::Mirror,
    proxy::{
        outcome::Cause,
        plan::BackendPlan,
        proxy_protocol::Facts,
        timer::within,
        upstream::{Introduction, Upstreams},
        worker::MirrorPlace,
    },
};

/// Bytes of an answer that are read for the sake of the connection.
const MAX_ANSWER: u64 = 1 << 20;

/// Sends copies of a request that has no body. `parts` is the request as rules have made it.
pub(super) fn send_copies(exchange: &Exchange, parts: &Parts, mirrors: &[Arc<Mirror>]) {
    let worker = &exchange.client.worker;
    for mirror in mirrors {
        let Some(backend) = exchange.frontend.backends.get(&mirror.backend) else { continue };
        let Some(place) = worker.mirror_place(mirror) else { continue };
        let facts = PickFacts {
            hash: None,
            random: fastrand::u64(..),
            client: None,
            priority: 0,
            own: None,
            avoid: &[],
            is_firm: false,
            is_again: false,
        };
        let Ok(Picked::Server(lease)) = backend.pool.pick(&facts) else { continue };
        let mut copy = copy(parts);
        prepare(&mut copy, backend, false);
        let message = Request::from_parts(copy, RequestBody::Empty);
        let facts = Facts { tls: None, ..exchange.introduction() };
        let owner = &exchange.client.owner;
        let introduction = Introduction::of(backend, &facts, owner, &worker.upstreams);
        task::spawn_local(send(place, Arc::clone(backend), lease, introduction, message));
    }
}

fn copy(parts: &Parts) -> request::Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = parts.method.clone();
    copy.uri = parts.uri.clone();
    copy.version = parts.version;
    copy.headers = parts.headers.clone();
    copy
}

async fn send(
    place: MirrorPlace,
    backend: Arc<BackendPlan>,
    lease: Lease,
    introduction: Option<Introduction>,
    message: Request<RequestBody>,
) {
    let upstreams = Rc::clone(place.upstreams());
    let exchanged = exchange_with(&upstreams, &backend, &lease, introduction, message);
    let done = within(backend.settings.timeouts.server, exchanged).await;
    lease.report(done.unwrap_or(Outcome::Failure), Instant::now());
}

/// Whether the server answered as it should.
async fn exchange_with(
    upstreams: &Rc<Upstreams>,
    backend: &BackendPlan,
    lease: &Lease,
    introduction: Option<Introduction>,
    message: Request<RequestBody>,
) -> Outcome {
    let connection = match upstreams.reuse(lease.server(), backend, introduction.as_ref()) {
        Some(kept) => Ok(kept),
        None => {
            let after = backend.settings.timeouts.connect;
            upstreams.connect(lease.server(), backend, introduction, after).await
        }
    };
    let mut connection = match connection {
        Ok(connection) => connection,
        Err(error) if error.outcome().cause == Cause::Host => return Outcome::Unknown,
        Err(_) => return Outcome::Failure,
    };
    let response = connection.send(message).await;
    connection.answered();
    let Ok(response) = response else { return Outcome::Failure };
    let outcome = match response.status().is_server_error() {
        true => Outcome::Failure,
        false => Outcome::Success,
    };
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
        let Ok(frame) = frame else { return Outcome::Failure };
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
        if read > MAX_ANSWER {
            return outcome;
        }
    }
    if body.is_end_stream() {
        connection.give_back();
    }
    outcome
}
