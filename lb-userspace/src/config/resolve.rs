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
    access::judge_room,
    address::{judge_proxied, judge_server, judge_vip},
    backend::RawBackend,
    check::RawCheck,
    check_path,
    defaults::Defaults,
    fault::{Located, Place, Refusal, Sink, did_you_mean, quoted},
    forwarding,
    frontend::{RawFrontend, RawMode},
    limits::RawLimits,
    position::Mark,
    rules::{NamedConditions, Resolver},
    schema::{ListItems, NamedItems},
    spread::{RawHash, RawProxy, judge_layer_4},
    user_space,
};
use crate::model::{
    address::ServerAddress,
    frontend::{Frontend, HttpFrontend, L4Frontend, Listen, ListenAddress, TcpFrontend},
    name::Name,
    rule::Rule,
    snapshot::{
        Admin, AttachMode, Backend, Bind, Datapath, HashBy, Log, Protocol, Server, Snapshot, Spread,
    },
};

/// The sections of a file as far as they could be read.
pub(super) struct Raw {
    pub(super) datapath: Option<Datapath>,
    pub(super) admin: Option<Admin>,
    pub(super) log: Option<Log>,
    pub(super) conditions: Option<NamedConditions>,
    pub(super) defaults: Option<Defaults>,
    pub(super) frontends: Option<Located<NamedItems<RawFrontend>>>,
    pub(super) backends: Option<Located<NamedItems<RawBackend>>>,
}

/// The VIPs of a configuration, each with the place that gives it.
type Vips = HashMap<(SocketAddr, Protocol), Place>;

impl Raw {
    /// Judges the whole. None if it could not be read in full; the faults are in `sink`.
    pub(super) fn resolve(mut self, sink: &Sink) -> Option<Snapshot> {
        let mode = self.datapath.as_ref().map(|datapath| datapath.mode);
        let is_in_user_space = mode == Some(AttachMode::Off);
        let mut vips = Vips::new();
        if let Some(frontends) = &self.frontends {
            judge_frontends(frontends, sink);
            vips = judge_vips(&frontends.value, is_in_user_space, sink);
            judge_listens(&frontends.value, &vips, sink);
        }
        if let Some(backends) = &self.backends {
            judge_backends(backends, sink);
            let frontends = self.frontends.as_ref().map(|frontends| &frontends.value);
            let proxied = frontends
                .map(|frontends| not_in_layer_4(frontends, &backends.value))
                .unwrap_or_default();
            let forwarded = frontends.map(forwarded_by_layer_4).unwrap_or_default();
            for (name, Located { value, place }) in &backends.value {
                let Some(backend) = value else { continue };
                let is_proxied = proxied.contains(name);
                judge_backend(backend, place, (is_proxied, is_in_user_space), sink);
                if forwarded.contains(name) {
                    refuse_proxy_keys(backend, sink);
                }
                judge_servers(backend, place, &vips, proxied.contains(name), sink);
            }
        }
        if let Some(frontends) = self.frontends.as_ref().filter(|_| is_in_user_space) {
            user_space::judge_frontends(&frontends.value, sink);
        }
        self.judge_lists(sink);
        let (mut resolved, resolver) = self.judge_rules(sink);
        if let (Some(frontends), Some(backends)) = (&self.frontends, &self.backends) {
            let is_for_requests = |name: &Name| resolver.uses_backend(name);
            refuse_request_keys(&frontends.value, &backends.value, is_for_requests, sink);
        }
        if let (Some(frontends), Some(backends)) = (&self.frontends, &self.backends) {
            judge_references(&frontends.value, &backends.value, &resolver, sink);
        }
        let defaults = self.defaults?;
        let frontends = resolve_frontends(self.frontends?.value, &mut resolved, &defaults);
        let backends = resolve_backends(self.backends?.value, &defaults, sink);
        Some(Snapshot {
            datapath: self.datapath?,
            admin: self.admin?,
            log: self.log?,
            frontends: frontends?,
            backends: backends?,
        })
    }

    /// Lists of sources of layer 4 against the room for them in the maps.
    fn judge_lists(&self, sink: &Sink) {
        let (Some(datapath), Some(frontends)) = (&self.datapath, &self.frontends) else { return };
        let read = frontends.value.values().filter_map(|frontend| frontend.value.as_ref());
        let own = read.filter_map(|frontend| match &frontend.mode {
            Some(RawMode::L4(layer_4)) => layer_4.access.as_ref(),
            _ => None,
        });
        let lists = own.chain([&datapath.access]);
        if let Some(refusal) = judge_room(lists, datapath.max_prefixes) {
            sink.fault(&frontends.place, refusal);
        }
    }

    /// Rules against backends and conditions: those of each frontend, none if at fault.
    fn judge_rules<'a>(&mut self, sink: &'a Sink) -> (ResolvedRules, Resolver<'a>) {
        let backends = self.backends.as_ref();
        let backends = backends.map(|backends| backends.value.keys().cloned().collect());
        let conditions = self.conditions.take().unwrap_or_default();
        let mut resolver = Resolver::new(conditions, backends, sink);
        let mut resolved = ResolvedRules::new();
        for (name, frontend) in self.frontends.iter_mut().flat_map(|all| &mut all.value) {
            if let Some(rules) = frontend.value.as_mut().and_then(|raw| raw.rules.take()) {
                resolved.insert(name.clone(), resolver.rules(rules));
            }
        }
        resolver.judge_unused();
        (resolved, resolver)
    }
}

/// The rules of each frontend; none if one of them is at fault.
type ResolvedRules = BTreeMap<Name, Option<Vec<Rule>>>;

fn resolve_frontends(
    raw: NamedItems<RawFrontend>,
    rules: &mut ResolvedRules,
    defaults: &Defaults,
) -> Option<BTreeMap<Name, Frontend>> {
    let resolve = |(name, raw): (Name, Located<Option<RawFrontend>>)| {
        let raw = raw.value?;
        let backend = raw.backend?.value;
        let frontend = match raw.mode? {
            RawMode::L4(layer_4) => Frontend::L4(L4Frontend {
                bind: all(layer_4.vips)?,
                backend,
                forward: layer_4.forward?,
                snat: layer_4.snat?,
                syn_cookies: layer_4.syn_cookies?,
                access: layer_4.access?,
                limits: layer_4.limits?,
            }),
            RawMode::Tcp(tcp) => {
                let sni = tcp.sni?.into_iter();
                Frontend::Tcp(TcpFrontend {
                    listen: all(tcp.listen)?,
                    backend,
                    timeouts: tcp.timeouts?.client(&defaults.timeouts)?,
                    connections: tcp.limits?.connections,
                    sni: sni.map(|(pattern, backend)| (pattern, backend.value)).collect(),
                    access: tcp.access?,
                })
            }
            RawMode::Http(http) => {
                let RawLimits { connections, http: limits, .. } = http.limits?;
                Frontend::Http(HttpFrontend {
                    listen: all(http.listen)?,
                    backend,
                    timeouts: http.timeouts?.client(&defaults.timeouts)?,
                    connections,
                    limits,
                    trusted_proxies: http.trusted_proxies?,
                    takes_connect: http.takes_connect?,
                    access: http.access?,
                    rules: rules.remove(&name)??,
                })
            }
        };
        Some((name, frontend))
    };
    raw.into_iter().map(resolve).collect()
}

/// The items of a list, unless one is at fault.
fn all<T>(items: ListItems<T>) -> Option<Vec<T>> {
    items.into_iter().map(|item| item.value).collect()
}

/// Goes through all backends even if one is at fault: checks are judged on the way.
fn resolve_backends(
    raw: NamedItems<RawBackend>,
    defaults: &Defaults,
    sink: &Sink,
) -> Option<BTreeMap<Name, Backend>> {
    let resolve = |(name, raw): (Name, Located<Option<RawBackend>>)| {
        let raw = raw.value?;
        let check = raw.check.map(|check| check.resolve(&defaults.check, sink));
        let servers = raw.servers.into_iter();
        let servers = servers.map(|(name, raw)| Some((name, raw.value?.resolve()?)));
        let servers: Option<BTreeMap<Name, Server>> = servers.collect();
        let spread = raw.proxy.as_ref().map(RawProxy::of_layer_4).unwrap_or_default();
        let proxy = raw.proxy.and_then(|proxy| proxy.resolve(raw.hash.as_ref()?, defaults));
        let backend = Backend {
            hash: raw.hash?.of_layer_4(),
            spread,
            refuse_when_full: raw.refuse_when_full?,
            affinity: raw.affinity?,
            on_down: raw.on_down?,
            check,
            proxy: proxy?,
            servers: servers?,
        };
        Some((name, backend))
    };
    let all: Vec<Option<(Name, Backend)>> = raw.into_iter().map(resolve).collect();
    all.into_iter().collect()
}

fn judge_frontends(frontends: &Located<NamedItems<RawFrontend>>, sink: &Sink) {
    let read = frontends.value.values().filter_map(|frontend| frontend.value.as_ref());
    let vips = read.filter_map(RawFrontend::vips).map(Vec::len).sum();
    judge_count("VIPs", vips, MAX_VIPS, &frontends.place, sink);
    if frontends.value.is_empty() {
        let refusal = Refusal::new("there is no frontend: nothing is forwarded");
        sink.warn(&frontends.place, refusal);
    }
}

fn judge_backends(backends: &Located<NamedItems<RawBackend>>, sink: &Sink) {
    let read = backends.value.values().filter_map(|backend| backend.value.as_ref());
    let servers = read.map(|backend| backend.servers.len()).sum();
    judge_count("backends", backends.value.len(), MAX_BACKENDS, &backends.place, sink);
    judge_count("servers", servers, MAX_SERVERS, &backends.place, sink);
}

/// A count against the capacity of its map.
fn judge_count(what: &str, count: usize, most: u32, place: &Place, sink: &Sink) {
    if count > most as usize {
        let refusal = Refusal::new(format!("{count} {what} are more than {most}"));
        sink.fault(place, refusal.hint("spread them over several pairs of balancers"));
    }
}

/// Every VIP; duplicates and impossible ones are faults.
fn judge_vips(frontends: &NamedItems<RawFrontend>, is_in_user_space: bool, sink: &Sink) -> Vips {
    let mut binds: Vec<(Bind, &Place)> = Vec::new();
    let read = frontends.values().filter_map(|frontend| frontend.value.as_ref());
    for bind in read.filter_map(RawFrontend::vips) {
        let mut first: Option<Bind> = None;
        for bind in bind {
            let Some(vip) = bind.value else { continue };
            let judged = match is_in_user_space {
                true => user_space::judge_vip(vip),
                false => judge_vip(vip.address),
            };
            if let Err(refusal) = judged {
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
    let mut vips = Vips::new();
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
fn judge_references(
    frontends: &NamedItems<RawFrontend>,
    backends: &NamedItems<RawBackend>,
    rules: &Resolver<'_>,
    sink: &Sink,
) {
    let mut used = BTreeSet::new();
    for frontend in frontends.values().filter_map(|frontend| frontend.value.as_ref()) {
        for reference in frontend.references() {
            let Some(backend) = backends.get(&reference.value) else {
                let known = backends.keys().map(Name::as_str);
                sink.fault(&reference.place, no_backend(reference.value.as_str(), known));
                continue;
            };
            used.insert(&reference.value);
            if let (Some(RawMode::L4(layer_4)), Some(backend)) = (&frontend.mode, &backend.value) {
                forwarding::judge(layer_4, backend, &reference.place, sink);
            }
        }
    }
    for (name, backend) in backends {
        let Some(backend) = &backend.value else { continue };
        let users = frontends.values().filter_map(|frontend| frontend.value.as_ref());
        check_path::judge(name, backend, users, rules.uses_backend(name), sink);
    }
    let is_unused = |name: &Name| !used.contains(name) && !rules.uses_backend(name);
    for (name, backend) in backends.iter().filter(|(name, _)| is_unused(name)) {
        let message = format!("no frontend uses the backend {}", quoted(name.as_str()));
        sink.warn(&backend.place, Refusal::new(message));
    }
}

fn no_backend<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Refusal {
    let refusal = Refusal::new(format!("there is no backend {}", quoted(wanted)));
    match did_you_mean(wanted, known) {
        Some(meant) => refusal.hint(format!("did you mean {}?", quoted(meant))),
        None => refusal.hint("backends are defined under `backends`"),
    }
}

/// The backends that layer 4 does not use, and so does not judge, if there is anybody else
/// to use them.
fn not_in_layer_4<'a>(
    frontends: &NamedItems<RawFrontend>,
    backends: &'a NamedItems<RawBackend>,
) -> BTreeSet<&'a Name> {
    let read = || frontends.values().filter_map(|frontend| frontend.value.as_ref());
    let is_proxied =
        |frontend: &RawFrontend| matches!(frontend.mode, Some(RawMode::Http(_) | RawMode::Tcp(_)));
    if !read().any(is_proxied) {
        return BTreeSet::new();
    }
    let layer_4 = read().filter(|frontend| !is_proxied(frontend));
    let used: BTreeSet<&Name> =
        layer_4.flat_map(RawFrontend::references).map(|backend| &backend.value).collect();
    backends.keys().filter(|name| !used.contains(name)).collect()
}

/// The backends that layer 4 uses, perhaps among others.
fn forwarded_by_layer_4(frontends: &NamedItems<RawFrontend>) -> BTreeSet<&Name> {
    let read = frontends.values().filter_map(|frontend| frontend.value.as_ref());
    let layer_4 = read.filter(|frontend| frontend.vips().is_some());
    layer_4.filter_map(|frontend| Some(&frontend.backend.as_ref()?.value)).collect()
}

/// Keys of a backend that are about requests, which sessions of `mode: tcp` do not have.
const OF_REQUESTS: [&str; 4] = ["persistence", "protocol", "idle_connections", "retry_statuses"];

/// What is about requests does nothing for a backend that has none; saying so beats
/// ignoring it.
fn refuse_request_keys(
    frontends: &NamedItems<RawFrontend>,
    backends: &NamedItems<RawBackend>,
    rules_use: impl Fn(&Name) -> bool,
    sink: &Sink,
) {
    let read = || frontends.values().filter_map(|frontend| frontend.value.as_ref());
    let used_by = |name: &Name, is_wanted: fn(&RawMode) -> bool| {
        read().any(|frontend| {
            // Nobody knows what a frontend is whose mode is at fault.
            frontend.mode.as_ref().is_none_or(is_wanted)
                && frontend.references().any(|reference| reference.value == *name)
        })
    };
    for (name, backend) in backends {
        let for_sessions_alone = used_by(name, |mode| matches!(mode, RawMode::Tcp(_)))
            && !used_by(name, |mode| matches!(mode, RawMode::Http(_)))
            && !rules_use(name);
        let Some(backend) = backend.value.as_ref().filter(|_| for_sessions_alone) else { continue };
        let given = backend.proxy.iter().flat_map(|proxy| &proxy.given);
        for (key, place) in given.filter(|(key, _)| OF_REQUESTS.contains(key)) {
            let message = format!(
                "{} is about requests; frontends of `mode: tcp` alone use this backend",
                quoted(key)
            );
            sink.fault(place, Refusal::new(message).hint("remove it, or use `mode: http`"));
        }
        if let Some(place) = backend.hashes_requests() {
            let message =
                "`hash` names a part of requests; frontends of `mode: tcp` alone use this backend";
            sink.fault(place, Refusal::new(message).hint("tuple or source"));
        }
    }
}

/// Layer 4 does not do what only the proxy can; saying so beats ignoring it.
fn refuse_proxy_keys(backend: &RawBackend, sink: &Sink) {
    let servers = backend.servers.values().filter_map(|server| server.value.as_ref());
    for server in servers {
        let most = server.max_connections.filter(|most| *most > u32::from(u16::MAX));
        if let (Some(most), Some(place)) = (most, &server.limit_place) {
            let message = format!("{most} are more flows than layer 4 counts for a server, 65535");
            sink.fault(place, Refusal::new(message).hint("leave it out for no limit"));
        }
    }
    for (name, place) in backend.proxy.iter().flat_map(RawProxy::not_in_layer_4) {
        let message = format!(
            "{} is for the proxy; a frontend of `mode: l4` uses this backend",
            quoted(name)
        );
        let hint = "give that frontend a backend of its own, with the same servers";
        sink.fault(place, Refusal::new(message).hint(hint));
    }
}

/// One backend against who uses it.
fn judge_backend(
    backend: &RawBackend,
    place: &Place,
    (is_proxied, is_in_user_space): (bool, bool),
    sink: &Sink,
) {
    let balance = backend.proxy.as_ref().and_then(|proxy| proxy.balance.as_ref());
    if let Some(word) = balance.filter(|_| !is_proxied)
        && let Err(refusal) = judge_layer_4(word.value)
    {
        sink.fault(&word.place, refusal);
    }
    let by_source = matches!(backend.hash, Some(RawHash::By(HashBy::Source)));
    if let Some(place) = backend.affinity_place.as_ref().filter(|_| !by_source || is_proxied) {
        let refusal = Refusal::new("needs `mode: l4` and `hash: source`");
        sink.fault(place, refusal.hint("in the proxy, `persistence` keeps clients"));
    }
    if let Some(place) = backend.affinity_place.as_ref().filter(|_| is_in_user_space) {
        sink.warn(place, user_space::no_affinity());
    }
    let spread = backend.proxy.as_ref().map(RawProxy::of_layer_4).unwrap_or_default();
    let unhashed = match spread {
        Spread::Hashed => None,
        Spread::LeastConnections => Some("least-connections"),
        Spread::InTurn => Some("round-robin"),
    };
    if let Some(word) = unhashed.filter(|_| by_source && !is_proxied) {
        let message = format!("has `hash: source`, which `{word}` does not use");
        sink.fault(place, Refusal::new(message).hint("keep one of the two"));
    }
    if let Some(RawHash::Key(_)) = backend.hash.as_ref().filter(|_| !is_proxied) {
        let refusal = Refusal::new("hashes what only requests have");
        sink.fault(place, refusal.hint("`hash` is tuple or source in layer 4"));
    }
    let judge = match (is_proxied, is_in_user_space) {
        (true, _) => judge_proxied,
        (false, true) => user_space::judge_server,
        (false, false) => judge_server,
    };
    let servers = backend.servers.values().filter_map(|server| server.value.as_ref());
    for address in servers.filter_map(|server| server.address.as_ref()) {
        if let Err(refusal) =
            judge(address.value).and_then(|()| judge_socket(address.value, backend))
        {
            sink.fault(&address.place, refusal);
        }
    }
}

/// Whether a server on a unix socket can be used as the backend says.
fn judge_socket(address: ServerAddress, backend: &RawBackend) -> Result<(), Refusal> {
    if address.socket().is_some() {
        return Ok(());
    }
    if backend.check.as_ref().is_some_and(RawCheck::has_port) {
        let refusal = Refusal::new(format!("{address} has no port, and `check` names one"));
        return Err(refusal.hint("leave the port out: the check connects to the socket"));
    }
    if backend.proxy.as_ref().is_some_and(RawProxy::verifies_addresses) {
        let refusal = Refusal::new(format!("{address} is no address that a certificate names"));
        return Err(refusal.hint("name the servers in `tls`: {sni: www.example.com}"));
    }
    Ok(())
}

/// Where the proxy listens: nowhere twice.
fn judge_listens(frontends: &NamedItems<RawFrontend>, vips: &Vips, sink: &Sink) {
    let read = frontends.values().filter_map(|frontend| frontend.value.as_ref());
    let mut listens: Vec<(&Listen, &Place)> = read
        .filter_map(|frontend| match &frontend.mode {
            Some(RawMode::Http(http)) => Some(&http.listen),
            Some(RawMode::Tcp(tcp)) => Some(&tcp.listen),
            _ => None,
        })
        .flatten()
        .filter_map(|listen| Some((listen.value.as_ref()?, &listen.place)))
        .collect();
    listens.sort_by_key(|(_, place)| (place.mark.line, place.mark.column));
    let mut seen: HashMap<&ListenAddress, &Place> = HashMap::new();
    for (listen, place) in listens {
        let vip = match &listen.address {
            ListenAddress::Tcp(address) => vips.get(&(*address, Protocol::Tcp)),
            _ => None,
        };
        if let Some(first) = vip.or(seen.get(&listen.address).copied()) {
            let address = &listen.address;
            let Mark { line, .. } = first.mark;
            let message =
                format!("{address} is given twice, first in line {line} ({})", first.path);
            sink.fault(place, Refusal::new(message).hint("it belongs to one frontend"));
        } else {
            seen.insert(&listen.address, place);
        }
    }
}

/// The servers of one backend against each other and against the VIPs.
fn judge_servers(backend: &RawBackend, place: &Place, vips: &Vips, is_proxied: bool, sink: &Sink) {
    let read = backend.servers.values();
    let mut servers: Vec<(ServerAddress, &Place)> = read
        .filter_map(|server| Some((server.value.as_ref()?.address()?, &server.place)))
        .collect();
    servers.sort_by_key(|(_, place)| (place.mark.line, place.mark.column));
    let mut seen: HashMap<ServerAddress, &Place> = HashMap::new();
    for (address, place) in &servers {
        if let (false, Some(first), Some(own)) =
            (is_proxied, servers[0].0.socket(), address.socket())
        {
            judge_server_family(own, first, place, sink);
        }
        if let Some(first) = seen.get(address) {
            let Mark { line, .. } = first.mark;
            let message =
                format!("{address} is given twice, first in line {line} ({})", first.path);
            sink.fault(place, Refusal::new(message).hint("use `weight` for a larger share"));
        } else {
            seen.insert(*address, place);
        }
        let protocols = [Protocol::Tcp, Protocol::Udp].into_iter();
        let vip =
            address.socket().and_then(|own| protocols.filter_map(|p| vips.get(&(own, p))).next());
        if let Some(vip) = vip {
            let message =
                format!("{address} is itself a VIP, line {} ({})", vip.mark.line, vip.path);
            let hint = "a server is a machine behind the balancer; this would loop";
            sink.fault(place, Refusal::new(message).hint(hint));
        }
    }
    let weights = backend.servers.values().map(|server| server.value.as_ref()?.weight);
    if backend.servers.is_empty() {
        sink.warn(place, Refusal::new("there is no server: clients are refused"));
    } else if weights.into_iter().all(|weight| weight == Some(0)) {
        sink.warn(place, Refusal::new("every weight is 0: no server takes new flows"));
    }
}

fn judge_server_family(address: SocketAddr, first: SocketAddr, place: &Place, sink: &Sink) {
    if first.is_ipv4() != address.is_ipv4() {
        let (one, other) = (family(address), family(first));
        let message = format!("{address} is {one}, the servers before it are {other}");
        sink.fault(place, Refusal::new(message).hint("give each family its own backend"));
    }
}

pub(super) const fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

const fn suffix(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "",
        Protocol::Udp => "/udp",
    }
}
