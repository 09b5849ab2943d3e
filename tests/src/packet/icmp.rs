//! ICMP and ICMPv6 messages, their checksums computed in full by etherparse.

use std::net::IpAddr;

use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type};

use super::{Mac, Packet};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

impl Packet {
    /// An ICMP or ICMPv6 message, by the family of the addresses: type, code, the four bytes
    /// behind the checksum, and what follows them.
    ///
    /// # Panics
    /// If the addresses are of different families.
    #[must_use]
    pub fn icmp(
        from: IpAddr,
        to: IpAddr,
        (type_u8, code_u8): (u8, u8),
        bytes5to8: [u8; 4],
        body: &[u8],
    ) -> Self {
        match (from, to) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                let kind = Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 };
                let header = Icmpv4Header::with_checksum(kind, body).to_bytes();
                Self::other(ICMP, from, to, &[&header[..], body].concat())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let kind = Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 };
                let ends = (source.octets(), destination.octets());
                let header = Icmpv6Header::with_checksum(kind, ends.0, ends.1, body)
                    .expect("the message fits its length field")
                    .to_bytes();
                Self::other(ICMPV6, from, to, &[&header[..], body].concat())
            }
            _ => panic!("{from} and {to} are of different families"),
        }
    }

    /// What an error quotes of this packet: from the network header on, this many bytes behind
    /// the start of the transport header.
    #[must_use]
    pub fn quoted(&self, transport_bytes: usize) -> Vec<u8> {
        let bytes = self.bytes();
        let end = bytes.len().min(self.transport_offset() + transport_bytes);
        bytes[self.network_offset()..end].to_vec()
    }

    /// An error about a packet, addressed to its sender; quotes this many bytes behind the
    /// start of its transport header.
    #[must_use]
    pub fn icmp_error(
        from: IpAddr,
        kind: (u8, u8),
        rest: [u8; 4],
        about: &Self,
        transport_bytes: usize,
    ) -> Self {
        let body = about.quoted(transport_bytes);
        Self::icmp(from, about.source().ip(), kind, rest, &body)
    }

    /// The same from one MAC address to another, one hop before it arrives.
    #[must_use]
    pub fn arriving(self, source: Mac, destination: Mac) -> Self {
        self.ttl(61).link(source, destination)
    }
}
