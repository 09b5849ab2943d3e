//! What the benchmark's two halves say to each other. Not part of the product's ABI.

/// Bytes of a measured frame that are restored between two iterations.
pub const FRAME_BYTES: usize = 80;

/// What to measure.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The frame, as the balancer finds it; longer frames keep their rest.
    pub frame: [[u8; 8]; FRAME_BYTES / 8],
    /// Packets to send through.
    pub iterations: u32,
    /// Flows to spread them over; a power of two times an odd number is fine, zero is one.
    pub flows: u32,
    /// Number of the first flow.
    pub first: u32,
    /// Distance between the flows of consecutive packets, coprime to `flows`.
    pub stride: u32,
    /// The varied address of flow 0 (its last four octets for IPv6), host byte order.
    pub address: u32,
    /// Ports an address has; flow `n` has address `address + n / ports`.
    pub ports: u32,
    /// Offset of the varied address in the frame, below 64.
    pub address_offset: u32,
    /// Offset of the varied port in the frame, below 64.
    pub port_offset: u32,
    /// The varied port of flow 0; flow `n` has port `first_port + n % ports`.
    pub first_port: u16,
    /// Zero.
    pub padding: [u8; 6],
}

/// What was measured.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measurement {
    /// Time the loop took.
    pub elapsed_ns: u64,
    /// How often each XDP action was returned, by its number.
    pub verdicts: [u64; 8],
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<Order>() == 120);
    assert!(size_of::<Measurement>() == 72);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::Order {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Measurement {}
}
