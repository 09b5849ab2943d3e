//! One connection of a client, as its requests and its socket see it.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant, SystemTime},
};

use hyper::{HeaderMap, StatusCode, Uri, Version, header::HeaderValue};
use lb_common::drop_reason::DropReason;

use super::{
    body::Watched, exchange::Exchange, forwarded, frames::Flood, guard::Ambiguity,
    headers::Present, record::Record,
};
use crate::{
    balance::{Done, key},
    model::frontend::{ClientTimeouts, HttpLimits},
    proxy::{
        far_end::Tunnel,
        kept::Owner,
        outcome::Outcome,
        socket::Addresses,
        timer::{Deadline, coarse_now},
        tls::{facts::TlsFacts, termination::Termination},
        worker::{FrontendSlot, Worker},
    },
};

/// After so long without a request a connection gives back what only requests need.
const REST: Duration = Duration::from_secs(1);

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(super) worker: Rc<Worker>,
    /// Of connections to servers that were told of it by the PROXY protocol.
    pub(super) owner: Owner,
    pub(super) frontend: Rc<FrontendSlot>,
    pub(super) addresses: Addresses,
    pub(super) tls: Option<TlsFacts>,
    /// What ended TLS; none without.
    termination: Option<Arc<Termination>>,
    /// The address as `X-Forwarded-For` has it.
    pub(super) address_field: HeaderValue,
    /// A hash of the address, for turns in queues.
    pub(super) address_hash: u64,
    pub(super) timeouts: ClientTimeouts,
    /// Of its frames, if it speaks HTTP/2.
    pub(super) http2_limits: HttpLimits,
    /// Until the header is complete, or the next request begins.
    pub(super) receiving: Deadline,
    /// Until the client takes something.
    pub(super) sending: Deadline,
    /// How long it may take nothing; over HTTP/1 rules may say so for each request.
    pub(super) taking: Cell<Duration>,
    /// Until a server begins to answer its request of HTTP/1.
    pub(super) answering: Deadline,
    header_since: Cell<Option<Instant>>,
    header_time: Cell<Option<Duration>>,
    /// Requests that are being worked on.
    running: Cell<u32>,
    /// Since when there are none.
    idle_since: Cell<Instant>,
    /// The last byte that came was the last of a message.
    pub(super) is_between: Cell<bool>,
    /// What it speaks, as far as is known.
    pub(super) version: Cell<Version>,
    /// Requests so far.
    pub(super) requests: Cell<u64>,
    lingers: Cell<bool>,
    /// Why the connection is given up, for requests that are cut off by it.
    pub(super) failure: Cell<Option<Outcome>>,
    pub(super) ambiguity: Cell<Option<Ambiguity>>,
    pub(super) flood: Cell<Option<Flood>>,
    /// What was answered to a request for another protocol: with it, or not.
    pub(super) decision: Cell<Option<bool>>,
    pub(super) decided: RefCell<Option<Waker>>,
    /// The latest rules on sources that let it in.
    judged: Cell<u64>,
    /// Responses on streams of HTTP/2 that are on their way.
    watched: RefCell<Vec<Weak<Watched>>>,
    /// Until they are looked at again.
    looking: Deadline,
    /// The other side, once another protocol was agreed on.
    tunnel: RefCell<Option<(Box<Exchange>, Tunnel)>>,
}

impl Client {
    /// `judged` are the rules on sources by which it was let in ([`Gate::generation`]).
    ///
    /// [`Gate::generation`]: crate::proxy::gate::Gate::generation
    pub(super) fn new(
        worker: &Rc<Worker>,
        frontend: &Rc<FrontendSlot>,
        addresses: Addresses,
        tls: Option<(TlsFacts, Arc<Termination>)>,
        judged: u64,
    ) -> Rc<Self> {
        let address = addresses.source.ip();
        let plan = frontend.plan();
        let timeouts = plan.config.timeouts;
        let (tls, termination) = tls.unzip();
        let client = Self {
            worker: Rc::clone(worker),
            owner: Owner::default(),
            frontend: Rc::clone(frontend),
            addresses,
            tls,
            termination,
            address_field: forwarded::name_of(addresses.peer()),
            address_hash: key::of_source(address),
            timeouts,
            http2_limits: plan.config.limits,
            receiving: Deadline::default(),
            sending: Deadline::default(),
            taking: Cell::new(timeouts.client),
            answering: Deadline::default(),
            header_since: Cell::new(None),
            header_time: Cell::new(None),
            running: Cell::new(0),
            idle_since: Cell::new(coarse_now()),
            is_between: Cell::new(false),
            version: Cell::new(Version::HTTP_11),
            requests: Cell::new(0),
            lingers: Cell::new(false),
            failure: Cell::new(None),
            ambiguity: Cell::new(None),
            flood: Cell::new(None),
            decision: Cell::new(None),
            decided: RefCell::new(None),
            judged: Cell::new(judged),
            watched: RefCell::default(),
            looking: Deadline::default(),
            tunnel: RefCell::new(None),
        };
        client.receiving.set(timeouts.http_request);
        Rc::new(client)
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether what it says of those behind it is taken: as the configuration has it now, not
    /// when it came.
    fn is_trusted(&self) -> bool {
        let plan = self.frontend.current();
        let own = self.addresses.source.ip();
        plan.config.trusted_proxies.iter().any(|network| network.contains(&own))
    }

    /// Why it is not let in any more, by rules that are newer than it.
    pub(super) fn expelled(&self) -> Option<DropReason> {
        let plan = self.frontend.current();
        let generation = plan.gate.generation();
        if generation == self.judged.get() {
            return None;
        }
        let judged = plan.gate.judge(self.addresses.peer());
        if judged.is_ok() {
            self.judged.set(generation);
        }
        judged.err()
    }

    /// Whom it asks for, if it is a proxy that is trusted and says so.
    pub(super) fn behind(&self, fields: &HeaderMap) -> Option<IpAddr> {
        if !self.is_trusted() {
            return None;
        }
        let plan = self.frontend.plan();
        let trusted = &plan.config.trusted_proxies;
        forwarded::client_behind(fields, |hop| trusted.iter().any(|net| net.contains(&hop)))
    }

    /// Says who it is in the fields of a request that was judged; `present` is what it had.
    pub(super) fn introduce(
        &self,
        fields: &mut HeaderMap,
        present: Present,
        host: Option<HeaderValue>,
    ) {
        let (address, is_tls) = (&self.address_field, self.is_tls());
        match self.is_trusted() {
            true => forwarded::extend(fields, address, is_tls, host),
            false => forwarded::set(fields, address, is_tls, host, present.has(Present::CLAIM)),
        }
    }

    /// Whether a request belongs on a connection of its own, by its `Host`.
    pub(super) fn is_misdirected(&self, host: Option<&HeaderValue>) -> bool {
        let (Some(tls), Some(termination)) = (&self.tls, &self.termination) else { return false };
        let Some(host) = host else { return false };
        let host = host.to_str().unwrap_or_default().to_ascii_lowercase();
        let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _port)| name);
        termination.is_misdirected(tls.sni.as_deref(), name.strip_suffix('.').unwrap_or(name))
    }

    /// Watches whether it takes a response.
    pub(super) fn watch(&self, response: &Rc<Watched>) {
        let mut watched = self.watched.borrow_mut();
        if watched.len() == watched.capacity() {
            // Those that have ended make room, or there are more at a time than ever.
            watched.retain(|response| response.strong_count() > 0);
            let room = watched.len().max(16);
            watched.reserve(room);
        }
        watched.push(Rc::downgrade(response));
        if !self.looking.is_set() {
            self.looking.set(self.timeouts.client);
        }
    }

    /// Gives up responses that it does not take, now and then.
    pub(super) fn look_at_watched(&self, cx: &mut Context<'_>) {
        while self.looking.poll(cx).is_ready() {
            // What ends on the way wants to be watched no more.
            let watched = self.watched.take();
            let left = watched
                .into_iter()
                .filter(|response| response.upgrade().is_some_and(|response| response.is_taken()));
            let left: Vec<_> = left.collect();
            if !left.is_empty() {
                self.looking.set(self.timeouts.client);
            }
            self.watched.borrow_mut().extend(left);
        }
    }

    /// Whether no request is being worked on.
    pub(super) fn is_idle(&self) -> bool {
        self.running.get() == 0
    }

    /// Whether part of a header has come.
    pub(super) fn is_in_header(&self) -> bool {
        self.header_since.get().is_some()
    }

    /// A request is there.
    pub(super) fn begin(&self) {
        self.running.set(self.running.get() + 1);
        self.requests.set(self.requests.get() + 1);
        // What rules said was for an earlier one.
        self.taking.set(self.timeouts.client);
        if !self.is_in_header() {
            self.receiving.clear();
        }
    }

    /// A request is over.
    pub(super) fn finish(&self) {
        self.running.set(self.running.get().saturating_sub(1));
        if self.is_idle() && !self.is_in_header() {
            self.idle_since.set(coarse_now());
            self.receiving.set(self.timeouts.keep_alive.min(REST));
        }
    }

    /// How long there may be no request from now on; none if that time is over.
    pub(super) fn idleness_left(&self) -> Option<Duration> {
        let idle = coarse_now().saturating_duration_since(self.idle_since.get());
        let most = match self.requests.get() {
            0 => self.timeouts.http_request,
            _ => self.timeouts.keep_alive,
        };
        most.checked_sub(idle).filter(|left| !left.is_zero())
    }

    /// Whether nothing is under way in either direction: all that came were whole requests,
    /// and all of the responses has gone.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_idle() && self.is_between.get() && !self.sending.is_set()
    }

    /// How long the header of the request took that just came.
    pub(super) fn take_header_time(&self) -> Option<Duration> {
        self.header_time.take()
    }

    /// The connection is to end after the responses that are due.
    pub(super) fn is_leaving(&self) -> bool {
        self.frontend.has_stopped()
    }

    /// The client may go on sending although it was refused.
    pub(super) fn linger(&self) {
        self.lingers.set(true);
    }

    pub(super) fn lingers(&self) -> bool {
        self.lingers.get()
    }

    /// Server and client have agreed on another protocol.
    pub(super) fn open_tunnel(&self, exchange: Box<Exchange>, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some((exchange, tunnel));
        self.decide(true);
    }

    pub(super) fn take_tunnel(&self) -> Option<(Box<Exchange>, Tunnel)> {
        self.tunnel.take()
    }

    /// Logs what could not be read as a request.
    pub(super) fn log_refused(&self, outcome: Outcome, status: Option<StatusCode>) {
        let plan = self.frontend.plan();
        let taken = self.header_since.take().map(|since| since.elapsed()).unwrap_or_default();
        let uri = Uri::default();
        let record = Record {
            client: self.addresses.source,
            destination: self.addresses.destination,
            received: SystemTime::now() - taken,
            frontend: plan.name.as_str(),
            tls: self.tls.as_ref(),
            backend: None,
            server: None,
            header_time: taken,
            queue_time: None,
            connect_time: None,
            response_time: None,
            total_time: taken,
            status,
            bytes_in: 0,
            bytes_out: 0,
            outcome,
            connections: [self.worker.shared.connections(), plan.connections.total(), 0, 0],
            retries: 0,
            reused: false,
            queued: 0,
            rule: None,
            method: "<BADREQ>",
            uri: &uri,
            version: self.version.get(),
            captured: None,
        };
        let status = status.map(|status| status.as_u16());
        let fault = outcome.cause.fault();
        plan.counters.count(self.worker.teller, &Done { status, fault, ..Done::default() });
        self.worker.log(|log, line| record.write(log, line));
    }

    /// Says whether the bytes after a request for another protocol are of that protocol.
    pub(super) fn decide(&self, is_opaque: bool) {
        self.decision.set(Some(is_opaque));
        if let Some(waker) = self.decided.take() {
            waker.wake();
        }
    }

    pub(super) fn header_begins(&self) {
        if self.header_since.get().is_none() {
            self.header_since.set(Some(Instant::now()));
            self.receiving.set(self.timeouts.http_request);
        }
    }

    pub(super) fn header_ends(&self, in_one_piece: bool) {
        if let Some(since) = self.header_since.take() {
            self.header_time.set(Some(since.elapsed()));
        } else if in_one_piece {
            self.header_time.set(Some(Duration::ZERO));
        }
    }
}
