//! Ids and entries of servers: those the maps have keep theirs, new ones get free ids, and
//! if there are none, some of those that go stay a little longer.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::{
    address::{Address6, Be16},
    flow::Handle,
    server::{ServerEntry, flag, state},
};

use super::{
    actual::{Actual, server_address},
    desired::DesiredServer,
    ids::Ids,
    ring::{self, RingMember},
    target::{Kind, Target},
};
use crate::model::index::common_address;

/// Ids of servers, over all backends.
pub(super) struct Servers<'a> {
    actual: &'a Actual,
    known: BTreeMap<(u16, SocketAddr), u16>,
    ids: Ids,
}

/// The weight of a server that goes, while it stands in for one that waits for its id. The
/// maps do not remember the one it had.
const STAND_IN_WEIGHT: u16 = 100;

impl<'a> Servers<'a> {
    pub(super) fn new(most: u32, actual: &'a Actual) -> Self {
        let live = || actual.servers.iter().filter(|(_, entry)| entry.state != state::UNUSED);
        let mut known = BTreeMap::new();
        for (id, entry) in live() {
            known.entry((entry.backend, server_address(entry))).or_insert(*id);
        }
        let generations = actual.servers.iter().map(|(id, entry)| (*id, entry.generation));
        let taken = live().map(|(id, _)| *id);
        Self { actual, known, ids: Ids::new(most, generations.collect(), taken) }
    }

    /// Puts the servers of one backend into `target`; the members of its ring. The servers
    /// that the maps have under this backend id are its own only if the maps have the
    /// backend (`known_backend`) too.
    ///
    /// Servers without an id are deferred. If that leaves nobody to get flows, some of those
    /// there are stand in for them.
    pub(super) fn place(
        &mut self,
        backend: u16,
        known_backend: bool,
        wanted: &BTreeMap<SocketAddr, DesiredServer>,
        target: &mut Target,
    ) -> Vec<RingMember> {
        let mut deferred = false;
        let mut candidates = Vec::with_capacity(wanted.len());
        for (address, server) in wanted {
            let known = self.known.get(&(backend, *address)).filter(|_| known_backend);
            let before = known.and_then(|id| Some((*id, self.actual.servers.get(id)?)));
            let handle = match before {
                Some((id, entry)) => Handle { id, generation: entry.generation },
                None => {
                    let Some(handle) = self.ids.allocate() else {
                        deferred = true;
                        continue;
                    };
                    target.fresh_servers.push(handle);
                    handle
                }
            };
            let remembered = before.map(|(_, entry)| entry.snat_address);
            let entry = server_entry(address, server, handle, backend, remembered);
            let reachable = entry.snat_address != Address6::default();
            target.servers.insert(handle.id, entry);
            candidates.push((address, server, handle, reachable));
        }
        let members = ring::members(candidates.into_iter());
        if !deferred {
            return members;
        }
        target.deferred = Some(Kind::Servers);
        if members.is_empty() {
            target.hollow.insert(backend);
        }
        if members.is_empty() && known_backend {
            return stand_ins(self.actual, backend, Some(wanted), target);
        }
        members
    }
}

/// Who gets flows, as they are, until there are ids for others: of the usable servers that a
/// backend with a ring has those that stay, and half of those that go, so that the others
/// free their ids. If none stay, one that goes is kept. None are known to be dead.
pub(super) fn stand_ins(
    actual: &Actual,
    backend: u16,
    wanted: Option<&BTreeMap<SocketAddr, DesiredServer>>,
    target: &mut Target,
) -> Vec<RingMember> {
    if !actual.rings.contains(&backend) {
        return Vec::new();
    }
    let usable =
        |entry: &ServerEntry| entry.state == state::UP && entry.snat_address != Address6::default();
    let servers = actual.servers.iter();
    let servers = servers.filter(|(_, entry)| entry.backend == backend && usable(entry));
    let (mut staying, mut going) = (Vec::new(), Vec::new());
    for (id, entry) in servers {
        match wanted.and_then(|wanted| wanted.get(&server_address(entry))) {
            None => going.push((*id, *entry)),
            Some(server) if server.state != state::DOWN => staying.push((*id, *entry)),
            Some(_) => {}
        }
    }
    let kept = if staying.is_empty() { going.len().div_ceil(2) } else { going.len() / 2 };
    going.truncate(kept);
    staying.extend(going);
    let member = |(id, entry): &(u16, ServerEntry)| {
        target.servers.insert(*id, *entry);
        let server = Some(Handle { id: *id, generation: entry.generation });
        RingMember { address: server_address(entry), weight: STAND_IN_WEIGHT, server }
    };
    staying.iter().map(member).collect()
}

/// A server whose next hop is not known keeps the SNAT address it had, for its flows are
/// rewritten with it; the kernel's FIB then finds the way.
fn server_entry(
    address: &SocketAddr,
    server: &DesiredServer,
    handle: Handle,
    backend: u16,
    remembered: Option<Address6>,
) -> ServerEntry {
    let entry = ServerEntry {
        generation: handle.generation,
        state: server.state,
        flags: if address.is_ipv6() { flag::V6 } else { 0 }
            | if server.affinity { flag::AFFINITY } else { 0 }
            | if server.sees_clients { flag::SEES_CLIENTS } else { 0 },
        address: common_address(address.ip()),
        snat_address: remembered.unwrap_or_default(),
        port: Be16::new(address.port()),
        weight: server.share(),
        most_flows: server.most_flows,
        gue_port: Be16::new(server.gue_port),
        backend,
        ..ServerEntry::default()
    };
    match server.next_hop {
        None => entry,
        Some(hop) => ServerEntry {
            ifindex: hop.ifindex,
            neighbour: hop.neighbour,
            own: hop.own,
            mtu: hop.mtu,
            flags: entry.flags | if hop.routed { flag::ROUTED } else { 0 },
            snat_address: common_address(hop.source),
            ..entry
        },
    }
}
