//! One request and its response, from the first look to the line in the access log.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{HeaderMap, Method, Request, StatusCode, Uri, Version, body::Incoming};

use super::{
    body::{Upload, UploadFailure},
    captured::Captured,
    client::Client,
    record::Record,
    route::RuleTimeouts,
};
use crate::{
    balance::{Done, Durations, Lease, Member, key},
    proxy::{
        outcome::{Cause, Outcome, Phase},
        plan::{BackendPlan, HttpPlan},
        proxy_protocol::Facts,
        socket::Addresses,
        timer,
    },
};

/// A limit for the request as a whole needs no timer of its own if it is so many times what any
/// single wait may take: late by one of these, it is not late by much.
const TIMELESS: u32 = 16;

/// One request and its response. Dropped before [`Self::end`], the client has left.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(super) client: Rc<Client>,
    pub(super) frontend: Arc<HttpPlan>,
    pub(super) backend: Option<Arc<BackendPlan>>,
    pub(super) lease: Option<Lease>,
    /// Who asks, as far as proxies are trusted that stand in between.
    pub(super) addresses: Addresses,
    /// A hash of that address, for turns in queues.
    pub(super) source_hash: u64,
    /// The server that the client belongs to.
    pub(super) own: Option<Arc<Member>>,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) received: Instant,
    /// How long the header took to come.
    pub(super) header_time: Option<Duration>,
    pub(super) queue_time: Option<Duration>,
    pub(super) connect_time: Option<Duration>,
    pub(super) response_time: Option<Duration>,
    pub(super) phase: Cell<Phase>,
    pub(super) status: Option<StatusCode>,
    /// Bytes of the response's body.
    pub(super) bytes_out: u64,
    /// None if the request has no body.
    pub(super) upload: Option<Rc<Upload>>,
    /// The number of the rule that ended it, from 0.
    pub(super) rule: Option<usize>,
    /// What rules have set.
    pub(super) timeouts: RuleTimeouts,
    /// Where it stands in the queue for a server: lower comes first.
    pub(super) priority: i16,
    /// Servers tried after the first.
    pub(super) retries: u32,
    /// The request went over a connection that was there already.
    pub(super) reused: bool,
    /// Headers for the access log.
    captured: Option<Box<Captured>>,
    is_over: bool,
}

impl Exchange {
    pub(super) fn new(
        client: &Rc<Client>,
        frontend: Arc<HttpPlan>,
        request: &Request<Incoming>,
    ) -> Box<Self> {
        client.begin();
        Box::new(Self {
            client: Rc::clone(client),
            frontend,
            backend: None,
            lease: None,
            addresses: client.addresses,
            source_hash: client.address_hash,
            own: None,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            received: Instant::now(),
            header_time: client.take_header_time(),
            queue_time: None,
            connect_time: None,
            response_time: None,
            phase: Cell::new(Phase::Request),
            status: None,
            bytes_out: 0,
            upload: None,
            rule: None,
            timeouts: RuleTimeouts::default(),
            priority: 0,
            retries: 0,
            reused: false,
            captured: client
                .worker
                .capturing_log()
                .map(|log| Captured::of_request(log, request.headers())),
            is_over: false,
        })
    }

    /// Looks whom a trusted proxy asks for. The port of that client is not known.
    pub(super) fn learn_source(&mut self, fields: &HeaderMap) {
        if let Some(source) = self.client.behind(fields) {
            self.addresses.source = SocketAddr::new(source, 0);
            self.source_hash = key::of_source(source);
        }
    }

    /// Who asks, for servers that are told by the PROXY protocol. A client behind a trusted proxy
    /// may be of another family than that one's connection.
    pub(super) fn introduction(&self) -> Facts<'_> {
        let tls = self.client.tls.as_ref();
        Facts { addresses: self.addresses.in_one_family(), sni: None, tls, unique_id: None }
    }

    /// What is left of the time for the request as a whole, for a timer; none if that has no
    /// limit, or one so long that whoever has waited for something else looks at it
    /// ([`Self::is_overdue`]).
    pub(super) fn left(&self) -> Option<Duration> {
        let (rules, backend) = (&self.timeouts, self.backend.as_ref()?);
        let config = &self.frontend.config.timeouts;
        let total = rules.total(config)?;
        let waits = [
            rules.client(config),
            rules.connect(backend),
            rules.server(backend),
            rules.queue(backend),
        ];
        if waits.into_iter().all(|wait| total / TIMELESS >= wait) {
            return None;
        }
        Some(total.saturating_sub(self.received.elapsed()))
    }

    /// Whether the time for the request as a whole is over, to a tick.
    pub(super) fn is_overdue(&self) -> bool {
        let total = self.timeouts.total(&self.frontend.config.timeouts);
        let taken = || timer::coarse_now().saturating_duration_since(self.received);
        total.is_some_and(|total| taken() >= total)
    }

    /// Keeps what the access log wants of a server's response.
    pub(super) fn capture_response(&mut self, headers: &HeaderMap) {
        if let Some(captured) = &mut self.captured {
            captured.take_response(headers);
        }
    }

    /// Whether nothing of the request is still to come.
    pub(super) fn upload_is_complete(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.is_complete.get())
    }

    /// The request is tried again after the server it was last with.
    pub(super) fn retry(&mut self) {
        self.retries += 1;
        if let Some(lease) = &self.lease {
            lease.server().counters().count_retry(self.client.worker.teller);
        }
    }

    /// The same after this server, which it did not get to.
    pub(super) fn retry_after(&mut self, server: &Member) {
        self.retries += 1;
        server.counters().count_retry(self.client.worker.teller);
    }

    /// Why the request's body was given up.
    pub(super) fn upload_failure(&self) -> Option<UploadFailure> {
        self.upload.as_ref().and_then(|upload| upload.failure.get())
    }

    /// The response has been handed over in full, or never will be.
    pub(super) fn end(mut self: Box<Self>, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.client.finish();
        let now = Instant::now();
        if let Some(lease) = &self.lease {
            lease.report(blame(outcome, self.status), now);
        }
        // From the first byte of its header.
        let total = (now - self.received) + self.header_time.unwrap_or_default();
        self.count(outcome, total);
        self.client.worker.log(|log, line| self.record(outcome, total).write(log, line));
    }

    fn count(&self, outcome: Outcome, total: Duration) {
        let teller = self.client.worker.teller;
        let some = |time: Option<Duration>| time.filter(|time| !time.is_zero());
        let durations = Durations {
            queue: some(self.queue_time),
            connect: some(self.connect_time),
            response: self.response_time,
            total,
        };
        let done = Done {
            status: self.status.map(|status| status.as_u16()),
            bytes_in: self.upload.as_ref().map_or(0, |upload| upload.bytes.get()),
            bytes_out: self.bytes_out,
            retries: self.retries,
            fault: outcome.cause.fault(),
        };
        self.frontend.counters.count(teller, &done);
        // Whom it waited for and connected to is the backend's.
        let seen = Durations { queue: None, connect: None, ..durations };
        self.frontend.timings.count(teller, &seen);
        if let Some(backend) = &self.backend {
            backend.pool.counters().count(teller, &done);
            backend.pool.timings().count(teller, &durations);
        }
        if let Some(lease) = &self.lease {
            lease.server().counters().count(teller, &Done { retries: 0, ..done });
        }
    }

    fn record(&self, outcome: Outcome, total_time: Duration) -> Record<'_> {
        let server = self.lease.as_ref().map(Lease::server);
        Record {
            client: self.addresses.source,
            destination: self.addresses.destination,
            received: timer::wall(self.received),
            frontend: self.frontend.name.as_str(),
            tls: self.client.tls.as_ref(),
            backend: self.backend.as_ref().map(|backend| backend.name.as_str()),
            server: server.map(|server| (server.name().as_str(), server.address())),
            header_time: self.header_time.unwrap_or_default(),
            queue_time: self.queue_time,
            connect_time: self.connect_time,
            response_time: self.response_time,
            total_time,
            status: self.status,
            bytes_in: self.upload.as_ref().map_or(0, |upload| upload.bytes.get()),
            bytes_out: self.bytes_out,
            outcome,
            connections: [
                self.client.worker.shared.connections(),
                self.frontend.connections.total(),
                self.backend.as_ref().map_or(0, |backend| backend.running()),
                server.map_or(0, |server| server.active()),
            ],
            retries: self.retries,
            reused: self.reused,
            queued: self.backend.as_ref().map_or(0, |backend| backend.pool.waiting()),
            rule: self.rule.map(|number| (number, self.frontend.config.rules.get(number))),
            method: self.method.as_str(),
            uri: &self.uri,
            version: self.version,
            captured: self.captured.as_deref(),
        }
    }
}

/// What a request says of its server.
fn blame(outcome: Outcome, status: Option<StatusCode>) -> crate::balance::Outcome {
    use crate::balance::Outcome::{Failure, Success, Unknown};
    match outcome.cause {
        Cause::Server | Cause::ServerTimeout => Failure,
        Cause::TotalTimeout(_) => Unknown,
        _ if outcome.phase < Phase::Headers => Unknown,
        _ => match status {
            Some(status) if status.is_server_error() => Failure,
            Some(_) => Success,
            None => Unknown,
        },
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let (cause, why) = match self.client.worker.has_ended() {
            true => (Cause::Stopped, "stopped"),
            false => (Cause::Client, "client_left"),
        };
        let outcome = Outcome::new(cause, self.phase.get(), why);
        self.finish(self.client.failure.get().unwrap_or(outcome));
    }
}
