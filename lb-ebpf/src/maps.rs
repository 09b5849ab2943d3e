//! Every map of the data plane. Names, keys and values are the ABI (`lb_common::abi`);
//! the agent pins all but [`SCRATCH`], [`IDLE4`], [`IDLE6`], [`STAGES`], [`DENIALS`],
//! [`FRAGMENT_NUMBER`], [`REMEMBERED`] and [`TURNS`], and may load the tables with other
//! capacities.

use aya_ebpf::{
    btf_maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf,
    },
    macros::btf_map,
};
use lb_common::{
    abi,
    access::{AccessKey4, AccessKey6, AccessRule, AdmissionEntry},
    address::{Address4, Address6},
    affinity::{AffinityEntry, AffinityKey},
    backend::BackendEntry,
    counters::{DropCounter, TrafficCounters},
    denial::{self, Denial},
    drop_reason::DropReason,
    ended::{self, Cursor, EndedLine},
    event::FlowEnd,
    expiry::IdleFlow,
    flow::{FlowEntry, FlowEntry4, FlowEntry6, FlowKey4, FlowKey6},
    half_open::{Bucket, HalfOpenFlow},
    ring::{self, RingLine},
    server::{ServerEntry, ServerFlows},
    settings::Settings,
    sources::{SourceEntry, SourceKey},
    stage::Stage,
    syn_cookie::Cookies,
    vip::{FilterWord, VipEntry, VipKey},
};

use crate::{clock::Tick, cookie::CookieScratch, fragment, splice::Task};

const FLOW_ENTRIES: usize = abi::DEFAULT_FLOW_ENTRIES as usize;
const HALF_OPEN_BUCKETS: usize = abi::DEFAULT_HALF_OPEN_BUCKETS as usize;

/// Node-wide settings.
#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();

/// Which destination addresses may be ours.
#[btf_map]
pub static ADDRESS_FILTER: Array<FilterWord, { abi::FILTER_WORDS as usize }> = Array::new();

/// VIPs, and one address record per VIP address. Two entries a VIP at most.
#[btf_map]
pub static VIPS: HashMap<VipKey, VipEntry, { 2 * abi::MAX_VIPS as usize }> = HashMap::new();

/// What `access::AccessKey` has behind the length of the prefix.
#[repr(C)]
pub struct Place<const N: usize> {
    /// Whose list it is on.
    pub scope: u32,
    /// The network.
    pub address: [u8; N],
}

/// Lists of IPv4 sources, and what is blocked of them.
#[btf_map]
pub static ACCESS4: LpmTrie<Place<4>, AccessRule, { abi::DEFAULT_PREFIXES as usize }> =
    LpmTrie::new();

/// Lists of IPv6 sources, and what is blocked of them.
#[btf_map]
pub static ACCESS6: LpmTrie<Place<16>, AccessRule, { abi::DEFAULT_PREFIXES as usize }> =
    LpmTrie::new();

/// What the frontends of VIPs ask of sources, by VIP id.
#[btf_map]
pub static ADMISSION: Array<AdmissionEntry, { abi::MAX_VIPS as usize }> = Array::new();

/// Sources that this CPU has not let in of late. Not pinned: a new program may start anew.
#[btf_map]
pub static DENIALS: PerCpuArray<Denial, { denial::SLOTS as usize }> = PerCpuArray::new();

/// What sources have used up of their limits; the longest silent give way.
#[btf_map]
pub static SOURCES: LruHashMap<SourceKey, SourceEntry, { abi::DEFAULT_SOURCES as usize }> =
    LruHashMap::new();

/// Which servers sources belong to; the longest silent give way.
#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityEntry, { abi::DEFAULT_SOURCES as usize }> =
    LruHashMap::new();

/// The agent's memory of backends; not read here.
#[btf_map]
pub static BACKENDS: Array<BackendEntry, { abi::MAX_BACKENDS as usize }> = Array::new();

/// Servers by id.
#[btf_map]
pub static SERVERS: Array<ServerEntry, { abi::MAX_SERVERS as usize }> = Array::new();

/// Confirmed flows by server id.
#[btf_map]
pub static SERVER_FLOWS: Array<ServerFlows, { abi::MAX_SERVERS as usize }> = Array::new();

/// A Maglev ring by backend id. Swapped whole.
#[btf_map]
pub static RINGS: ArrayOfMaps<Ring, { abi::MAX_BACKENDS as usize }> = ArrayOfMaps::new();

/// The same of backends with many servers; what is in [`RINGS`] goes first.
#[btf_map]
pub static LARGE_RINGS: ArrayOfMaps<LargeRing, { abi::MAX_BACKENDS as usize }> = ArrayOfMaps::new();

/// Where in the ring of a backend, by its id, this CPU has found a server with few flows, or
/// with room. Only a hint. Not pinned: a new program starts anew.
#[btf_map]
pub static REMEMBERED: PerCpuArray<u32, { abi::MAX_BACKENDS as usize }> = PerCpuArray::new();

/// Whose turn it is in the ring of a backend, by its id. Not pinned, as above.
#[btf_map]
pub static TURNS: Array<u32, { abi::MAX_BACKENDS as usize }> = Array::new();

/// One Maglev ring of few servers.
pub type Ring = Array<RingLine, { ring::LINES as usize }>;

/// One Maglev ring of many.
pub type LargeRing = Array<RingLine, { ring::LARGE_LINES as usize }>;

/// IPv4 flows confirmed by both sides.
#[btf_map]
pub static FLOWS4: HashMap<FlowKey4, FlowEntry4, FLOW_ENTRIES> = HashMap::new();

/// IPv6 flows confirmed by both sides.
#[btf_map]
pub static FLOWS6: HashMap<FlowKey6, FlowEntry6, FLOW_ENTRIES> = HashMap::new();

/// IPv4 flows not yet confirmed by both sides; the oldest give way.
#[btf_map]
pub static HALF_OPEN4: Array<Bucket<Address4>, HALF_OPEN_BUCKETS> = Array::new();

/// IPv6 flows not yet confirmed by both sides; the oldest give way.
#[btf_map]
pub static HALF_OPEN6: Array<Bucket<Address6>, HALF_OPEN_BUCKETS> = Array::new();

/// How far the rings of flows that are over are, by family.
#[btf_map]
pub static ENDED: PerCpuArray<Cursor, 2> = PerCpuArray::new();

/// IPv4 flows that are over and wait to leave their table.
#[btf_map]
pub static ENDED4: PerCpuArray<EndedLine<Address4>, { ended::LINES as usize }> = PerCpuArray::new();

/// IPv6 flows that are over and wait to leave their table.
#[btf_map]
pub static ENDED6: PerCpuArray<EndedLine<Address6>, { ended::LINES as usize }> = PerCpuArray::new();

/// IPv4 packets that come in fragments.
#[btf_map]
pub static FRAGMENTS4: fragment::Table<Address4> = LruHashMap::new();

/// IPv6 packets that come in fragments.
#[btf_map]
pub static FRAGMENTS6: fragment::Table<Address6> = LruHashMap::new();

/// The next identification of a packet that comes in fragments. Not pinned: a new program may
/// start anew.
#[btf_map]
pub static FRAGMENT_NUMBER: Array<u32, 1> = Array::new();

/// Whether SYNs are answered with cookies.
#[btf_map]
pub static COOKIES: Array<Cookies, 1> = Array::new();

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
    /// An IPv4 flow under construction.
    pub draft4: Draft<Address4>,
    /// An IPv6 flow under construction.
    pub draft6: Draft<Address6>,
    /// Parameters of `bpf_fib_lookup`; 64 bytes, as the kernel has them.
    pub fib: [u64; 8],
    /// A source that is looked for in `ACCESS4`.
    pub access4: AccessKey4,
    /// Zero.
    pub padding4: u32,
    /// A source that is looked for in `ACCESS6`.
    pub access6: AccessKey6,
    /// The clock of this CPU.
    pub tick: Tick,
    /// A cell through which values pass that the verifier is to forget.
    pub forgotten: u32,
    /// When the block ends that `access` has judged by, seconds of `CLOCK_MONOTONIC`; 0 for never.
    pub judged_until_s: u32,
    /// Zero.
    pub padding6: u32,
    /// Why the next stage resets a client: a drop reason.
    pub reset_reason: u32,
    /// When the token bucket of answers to echo requests will be full, nanoseconds of the
    /// coarse clock.
    pub echo_full_ns: u64,
    /// The way of a packet that the next stage sends (`one_way`).
    pub way: u32,
    /// How many bytes of a packet would fit that the next stage answers (`too_big`).
    pub most_bytes: u32,
    /// When the token bucket of answers to packets that do not fit will be full, nanoseconds
    /// of the coarse clock.
    pub too_big_full_ns: u64,
    /// What the stage of cookies and admission tell each other.
    pub cookie: CookieScratch,
    /// What the stage of half-open flows behind cookies is to do.
    pub task: Task,
}

/// A flow under construction, or on its way from one table to the other.
#[repr(C)]
pub struct Draft<A> {
    /// Hash of the packet's tuple, from the stage that missed it among the confirmed flows.
    pub hash: u64,
    /// Which place of its bucket in the half-open table the flow was read from.
    pub way: u64,
    /// As it is, or will be, in the half-open table.
    pub flow: HalfOpenFlow<A>,
    /// Its entry for packets of the client.
    pub forward: FlowEntry<A>,
    /// Its entry for packets of the server.
    pub reply: FlowEntry<A>,
    /// The entry of a flow that a packet is about but not of (`related`).
    pub related: FlowEntry<A>,
}

/// Scratch space of this CPU; XDP programs do not nest on a CPU.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// The IPv4 flow that the agent's run of `expire4` on this CPU is about. Not in [`SCRATCH`]: kernels
/// older than Linux 6.11 let packets come in the middle of a test run, whose programs write there.
#[btf_map]
pub static IDLE4: PerCpuArray<IdleFlow<Address4>, 1> = PerCpuArray::new();

/// The same of `expire6`.
#[btf_map]
pub static IDLE6: PerCpuArray<IdleFlow<Address6>, 1> = PerCpuArray::new();

/// The programs of the stages, by their numbers. Not among the maps that outlive their program:
/// every load of the object has its own.
#[btf_map]
pub static STAGES: ProgramArray<{ Stage::ALL.len() }> = ProgramArray::new();
