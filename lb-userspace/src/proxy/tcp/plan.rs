//! The frontends of `mode: tcp` as workers use them. A reload makes the next plan, which
//! takes over the counters of what is still there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    reach::{Backend, Endings},
    route::Router,
    session::{Layer4, Site},
};
use crate::{
    balance::{Counters, Pools, Timings},
    model::{
        frontend::{ListenAddress, TcpFrontend},
        name::Name,
        snapshot::{Bind, OnDown, Protocol, Snapshot},
        state::{ServerState, ServerStatus, ServerStatuses},
    },
    proxy::{
        gate::Gate, limits::Connections, listen::SocketKey, material::Material, worker::Shared,
    },
};

/// Every frontend of `mode: tcp`.
#[derive(Debug, Default)]
pub struct TcpPlans {
    /// By name.
    pub frontends: BTreeMap<Name, TcpPlan>,
    backends: BTreeMap<Name, Arc<Backend>>,
}

/// A frontend of `mode: tcp`.
#[derive(Debug)]
pub struct TcpPlan {
    /// Where it listens, and what happens there.
    pub sites: BTreeMap<SocketKey, Arc<Site>>,
    /// Its open connections.
    pub connections: Arc<Connections>,
    /// What its sessions came to.
    pub counters: Arc<Counters>,
    /// How long they took.
    pub timings: Arc<Timings>,
}

impl TcpPlans {
    /// The plans of a snapshot. `pools` and `material` are those of it.
    #[must_use]
    pub fn new(
        snapshot: &Snapshot,
        (pools, shared): (&Pools, &Shared),
        material: &Material,
        before: &Self,
    ) -> Self {
        let mut plans = Self::default();
        for (name, config) in snapshot.joined_frontends() {
            let frontend = snapshot.frontends.get(name);
            for backend in frontend.iter().flat_map(|frontend| frontend.backends()) {
                if !plans.backends.contains_key(backend)
                    && let Some(plan) = of_backend(backend, snapshot, pools, material, before)
                {
                    plans.backends.insert(backend.clone(), Arc::new(plan));
                }
            }
            let old = before.frontends.get(name);
            let connections = old.map(|old| Arc::clone(&old.connections)).unwrap_or_default();
            let counters = old.map(|old| Arc::clone(&old.counters)).unwrap_or_default();
            let timings = old.map(|old| Arc::clone(&old.timings)).unwrap_or_default();
            let is_layer_4 = frontend.is_some_and(|frontend| frontend.as_l4().is_some());
            let kept = (&connections, &counters, &timings);
            let sites = plans.sites((name, &config, is_layer_4), shared, material, kept);
            let plan = TcpPlan { sites, connections, counters, timings };
            plans.frontends.insert(name.clone(), plan);
        }
        plans
    }

    fn sites(
        &self,
        (name, config, is_layer_4): (&Name, &TcpFrontend, bool),
        shared: &Shared,
        material: &Material,
        (connections, counters, timings): (&Arc<Connections>, &Arc<Counters>, &Arc<Timings>),
    ) -> BTreeMap<SocketKey, Arc<Site>> {
        let find = |backend: &Name| self.backends.get(backend).cloned();
        let sites = config.listen.iter().filter_map(|listen| {
            let key = SocketKey::of(listen);
            let layer_4 = match listen.address {
                ListenAddress::Tcp(address) if is_layer_4 => {
                    let traffic = shared.ledger.vip(Bind { address, protocol: Protocol::Tcp });
                    Some(Layer4 { traffic, ledger: Arc::clone(&shared.ledger) })
                }
                _ => None,
            };
            let site = Site {
                frontend: name.clone(),
                router: Router::new(&config.sni, find(&config.backend)?, find),
                termination: material.termination(&key),
                accept_proxy: listen.accept_proxy.clone(),
                gate: Gate::new(Arc::clone(&shared.gate), name.clone()),
                layer_4,
                limits: config.connections,
                connections: Arc::clone(connections),
                counters: Arc::clone(counters),
                timings: Arc::clone(timings),
                request: config.timeouts.http_request,
                client: config.timeouts.client,
                tunnel: config.timeouts.tunnel,
            };
            Some((key, Arc::new(site)))
        });
        sites.collect()
    }

    /// A backend.
    #[must_use]
    pub fn backend(&self, name: &Name) -> Option<&Arc<Backend>> {
        self.backends.get(name)
    }

    /// Ends the sessions of servers that are DOWN or in MAINT, and of layer 4 those of servers
    /// that are gone, unless their backend keeps them.
    pub fn settle(&self, snapshot: &Snapshot, statuses: &ServerStatuses) {
        let layer_4 = match snapshot.is_in_user_space() {
            true => snapshot.l4_backends(),
            false => BTreeSet::new(),
        };
        for (name, plan) in &self.backends {
            let Some(backend) = snapshot.backends.get(name) else { continue };
            if backend.on_down == OnDown::Keep {
                continue;
            }
            let dead: Vec<_> = backend
                .servers
                .iter()
                .filter(|(server, _)| {
                    let status = statuses.get(&(name.clone(), (*server).clone()));
                    let state = status.map(ServerStatus::state);
                    matches!(state, Some(ServerState::Down | ServerState::Maint))
                })
                .map(|(_, server)| server.address)
                .collect();
            let is_there = |address| backend.servers.values().any(|one| one.address == address);
            let is_layer_4 = layer_4.contains(name);
            let is_gone = |address| is_layer_4 && !is_there(address);
            plan.endings.settle(|address| dead.contains(&address) || is_gone(address));
        }
    }
}

fn of_backend(
    name: &Name,
    snapshot: &Snapshot,
    pools: &Pools,
    material: &Material,
    before: &TcpPlans,
) -> Option<Backend> {
    let backend = snapshot.backends.get(name)?;
    let old = before.backends.get(name);
    Some(Backend {
        name: name.clone(),
        pool: pools.get(name)?,
        hash: backend.hash,
        refuses_when_full: backend.refuse_when_full,
        encryption: material.encryption(name),
        send_proxy: backend.proxy.send_proxy,
        connect: backend.proxy.timeouts.connect,
        server: backend.proxy.timeouts.server,
        sessions: old.map_or_else(Arc::default, |old| Arc::clone(&old.sessions)),
        endings: old.map_or_else(|| Arc::new(Endings::default()), |old| Arc::clone(&old.endings)),
    })
}
