//! Copies of requests for other backends: sent beside the request, never waited for, and
//! answered to nobody. What is not there at once (a server with room, a free place among the
//! copies) is not waited for.
//!
//! A body is copied while it goes to the request's own server, at that server's pace, and the
//! copy is sent once all of it has come. So a copy holds its place, and as much memory as it may,
//! from the beginning: what all of them together hold is bounded by the number of places.

use std::{rc::Rc, sync::Arc, time::Instant};

use hyper::{
    Request,
    body::{Body, Bytes, Incoming},
    http::request::Parts,
};
use tokio::task;

use super::{body::RequestBody, exchange::Exchange, prepare::prepare};
use crate::{
    balance::{Copied, Lease, Outcome, PickFacts, Picked, Teller},
    model::rule::action::Mirror,
    proxy::{
        outcome::Cause,
        plan::{BackendPlan, HttpPlan},
        proxy_protocol::Facts,
        timer::within,
        upstream::{Introduction, Upstreams},
        worker::MirrorPlace,
    },
};

/// Bytes of an answer that are read for the sake of the connection.
const MAX_ANSWER: u64 = 1 << 20;

/// Copies a request. `parts` is the request as rules have made it. Copies of one with a body are
/// returned, and sent once they were shown all of it.
pub(super) fn copy(
    exchange: &Exchange,
    parts: &Parts,
    mirrors: &[Arc<Mirror>],
    body: &Incoming,
) -> Option<Box<Copies>> {
    let worker = &exchange.client.worker;
    let count = |copied| exchange.frontend.copies.count(worker.teller, copied);
    let is_empty = body.is_end_stream();
    let least = body.size_hint().lower();
    let mut copies = Vec::new();
    for mirror in mirrors {
        let Some(backend) = exchange.frontend.backends.get(&mirror.backend) else { continue };
        if !is_empty && least.max(1) > u64::from(mirror.body_bytes) {
            count(Copied::TooLarge);
            continue;
        }
        let Some(place) = worker.mirror_place(mirror) else {
            count(Copied::Busy);
            continue;
        };
        let mut parts = copy_of(parts);
        prepare(&mut parts, backend, false);
        let facts = Facts { tls: None, ..exchange.introduction() };
        let owner = &exchange.client.owner;
        let introduction = Introduction::of(backend, &facts, owner, &worker.upstreams);
        let backend = Arc::clone(backend);
        copies.push(Ready {
            place,
            backend,
            introduction,
            parts,
            most: mirror.body_bytes as usize,
        });
    }
    if copies.is_empty() {
        return None;
    }
    let (teller, frontend) = (worker.teller, Arc::clone(&exchange.frontend));
    let copies = Copies { copies, body: Vec::new(), teller, frontend };
    if is_empty {
        copies.send();
        return None;
    }
    Some(Box::new(copies))
}

/// Copies of one request that wait for its body.
#[derive(Debug)]
pub(super) struct Copies {
    copies: Vec<Ready>,
    /// What has come of it so far.
    body: Vec<u8>,
    teller: Teller,
    frontend: Arc<HttpPlan>,
}

/// A copy that has all but its body.
#[derive(Debug)]
struct Ready {
    place: MirrorPlace,
    backend: Arc<BackendPlan>,
    introduction: Option<Introduction>,
    parts: Parts,
    /// Most bytes of the body.
    most: usize,
}

impl Copies {
    fn count(&self, copied: Copied, copies: usize) {
        (0..copies).for_each(|_| self.frontend.copies.count(self.teller, copied));
    }

    /// Shows them another piece of the body, of which they keep no more than they may.
    pub(super) fn see(&mut self, piece: &[u8]) {
        let length = self.body.len() + piece.len();
        let before = self.copies.len();
        self.copies.retain(|copy| length <= copy.most);
        self.count(Copied::TooLarge, before - self.copies.len());
        if self.copies.is_empty() {
            self.body = Vec::new();
        } else {
            self.body.extend_from_slice(piece);
        }
    }

    /// All of the body was there.
    pub(super) fn send(mut self) {
        let body = Bytes::from(std::mem::take(&mut self.body));
        for Ready { place, backend, introduction, parts, .. } in std::mem::take(&mut self.copies) {
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
            let Ok(Picked::Server(lease)) = backend.pool.pick(&facts) else {
                self.count(Copied::NoServer, 1);
                continue;
            };
            self.count(Copied::Sent, 1);
            let message = Request::from_parts(parts, RequestBody::whole(body.clone()));
            task::spawn_local(send(place, backend, lease, introduction, message));
        }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.count(Copied::Incomplete, self.copies.len());
    }
}

fn copy_of(parts: &Parts) -> Parts {
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
