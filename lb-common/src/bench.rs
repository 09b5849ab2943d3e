//! What the benchmark's two halves say to each other. Not part of the product's ABI.

use crate::flow::FlowKey4;

/// Bytes of a measured frame that are restored between two iterations.
pub const FRAME_BYTES: usize = 80;

/// What to measure.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The frame, as the balancer finds it; longer frames keep their rest. In words of
    /// memory order: a packet written in bytes is slow to read in words.
    pub frame: [u64; FRAME_BYTES / 8],
    /// Packets to send through.
    pub iterations: u32,
    /// Flows to spread them over; at least 1.
    pub flows: u32,
    /// Number of the first flow, below `flows`.
    pub first: u32,
    /// Distance between the flows of consecutive packets, below `flows` and coprime to it.
    pub stride: u32,
    /// The varied address of flow 0 (its last four octets for IPv6), host byte order.
    pub address: u32,
    /// An address has 2 to this power ports: flow `n` has address `address + (n >> bits)`.
    pub port_bits: u32,
    /// Offset of the varied address in the frame, below 64.
    pub address_offset: u32,
    /// Offset of the varied port in the frame, below 64.
    pub port_offset: u32,
    /// The varied port of flow 0; flow `n` has the lowest `port_bits` of `n` added to it.
    pub first_port: u16,
    /// Zero.
    pub padding: [u8; 6],
}

impl Order {
    /// The frame in bytes.
    pub fn bytes(&self) -> impl Iterator<Item = u8> {
        self.frame.iter().flat_map(|word| word.to_ne_bytes())
    }

    /// The varied address and port, host byte order, of the packets in their turn.
    pub fn tuples(&self) -> impl Iterator<Item = (u32, u16)> {
        let mut number = self.first;
        (0..self.iterations).map(move |_| {
            let tuple = self.tuple(number);
            number = self.after(number);
            tuple
        })
    }

    /// The varied address and port of flow `number`, host byte order.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "masked to 15 bits at most")]
    pub const fn tuple(&self, number: u32) -> (u32, u16) {
        let bits = self.port_bits & 15;
        let port = (number & ((1 << bits) - 1)) as u16;
        (self.address.wrapping_add(number >> bits), self.first_port.wrapping_add(port))
    }

    /// The flow that follows flow `number`.
    #[inline(always)]
    #[must_use]
    pub const fn after(&self, number: u32) -> u32 {
        let next = number.wrapping_add(self.stride);
        if next >= self.flows { next.wrapping_sub(self.flows) } else { next }
    }
}

/// Key of the yardstick's table: a tuple as it stands in a packet. Both addresses, both
/// ports, protocol.
pub type CalibrationKey = [u32; 4];

/// The key of a tuple.
#[must_use]
pub fn calibration_key(key: &FlowKey4) -> CalibrationKey {
    let [a, b] = key.source_port.wire().to_ne_bytes();
    let [c, d] = key.destination_port.wire().to_ne_bytes();
    [
        u32::from_ne_bytes(key.source.octets),
        u32::from_ne_bytes(key.destination.octets),
        u32::from_ne_bytes([a, b, c, d]),
        u32::from(key.protocol),
    ]
}

/// What was measured, and how far the measurement is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measurement {
    /// When the first packet began.
    pub start_ns: u64,
    /// When the last packet was done.
    pub end_ns: u64,
    /// Packets so far.
    pub packets: u32,
    /// Flow of the next packet.
    pub number: u32,
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<Order>() == 120);
    assert!(size_of::<Measurement>() == 24);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::Order {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Measurement {}
}
