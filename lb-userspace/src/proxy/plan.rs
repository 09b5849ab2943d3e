//! The configuration as workers use it: names resolved, counters attached. One for all
//! workers, immutable; a reload makes the next, which takes over the counters of frontends
//! and backends that are still there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use super::{
    gate::Gate,
    limits::Connections,
    listen::SocketKey,
    material::Material,
    rules::RuleSet,
    tcp::plan::TcpPlans,
    tls::{encryption::Encryption, termination::Termination},
    udp::plan::UdpPlans,
    worker::Shared,
};
use crate::{
    balance::{CopyCounters, Counters, KnownServer, Pool, Pools, Timings, pools::KnownBackend},
    model::{
        access_log::AccessLog,
        backend::ProxySettings,
        balance::Balance,
        frontend::{AcceptProxy, Frontend, HttpFrontend},
        name::Name,
        rule::{Rule, action::ErrorPage},
        snapshot::{HashBy, Snapshot, Spread},
        state::{ServerStatus, ServerStatuses},
    },
};

/// What workers serve.
#[derive(Debug, Default)]
pub struct Plan {
    /// The frontends of `mode: http`.
    pub http: BTreeMap<Name, Arc<HttpPlan>>,
    /// Those of `mode: tcp`, and of layer 4 in user space.
    pub tcp: TcpPlans,
    /// The VIPs of UDP in user space.
    pub udp: UdpPlans,
    /// How requests are logged; none if they are not.
    pub log: Option<Arc<AccessLog>>,
}

/// A frontend of `mode: http`.
#[derive(Debug)]
pub struct HttpPlan {
    /// Its name.
    pub name: Name,
    /// Its configuration.
    pub config: HttpFrontend,
    /// Its rules, compiled.
    pub rules: Arc<RuleSet>,
    /// Error pages of rules that are for every request, in order; also for what is refused
    /// before it comes to rules.
    pub pages: Vec<Arc<[ErrorPage]>>,
    /// The backend of requests that no rule sends elsewhere.
    pub backend: Arc<BackendPlan>,
    /// Every backend that a rule names.
    pub backends: HashMap<Name, Arc<BackendPlan>>,
    /// Its open connections.
    pub connections: Arc<Connections>,
    /// What its requests came to.
    pub counters: Arc<Counters>,
    /// How long they took.
    pub timings: Arc<Timings>,
    /// What became of copies of its requests; they outlive reloads.
    pub copies: Arc<CopyCounters>,
    /// Who may be its client.
    pub gate: Gate,
    /// Where it listens, and what a connection has to pass there.
    pub doors: BTreeMap<SocketKey, Arc<Door>>,
}

/// What a connection has to pass before its first request.
#[derive(Debug)]
pub struct Door {
    /// Who introduces clients by the PROXY protocol.
    pub accept_proxy: Option<AcceptProxy>,
    /// TLS that ends here.
    pub termination: Option<Arc<Termination>>,
}

/// A backend.
#[derive(Debug)]
pub struct BackendPlan {
    /// Its name.
    pub name: Name,
    /// How it is used.
    pub settings: ProxySettings,
    /// TLS with its servers.
    pub encryption: Option<Arc<Encryption>>,
    /// What `maglev` hashes.
    pub hash: HashBy,
    /// Its servers.
    pub pool: Arc<Pool>,
}

impl Plan {
    /// The plan of a snapshot. `pools` has been told of its backends, and `material` is its
    /// own.
    #[must_use]
    pub fn new(
        snapshot: &Snapshot,
        (pools, shared): (&Pools, &Shared),
        material: &Material,
        before: &Self,
    ) -> Self {
        let backends: BTreeMap<&Name, Arc<BackendPlan>> = snapshot
            .backends
            .iter()
            .filter_map(|(name, backend)| {
                let settings = backend.proxy.clone();
                let pool = pools.get(name)?;
                let plan = BackendPlan {
                    name: name.clone(),
                    settings,
                    encryption: material.encryption(name),
                    hash: backend.hash,
                    pool,
                };
                Some((name, Arc::new(plan)))
            })
            .collect();
        let http = snapshot.frontends.iter().filter_map(|(name, frontend)| {
            let Frontend::Http(config) = frontend else { return None };
            let old = before.http.get(name);
            let kept = old.filter(|old| old.config.rules == config.rules);
            let named = frontend.backends().into_iter();
            let plan = HttpPlan {
                name: name.clone(),
                config: config.clone(),
                rules: kept.map_or_else(
                    || Arc::new(RuleSet::new(&config.rules)),
                    |old| Arc::clone(&old.rules),
                ),
                pages: config.rules.iter().flat_map(Rule::unconditional_pages).collect(),
                backend: Arc::clone(backends.get(&config.backend)?),
                backends: named
                    .filter_map(|name| Some((name.clone(), Arc::clone(backends.get(name)?))))
                    .collect(),
                connections: old.map_or_else(Arc::default, |old| Arc::clone(&old.connections)),
                counters: old.map_or_else(Arc::default, |old| Arc::clone(&old.counters)),
                timings: old.map_or_else(Arc::default, |old| Arc::clone(&old.timings)),
                copies: old.map_or_else(Arc::default, |old| Arc::clone(&old.copies)),
                gate: Gate::new(Arc::clone(&shared.gate), name.clone()),
                doors: doors(config, material),
            };
            Some((name.clone(), Arc::new(plan)))
        });
        let tcp = TcpPlans::new(snapshot, (pools, shared), material, &before.tcp);
        let udp = UdpPlans::new(snapshot, shared, &tcp, &before.udp);
        Self { http: http.collect(), tcp, udp, log: snapshot.log.access.clone() }
    }
}

fn doors(config: &HttpFrontend, material: &Material) -> BTreeMap<SocketKey, Arc<Door>> {
    let doors = config.listen.iter().map(|listen| {
        let key = SocketKey::of(listen);
        let accept_proxy = listen.accept_proxy.clone();
        let door = Door { accept_proxy, termination: material.termination(&key) };
        (key, Arc::new(door))
    });
    doors.collect()
}

impl BackendPlan {
    /// Requests its servers have now.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.pool.active()
    }

    /// Takes one retry from its budget, if that has one.
    #[must_use]
    pub fn may_retry_now(&self) -> bool {
        self.pool.may_retry(Instant::now())
    }
}

/// Tells `pools` what is known of every backend that the proxy uses.
pub fn configure_pools(
    pools: &Pools,
    snapshot: &Snapshot,
    statuses: &ServerStatuses,
    now: Instant,
) {
    let proxied = snapshot.proxy_backends();
    let layer_4 =
        if snapshot.is_in_user_space() { snapshot.l4_backends() } else { BTreeSet::new() };
    let backends = snapshot.backends.iter().filter(|(name, _)| proxied.contains(name));
    let known = backends.map(|(backend_name, backend)| {
        let servers = backend.servers.iter().map(|(name, server)| {
            let status = statuses.get(&(backend_name.clone(), name.clone()));
            let known = KnownServer {
                address: server.address,
                weight: status.and_then(|status| status.weight).unwrap_or(server.weight),
                backup: server.backup,
                most: server.max_connections,
                state: status.map_or_else(|| ServerStatus::default().state(), ServerStatus::state),
            };
            (name.clone(), known)
        });
        let mut balancing = backend.proxy.balancing.clone();
        // In user space flows are spread as in the data plane.
        if layer_4.contains(backend_name) {
            // Nobody waits for a place at a server.
            balancing.queue.length = 0;
            balancing.algorithm = match backend.spread {
                Spread::Hashed => Balance::Maglev,
                Spread::LeastConnections => Balance::LeastConnections,
                Spread::InTurn => Balance::RoundRobin,
            };
        }
        (backend_name.clone(), KnownBackend { balancing, servers: servers.collect() })
    });
    pools.configure(&known.collect(), now);
}
