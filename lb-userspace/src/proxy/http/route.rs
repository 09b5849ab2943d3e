//! What the rules of the frontend make of a request, before it goes anywhere.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper::{Request, Version, body::Incoming, header::HOST};

use super::{exchange::Exchange, respond::Failure};
use crate::{
    model::{frontend::ClientTimeouts, name::Name, rule::action::TimeoutKind},
    proxy::{
        plan::{BackendPlan, HttpPlan},
        rules::{Answer, ConnectionTls, Decision, Edits, End, Facts},
    },
};

/// Where a request goes, and what changes on the way.
pub(super) struct Route {
    pub(super) to: Destination,
    pub(super) edits: Edits,
}

/// Where a request goes.
pub(super) enum Destination {
    Backend(Arc<BackendPlan>),
    /// Back, with the answer of a rule.
    Answer(Answer),
    /// Back, with an error.
    Failure(Failure),
}

impl Route {
    /// The way of a request that was judged and has its form. `is_upgrade`: it asked for a
    /// WebSocket in fields that were taken off.
    pub(super) fn of(
        exchange: &mut Exchange,
        request: &Request<Incoming>,
        is_upgrade: bool,
    ) -> Self {
        if exchange.frontend.rules.is_empty() {
            let to = Destination::Backend(Arc::clone(&exchange.frontend.backend));
            return Self { to, edits: Edits::default() };
        }
        let frontend = Arc::clone(&exchange.frontend);
        let Decision { end, rule, edits } = decide(&frontend, exchange, request, is_upgrade);
        exchange.rule = rule;
        exchange.timeouts = RuleTimeouts::of(&edits);
        if exchange.version < Version::HTTP_2 {
            let taking = exchange.timeouts.client(&exchange.client.timeouts);
            exchange.client.taking.set(taking);
        }
        exchange.priority = edits.priority;
        let to = match end {
            End::Default => Destination::Backend(Arc::clone(&frontend.backend)),
            End::Backend(name) => {
                // Every backend that a rule names is there.
                let backend = frontend.backends.get(name).unwrap_or(&frontend.backend);
                Destination::Backend(Arc::clone(backend))
            }
            End::Answer(answer) => Destination::Answer(answer),
            End::Refuse(refusal) => Destination::Failure(refusal.into()),
        };
        Self { to, edits }
    }

    /// The way back of a request that is not looked at further.
    pub(super) fn failing(frontend: &HttpPlan, failure: Failure) -> Self {
        let edits = Edits::with_pages(&frontend.pages);
        Self { to: Destination::Failure(failure), edits }
    }
}

fn decide<'r>(
    frontend: &'r HttpPlan,
    exchange: &Exchange,
    request: &Request<Incoming>,
    is_upgrade: bool,
) -> Decision<'r> {
    let client = &exchange.client;
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let protocol = request.extensions().get::<hyper::ext::Protocol>();
    let is_websocket = is_upgrade || protocol.is_some_and(|name| name.as_str() == "websocket");
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let usable =
        |name: &Name| frontend.backends.get(name).map_or(0, |backend| backend.pool.usable());
    frontend.rules.evaluate(&Facts {
        method: request.method(),
        version: request.version(),
        path: request.uri().path(),
        query: request.uri().query(),
        authority: host.unwrap_or_default(),
        headers: request.headers(),
        is_websocket,
        client: Some(exchange.addresses.source),
        local: Some(exchange.addresses.destination),
        tls: client.tls.as_ref().map(ConnectionTls::from),
        id: fastrand::u128(..),
        now: since.as_secs().try_into().unwrap_or(i64::MAX),
        random: fastrand::u64(..),
        usable_servers: &usable,
    })
}

/// Timeouts that rules have set for one request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RuleTimeouts {
    client: Option<Duration>,
    total: Option<Duration>,
    connect: Option<Duration>,
    server: Option<Duration>,
    queue: Option<Duration>,
    tunnel: Option<Duration>,
}

impl RuleTimeouts {
    fn of(edits: &Edits) -> Self {
        Self {
            client: edits.timeout(TimeoutKind::Client),
            total: edits.timeout(TimeoutKind::Total),
            connect: edits.timeout(TimeoutKind::Connect),
            server: edits.timeout(TimeoutKind::Server),
            queue: edits.timeout(TimeoutKind::Queue),
            tunnel: edits.timeout(TimeoutKind::Tunnel),
        }
    }

    /// How long the client may send nothing of a body, or take nothing.
    pub(super) fn client(&self, frontend: &ClientTimeouts) -> Duration {
        self.client.unwrap_or(frontend.client)
    }

    /// How long the request as a whole may take; none for no limit.
    pub(super) fn total(&self, frontend: &ClientTimeouts) -> Option<Duration> {
        self.total.or(frontend.total)
    }

    /// How long connecting to a server may take.
    pub(super) fn connect(&self, backend: &BackendPlan) -> Duration {
        self.connect.unwrap_or(backend.settings.timeouts.connect)
    }

    /// How long a server may say nothing.
    pub(super) fn server(&self, backend: &BackendPlan) -> Duration {
        self.server.unwrap_or(backend.settings.timeouts.server)
    }

    /// How long the request may wait for a server with room.
    pub(super) fn queue(&self, backend: &BackendPlan) -> Duration {
        self.queue.unwrap_or(backend.settings.balancing.queue.timeout)
    }

    /// How long both sides of a tunnel may say nothing.
    pub(super) fn tunnel(&self, frontend: &ClientTimeouts) -> Duration {
        self.tunnel.unwrap_or(frontend.tunnel)
    }
}
