//! Counters: `VIP_COUNTERS`, `SERVER_COUNTERS`, `DROP_COUNTERS`. One value per CPU; a
//! reader adds them up.

/// Traffic of one VIP or one server on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficCounters {
    /// Generation of the id these numbers belong to; the agent sets it when it zeroes
    /// them, and the data plane counts only flows of this generation.
    pub generation: u64,
    /// Flows created.
    pub flows: u64,
    /// Packets client to server.
    pub forward_packets: u64,
    /// Bytes of those packets, Ethernet header included.
    pub forward_bytes: u64,
    /// Packets server to client.
    pub reply_packets: u64,
    /// Bytes of those packets, Ethernet header included.
    pub reply_bytes: u64,
    /// Clients answered with a RST because their server was dead or none was there.
    pub resets: u64,
}

/// Packets dropped, or answered in place of a server, for one reason on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCounter {
    /// Packets.
    pub packets: u64,
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), no padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::TrafficCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::DropCounter {}
}
