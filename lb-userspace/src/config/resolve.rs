//! What can only be judged together: references, duplicates, families, capacities.
//!
//! Everything here works on what could be read, so that one bad value hides no other
//! fault; a fault is never the consequence of another one that is already noted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

use lb_common::abi::{MAX_BACKENDS, MAX_SERVERS, MAX_VIPS};

use super::{
    address::judge_vip,
    backend::RawBackend,
    check::CheckDefaults,
    fault::{Place, Refusal, Sink, did_you_mean, quoted},
    frontend::RawFrontend,
    schema::NamedItems,
};
use crate::model::{
    name::Name,
    snapshot::{Admin, Backend, Bind, Datapath, Frontend, Log, Protocol, Server, Snapshot},
};

/// The sections of a file as far as they could be read.
pub(super) struct Raw {
    pub(super) datapath: Option<Datapath>,
    pub(super) admin: Option<Admin>,
    pub(super) log: Option<Log>,
    pub(super) check_defaults: Option<CheckDefaults>,
    pub(super) frontends: NamedItems<RawFrontend>,
    pub(super) backends: NamedItems<RawBackend>,
}

impl Raw {
    /// Judges the whole. None if it could not be read in full; the faults are in `sink`.
    pub(super) fn resolve(self, sink: &Sink) -> Option<Snapshot> {
        judge_capacities(&self, sink);
        let vips = judge_vips(&self.frontends, sink);
        judge_references(&self, sink);
        for backend in self.backends.values() {
            judge_servers(backend.value.as_ref(), &backend.place, &vips, sink);
        }
        let frontends = self.frontends.into_iter().map(resolve_frontend);
        let frontends: Option<BTreeMap<_, _>> = frontends.collect();
        let mut backends = Some(BTreeMap::new());
        for (name, raw) in self.backends {
            let backend = resolve_backend(raw.value, self.check_defaults.as_ref(), sink);
            match (&mut backends, backend) {
                (Some(backends), Some(backend)) => drop(backends.insert(name, backend)),
                _ => backends = None,
            }
        }
        Some(Snapshot {
            datapath: self.datapath?,
            admin: self.admin?,
            log: self.log?,
            frontends: frontends?,
            backends: backends?,
        })
    }
}

fn resolve_frontend(
    (name, raw): (Name, super::fault::Located<Option<RawFrontend>>),
) -> Option<(Name, Frontend)> {
    let raw = raw.value?;
    let bind: Option<Vec<Bind>> = raw.bind.into_iter().map(|bind| bind.value).collect();
    Some((name, Frontend { bind: bind?, backend: raw.backend?.value }))
}

fn resolve_backend(
    raw: Option<RawBackend>,
    defaults: Option<&CheckDefaults>,
    sink: &Sink,
) -> Option<Backend> {
    let raw = raw?;
    let check = match raw.check {
        Some(check) => Some(check.resolve(defaults?, sink)),
        None => None,
    };
    let servers = raw.servers.into_iter().map(|(name, server)| Some((name, server.value?)));
    let servers: Option<BTreeMap<Name, Server>> = servers.collect();
    Some(Backend { hash: raw.hash?, on_down: raw.on_down?, check, servers: servers? })
}

/// Counts against the capacities of the maps.
fn judge_capacities(raw: &Raw, sink: &Sink) {
    let vips = raw.frontends.values().filter_map(|frontend| frontend.value.as_ref());
    let vips: usize = vips.map(|frontend| frontend.bind.len()).sum();
    let servers = raw.backends.values().filter_map(|backend| backend.value.as_ref());
    let servers: usize = servers.map(|backend| backend.servers.len()).sum();
    let counts = [
        ("frontends", "VIPs", vips, MAX_VIPS),
        ("backends", "backends", raw.backends.len(), MAX_BACKENDS),
        ("backends", "servers", servers, MAX_SERVERS),
    ];
    for (section, what, count, most) in counts {
        if count > most as usize {
            let place = Place { path: section.into(), ..super::position::start() };
            let refusal = Refusal::new(format!("{count} {what} are more than {most}"));
            sink.fault(&place, refusal.hint("spread them over several pairs of balancers"));
        }
    }
}

/// Every VIP with the place that gives it; duplicates and impossible ones are faults.
fn judge_vips(
    frontends: &NamedItems<RawFrontend>,
    sink: &Sink,
) -> HashMap<(SocketAddr, Protocol), Place> {
    let mut binds: Vec<(Bind, &Place)> = Vec::new();
    for frontend in frontends.values().filter_map(|frontend| frontend.value.as_ref()) {
        // Other modes may bind what a VIP can not be.
        if !frontend.is_built {
            continue;
        }
        let mut first: Option<Bind> = None;
        for bind in &frontend.bind {
            let Some(vip) = bind.value else { continue };
            if let Err(refusal) = judge_vip(vip.address) {
                sink.fault(&bind.place, refusal);
            }
            let first = first.get_or_insert(vip);
            if first.address.is_ipv4() != vip.address.is_ipv4() {
                let (one, other) = (family(vip.address), family(first.address));
                let message = format!("{} is {one}, the VIPs before it are {other}", vip.address);
                let hint = "give each family its own frontend and its own backend";
                sink.fault(&bind.place, Refusal::new(message).hint(hint));
            }
            binds.push((vip, &bind.place));
        }
    }
    binds.sort_by_key(|(_, place)| (place.mark.line, place.mark.column));
    let mut vips: HashMap<(SocketAddr, Protocol), Place> = HashMap::new();
    for (vip, place) in binds {
        if let Some(first) = vips.get(&(vip.address, vip.protocol)) {
            let message = format!(
                "{}{} is given twice, first in line {} ({})",
                vip.address,
                suffix(vip.protocol),
                first.mark.line,
                first.path
            );
            sink.fault(place, Refusal::new(message).hint("a VIP belongs to one frontend"));
        } else {
            vips.insert((vip.address, vip.protocol), place.clone());
        }
    }
    vips
}

/// Frontends against backends: each reference resolves, families match, none is unused.
fn judge_references(raw: &Raw, sink: &Sink) {
    let mut used = BTreeSet::new();
    for frontend in raw.frontends.values().filter_map(|frontend| frontend.value.as_ref()) {
        let Some(reference) = &frontend.backend else { continue };
        let Some(backend) = raw.backends.get(&reference.value) else {
            let wanted = reference.value.as_str();
            let refusal = Refusal::new(format!("there is no backend {}", quoted(wanted)));
            let known = raw.backends.keys().map(Name::as_str);
            let hint = match did_you_mean(wanted, known) {
                Some(meant) => format!("did you mean {}?", quoted(meant)),
                None => "backends are defined under `backends`".into(),
            };
            sink.fault(&reference.place, refusal.hint(hint));
            continue;
        };
        used.insert(&reference.value);
        let vip = frontend.bind.iter().find_map(|bind| bind.value);
        let servers = backend.value.iter().flat_map(|backend| backend.servers.values());
        let server = servers.filter_map(|server| server.value).next();
        if let (Some(vip), Some(server), true) = (vip, server, frontend.is_built)
            && vip.address.is_ipv4() != server.address.is_ipv4()
        {
            let (own, theirs) = (family(vip.address), family(server.address));
            let message = format!("its servers are {theirs}, the frontend's VIPs are {own}");
            let hint = "give each family its own frontend and its own backend";
            sink.fault(&reference.place, Refusal::new(message).hint(hint));
        }
    }
    for (name, backend) in raw.backends.iter().filter(|(name, _)| !used.contains(name)) {
        let message = format!("no frontend uses the backend {}", quoted(name.as_str()));
        sink.warn(&backend.place, Refusal::new(message));
    }
    if raw.frontends.is_empty() {
        let place = Place { path: "frontends".into(), ..super::position::start() };
        sink.warn(&place, Refusal::new("there is no frontend: nothing is forwarded"));
    }
}

/// The servers of one backend against each other and against the VIPs.
fn judge_servers(
    backend: Option<&RawBackend>,
    place: &Place,
    vips: &HashMap<(SocketAddr, Protocol), Place>,
    sink: &Sink,
) {
    let Some(backend) = backend else { return };
    let mut servers: Vec<_> = backend.servers.values().collect();
    servers.sort_by_key(|server| (server.place.mark.line, server.place.mark.column));
    let mut seen: HashMap<SocketAddr, &Place> = HashMap::new();
    let mut first: Option<SocketAddr> = None;
    for (server, place) in servers.iter().filter_map(|server| Some((server.value?, &server.place)))
    {
        let address = server.address;
        let first = *first.get_or_insert(address);
        if first.is_ipv4() != address.is_ipv4() {
            let message = format!(
                "{address} is {}, the servers before it are {}",
                family(address),
                family(first)
            );
            sink.fault(place, Refusal::new(message).hint("give each family its own backend"));
        }
        if let Some(first) = seen.get(&address) {
            let message = format!(
                "{address} is given twice, first in line {} ({})",
                first.mark.line, first.path
            );
            sink.fault(place, Refusal::new(message).hint("use `weight` for a larger share"));
        } else {
            seen.insert(address, place);
        }
        let vip = [Protocol::Tcp, Protocol::Udp].into_iter().find_map(|p| vips.get(&(address, p)));
        if let Some(vip) = vip {
            let message =
                format!("{address} is itself a VIP, line {} ({})", vip.mark.line, vip.path);
            let hint = "a server is a machine behind the balancer; this would loop";
            sink.fault(place, Refusal::new(message).hint(hint));
        }
    }
    let takes_flows = |server: &Server| server.weight > 0;
    if servers.is_empty() {
        sink.warn(place, Refusal::new("there is no server: clients are refused"));
    } else if servers.iter().all(|server| server.value.is_some_and(|s| !takes_flows(&s))) {
        sink.warn(place, Refusal::new("every weight is 0: no server takes new flows"));
    }
}

const fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

const fn suffix(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "",
        Protocol::Udp => "/udp",
    }
}
