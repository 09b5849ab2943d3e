//! Every map of the data plane. Names, keys and values are the ABI (`lb_common::abi`);
//! the agent pins all but [`SCRATCH`] and may load the tables with other capacities.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use lb_common::{
    abi,
    backend::{self, BackendEntry, RingLine},
    counters::{DropCounter, TrafficCounters},
    drop_reason::DropReason,
    event::FlowEnd,
    flow::{FlowEntry4, FlowEntry6, FlowKey4, FlowKey6},
    server::ServerEntry,
    settings::Settings,
    vip::{FilterWord, VipEntry, VipKey},
};

use crate::clock::Tick;

const FLOW_ENTRIES: usize = abi::DEFAULT_FLOW_ENTRIES as usize;
const HALF_OPEN_ENTRIES: usize = abi::DEFAULT_HALF_OPEN_ENTRIES as usize;

/// Node-wide settings.
#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();

/// Which destination addresses may be ours.
#[btf_map]
pub static ADDRESS_FILTER: Array<FilterWord, { abi::FILTER_WORDS as usize }> = Array::new();

/// VIPs, and one address record per VIP address. Two entries a VIP at most.
#[btf_map]
pub static VIPS: HashMap<VipKey, VipEntry, { 2 * abi::MAX_VIPS as usize }> = HashMap::new();

/// The agent's memory of backends; not read here.
#[btf_map]
pub static BACKENDS: Array<BackendEntry, { abi::MAX_BACKENDS as usize }> = Array::new();

/// Servers by id.
#[btf_map]
pub static SERVERS: Array<ServerEntry, { abi::MAX_SERVERS as usize }> = Array::new();

/// A Maglev ring by backend id. Swapped whole.
#[btf_map]
pub static RINGS: ArrayOfMaps<Ring, { abi::MAX_BACKENDS as usize }> = ArrayOfMaps::new();

/// One Maglev ring.
pub type Ring = Array<RingLine, { backend::RING_LINES as usize }>;

/// IPv4 flows confirmed by both sides.
#[btf_map]
pub static FLOWS4: HashMap<FlowKey4, FlowEntry4, FLOW_ENTRIES> = HashMap::new();

/// IPv6 flows confirmed by both sides.
#[btf_map]
pub static FLOWS6: HashMap<FlowKey6, FlowEntry6, FLOW_ENTRIES> = HashMap::new();

/// IPv4 flows not yet confirmed by both sides; the oldest give way.
#[btf_map]
pub static HALF_OPEN4: LruHashMap<FlowKey4, FlowEntry4, HALF_OPEN_ENTRIES> = LruHashMap::new();

/// IPv6 flows not yet confirmed by both sides; the oldest give way.
#[btf_map]
pub static HALF_OPEN6: LruHashMap<FlowKey6, FlowEntry6, HALF_OPEN_ENTRIES> = LruHashMap::new();

/// Traffic by VIP id.
#[btf_map]
pub static VIP_COUNTERS: PerCpuArray<TrafficCounters, { abi::MAX_VIPS as usize }> =
    PerCpuArray::new();

/// Traffic by server id.
#[btf_map]
pub static SERVER_COUNTERS: PerCpuArray<TrafficCounters, { abi::MAX_SERVERS as usize }> =
    PerCpuArray::new();

/// Drops by reason.
#[btf_map]
pub static DROP_COUNTERS: PerCpuArray<DropCounter, { DropReason::COUNT as usize }> =
    PerCpuArray::new();

/// Finished flows.
#[btf_map]
pub static EVENTS: RingBuf<FlowEnd, { abi::EVENT_BYTES as usize }> = RingBuf::new();

/// Room to build entries that the stack of 512 bytes has not.
#[repr(C)]
pub struct Scratch {
    /// Entries of an IPv4 flow under construction.
    pub pair4: Pair<FlowKey4, FlowEntry4>,
    /// Entries of an IPv6 flow under construction.
    pub pair6: Pair<FlowKey6, FlowEntry6>,
    /// Parameters of `bpf_fib_lookup`; 64 bytes, as the kernel has them.
    pub fib: [u64; 8],
    /// The clock of this CPU.
    pub tick: Tick,
    /// A cell through which values pass that the verifier is to forget.
    pub forgotten: u32,
    /// Zero.
    pub padding: u32,
}

/// The two entries of one flow. The key of the forward entry is the packet's tuple.
#[repr(C)]
pub struct Pair<K, E> {
    /// Client to server.
    pub forward: E,
    /// Server to client.
    pub reply: E,
    /// Key of the reply entry.
    pub reply_key: K,
}

/// Scratch space of this CPU; XDP programs do not nest on a CPU.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
