//! Addresses and ports as they stand in packets and maps: network byte order.
//!
//! [`Address4`] and [`Address6`] are aligned byte arrays, so that the compiler loads
//! them in words and `bpftool` prints them as octets in reading order.

use crate::source;

/// A 16-bit number in network byte order (ports, lengths).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Be16(u16);

impl Be16 {
    /// From host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// From a number already in network byte order, as read from a packet.
    #[inline(always)]
    #[must_use]
    pub const fn from_wire(wire: u16) -> Self {
        Self(wire)
    }

    /// In host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The bits as they stand in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn wire(self) -> u16 {
        self.0
    }
}

/// A 32-bit number in network byte order (sequence numbers).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Be32(u32);

impl Be32 {
    /// From host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn new(host: u32) -> Self {
        Self(host.to_be())
    }

    /// From the octets as they stand in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn from_octets(octets: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(octets))
    }

    /// In host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }
}

/// An IPv4 address in network byte order.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address4 {
    /// The four octets in reading order.
    pub octets: [u8; 4],
}

/// An IPv6 address in network byte order.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address6 {
    /// The sixteen octets in reading order.
    pub octets: [u8; 16],
}

impl Address4 {
    /// From octets in reading order.
    #[inline(always)]
    #[must_use]
    pub const fn new(octets: [u8; 4]) -> Self {
        Self { octets }
    }
}

impl Address6 {
    /// From octets in reading order.
    #[inline(always)]
    #[must_use]
    pub const fn new(octets: [u8; 16]) -> Self {
        Self { octets }
    }

    /// The IPv4-mapped form `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2). Maps that hold
    /// both families (`VIPS`, `SERVERS`, `EVENTS`) store IPv4 addresses this way.
    #[inline(always)]
    #[must_use]
    pub const fn mapped(address: Address4) -> Self {
        // As a number, so that BPF code stores words and not bytes.
        let bits = 0xffff_0000_0000 | u32::from_be_bytes(address.octets) as u128;
        Self { octets: bits.to_be_bytes() }
    }

    /// Whether this is the IPv4-mapped form of an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_mapped(self) -> bool {
        let (high, low) = self.halves();
        high == 0 && low >> 32 == 0xffff
    }

    /// The IPv4 address of a mapped form; none for any other IPv6 address.
    #[inline(always)]
    #[must_use]
    pub const fn unmapped(self) -> Option<Address4> {
        match self.octets {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => {
                Some(Address4::new([a, b, c, d]))
            }
            _ => None,
        }
    }
}

/// What differs between the families in layouts and arithmetic.
pub trait Address: Copy + Eq + 'static {
    /// 16-bit words of the address, for checksums.
    const WORDS: usize;
    /// IPv4 keeps a header checksum.
    const HEADER_CHECKSUM: bool;

    /// The address folded to a sum of its 16-bit words in memory order; at most
    /// `WORDS * 0xffff`.
    fn word_sum(self) -> u32;

    /// The form stored in maps that hold both families.
    fn to_common(self) -> Address6;

    /// Back from the form stored in maps that hold both families. An address of the
    /// other family gives bits without meaning, so callers keep the families apart.
    fn from_common(common: Address6) -> Self;

    /// 64 bits that mix all octets, as input to the hash.
    fn mix(self) -> u64;

    /// Whether the address can be a client's ([`crate::source`]).
    fn can_be_client(self) -> bool;
}

#[inline(always)]
const fn words32(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

impl Address for Address4 {
    const WORDS: usize = 2;
    const HEADER_CHECKSUM: bool = true;

    #[inline(always)]
    fn word_sum(self) -> u32 {
        words32(u32::from_ne_bytes(self.octets))
    }

    #[inline(always)]
    fn to_common(self) -> Address6 {
        Address6::mapped(self)
    }

    #[inline(always)]
    fn from_common(common: Address6) -> Self {
        let [.., a, b, c, d] = common.octets;
        Self::new([a, b, c, d])
    }

    #[inline(always)]
    fn mix(self) -> u64 {
        u64::from(u32::from_be_bytes(self.octets))
    }

    #[inline(always)]
    fn can_be_client(self) -> bool {
        source::can_be_client4(self)
    }
}

impl Address6 {
    /// The first and the last eight octets as numbers.
    ///
    /// A reinterpretation instead of shifts and ors: on the BPF target those would take
    /// every octet into a register of its own.
    #[inline(always)]
    pub(crate) const fn halves(self) -> (u64, u64) {
        // SAFETY: sixteen octets are two words, and every bit pattern is valid.
        let [high, low] = unsafe { core::mem::transmute::<[u8; 16], [u64; 2]>(self.octets) };
        (u64::from_be(high), u64::from_be(low))
    }

    /// The octets as words in memory order.
    #[inline(always)]
    const fn words(self) -> [u32; 4] {
        // SAFETY: sixteen octets are four words, and every bit pattern is valid.
        unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(self.octets) }
    }
}

impl Address for Address6 {
    const WORDS: usize = 8;
    const HEADER_CHECKSUM: bool = false;

    #[inline(always)]
    fn word_sum(self) -> u32 {
        let [a, b, c, d] = self.words();
        words32(a) + words32(b) + words32(c) + words32(d)
    }

    #[inline(always)]
    fn to_common(self) -> Address6 {
        self
    }

    #[inline(always)]
    fn from_common(common: Address6) -> Self {
        common
    }

    #[inline(always)]
    fn mix(self) -> u64 {
        let (high, low) = self.halves();
        // Multiplied so that swapped halves differ; the hash finishes the mixing.
        high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low
    }

    #[inline(always)]
    fn can_be_client(self) -> bool {
        source::can_be_client6(self)
    }
}
