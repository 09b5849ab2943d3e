//! How packets of a flow reach its server: `forward` of a frontend.
//!
//! Only [`Forward::Nat`] sees both directions. The others are *one-way*: the server holds the
//! VIP's address itself and answers the client directly, so nothing but the client's packets
//! pass through here, and a flow is one entry that pins its server.
//!
//! Encapsulation follows RFC 2003 (IPv4 in IPv4), RFC 2473 (anything in IPv6) and RFC 4213
//! (IPv6 in IPv4); `gue` is variant 1 of Generic UDP Encapsulation (draft-ietf-intarea-gue,
//! section 4): an IP packet follows the UDP header at once, its own version number tells
//! which. Linux reads it with `ip fou add port 6080 gue`.

/// How packets reach the server. The numbers are those of [`Forward::to_raw`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Forward {
    /// Source and destination are translated, replies come back through here.
    #[default]
    Nat = 0,
    /// The packet stays as it is, its frame is addressed to the server.
    Dsr = 1,
    /// The packet travels in another IP packet.
    Ipip = 2,
    /// The packet travels in a UDP datagram.
    Gue = 3,
}

/// Destination port of GUE that IANA has assigned, host byte order.
pub const GUE_PORT: u16 = 6080;
/// TTL and hop limit of outer headers.
pub const OUTER_TTL: u8 = 64;
/// Protocol number of an IPv4 packet in an IP packet.
pub const PROTOCOL_IPV4: u8 = 4;
/// Protocol number of an IPv6 packet in an IP packet.
pub const PROTOCOL_IPV6: u8 = 41;

/// Bits of a flow's hash in outer headers: as many as there are dynamic ports.
pub const ENTROPY_BITS: u32 = 14;

const ENTROPY_MASK: u16 = 0x3fff;
const _: () = assert!(ENTROPY_MASK.count_ones() == ENTROPY_BITS);
/// RFC 6335 section 6: 49152 to 65535.
const FIRST_DYNAMIC_PORT: u16 = 0xc000;
const IPV4_BYTES: u32 = 20;
const IPV6_BYTES: u32 = 40;
const UDP_BYTES: u32 = 8;

impl Forward {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Nat, Self::Dsr, Self::Ipip, Self::Gue];

    /// As maps have it: 0 to 3.
    #[inline(always)]
    #[must_use]
    pub const fn to_raw(self) -> u8 {
        self as u8
    }

    /// From the lowest two bits of a number.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u8) -> Self {
        match raw & 3 {
            0 => Self::Nat,
            1 => Self::Dsr,
            2 => Self::Ipip,
            _ => Self::Gue,
        }
    }

    /// The word of the configuration, of tables and of JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        }
    }

    /// Whether only the client's packets are seen.
    #[inline(always)]
    #[must_use]
    pub const fn is_one_way(self) -> bool {
        !matches!(self, Self::Nat)
    }

    /// Whether the packet travels in another one.
    #[inline(always)]
    #[must_use]
    pub const fn encapsulates(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }

    /// Bytes that are put in front of a packet, to a server of IPv6 or of IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn overhead(self, outer_is_v6: bool) -> u32 {
        // Without a branch, each of which would double the verifier's way through the rest.
        let raw = self.to_raw() as u32;
        let (encapsulates, is_gue) = (raw >> 1, raw >> 1 & raw);
        let ip = IPV4_BYTES + outer_is_v6 as u32 * (IPV6_BYTES - IPV4_BYTES);
        encapsulates * ip + is_gue * UDP_BYTES
    }
}

/// What of a tuple's hash travels in outer headers, so that routers and network cards spread
/// flows whose outer addresses are the same: [`ENTROPY_BITS`].
#[inline(always)]
#[must_use]
pub const fn entropy(hash: u64) -> u16 {
    (hash & 0x3fff) as u16
}

/// The source port of an outer UDP header, host byte order: dynamic ports (RFC 6335), as
/// tunnels over UDP are to use (RFC 8085 section 5.1.1). One flow has one port.
#[inline(always)]
#[must_use]
pub const fn outer_port(entropy: u16) -> u16 {
    FIRST_DYNAMIC_PORT | entropy & ENTROPY_MASK
}

/// The first four octets of an outer IPv6 header: version, the inner traffic class, and a flow
/// label that is one flow's own (RFC 6438).
#[inline(always)]
#[must_use]
pub const fn outer_v6_start(traffic_class: u8, entropy: u16) -> u32 {
    6 << 28 | (traffic_class as u32) << 20 | entropy as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_modes_are_one_to_one() {
        for (number, forward) in (0..).zip(Forward::ALL) {
            assert_eq!(forward.to_raw(), number);
            assert_eq!(Forward::from_raw(number), forward);
            assert_eq!(Forward::from_raw(number | 4), forward, "other bits do not count");
        }
    }

    #[test]
    fn only_encapsulation_makes_packets_longer() {
        for forward in Forward::ALL {
            assert_eq!(forward.overhead(false) > 0, forward.encapsulates());
        }
        assert_eq!(Forward::Ipip.overhead(false), 20);
        assert_eq!(Forward::Gue.overhead(true), 48);
    }

    #[test]
    fn outer_ports_are_dynamic_ports_and_use_them_all() {
        let ports: std::collections::HashSet<u16> = (0..=u16::MAX).map(outer_port).collect();
        assert_eq!(ports.len(), 1 << 14);
        assert!(ports.iter().all(|port| *port >= 49_152));
    }

    #[test]
    fn an_outer_ipv6_header_starts_as_it_should() {
        assert_eq!(outer_v6_start(0xb8, 0x1234), 0x6b80_1234);
    }
}
