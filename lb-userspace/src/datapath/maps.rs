//! Typed access to the maps that configuration and status live in. The flow tables are
//! `sweep`'s and `flows`', the ring buffer is `events`'.
//!
//! Ids are checked against the maps' sizes by aya. Nothing here caches: what it returns is
//! what the data plane reads. It remembers which rings it made, to tell those of others.

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    Ebpf, Pod,
    maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use lb_common::{
    abi::map,
    access::{AccessRule, AdmissionEntry},
    backend::BackendEntry,
    counters::{DropCounter, TrafficCounters},
    drop_reason::DropReason,
    flow::Handle,
    ring::RingSlot,
    server::{ServerEntry, ServerFlows},
    settings::Settings,
    syn_cookie::Cookies,
    vip::{FilterWord, VipEntry, VipKey},
};

use super::{
    access::AccessMaps,
    batch::BatchMap,
    error::{DatapathError, MapAccessError, PinsError, ProgramFault},
    pins::Pins,
    ring_map::RingMap,
    rings::{self, Size},
};
use crate::{clock::Moment, model::access::Prefix};

/// More than a step of the data plane's coarse clock, nanoseconds (a tick: 10 ms at most).
const CLOCK_STEP_NS: u64 = 20_000_000;

/// The maps of configuration and counters. Each value holds its own descriptors, so
/// several may be open at once; only one of them should write.
pub struct Maps {
    settings: Array<MapData, Settings>,
    cookies: Array<MapData, Cookies>,
    filter: BatchMap<u32, FilterWord>,
    access: AccessMaps,
    admission: BatchMap<u32, AdmissionEntry>,
    vips: BatchMap<VipKey, VipEntry>,
    backends: BatchMap<u32, BackendEntry>,
    servers: BatchMap<u32, ServerEntry>,
    server_flows: Array<MapData, ServerFlows>,
    rings: RingMap,
    large_rings: RingMap,
    /// The ring that each backend was given here, by the id of the ring's map.
    given_rings: BTreeMap<u16, u32>,
    vip_counters: PerCpuArray<MapData, TrafficCounters>,
    server_counters: PerCpuArray<MapData, TrafficCounters>,
    drop_counters: PerCpuArray<MapData, DropCounter>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

/// Where maps are opened from.
pub(crate) trait Source {
    /// Opens the map of that name.
    fn open(&self, name: &'static str) -> Result<MapData, DatapathError>;
}

impl Source for Pins {
    fn open(&self, name: &'static str) -> Result<MapData, DatapathError> {
        let path = self.map(name);
        if !path.exists() {
            return Err(PinsError::Missing { path }.into());
        }
        MapData::from_pin(path).map_err(|source| access("open", name, source).into())
    }
}

impl Source for Ebpf {
    fn open(&self, name: &'static str) -> Result<MapData, DatapathError> {
        let map = self.map(name).ok_or(ProgramFault::Lacks(name))?;
        let (Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)) = map
        else {
            return Err(ProgramFault::Lacks(name).into());
        };
        let duplicate = std::os::fd::AsFd::as_fd(data.fd())
            .try_clone_to_owned()
            .map_err(|error| access("open", name, MapError::IoError(error)))?;
        MapData::from_fd(duplicate).map_err(|source| access("open", name, source).into())
    }
}

impl Maps {
    /// Opens the pinned maps.
    ///
    /// # Errors
    /// If a map is not pinned, may not be opened, or has another layout.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Self::from_source(pins)
    }

    /// Opens the maps of a loaded object, pinned or not.
    ///
    /// # Errors
    /// If a map is missing from the object or has another layout.
    pub fn of_object(object: &Ebpf) -> Result<Self, DatapathError> {
        Self::from_source(object)
    }

    fn from_source(source: &impl Source) -> Result<Self, DatapathError> {
        Ok(Self {
            settings: typed(source, map::SETTINGS)?,
            cookies: typed(source, map::COOKIES)?,
            filter: batched(source, map::ADDRESS_FILTER)?,
            access: AccessMaps::open(source)?,
            admission: batched(source, map::ADMISSION)?,
            vips: batched(source, map::VIPS)?,
            backends: batched(source, map::BACKENDS)?,
            servers: batched(source, map::SERVERS)?,
            server_flows: typed(source, map::SERVER_FLOWS)?,
            rings: RingMap::open(source, Size::Small)?,
            large_rings: RingMap::open(source, Size::Large)?,
            given_rings: BTreeMap::new(),
            vip_counters: typed(source, map::VIP_COUNTERS)?,
            server_counters: typed(source, map::SERVER_COUNTERS)?,
            drop_counters: typed(source, map::DROP_COUNTERS)?,
        })
    }

    /// The settings.
    ///
    /// # Errors
    /// If the map can not be read.
    pub fn settings(&self) -> Result<Settings, MapAccessError> {
        self.settings.get(&0, 0).map_err(read(map::SETTINGS))
    }

    /// Whether SYNs are answered with cookies, and until when.
    ///
    /// # Errors
    /// If the map can not be read.
    pub fn cookies(&self) -> Result<Cookies, MapAccessError> {
        self.cookies.get(&0, 0).map_err(read(map::COOKIES))
    }

    /// Writes the settings.
    ///
    /// # Errors
    /// If the map can not be written.
    pub fn set_settings(&mut self, settings: &Settings) -> Result<(), MapAccessError> {
        self.settings.set(0, settings, 0).map_err(write(map::SETTINGS))
    }

    /// Has the clients of all flows judged once more.
    ///
    /// # Errors
    /// If the map can not be read or written.
    pub fn judge_anew(&mut self) -> Result<(), MapAccessError> {
        let settings = self.settings()?;
        // Ahead of the data plane's coarse clock, or packets that were judged by the old lists
        // within its last step would count as judged by the new ones.
        let access_changed_ns = Moment::now().monotonic_ns + CLOCK_STEP_NS;
        self.set_settings(&Settings { access_changed_ns, ..settings })
    }

    /// Every rule for sources, in no order.
    ///
    /// # Errors
    /// If a map can not be read.
    pub fn rules(&self) -> Result<Vec<(Prefix, AccessRule)>, MapAccessError> {
        self.access.read()
    }

    /// Writes rules for sources.
    ///
    /// # Errors
    /// If a map is full or can not be written; some may have been.
    pub fn put_rules(&mut self, rules: &[(Prefix, AccessRule)]) -> Result<(), MapAccessError> {
        self.access.put(rules)
    }

    /// Removes rules for sources; not an error if they are not there.
    ///
    /// # Errors
    /// If a map can not be written.
    pub fn remove_rules(&mut self, prefixes: &[Prefix]) -> Result<(), MapAccessError> {
        self.access.remove(prefixes)
    }

    /// What the frontends of VIPs ask of sources, by VIP id.
    ///
    /// # Errors
    /// If the map can not be read.
    pub fn admissions(&self) -> Result<Vec<AdmissionEntry>, MapAccessError> {
        self.admission.values()
    }

    /// Writes what the frontend of a VIP asks of sources.
    ///
    /// # Errors
    /// If there is no such id or the map can not be written.
    pub fn put_admission(&mut self, id: u16, entry: &AdmissionEntry) -> Result<(), MapAccessError> {
        self.admission.update(&[id.into()], &[*entry])
    }

    /// The words of the address filter, in order.
    ///
    /// # Errors
    /// If the map can not be read.
    pub fn filter(&self) -> Result<Vec<FilterWord>, MapAccessError> {
        self.filter.values()
    }

    /// Writes one word of the address filter.
    ///
    /// # Errors
    /// If the map can not be written or has no such word.
    pub fn set_filter_word(&mut self, index: u32, word: FilterWord) -> Result<(), MapAccessError> {
        self.filter.update(&[index], &[word])
    }

    /// VIPs and address records, in no order.
    ///
    /// # Errors
    /// If the map can not be read.
    pub fn vips(&self) -> Result<Vec<(VipKey, VipEntry)>, MapAccessError> {
        self.vips.entries()
    }

    /// Writes a VIP or an address record.
    ///
    /// # Errors
    /// If the map is full or can not be written.
    pub fn put_vip(&mut self, key: &VipKey, entry: &VipEntry) -> Result<(), MapAccessError> {
        self.vips.update(&[*key], &[*entry])
    }

    /// Removes a VIP or an address record; not an error if it is not there.
    ///
    /// # Errors
    /// If the map can not be written.
    pub fn remove_vip(&mut self, key: &VipKey) -> Result<(), MapAccessError> {
        self.vips.remove(key).map(drop)
    }

    /// Every backend entry, by id.
    ///
    /// # Errors
    /// If the map can not be read.
    pub fn backends(&self) -> Result<Vec<BackendEntry>, MapAccessError> {
        self.backends.values()
    }

    /// Writes a backend entry.
    ///
    /// # Errors
    /// If there is no such id or the map can not be written.
    pub fn put_backend(&mut self, id: u16, entry: &BackendEntry) -> Result<(), MapAccessError> {
        self.backends.update(&[id.into()], &[*entry])
    }

    /// Every server entry, by id.
    ///
    /// # Errors
    /// If the map can not be read.
    pub fn servers(&self) -> Result<Vec<ServerEntry>, MapAccessError> {
        self.servers.values()
    }

    /// Writes a server entry.
    ///
    /// # Errors
    /// If there is no such id or the map can not be written.
    pub fn put_server(&mut self, id: u16, entry: &ServerEntry) -> Result<(), MapAccessError> {
        self.servers.update(&[id.into()], &[*entry])
    }

    /// Confirmed flows of a server at the moment.
    ///
    /// # Errors
    /// If there is no such id or the map can not be read.
    pub fn server_flows(&self, id: u16) -> Result<u32, MapAccessError> {
        let flows = self.server_flows.get(&u32::from(id), 0).map_err(read(map::SERVER_FLOWS))?;
        Ok(flows.flows)
    }

    /// The slots of a backend's ring; none if it has no ring.
    ///
    /// # Errors
    /// If a map can not be read.
    pub fn ring(&self, backend: u16) -> Result<Option<Vec<RingSlot>>, MapAccessError> {
        match self.rings.get(backend)? {
            Some(ring) => Ok(Some(ring)),
            None => self.large_rings.get(backend),
        }
    }

    /// Gives a backend a new ring in one step: a packet sees the old or the new one. Blocks
    /// for 8 to 16 ms (it fills the ring and waits for an RCU grace period).
    ///
    /// # Errors
    /// If `slots` are not `RING_SLOTS`, there is no such id, or the kernel has no memory.
    pub fn set_ring(&mut self, backend: u16, slots: &[RingSlot]) -> Result<(), MapAccessError> {
        let (size, data) = rings::build(slots)?;
        let (to, from) = match size {
            Size::Small => (&mut self.rings, &self.large_rings),
            Size::Large => (&mut self.large_rings, &self.rings),
        };
        let given = to.set(backend, data)?;
        // The data plane looks at small rings first, so this is when it sees a large one.
        from.remove(backend)?;
        self.given_rings.insert(backend, given);
        Ok(())
    }

    /// Takes a backend's ring away; not an error if it has none.
    ///
    /// # Errors
    /// If there is no such id or a map can not be written.
    pub fn clear_ring(&mut self, backend: u16) -> Result<(), MapAccessError> {
        // The one that is not seen first, or an old ring would be for a moment.
        self.large_rings.remove(backend)?;
        self.rings.remove(backend)?;
        self.given_rings.remove(&backend);
        Ok(())
    }

    /// The ids whose backends have a ring, ascending.
    ///
    /// # Errors
    /// If a map can not be read.
    pub fn rings(&self) -> Result<Vec<u16>, MapAccessError> {
        let (small, large) = (self.rings.ids()?, self.large_rings.ids()?);
        let backends: BTreeSet<u16> = small.iter().chain(&large).map(|(id, _)| *id).collect();
        Ok(backends.into_iter().collect())
    }

    /// The ids whose backends have another ring than the one they were given here. That one
    /// still holds what it did: nobody can write to a ring.
    ///
    /// # Errors
    /// If a map can not be read.
    pub fn exchanged_rings(&self) -> Result<Vec<u16>, MapAccessError> {
        let (small, large) = (self.rings.ids()?, self.large_rings.ids()?);
        let exchanged = small.into_iter().chain(large).filter_map(|(backend, present)| {
            (*self.given_rings.get(&backend)? != present).then_some(backend)
        });
        Ok(exchanged.collect())
    }

    /// Traffic of a VIP, over all CPUs.
    ///
    /// # Errors
    /// If there is no such id or the map can not be read.
    pub fn vip_counters(&self, id: u16) -> Result<TrafficCounters, MapAccessError> {
        traffic(&self.vip_counters, id).map_err(read(map::VIP_COUNTERS))
    }

    /// Traffic of a server, over all CPUs.
    ///
    /// # Errors
    /// If there is no such id or the map can not be read.
    pub fn server_counters(&self, id: u16) -> Result<TrafficCounters, MapAccessError> {
        traffic(&self.server_counters, id).map_err(read(map::SERVER_COUNTERS))
    }

    /// Sets the counters of a VIP id to zero and binds them to the id's generation.
    ///
    /// # Errors
    /// If there is no such id or the map can not be written.
    pub fn zero_vip_counters(&mut self, vip: Handle) -> Result<(), MapAccessError> {
        zero(&mut self.vip_counters, vip).map_err(write(map::VIP_COUNTERS))
    }

    /// Sets the counters of a server id to zero and binds them to the id's generation.
    ///
    /// # Errors
    /// If there is no such id or the map can not be written.
    pub fn zero_server_counters(&mut self, server: Handle) -> Result<(), MapAccessError> {
        let flows = ServerFlows { generation: server.generation.into(), flows: 0 };
        self.server_flows.set(u32::from(server.id), flows, 0).map_err(write(map::SERVER_FLOWS))?;
        zero(&mut self.server_counters, server).map_err(write(map::SERVER_COUNTERS))
    }

    /// Packets dropped by reason, over all CPUs, in the order of the reasons.
    ///
    /// # Errors
    /// If the map can not be read.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>, MapAccessError> {
        let count = |reason: &DropReason| {
            let values =
                self.drop_counters.get(&(*reason as u32), 0).map_err(read(map::DROP_COUNTERS))?;
            Ok((*reason, values.iter().map(|counter| counter.packets).sum()))
        };
        DropReason::ALL.iter().map(count).collect()
    }
}

/// Opens a map and gives it its type.
pub(super) fn typed<M>(source: &impl Source, name: &'static str) -> Result<M, DatapathError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let data = source.open(name)?;
    let typed = Map::from_map_data(data).and_then(M::try_from);
    typed.map_err(|source| access("open", name, source).into())
}

/// Opens a map for access in batches.
pub(super) fn batched<K: Pod, V: Pod>(
    source: &impl Source,
    name: &'static str,
) -> Result<BatchMap<K, V>, DatapathError> {
    Ok(BatchMap::new(name, source.open(name)?)?)
}

fn access(action: &'static str, map: &'static str, source: MapError) -> MapAccessError {
    MapAccessError::Access { action, map, source }
}

fn read(map: &'static str) -> impl Fn(MapError) -> MapAccessError {
    move |source| access("read", map, source)
}

fn write(map: &'static str) -> impl Fn(MapError) -> MapAccessError {
    move |source| access("write", map, source)
}

fn traffic(
    counters: &PerCpuArray<MapData, TrafficCounters>,
    id: u16,
) -> Result<TrafficCounters, MapError> {
    let values = counters.get(&u32::from(id), 0)?;
    Ok(values.iter().fold(TrafficCounters::default(), |sum, cpu| TrafficCounters {
        generation: cpu.generation,
        flows: sum.flows + cpu.flows,
        forward_packets: sum.forward_packets + cpu.forward_packets,
        forward_bytes: sum.forward_bytes + cpu.forward_bytes,
        reply_packets: sum.reply_packets + cpu.reply_packets,
        reply_bytes: sum.reply_bytes + cpu.reply_bytes,
        resets: sum.resets + cpu.resets,
    }))
}

fn zero(
    counters: &mut PerCpuArray<MapData, TrafficCounters>,
    handle: Handle,
) -> Result<(), MapError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| MapError::IoError(error))?;
    let zero =
        TrafficCounters { generation: u64::from(handle.generation), ..TrafficCounters::default() };
    let zeros = PerCpuValues::try_from(vec![zero; cpus])?;
    counters.set(u32::from(handle.id), zeros, 0)
}
