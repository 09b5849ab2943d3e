//! What every map should hold, entry by entry: the desired state with ids, taking over the
//! ids that the maps already give to the same things.
//!
//! The same VIP keeps its id and generation, and so does the same server (backend name,
//! address, port), over reloads and restarts of the agent: the maps are the memory. An id
//! that is freed leaves a tombstone, which keeps its generation.
//!
//! What there is no id for is deferred: it gets one when a later round finds some freed.
//! Until then a VIP that waits for its backend keeps the one it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    access::AdmissionEntry,
    address::{Address4, Address6, Be16},
    backend::{BackendEntry, NAME_BYTES},
    flow::Handle,
    hash,
    server::{ServerEntry, flag as server_flag, state},
    settings::{Settings, flag},
    vip::{TOMBSTONE_PROTOCOL, VipEntry, VipKey, address_flag, vip_flag},
};

use super::{
    access::Rules,
    actual::{Actual, backend_name},
    desired::{Desired, DesiredVip},
    ids::Ids,
    plan::{Limits, PlanError},
    ring::{self, Layout, RingMember},
    servers::{self, Servers},
};
use crate::model::{
    index::{common_address, plain_address},
    name::Name,
    snapshot::{Bind, Protocol, SynCookies},
};

/// What every map should hold.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) settings: Settings,
    pub(super) rules: Rules,
    pub(super) admissions: BTreeMap<u16, AdmissionEntry>,
    pub(super) vips: BTreeMap<VipKey, VipEntry>,
    pub(super) backends: BTreeMap<u16, BackendEntry>,
    pub(super) servers: BTreeMap<u16, ServerEntry>,
    pub(super) rings: BTreeMap<u16, Vec<RingMember>>,
    /// Backend ids whose servers take turns.
    pub(super) in_turn: BTreeSet<u16>,
    pub(super) filter: BTreeMap<u32, u64>,
    /// VIPs whose ids were somebody else's, or nobody's.
    pub(super) fresh_vips: Vec<Handle>,
    /// Servers whose ids were somebody else's, or nobody's.
    pub(super) fresh_servers: Vec<Handle>,
    /// What has to wait for ids that this state frees; none if this is the desired state.
    pub(super) deferred: Option<Kind>,
    /// Backends that get no flows only because servers of theirs wait for ids.
    pub(super) hollow: BTreeSet<u16>,
}

/// What has ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Vips,
    Backends,
    Servers,
}

impl Kind {
    /// Name for people, and how many ids there are.
    const fn of(self, limits: Limits) -> (&'static str, u32) {
        match self {
            Self::Vips => ("VIPs", limits.vips),
            Self::Backends => ("backends", limits.backends),
            Self::Servers => ("servers", limits.servers),
        }
    }

    /// There are no ids and none can be freed.
    pub(super) const fn full(self, limits: Limits) -> PlanError {
        let (name, most) = self.of(limits);
        PlanError::Full(name, most)
    }

    /// There can not be this many.
    fn require_room(self, limits: Limits, wanted: usize) -> Result<(), PlanError> {
        let (name, most) = self.of(limits);
        if wanted > most as usize { Err(PlanError::NoIds(name, most)) } else { Ok(()) }
    }
}

/// What every map should hold, given what they hold, as far as there are ids.
///
/// # Errors
/// If there are more things desired than ids.
pub(super) fn target(
    limits: Limits,
    desired: &Desired,
    actual: &Actual,
) -> Result<Target, PlanError> {
    Kind::Vips.require_room(limits, desired.vips.len())?;
    Kind::Backends.require_room(limits, desired.backends.len())?;
    let servers = desired.backends.values().map(BTreeMap::len).sum();
    Kind::Servers.require_room(limits, servers)?;
    let mut target = Target::new(desired, actual);
    let backend_ids = target.place_backends(limits, desired, actual);
    target.hold_backends(desired, actual, &backend_ids);
    target.bury(actual);
    target.place_vips(limits, desired, actual, &backend_ids);
    target.filter = filter(target.vips.keys(), target.servers.values());
    target.keep_return_paths(actual);
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
    /// Nothing but what needs no ids.
    fn new(desired: &Desired, actual: &Actual) -> Self {
        let access_changed_ns = actual.settings.access_changed_ns;
        Self {
            settings: Settings { access_changed_ns, ..desired.settings },
            rules: Rules::clone(&desired.rules),
            admissions: BTreeMap::new(),
            vips: BTreeMap::new(),
            backends: BTreeMap::new(),
            servers: BTreeMap::new(),
            rings: BTreeMap::new(),
            in_turn: BTreeSet::new(),
            filter: BTreeMap::new(),
            fresh_vips: Vec::new(),
            fresh_servers: Vec::new(),
            deferred: None,
            hollow: BTreeSet::new(),
        }
    }

    /// What a VIP's frontend asks of sources.
    fn admit(&mut self, vip: Handle, asked: AdmissionEntry) {
        let entry = AdmissionEntry { generation: vip.generation, ..asked };
        self.admissions.insert(vip.id, entry);
    }

    /// Backends, their servers and rings; the id of each backend by name.
    fn place_backends<'a>(
        &mut self,
        limits: Limits,
        desired: &'a Desired,
        actual: &Actual,
    ) -> BTreeMap<&'a Name, u16> {
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
        let mut ids = Ids::new(limits.backends, generations.collect(), taken);
        let mut heirs = Heirs::new(desired, actual);
        let mut servers = Servers::new(limits.servers, actual);
        let mut placed = BTreeMap::new();
        for (name, wanted) in &desired.backends {
            let handle_of = |id: u16| {
                let generation = low16(actual.backends.get(&id)?.generation);
                Some(Handle { id, generation })
            };
            let kept = known.get(name.as_str()).and_then(|id| handle_of(*id));
            let fresh = kept.is_none().then(|| ids.allocate()).flatten();
            let kept = kept.or_else(|| match fresh {
                None => heirs.inherit(name).and_then(handle_of),
                Some(_) => None,
            });
            let Some(handle) = kept.or(fresh) else {
                self.deferred = Some(Kind::Backends);
                continue;
            };
            let members = servers.place(handle.id, kept.is_some(), wanted, self);
            if desired.in_turn.contains(name) {
                self.in_turn.insert(handle.id);
            }
            let layout = self.layout(handle.id);
            self.backends.insert(handle.id, backend_entry(name, handle, &members, layout));
            if !members.is_empty() {
                self.rings.insert(handle.id, members);
            }
            placed.insert(name, handle.id);
        }
        placed
    }

    /// Servers that saw their clients' addresses are looked for as long as the filter has bits
    /// that nothing but flows needs: theirs may be among them.
    fn keep_return_paths(&mut self, actual: &Actual) {
        let word = |words: &BTreeMap<u32, u64>, index| words.get(index).copied().unwrap_or(0);
        let lingers = actual.filter.iter().any(|(index, bits)| {
            bits & !word(&self.filter, index) & !word(&actual.idle, index) != 0
        });
        if lingers {
            self.settings.flags |= actual.settings.flags & flag::RETURN_PATHS;
        }
    }

    /// How the ring of a backend is laid out.
    pub(super) fn layout(&self, backend: u16) -> Layout {
        if self.in_turn.contains(&backend) { Layout::InTurn } else { Layout::Hashed }
    }

    /// Backends of VIPs that wait for another one go on.
    fn hold_backends(&mut self, desired: &Desired, actual: &Actual, placed: &BTreeMap<&Name, u16>) {
        let vips = desired.vips.iter();
        let waiting: BTreeSet<u16> = vips
            .filter_map(|(bind, vip)| {
                let before = actual.vips.get(&vip_key(bind))?.backend;
                self.waits(before, placed.get(&vip.backend).copied()).then_some(before)
            })
            .collect();
        for id in waiting {
            let Some(entry) = actual.backends.get(&id) else { continue };
            if !self.rings.contains_key(&id) {
                self.hold(id, entry, desired, actual);
            }
        }
    }

    /// Whether a VIP waits at the backend it has, because the one it is to have has no id, or
    /// its servers have none.
    fn waits(&self, before: u16, placed: Option<u16>) -> bool {
        placed.is_none_or(|id| id != before && self.hollow.contains(&id))
    }

    /// A backend goes on as it is, or with half of its servers if others need the ids, or if
    /// it is itself to change.
    fn hold(&mut self, id: u16, entry: &BackendEntry, desired: &Desired, actual: &Actual) {
        let named = |name: &&Name| Some(name.as_str()) == backend_name(entry);
        let wanted = desired.backends.iter().find(|(name, _)| named(name)).map(|(_, to)| to);
        if wanted.is_none() && self.deferred != Some(Kind::Servers) {
            let live =
                |server: &&ServerEntry| server.state != state::UNUSED && server.backend == id;
            let servers = actual.servers.iter().filter(|(_, server)| live(server));
            self.servers.extend(servers.map(|(id, server)| (*id, *server)));
            self.backends.insert(id, *entry);
            return;
        }
        let members = servers::stand_ins(actual, id, wanted, self);
        let held = BackendEntry {
            ring_signature: ring::signature(&members, self.layout(id)),
            ring_members: u32::try_from(ring::usable(&members)).unwrap_or(u32::MAX),
            ..*entry
        };
        self.backends.insert(id, held);
        if !members.is_empty() {
            self.rings.insert(id, members);
        }
    }

    /// What is left over leaves tombstones.
    fn bury(&mut self, actual: &Actual) {
        for (id, entry) in &actual.backends {
            let tombstone =
                BackendEntry { generation: entry.generation, ..BackendEntry::default() };
            self.backends.entry(*id).or_insert(tombstone);
        }
        for (id, entry) in &actual.servers {
            self.servers.entry(*id).or_insert_with(|| server_tombstone(entry));
        }
    }

    /// VIPs, address records and tombstones.
    fn place_vips(
        &mut self,
        limits: Limits,
        desired: &Desired,
        actual: &Actual,
        backends: &BTreeMap<&Name, u16>,
    ) {
        let mut generations: BTreeMap<u16, u16> = BTreeMap::new();
        for (_, entry) in actual.vips.iter().filter(|(key, _)| key.protocol != 0) {
            let generation = generations.entry(entry.id).or_default();
            *generation = entry.generation.max(*generation);
        }
        let taken = actual.vips.iter().filter(|(key, _)| is_vip(key)).map(|(_, entry)| entry.id);
        let mut ids = Ids::new(limits.vips, generations.clone(), taken);
        let mut claimed = BTreeSet::new();
        for (bind, vip) in &desired.vips {
            let key = vip_key(bind);
            let kept = actual.vips.get(&key).filter(|entry| {
                let valid = entry.generation != 0 && u32::from(entry.id) < limits.vips;
                valid && claimed.insert(entry.id)
            });
            let backend = backends.get(&vip.backend).copied();
            if let Some(entry) = kept
                && self.waits(entry.backend, backend)
            {
                self.admit(Handle { id: entry.id, generation: entry.generation }, vip.admission);
                self.vips.insert(key, *entry);
                self.record_address(bind);
                continue;
            }
            let Some(backend) = backend else { continue };
            let handle = match kept {
                Some(entry) => Handle { id: entry.id, generation: entry.generation },
                None => {
                    let Some(handle) = ids.allocate() else {
                        self.deferred = Some(Kind::Vips);
                        continue;
                    };
                    self.fresh_vips.push(handle);
                    handle
                }
            };
            claimed.insert(handle.id);
            let entry = VipEntry {
                id: handle.id,
                generation: handle.generation,
                backend,
                on_down: vip.on_down,
                hash_by: vip.hash_by,
                flags: flags_of(vip),
                forward: vip.forward.to_raw(),
                affinity_s: vip.affinity_s,
                ..VipEntry::default()
            };
            self.admit(handle, vip.admission);
            self.vips.insert(key, entry);
            self.record_address(bind);
        }
        let unclaimed = generations.into_iter().filter(|(id, generation)| {
            *generation != 0 && u32::from(*id) < limits.vips && !claimed.contains(id)
        });
        self.vips.extend(unclaimed.map(|(id, generation)| vip_tombstone(id, generation)));
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

/// Ids of backends that are to go, for new ones that are to take over all of their VIPs:
/// without a free id, that is the way to replace one. The ring is swapped as ever.
struct Heirs<'a> {
    /// By heir, the ids it may have.
    ids: BTreeMap<&'a Name, Vec<u16>>,
}

impl<'a> Heirs<'a> {
    fn new(desired: &'a Desired, actual: &Actual) -> Self {
        let wanted: BTreeMap<VipKey, &Name> =
            desired.vips.iter().map(|(bind, vip)| (vip_key(bind), &vip.backend)).collect();
        // By id, whom all of its VIPs are to have; none if they do not agree.
        let mut agreed: BTreeMap<u16, Option<&Name>> = BTreeMap::new();
        for (key, vip) in actual.vips.iter().filter(|(key, _)| is_vip(key)) {
            let heir = wanted.get(key).copied();
            let entry = agreed.entry(vip.backend).or_insert(heir);
            if *entry != heir {
                *entry = None;
            }
        }
        let mut ids: BTreeMap<&Name, Vec<u16>> = BTreeMap::new();
        for (id, heir) in agreed {
            let name = actual.backends.get(&id).and_then(backend_name);
            let stays =
                |name: &str| desired.backends.keys().any(|desired| desired.as_str() == name);
            if let (Some(name), Some(heir)) = (name, heir)
                && !stays(name)
            {
                ids.entry(heir).or_default().push(id);
            }
        }
        Self { ids }
    }

    /// An id for a backend that has none.
    fn inherit(&mut self, heir: &Name) -> Option<u16> {
        self.ids.get_mut(heir)?.pop()
    }
}

fn flags_of(vip: &DesiredVip) -> u32 {
    let limits = if vip.admission.limits_flows() { vip_flag::LIMITS_FLOWS } else { 0 };
    let refuse = if vip.refuse_when_full { vip_flag::REFUSE_WHEN_FULL } else { 0 };
    let keep = if vip.snat { 0 } else { vip_flag::KEEPS_SOURCE };
    let cookies = match vip.syn_cookies {
        SynCookies::Off => 0,
        SynCookies::Auto => vip_flag::SYN_COOKIES,
        SynCookies::Always => vip_flag::SYN_COOKIES | vip_flag::ALWAYS_COOKIES,
    };
    limits | refuse | keep | cookies
}

/// A retired server keeps its generation and nothing else.
fn server_tombstone(entry: &ServerEntry) -> ServerEntry {
    ServerEntry { generation: entry.generation, state: state::UNUSED, ..ServerEntry::default() }
}

fn vip_tombstone(id: u16, generation: u16) -> (VipKey, VipEntry) {
    let key = VipKey { port: Be16::new(id), protocol: TOMBSTONE_PROTOCOL, ..VipKey::default() };
    (key, VipEntry { id, generation, ..VipEntry::default() })
}

fn backend_entry(
    name: &Name,
    handle: Handle,
    members: &[RingMember],
    layout: Layout,
) -> BackendEntry {
    let mut bytes = [0; NAME_BYTES];
    for (byte, character) in bytes.iter_mut().zip(name.as_str().bytes()) {
        *byte = character;
    }
    BackendEntry {
        name: bytes,
        ring_signature: ring::signature(members, layout),
        generation: u32::from(handle.generation),
        ring_members: u32::try_from(ring::usable(members)).unwrap_or(u32::MAX),
    }
}

/// Words of the filter: every VIP address, which clients send to, every SNAT address, which
/// servers answer to, and the address of every server that answers to its clients'.
pub(super) fn filter<'a>(
    vips: impl Iterator<Item = &'a VipKey>,
    servers: impl Iterator<Item = &'a ServerEntry>,
) -> BTreeMap<u32, u64> {
    let vips = vips.filter(|key| is_vip(key)).map(|key| key.address);
    let servers = servers.filter(|entry| entry.state != state::UNUSED);
    let own = |entry: &ServerEntry| {
        (entry.flags & server_flag::SEES_CLIENTS != 0).then_some(entry.address)
    };
    let servers = servers.flat_map(|entry| [Some(entry.snat_address), own(entry)]);
    let servers = servers.flatten().filter(|address| *address != Address6::default());
    let mut words = BTreeMap::new();
    for address in vips.chain(servers) {
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
