//! The contract between the XDP program and the agent: version, names, capacities.
//!
//! Map names are part of the interface: operators type them into `bpftool map dump
//! pinned /sys/fs/bpf/pointsman/NAME`. The kernel keeps 15 characters of a name.

/// Version of every layout in this crate. Raise it with any change to a map's key,
/// value or meaning; the agent refuses to adopt maps of another version.
pub const ABI_VERSION: u32 = 12;

/// Default directory of all pins.
pub const PIN_DIRECTORY: &str = "/sys/fs/bpf/pointsman";

/// Name of the XDP program that is attached.
pub const PROGRAM: &str = "pointsman";

/// Name of the program that the agent runs to put counts of servers' flows right.
pub const SETTLE: &str = "settle";

/// Name of the program that the agent runs to remove idle IPv4 flows.
pub const EXPIRE4: &str = "expire4";

/// The same for IPv6.
pub const EXPIRE6: &str = "expire6";

/// Those three, pinned under these names.
pub const RUN_BY_AGENT: [&str; 3] = [SETTLE, EXPIRE4, EXPIRE6];

/// Name of the array of programs by [`crate::stage::Stage`], one for each load of the object.
pub const STAGES: &str = "STAGES";

/// Names of the pinned maps.
pub mod map {
    /// `SETTINGS`: array of one [`crate::settings::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// `ADDRESS_FILTER`: array of [`crate::vip::FilterWord`]; which addresses may be ours.
    pub const ADDRESS_FILTER: &str = "ADDRESS_FILTER";
    /// `VIPS`: hash of [`crate::vip::VipKey`] to [`crate::vip::VipEntry`].
    pub const VIPS: &str = "VIPS";
    /// `BACKENDS`: array of [`crate::backend::BackendEntry`] by backend id; the agent's memory.
    pub const BACKENDS: &str = "BACKENDS";
    /// `ACCESS4`: trie of [`crate::access::AccessKey4`] to [`crate::access::AccessRule`].
    pub const ACCESS4: &str = "ACCESS4";
    /// `ACCESS6`: trie of [`crate::access::AccessKey6`] to [`crate::access::AccessRule`].
    pub const ACCESS6: &str = "ACCESS6";
    /// `ADMISSION`: array of [`crate::access::AdmissionEntry`] by VIP id.
    pub const ADMISSION: &str = "ADMISSION";
    /// `SOURCES`: LRU hash of [`crate::sources::SourceKey`] to [`crate::sources::SourceEntry`].
    pub const SOURCES: &str = "SOURCES";
    /// `AFFINITY`: LRU hash of [`crate::affinity::AffinityKey`] to
    /// [`crate::affinity::AffinityEntry`].
    pub const AFFINITY: &str = "AFFINITY";
    /// `SERVERS`: array of [`crate::server::ServerEntry`] by server id.
    pub const SERVERS: &str = "SERVERS";
    /// `SERVER_FLOWS`: array of [`crate::server::ServerFlows`] by server id.
    pub const SERVER_FLOWS: &str = "SERVER_FLOWS";
    /// `RINGS`: array of maps by backend id; each an array of
    /// [`crate::ring::RingLine`].
    pub const RINGS: &str = "RINGS";
    /// `LARGE_RINGS`: the same for backends with many servers; what is in `RINGS` goes first.
    pub const LARGE_RINGS: &str = "LARGE_RINGS";
    /// `FLOWS4`: hash of IPv4 flows confirmed by both sides.
    pub const FLOWS4: &str = "FLOWS4";
    /// `FLOWS6`: hash of IPv6 flows confirmed by both sides.
    pub const FLOWS6: &str = "FLOWS6";
    /// `HALF_OPEN4`: array of [`crate::half_open::Bucket`]; IPv4 flows not yet confirmed by
    /// both sides.
    pub const HALF_OPEN4: &str = "HALF_OPEN4";
    /// `HALF_OPEN6`: the same for IPv6.
    pub const HALF_OPEN6: &str = "HALF_OPEN6";
    /// `ENDED`: per-CPU array of [`crate::ended::Cursor`], one for each family.
    pub const ENDED: &str = "ENDED";
    /// `ENDED4`: per-CPU array of [`crate::ended::EndedLine`]; IPv4 flows that are over.
    pub const ENDED4: &str = "ENDED4";
    /// `ENDED6`: the same for IPv6.
    pub const ENDED6: &str = "ENDED6";
    /// `FRAGMENTS4`: LRU hash of [`crate::fragment::FragmentKey`] to
    /// [`crate::fragment::FragmentEntry`]; IPv4 packets that come in fragments.
    pub const FRAGMENTS4: &str = "FRAGMENTS4";
    /// `FRAGMENTS6`: the same for IPv6.
    pub const FRAGMENTS6: &str = "FRAGMENTS6";
    /// `COOKIES`: array of one [`crate::syn_cookie::Cookies`].
    pub const COOKIES: &str = "COOKIES";
    /// `VIP_COUNTERS`: per-CPU array of [`crate::counters::TrafficCounters`] by VIP id.
    pub const VIP_COUNTERS: &str = "VIP_COUNTERS";
    /// `SERVER_COUNTERS`: per-CPU array of [`crate::counters::TrafficCounters`] by server id.
    pub const SERVER_COUNTERS: &str = "SERVER_COUNTERS";
    /// `DROP_COUNTERS`: per-CPU array of [`crate::counters::DropCounter`] by drop reason.
    pub const DROP_COUNTERS: &str = "DROP_COUNTERS";
    /// `EVENTS`: ring buffer of [`crate::event::FlowEnd`].
    pub const EVENTS: &str = "EVENTS";

    /// Every pinned map, in the order they are documented.
    pub const ALL: [&str; 27] = [
        SETTINGS,
        ADDRESS_FILTER,
        VIPS,
        ACCESS4,
        ACCESS6,
        ADMISSION,
        SOURCES,
        AFFINITY,
        BACKENDS,
        SERVERS,
        SERVER_FLOWS,
        RINGS,
        LARGE_RINGS,
        FLOWS4,
        FLOWS6,
        HALF_OPEN4,
        HALF_OPEN6,
        ENDED,
        ENDED4,
        ENDED6,
        FRAGMENTS4,
        FRAGMENTS6,
        COOKIES,
        VIP_COUNTERS,
        SERVER_COUNTERS,
        DROP_COUNTERS,
        EVENTS,
    ];
}

/// Most VIPs at once; ids run from 0 to one less.
pub const MAX_VIPS: u32 = 512;
/// Most backends that layer-4 frontends can use at once.
pub const MAX_BACKENDS: u32 = 512;
/// Most servers at once, over all backends.
pub const MAX_SERVERS: u32 = 4096;
/// Slots of a Maglev ring: a prime, so that every stride visits every slot.
pub const RING_SLOTS: u32 = 65_537;
/// Words of the address filter; a power of two.
pub const FILTER_WORDS: u32 = 1024;
/// Default capacity of `FLOWS4` and of `FLOWS6`, in entries; a flow takes two.
pub const DEFAULT_FLOW_ENTRIES: u32 = 524_288;
/// Default capacity of `HALF_OPEN4` and of `HALF_OPEN6`, in buckets of four flows.
pub const DEFAULT_HALF_OPEN_BUCKETS: u32 = 16_384;
/// Default capacity of `ACCESS4` and of `ACCESS6`, in prefixes; memory is taken as they come.
pub const DEFAULT_PREFIXES: u32 = 262_144;
/// Default capacity of `SOURCES` and of `AFFINITY`, in entries.
pub const DEFAULT_SOURCES: u32 = 65_536;
/// Capacity of `FRAGMENTS4` and of `FRAGMENTS6`, in packets that come in fragments.
pub const FRAGMENT_ENTRIES: u32 = 8192;
/// Size of the `EVENTS` ring buffer in bytes; a power of two and a multiple of the page size.
pub const EVENT_BYTES: u32 = 1 << 20;
