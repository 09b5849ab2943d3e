//! What the data plane should do, in words of the configuration: no ids yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use lb_common::{
    abi::ABI_VERSION,
    access::AdmissionEntry,
    ended,
    half_open::FLOWS_PER_BUCKET,
    server::state,
    settings::{Settings, flag},
    syn_cookie::FULL,
    vip::{hash_by, on_down},
};

use super::access::{Access, Rules};
use crate::model::{
    frontend::{Forward, L4Frontend},
    name::Name,
    next_hop::NextHop,
    snapshot::{Backend, Bind, HashBy, OnDown, Snapshot, Spread, SynCookies},
    state::{ServerId, ServerState, ServerStatuses},
};

/// What the maps should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Node-wide settings; when the lists of sources changed is not for them to say.
    pub settings: Settings,
    /// Rules for sources.
    pub rules: Rules,
    /// What clients connect to.
    pub vips: BTreeMap<Bind, DesiredVip>,
    /// The backends that VIPs use: their servers by address.
    pub backends: BTreeMap<Name, BTreeMap<SocketAddr, DesiredServer>>,
    /// Those of them whose servers take turns.
    pub in_turn: BTreeSet<Name>,
}

/// One VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredVip {
    /// The backend; always present in [`Desired::backends`].
    pub backend: Name,
    /// A value of [`on_down`].
    pub on_down: u8,
    /// A value of [`hash_by`].
    pub hash_by: u8,
    /// What its frontend asks of sources; the generation is to be filled in.
    pub admission: AdmissionEntry,
    /// A flow whose server has no room is refused.
    pub refuse_when_full: bool,
    /// For how long an idle source belongs to its server, seconds; 0 for not at all.
    pub affinity_s: u16,
    /// How packets reach the servers.
    pub forward: Forward,
    /// Servers see the balancer's address and not the client's.
    pub snat: bool,
    /// When its SYNs are answered with cookies.
    pub syn_cookies: SynCookies,
}

/// One server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DesiredServer {
    /// A value of [`state`], never `UNUSED`.
    pub state: u8,
    /// Share of new flows, 0 to 256; 0 gets none.
    pub weight: u16,
    /// The weight of the configuration.
    pub configured_weight: u16,
    /// Used only while no server without this mark is usable.
    pub backup: bool,
    /// Most flows at a time; 0 for no limit.
    pub most_flows: u16,
    /// Sources whose flows it has belong to it.
    pub affinity: bool,
    /// It sees clients' addresses and sends to them.
    pub sees_clients: bool,
    /// Port that `gue` datagrams are sent to.
    pub gue_port: u16,
    /// How packets reach it, if that is known.
    pub next_hop: Option<NextHop>,
}

impl DesiredServer {
    /// Its share of the ring while it gets flows. One that gets none by its weight alone
    /// comes back with the configured one, as far as can be known.
    pub(super) const fn share(&self) -> u16 {
        if self.weight > 0 { self.weight } else { self.configured_weight }
    }

    /// One that is up, and nothing else is known of.
    #[cfg(test)]
    pub(super) const fn of_weight(weight: u16) -> Self {
        Self {
            state: state::UP,
            weight,
            configured_weight: weight,
            backup: false,
            most_flows: 0,
            affinity: false,
            sees_clients: false,
            gue_port: 6080,
            next_hop: None,
        }
    }
}

/// The largest weight of a ring's member ([`lb_common::maglev::Member::weight`]).
const MOST_WEIGHT: u16 = 256;

/// What follows from the configuration, the rules for sources, the state of servers, the shares
/// of their weights in thousandths that some have (all, if nothing is said) and the way to them.
#[must_use]
pub fn desired(
    snapshot: &Snapshot,
    access: &Access,
    statuses: &ServerStatuses,
    shares: &BTreeMap<ServerId, u32>,
    next_hops: &BTreeMap<IpAddr, NextHop>,
) -> Desired {
    let (mut vips, mut backends, mut in_turn) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    let mut half_nat = BTreeSet::new();
    for (name, frontend) in snapshot.l4_frontends() {
        // A snapshot's references resolve.
        let Some(backend) = snapshot.backends.get(&frontend.backend) else { continue };
        let admission = access.frontends.get(name).copied().unwrap_or_default();
        for bind in &frontend.bind {
            let cookies = frontend.syn_cookies.unwrap_or(snapshot.datapath.syn_cookies);
            vips.insert(*bind, vip(frontend, backend, admission, cookies));
        }
        if !frontend.snat {
            half_nat.insert(&frontend.backend);
        }
        if backend.spread == Spread::InTurn {
            in_turn.insert(frontend.backend.clone());
        }
        backends.entry(frontend.backend.clone()).or_insert_with(|| {
            let mut servers = servers(snapshot, &frontend.backend, backend, statuses, next_hops);
            grow(&frontend.backend, backend, shares, &mut servers);
            servers
        });
    }
    for name in &half_nat {
        let servers = backends.get_mut(*name).into_iter().flat_map(BTreeMap::values_mut);
        servers.for_each(|server| server.sees_clients = true);
    }
    // A cookie says yes before a server is looked for.
    for vip in vips.values_mut() {
        let mut servers = backends.get(&vip.backend).into_iter().flat_map(BTreeMap::values);
        if !servers.any(|server| server.state == state::UP) {
            vip.syn_cookies = SynCookies::Off;
        }
    }
    let mut settings = settings(snapshot);
    settings.flags |= access.flags;
    if !half_nat.is_empty() {
        settings.flags |= flag::RETURN_PATHS;
    }
    Desired { settings, rules: Arc::clone(&access.rules), vips, backends, in_turn }
}

fn settings(snapshot: &Snapshot) -> Settings {
    let (snat_port_low, snat_port_high) = snapshot.datapath.snat_ports;
    let events = if snapshot.log.access.is_some() { flag::FLOW_EVENTS } else { 0 };
    let echo = if snapshot.datapath.answer_echo { flag::ANSWER_ECHO } else { 0 };
    let timeouts = &snapshot.datapath.timeouts;
    let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    Settings {
        abi_version: ABI_VERSION,
        snat_port_low,
        snat_port_high,
        flags: events | echo,
        half_open_buckets: snapshot.datapath.max_half_open.div_ceil(FLOWS_PER_BUCKET),
        half_open_ms: milliseconds(timeouts.half_open),
        closed_ms: milliseconds(timeouts.closed),
        // For one processor; whoever knows the machine knows better.
        ended_places: ended::places(snapshot.datapath.max_flows.saturating_mul(2), 1),
        cookie_level: u32::from(snapshot.datapath.syn_cookie_threshold) * FULL / 100,
        access_changed_ns: 0,
    }
}

fn vip(
    frontend: &L4Frontend,
    backend: &Backend,
    admission: AdmissionEntry,
    syn_cookies: SynCookies,
) -> DesiredVip {
    DesiredVip {
        syn_cookies,
        backend: frontend.backend.clone(),
        forward: frontend.forward,
        snat: frontend.snat,
        on_down: match backend.on_down {
            OnDown::Reset => on_down::RESET,
            OnDown::Reroute => on_down::REROUTE,
            OnDown::Keep => on_down::KEEP,
        },
        hash_by: match backend.hash {
            _ if backend.spread == Spread::LeastConnections => hash_by::LEAST_CONNECTIONS,
            _ if backend.spread == Spread::InTurn => hash_by::ROUND_ROBIN,
            HashBy::Tuple => hash_by::TUPLE,
            HashBy::Source => hash_by::SOURCE,
        },
        refuse_when_full: backend.refuse_when_full,
        affinity_s: backend.affinity.map_or(0, |time| {
            // Of a configuration, 1 s to 18 h.
            u16::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u16::MAX)
        }),
        admission,
    }
}

fn servers(
    snapshot: &Snapshot,
    backend_name: &Name,
    backend: &Backend,
    statuses: &ServerStatuses,
    next_hops: &BTreeMap<IpAddr, NextHop>,
) -> BTreeMap<SocketAddr, DesiredServer> {
    let server = |(name, server): (&Name, &crate::model::snapshot::Server)| {
        let address = server.address.socket()?;
        let status = statuses.get(&(backend_name.clone(), name.clone()));
        let state = status.map_or(ServerState::Up, crate::model::state::ServerStatus::state);
        let weight = status.and_then(|status| status.weight).unwrap_or(server.weight);
        let desired = DesiredServer {
            state: data_plane_state(state),
            // Beyond the most, a ring could not be built at all.
            weight: weight.min(MOST_WEIGHT),
            configured_weight: server.weight.min(MOST_WEIGHT),
            backup: server.backup,
            most_flows: server.max_connections.map_or(0, |most| {
                // A backend of the proxy too may have a limit beyond that.
                u16::try_from(most).unwrap_or(u16::MAX)
            }),
            affinity: backend.affinity.is_some(),
            sees_clients: false,
            gue_port: snapshot.datapath.gue_port,
            next_hop: next_hops.get(&address.ip()).copied(),
        };
        Some((address, desired))
    };
    // The others, on unix sockets, are the proxy's.
    backend.servers.iter().filter_map(server).collect()
}

/// Takes servers that grow down to their shares. The weights of all are larger meanwhile, in
/// the same proportions, so that small ones have steps too.
fn grow(
    name: &Name,
    backend: &Backend,
    shares: &BTreeMap<ServerId, u32>,
    servers: &mut BTreeMap<SocketAddr, DesiredServer>,
) {
    let growing = backend.servers.iter().filter_map(|(server, configured)| {
        let share = shares.get(&(name.clone(), server.clone()))?;
        Some((configured.address.socket()?, *share))
    });
    let growing: Vec<(SocketAddr, u32)> = growing.collect();
    if growing.is_empty() {
        return;
    }
    let weights = servers.values().flat_map(|server| [server.weight, server.configured_weight]);
    let scale = MOST_WEIGHT / weights.max().unwrap_or(1).max(1);
    for server in servers.values_mut() {
        server.weight *= scale;
        server.configured_weight *= scale;
    }
    for (address, share) in growing {
        if let Some(server) = servers.get_mut(&address).filter(|server| server.weight > 0) {
            let part = u32::from(server.weight) * share / 1000;
            server.weight = u16::try_from(part).unwrap_or(MOST_WEIGHT).max(1);
        }
    }
}

/// MAINT is dead to the data plane, NOLB drains.
const fn data_plane_state(state: ServerState) -> u8 {
    match state {
        ServerState::Up => state::UP,
        ServerState::Drain | ServerState::Nolb => state::DRAIN,
        ServerState::Down | ServerState::Maint => state::DOWN,
    }
}
