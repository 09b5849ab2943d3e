//! What the maps hold, and what an operation makes of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    access::AdmissionEntry,
    address::Address6,
    backend::BackendEntry,
    server::{ServerEntry, flag, state},
    settings::Settings,
    vip::{VipEntry, VipKey},
};

use super::{
    access::{self, Rules},
    operation::Operation,
    target::{filter, vip_key},
};
use crate::model::{index::plain_address, name::Name, next_hop::NextHop, snapshot::Bind};

/// What the maps hold: entries that say something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actual {
    /// Node-wide settings.
    pub settings: Settings,
    /// VIPs, address records and tombstones.
    pub vips: BTreeMap<VipKey, VipEntry>,
    /// Rules for sources. Not read each time: who applies a plan knows what they are.
    pub rules: Rules,
    /// What frontends ask of sources, by VIP id, where that is anything.
    pub admissions: BTreeMap<u16, AdmissionEntry>,
    /// Backends by id, tombstones (without a name) too.
    pub backends: BTreeMap<u16, BackendEntry>,
    /// Servers by id, tombstones (state `UNUSED`) too.
    pub servers: BTreeMap<u16, ServerEntry>,
    /// Backend ids that have a ring. What it holds follows from the backend's signature.
    pub rings: BTreeSet<u16>,
    /// Words of the address filter that are not zero, by index.
    pub filter: BTreeMap<u32, u64>,
    /// Bits of the filter that no flow needs, in words by index. Not in the maps: sweeps of the
    /// flow tables say so, and nothing that is not known to be idle is.
    pub idle: BTreeMap<u32, u64>,
}

impl Default for Actual {
    /// Maps nobody has written to.
    fn default() -> Self {
        let settings = Settings {
            abi_version: 0,
            snat_port_low: 0,
            snat_port_high: 0,
            flags: 0,
            half_open_buckets: 0,
            half_open_ms: 0,
            closed_ms: 0,
            ended_places: 0,
            cookie_level: 0,
            access_changed_ns: 0,
        };
        Self {
            settings,
            vips: BTreeMap::new(),
            rules: Rules::from([]),
            admissions: BTreeMap::new(),
            backends: BTreeMap::new(),
            servers: BTreeMap::new(),
            rings: BTreeSet::new(),
            filter: BTreeMap::new(),
            idle: BTreeMap::new(),
        }
    }
}

impl Actual {
    /// The way to each server as the maps remember it. For the first round after a start,
    /// until the neighbour watch has looked: without it, servers would lose their next hop
    /// for a moment.
    #[must_use]
    pub fn next_hops(&self) -> BTreeMap<IpAddr, NextHop> {
        let known = self.servers.values().filter(|server| {
            server.state != state::UNUSED
                && server.ifindex != 0
                && server.snat_address != Address6::default()
        });
        let next_hop = |server: &ServerEntry| NextHop {
            ifindex: server.ifindex,
            own: server.own,
            neighbour: server.neighbour,
            source: plain_address(server.snat_address),
            mtu: server.mtu,
            routed: server.flags & flag::ROUTED != 0,
        };
        known.map(|server| (plain_address(server.address), next_hop(server))).collect()
    }

    /// The entry of a VIP.
    #[must_use]
    pub fn vip(&self, bind: &Bind) -> Option<&VipEntry> {
        self.vips.get(&vip_key(bind))
    }

    /// Words of the filter that VIPs and servers need.
    #[must_use]
    pub fn needed_filter(&self) -> BTreeMap<u32, u64> {
        filter(self.vips.keys(), self.servers.values())
    }

    /// The servers by where they are.
    #[must_use]
    pub fn places(&self) -> Places<'_> {
        let mut places = Places::default();
        for (id, entry) in &self.backends {
            if let Some(name) = backend_name(entry) {
                places.backends.entry(name).or_insert(*id);
            }
        }
        for (id, entry) in self.servers.iter().filter(|(_, entry)| entry.state != state::UNUSED) {
            let place = (entry.backend, server_address(entry));
            places.servers.entry(place).or_insert((*id, entry));
        }
        places
    }

    /// What the maps hold after an operation.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::PutSettings(settings) => self.settings = *settings,
            Operation::ZeroVipCounters(_)
            | Operation::ZeroServerCounters(_)
            | Operation::JudgeAnew => {}
            Operation::PutRules(rules) => self.rules = access::with(&self.rules, rules),
            Operation::RemoveRules(prefixes) => {
                self.rules = access::without(&self.rules, prefixes);
            }
            Operation::PutAdmission { id, entry } if *entry == AdmissionEntry::default() => {
                self.admissions.remove(id);
            }
            Operation::PutAdmission { id, entry } => {
                self.admissions.insert(*id, *entry);
            }
            Operation::PutServer { id, entry } => {
                self.servers.insert(*id, *entry);
            }
            Operation::SetRing { backend, .. } => {
                self.rings.insert(*backend);
            }
            Operation::PutBackend { id, entry } => {
                self.backends.insert(*id, *entry);
            }
            Operation::WidenFilter { index, word } | Operation::NarrowFilter { index, word } => {
                match word.bits {
                    0 => self.filter.remove(index),
                    bits => self.filter.insert(*index, bits),
                };
            }
            Operation::PutVip { key, entry } => {
                self.vips.insert(*key, *entry);
            }
            Operation::RemoveVip { key } => {
                self.vips.remove(key);
            }
            Operation::ClearRing { backend } => {
                self.rings.remove(backend);
            }
        }
    }
}

/// Servers by backend and address. For whoever looks for more than a few: there may be thousands.
#[derive(Clone, Debug, Default)]
pub struct Places<'a> {
    backends: HashMap<&'a str, u16>,
    servers: HashMap<(u16, SocketAddr), (u16, &'a ServerEntry)>,
}

impl<'a> Places<'a> {
    /// The id and entry of the server at `address` in the backend of that name.
    #[must_use]
    pub fn server(&self, backend: &Name, address: SocketAddr) -> Option<(u16, &'a ServerEntry)> {
        let backend = self.backends.get(backend.as_str())?;
        self.servers.get(&(*backend, address)).copied()
    }
}

/// The name in a backend entry; none in a tombstone, or if it is not text.
pub(super) fn backend_name(entry: &BackendEntry) -> Option<&str> {
    let end = entry.name.iter().position(|byte| *byte == 0).unwrap_or(entry.name.len());
    let text = std::str::from_utf8(entry.name.get(..end)?).ok()?;
    (!text.is_empty()).then_some(text)
}

/// The address and port in a server entry.
pub(super) fn server_address(entry: &ServerEntry) -> SocketAddr {
    SocketAddr::new(plain_address(entry.address), entry.port.get())
}
