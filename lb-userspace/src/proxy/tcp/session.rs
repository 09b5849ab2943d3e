//! One connection from its acceptance to its line in the log: PROXY header, limits, TLS or
//! a look at the server name, route, server, relay.

use std::{
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use lb_common::{counters::TrafficCounters, drop_reason::DropReason};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    live::{Carried, Ends, Listed, Live},
    pipe::Pipes,
    reach::{Backend, Counted, Progress, Reached, reach},
    record::Record,
    relay::{End, RelayTimeouts, relay},
    route::Router,
};
use crate::proxy::stream::Stream;
use crate::{
    balance::{Counters, Done, Durations, Lease, Refused, Teller, Timings},
    clock::Moment,
    model::{
        backend::SendProxy,
        frontend::{AcceptProxy, ConnectionLimits},
        name::Name,
    },
    proxy::{
        gate::Gate,
        limits::{Admission, Connections, TooMany},
        listen::Accepted,
        outcome::{Cause, Outcome, Phase},
        proxy_protocol::{self, Facts},
        sni::{self, HelloError},
        socket::{Addresses, Socket},
        tls::{facts::TlsFacts, termination::Termination},
        traffic::{Ledger, Traffic},
    },
};

/// A place where a frontend listens, as its sessions see it.
#[derive(Debug)]
pub struct Site {
    /// The frontend.
    pub frontend: Name,
    /// Where its connections go.
    pub router: Router<Arc<Backend>>,
    /// TLS that ends here.
    pub termination: Option<Arc<Termination>>,
    /// Who introduces clients by the PROXY protocol.
    pub accept_proxy: Option<AcceptProxy>,
    /// Who may be its client.
    pub gate: Gate,
    /// What the data plane would do, if the frontend is of layer 4.
    pub layer_4: Option<Layer4>,
    /// Most connections.
    pub limits: ConnectionLimits,
    /// The connections of the frontend; kept over reloads.
    pub connections: Arc<Connections>,
    /// What sessions of the frontend came to; kept over reloads.
    pub counters: Arc<Counters>,
    /// How long they took; kept over reloads.
    pub timings: Arc<Timings>,
    /// Longest wait for a ClientHello.
    pub request: Duration,
    /// How long a client may take nothing.
    pub client: Duration,
    /// How long nobody may say anything.
    pub tunnel: Duration,
}

/// What the data plane would do for a VIP: limit sources and count.
#[derive(Debug)]
pub struct Layer4 {
    /// What the VIP has carried; kept over reloads.
    pub traffic: Arc<Traffic>,
    /// What all have carried.
    pub ledger: Arc<Ledger>,
}

/// What a worker gives its sessions.
#[derive(Clone)]
pub struct Worker {
    /// It as it counts.
    pub teller: Teller,
    /// Its pipes.
    pub pipes: Pipes,
    /// Its sessions of layer 4.
    pub live: Live,
    /// Connections of clients of the whole process, this one included.
    pub sessions: Arc<AtomicU32>,
    /// Takes the lines of the access log.
    pub log: Rc<dyn Fn(Record)>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("pipes", &self.pipes).finish_non_exhaustive()
    }
}

/// Serves a connection. `stop` aborts it.
pub async fn serve(accepted: Accepted, site: Arc<Site>, worker: Worker, stop: CancellationToken) {
    let mut session = Session {
        accepted: SystemTime::now(),
        started: Instant::now(),
        addresses: accepted.addresses,
        tls: None,
        sni: None,
        unique_id: None,
        backend: None,
        progress: Progress { teller: worker.teller, ..Progress::default() },
        connect: None,
        bytes: (0, 0),
    };
    let outcome = {
        let mut held = Held::default();
        let outcome = session.run(accepted.socket, &site, &worker, &stop, &mut held).await;
        session.log(outcome, &site, &worker, &held)
    };
    tracing::trace!(frontend = %site.frontend, client = %session.addresses.source, %outcome);
}

/// What is known of a session, for the server and for the log.
struct Session {
    accepted: SystemTime,
    started: Instant,
    addresses: Addresses,
    tls: Option<TlsFacts>,
    /// The server name of TLS that is passed through.
    sni: Option<String>,
    unique_id: Option<String>,
    backend: Option<Name>,
    progress: Progress,
    connect: Option<Duration>,
    /// Bytes up and down.
    bytes: (u64, u64),
}

/// What counts a session, until its line is written.
#[derive(Default)]
struct Held {
    admission: Option<Admission>,
    backend: Option<(Counted, Arc<Backend>)>,
    lease: Option<Lease>,
}

impl Session {
    /// The phases one after the other.
    async fn run(
        &mut self,
        socket: Socket,
        site: &Site,
        worker: &Worker,
        stop: &CancellationToken,
        held: &mut Held,
    ) -> Outcome {
        let stopped = |phase| Outcome::new(Cause::Stopped, phase, "stopped");
        let received = self.receive(socket, site, worker.teller, held);
        let (mut client, first) = match stop.run_until_cancelled(received).await {
            Some(Ok(received)) => received,
            Some(Err(outcome)) => return outcome,
            None => return stopped(Phase::Request),
        };
        let name = self.tls.as_ref().and_then(|tls| tls.sni.as_deref()).or(self.sni.as_deref());
        let backend = site.router.route(name);
        self.backend = Some(backend.name.clone());
        held.backend = Some((Counted::new(&backend.sessions), Arc::clone(backend)));
        if wants_unique_id(backend) {
            self.unique_id = Some(format!("{:016x}", fastrand::u64(..)));
        }
        let facts = Facts {
            addresses: self.addresses,
            sni: self.sni.as_deref(),
            tls: self.tls.as_ref(),
            unique_id: self.unique_id.as_deref(),
        };
        let reached =
            match stop.run_until_cancelled(reach(backend, &facts, &mut self.progress)).await {
                Some(Ok(reached)) => reached,
                Some(Err(outcome)) => return outcome,
                None => return stopped(Phase::Connect),
            };
        self.connect = Some(reached.connect);
        let timeouts =
            RelayTimeouts { client: site.client, server: backend.server, tunnel: site.tunnel };
        let Reached { stream: mut server, lease, ending, .. } = reached;
        held.lease = Some(lease);
        let source = self.addresses.peer();
        let interrupt = async {
            tokio::select! {
                () = ending.cancelled() => {}
                () = stop.cancelled() => {}
                () = site.gate.expelled(source) => {}
            }
        };
        let pipes = &worker.pipes;
        let relayed = match &site.layer_4 {
            None => {
                let own = (pipes, None);
                relay(&mut client, &mut server, first, timeouts, own, interrupt).await
            }
            // In a box of its own: others need not be as large.
            Some(layer_4) => {
                let carried = Rc::default();
                let _listed = self.join(layer_4, worker, &server, &carried);
                let own = (pipes, Some(&*carried));
                let relayed = relay(&mut client, &mut server, first, timeouts, own, interrupt);
                Box::pin(relayed).await
            }
        };
        self.bytes = (relayed.up, relayed.down);
        if matches!(relayed.end, End::Interrupted)
            && let Err(reason) = site.gate.judge(source)
        {
            return Outcome::new(Cause::Policy, Phase::Data, reason.name());
        }
        self.judge(relayed.end, stop.is_cancelled())
    }

    /// What the client has to say before a server is chosen, and its stream from there on.
    async fn receive(
        &mut self,
        mut socket: Socket,
        site: &Site,
        teller: Teller,
        held: &mut Held,
    ) -> Result<(Stream, Vec<u8>), Outcome> {
        site.counters.count_connection(teller);
        let too_many = |error: TooMany, socket: &Socket| {
            site.counters.count_refused(teller, Refused::Limit);
            if site.layer_4.is_some() {
                site.gate.count(match error {
                    TooMany::InAll(_) => DropReason::FlowTableFull,
                    TooMany::OfSource(_) => DropReason::FlowsPerSource,
                });
            }
            socket.abort_on_close();
            Outcome::new(Cause::Policy, Phase::Request, error.reason())
        };
        let refused = |reason: DropReason, socket: &Socket| {
            site.counters.count_refused(
                teller,
                match reason {
                    DropReason::NewRate => Refused::Limit,
                    _ => Refused::Source,
                },
            );
            socket.abort_on_close();
            Outcome::new(Cause::Policy, Phase::Request, reason.name())
        };
        let mut limits = site.limits;
        if site.layer_4.is_some() {
            limits.per_source = site.gate.per_source();
            let admitted = site.gate.admit(self.addresses.source.ip());
            admitted.map_err(|reason| {
                site.gate.count(reason);
                refused(reason, &socket)
            })?;
        }
        // Whoever introduces clients counts, too, until it has.
        let admitted = site.connections.admit(&limits);
        let admission = held.admission.insert(admitted.map_err(|error| too_many(error, &socket))?);
        self.introduce(&mut socket, site).await?;
        if site.layer_4.is_none() {
            let judged = site.gate.judge(self.addresses.peer());
            judged.map_err(|reason| refused(reason, &socket))?;
        }
        let attributed = admission.attribute(self.addresses.peer(), &limits);
        attributed.map_err(|error| too_many(error, &socket))?;
        if let Some(termination) = &site.termination {
            let shaken = termination.accept(socket).await.map_err(|error| {
                tracing::debug!(client = %self.addresses.source, "{error}");
                error.of_client()
            });
            let (stream, facts) = shaken?;
            self.tls = Some(facts);
            return Ok((Stream::Client(Box::new(stream)), Vec::new()));
        }
        if !site.router.asks_for_name() {
            return Ok((Stream::Plain(socket), Vec::new()));
        }
        let hello = sni::read(&mut socket, site.request).await.map_err(|error| {
            tracing::debug!(client = %self.addresses.source, "{error}");
            let cause = match error {
                HelloError::Timeout { .. } => Cause::ClientTimeout,
                _ => Cause::Client,
            };
            Outcome::new(cause, Phase::Request, error.reason())
        })?;
        self.sni = hello.name;
        Ok((Stream::Plain(socket), hello.bytes))
    }

    /// Takes the client's addresses from a PROXY header, if one is due.
    async fn introduce(&mut self, socket: &mut Socket, site: &Site) -> Result<(), Outcome> {
        let accept = site.accept_proxy.as_ref();
        match proxy_protocol::introduce(socket, self.addresses, accept).await {
            Ok(addresses) => {
                self.addresses = addresses;
                Ok(())
            }
            Err(error) => {
                tracing::debug!(peer = %self.addresses.source, "{error}");
                Err(error.outcome())
            }
        }
    }

    /// Counts and lists a session of layer 4 that has its server.
    fn join(
        &self,
        layer_4: &Layer4,
        worker: &Worker,
        stream: &Stream,
        carried: &Rc<Carried>,
    ) -> Option<Listed> {
        let address = self.progress.server.as_ref()?.address();
        let one = TrafficCounters { flows: 1, ..TrafficCounters::default() };
        layer_4.traffic.add(worker.teller, &one);
        let backend = self.backend.clone()?;
        layer_4.ledger.server((backend, address)).add(worker.teller, &one);
        let ends = Ends {
            client: self.addresses.source,
            vip: self.addresses.destination,
            server: address.socket()?,
            local: stream.socket().local_address()?,
            created_ns: Moment::now().monotonic_ns,
        };
        Some(worker.live.enter(ends, carried))
    }

    /// Counts a session that is over as the data plane would a flow.
    fn count_flow(&self, teller: Teller, site: &Site, outcome: Outcome) {
        let Some(Layer4 { traffic, ledger }) = &site.layer_4 else { return };
        let server = self.progress.server.as_ref().filter(|_| self.connect.is_some());
        let is_refused = outcome.cause != Cause::Policy && server.is_none();
        let carried = TrafficCounters {
            forward_bytes: self.bytes.0,
            reply_bytes: self.bytes.1,
            resets: u64::from(is_refused || outcome.cause == Cause::ServerDown),
            ..TrafficCounters::default()
        };
        traffic.add(teller, &carried);
        match outcome.reason {
            "no_server" => site.gate.count(DropReason::NoServer),
            "queue_full" => site.gate.count(DropReason::ServerFull),
            _ => {}
        }
        if let Some((server, backend)) = server.zip(self.backend.clone()) {
            ledger.server((backend, server.address())).add(teller, &carried);
        }
    }

    /// What the end of a relay comes to.
    fn judge(&self, end: End, is_stopped: bool) -> Outcome {
        let ended = |cause, reason| Outcome::new(cause, Phase::Data, reason);
        match end {
            End::Finished => Outcome::DONE,
            End::ClientBroke(error) => {
                tracing::debug!(client = %self.addresses.source, "the client broke off: {error}");
                ended(Cause::Client, "client_broke")
            }
            End::ServerBroke(error) => {
                tracing::debug!(client = %self.addresses.source, "the server broke off: {error}");
                ended(Cause::Server, "server_broke")
            }
            End::ClientStalled => ended(Cause::ClientTimeout, "client_stalled"),
            End::ServerStalled => ended(Cause::ServerTimeout, "server_stalled"),
            End::Silence => ended(Cause::ClientTimeout, "silence"),
            End::Interrupted if is_stopped => ended(Cause::Stopped, "stopped"),
            End::Interrupted => ended(Cause::ServerDown, "server_down"),
        }
    }

    fn log(&self, outcome: Outcome, site: &Site, worker: &Worker, held: &Held) -> Outcome {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let server = self.progress.server.as_ref();
        let of_backend = held.backend.as_ref();
        let of_backend = of_backend.map(|(_, backend)| backend.sessions.load(Ordering::Relaxed));
        let connections = [
            worker.sessions.load(Ordering::Relaxed),
            site.connections.total(),
            of_backend.unwrap_or(0),
            server.map_or(0, |server| server.active()),
        ];
        let done = Done {
            status: None,
            bytes_in: self.bytes.0,
            bytes_out: self.bytes.1,
            retries: self.progress.retries,
            fault: outcome.cause.fault(),
        };
        site.counters.count(worker.teller, &done);
        let total = self.started.elapsed();
        let seen = Durations { total, ..Durations::default() };
        site.timings.count(worker.teller, &seen);
        self.count_flow(worker.teller, site, outcome);
        if let Some((_, backend)) = &held.backend {
            backend.pool.counters().count(worker.teller, &done);
            let queue = self.progress.queue.filter(|_| self.progress.has_waited);
            let durations = Durations { queue, connect: self.connect, ..seen };
            backend.pool.timings().count(worker.teller, &durations);
        }
        if let Some(server) = server {
            server.counters().count(worker.teller, &Done { retries: 0, ..done });
        }
        (worker.log)(Record {
            client: self.addresses.source,
            destination: self.addresses.destination,
            accepted: self.accepted,
            frontend: site.frontend.clone(),
            is_tls: site.termination.is_some(),
            tls: self.tls.as_ref().map(|tls| (tls.version, tls.cipher)),
            sni: self
                .tls
                .as_ref()
                .and_then(|tls| tls.sni.clone())
                .or_else(|| self.sni.as_deref().map(Into::into)),
            backend: self.backend.clone(),
            server: server.map(|server| server.name().clone()),
            server_address: server.map(|server| server.address()),
            unique_id: self.unique_id.clone(),
            queue_ms: self.progress.queue.map(milliseconds),
            connect_ms: self.connect.map(milliseconds),
            total_ms: milliseconds(total),
            bytes_up: self.bytes.0,
            bytes_down: self.bytes.1,
            outcome,
            connections,
            retries: self.progress.retries,
            queued: [0, self.progress.waiting],
        });
        outcome
    }
}

/// Whether a header to the backend's servers names the connection.
fn wants_unique_id(backend: &Backend) -> bool {
    matches!(backend.send_proxy, Some(SendProxy::V2(tlvs)) if tlvs.unique_id)
}
