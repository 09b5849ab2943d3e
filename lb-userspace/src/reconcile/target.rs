//! What every map should hold, entry by entry: the desired state with ids, taking over the
//! ids that the maps already give to the same things.
//!
//! The same VIP keeps its id and generation, and so does the same server (backend name,
//! address, port), over reloads and restarts of the agent: the maps are the memory. An id
//! that is freed leaves a tombstone, which keeps its generation.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::{MAX_BACKENDS, MAX_SERVERS, MAX_VIPS},
    address::{Address4, Address6, Be16},
    backend::{BackendEntry, NAME_BYTES},
    flow::Handle,
    hash,
    server::{ServerEntry, state},
    settings::Settings,
    vip::{TOMBSTONE_PROTOCOL, VipEntry, VipKey, address_flag},
};

use super::{
    actual::{Actual, backend_name, server_address},
    desired::{Desired, DesiredServer},
    ids::Ids,
    plan::PlanError,
    ring::{self, RingMember},
};
use crate::model::{
    index::{common_address, plain_address},
    name::Name,
    snapshot::{Bind, Protocol},
};

/// What every map should hold.
#[derive(Debug, Default)]
pub(super) struct Target {
    pub(super) settings: Settings,
    pub(super) vips: BTreeMap<VipKey, VipEntry>,
    pub(super) backends: BTreeMap<u16, BackendEntry>,
    pub(super) servers: BTreeMap<u16, ServerEntry>,
    pub(super) rings: BTreeMap<u16, Vec<RingMember>>,
    pub(super) filter: BTreeMap<u32, u64>,
    /// VIPs whose ids were somebody else's, or nobody's.
    pub(super) fresh_vips: Vec<Handle>,
    /// Servers whose ids were somebody else's, or nobody's.
    pub(super) fresh_servers: Vec<Handle>,
}

/// What every map should hold, given what they hold.
///
/// # Errors
/// If there are more things than ids.
pub(super) fn target(desired: &Desired, actual: &Actual) -> Result<Target, PlanError> {
    let mut target = Target { settings: desired.settings, ..Target::default() };
    let backend_ids = target.place_backends(desired, actual)?;
    target.place_vips(desired, actual, &backend_ids)?;
    target.filter = filter(&target);
    Ok(target)
}

/// The key of a VIP.
pub(super) fn vip_key(bind: &Bind) -> VipKey {
    VipKey {
        address: common_address(bind.address.ip()),
        port: Be16::new(bind.address.port()),
        protocol: bind.protocol.number(),
        ..VipKey::default()
    }
}

/// Whether an entry of `VIPS` is a VIP: neither an address record nor a tombstone.
pub(super) fn is_vip(key: &VipKey) -> bool {
    key.protocol != 0 && key.protocol != TOMBSTONE_PROTOCOL
}

impl Target {
    /// Backends, their servers and rings; the id of each backend by name.
    fn place_backends<'a>(
        &mut self,
        desired: &'a Desired,
        actual: &Actual,
    ) -> Result<BTreeMap<&'a Name, u16>, PlanError> {
        let mut known: BTreeMap<&str, u16> = BTreeMap::new();
        for (id, entry) in &actual.backends {
            if let Some(name) = backend_name(entry) {
                known.entry(name).or_insert(*id);
            }
        }
        let generations = actual.backends.iter().map(|(id, entry)| (*id, low16(entry.generation)));
        // An id that some VIP still names may not get another ring under its feet.
        let named = actual.vips.iter().filter(|(key, _)| is_vip(key)).map(|(_, vip)| vip.backend);
        let live = actual.backends.iter().filter(|(_, entry)| backend_name(entry).is_some());
        let taken = live.map(|(id, _)| *id).chain(named);
        let mut ids = Ids::new(MAX_BACKENDS, generations.collect(), taken);
        let mut servers = Servers::new(actual);
        let mut placed = BTreeMap::new();
        for (name, wanted) in &desired.backends {
            let kept = known.get(name.as_str()).and_then(|id| {
                let generation = low16(actual.backends.get(id)?.generation);
                Some(Handle { id: *id, generation })
            });
            let handle = match kept {
                Some(handle) => handle,
                None => ids.allocate().ok_or(PlanError::NoIds("backends", MAX_BACKENDS))?,
            };
            let members = servers.place(handle.id, kept.is_some(), wanted, self)?;
            self.backends.insert(handle.id, backend_entry(name, handle, &members));
            if !members.is_empty() {
                self.rings.insert(handle.id, members);
            }
            placed.insert(name, handle.id);
        }
        for (id, entry) in &actual.backends {
            let tombstone =
                BackendEntry { generation: entry.generation, ..BackendEntry::default() };
            self.backends.entry(*id).or_insert(tombstone);
        }
        for (id, entry) in &actual.servers {
            self.servers.entry(*id).or_insert_with(|| server_tombstone(entry));
        }
        Ok(placed)
    }

    /// VIPs, address records and tombstones.
    fn place_vips(
        &mut self,
        desired: &Desired,
        actual: &Actual,
        backends: &BTreeMap<&Name, u16>,
    ) -> Result<(), PlanError> {
        let mut generations: BTreeMap<u16, u16> = BTreeMap::new();
        for (_, entry) in actual.vips.iter().filter(|(key, _)| key.protocol != 0) {
            let generation = generations.entry(entry.id).or_default();
            *generation = entry.generation.max(*generation);
        }
        let taken = actual.vips.iter().filter(|(key, _)| is_vip(key)).map(|(_, entry)| entry.id);
        let mut ids = Ids::new(MAX_VIPS, generations.clone(), taken);
        let mut claimed = BTreeSet::new();
        for (bind, vip) in &desired.vips {
            let key = vip_key(bind);
            let kept = actual.vips.get(&key).filter(|entry| {
                let valid = entry.generation != 0 && u32::from(entry.id) < MAX_VIPS;
                valid && claimed.insert(entry.id)
            });
            let handle = match kept {
                Some(entry) => Handle { id: entry.id, generation: entry.generation },
                None => {
                    let handle = ids.allocate().ok_or(PlanError::NoIds("VIPs", MAX_VIPS))?;
                    self.fresh_vips.push(handle);
                    handle
                }
            };
            claimed.insert(handle.id);
            // Every VIP's backend is among the desired ones.
            let backend = backends.get(&vip.backend).copied().unwrap_or(u16::MAX);
            let entry = VipEntry {
                id: handle.id,
                generation: handle.generation,
                backend,
                on_down: vip.on_down,
                hash_by: vip.hash_by,
                ..VipEntry::default()
            };
            self.vips.insert(key, entry);
            self.record_address(bind);
        }
        let unclaimed = generations.into_iter().filter(|(id, generation)| {
            *generation != 0 && u32::from(*id) < MAX_VIPS && !claimed.contains(id)
        });
        self.vips.extend(unclaimed.map(|(id, generation)| vip_tombstone(id, generation)));
        Ok(())
    }

    /// Says that a VIP uses the address.
    fn record_address(&mut self, bind: &Bind) {
        let address = common_address(bind.address.ip());
        let key = VipKey { address, ..VipKey::default() };
        self.vips.entry(key).or_default().flags |= match bind.protocol {
            Protocol::Tcp => address_flag::TCP,
            Protocol::Udp => address_flag::UDP,
        };
    }
}

/// Ids of servers, over all backends.
struct Servers<'a> {
    actual: &'a Actual,
    known: BTreeMap<(u16, SocketAddr), u16>,
    ids: Ids,
}

impl<'a> Servers<'a> {
    fn new(actual: &'a Actual) -> Self {
        let live = || actual.servers.iter().filter(|(_, entry)| entry.state != state::UNUSED);
        let mut known = BTreeMap::new();
        for (id, entry) in live() {
            known.entry((entry.backend, server_address(entry))).or_insert(*id);
        }
        let generations = actual.servers.iter().map(|(id, entry)| (*id, entry.generation));
        let taken = live().map(|(id, _)| *id);
        Self { actual, known, ids: Ids::new(MAX_SERVERS, generations.collect(), taken) }
    }

    /// Puts the servers of one backend into `target`; the members of its ring. The servers
    /// that the maps have under this backend id are its own only if the maps have the
    /// backend (`known_backend`) too.
    fn place(
        &mut self,
        backend: u16,
        known_backend: bool,
        wanted: &BTreeMap<SocketAddr, DesiredServer>,
        target: &mut Target,
    ) -> Result<Vec<RingMember>, PlanError> {
        let mut candidates = Vec::with_capacity(wanted.len());
        for (address, server) in wanted {
            let known = self.known.get(&(backend, *address)).filter(|_| known_backend);
            let before = known.and_then(|id| Some((*id, self.actual.servers.get(id)?)));
            let handle = match before {
                Some((id, entry)) => Handle { id, generation: entry.generation },
                None => {
                    let none = PlanError::NoIds("servers", MAX_SERVERS);
                    let handle = self.ids.allocate().ok_or(none)?;
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
        Ok(ring::members(candidates.into_iter()))
    }
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
        address: common_address(address.ip()),
        snat_address: remembered.unwrap_or_default(),
        port: Be16::new(address.port()),
        backend,
        ..ServerEntry::default()
    };
    match server.next_hop {
        None => entry,
        Some(hop) => ServerEntry {
            ifindex: hop.ifindex,
            neighbour: hop.neighbour,
            own: hop.own,
            snat_address: common_address(hop.source),
            ..entry
        },
    }
}

/// A retired server keeps its generation and nothing else.
fn server_tombstone(entry: &ServerEntry) -> ServerEntry {
    ServerEntry { generation: entry.generation, state: state::UNUSED, ..ServerEntry::default() }
}

fn vip_tombstone(id: u16, generation: u16) -> (VipKey, VipEntry) {
    let key = VipKey { port: Be16::new(id), protocol: TOMBSTONE_PROTOCOL, ..VipKey::default() };
    (key, VipEntry { id, generation, ..VipEntry::default() })
}

fn backend_entry(name: &Name, handle: Handle, members: &[RingMember]) -> BackendEntry {
    let mut bytes = [0; NAME_BYTES];
    for (byte, character) in bytes.iter_mut().zip(name.as_str().bytes()) {
        *byte = character;
    }
    BackendEntry {
        name: bytes,
        ring_signature: ring::signature(members),
        generation: u32::from(handle.generation),
        ring_members: u32::try_from(ring::usable(members)).unwrap_or(u32::MAX),
    }
}

/// Words of the filter: every VIP address, which clients send to, and every SNAT address,
/// which servers answer to.
fn filter(target: &Target) -> BTreeMap<u32, u64> {
    let vips = target.vips.keys().filter(|key| is_vip(key)).map(|key| key.address);
    let servers = target.servers.values().filter(|entry| entry.state != state::UNUSED);
    let snat = servers.map(|entry| entry.snat_address).filter(|a| *a != Address6::default());
    let mut words = BTreeMap::new();
    for address in vips.chain(snat) {
        let bit = match plain_address(address) {
            IpAddr::V4(address) => hash::filter_bit(Address4::new(address.octets())),
            IpAddr::V6(address) => hash::filter_bit(Address6::new(address.octets())),
        };
        *words.entry(bit / 64).or_default() |= 1_u64 << (bit % 64);
    }
    words
}

/// Generations of backends are kept in 32 bits for layout's sake only; never 0.
fn low16(generation: u32) -> u16 {
    u16::try_from(generation & 0xffff).unwrap_or_default().max(1)
}
