//! From the description of a packet to its bytes, with every length and checksum in full.

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};

use super::{Extension, Network, Packet, Transport, UdpChecksum};

const ETHERNET: usize = 14;
const VLAN: usize = 4;
const DOT1Q: u16 = 0x8100;
const DOT1AD: u16 = 0x88a8;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

impl Packet {
    /// The frame.
    ///
    /// # Panics
    /// If the packet is too long for its length fields.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(self.payload_offset() + self.payload.len());
        frame.extend_from_slice(&self.destination_mac);
        frame.extend_from_slice(&self.source_mac);
        for (index, id) in self.vlans.iter().enumerate() {
            let outer = index == 0 && self.vlans.len() > 1;
            frame.extend_from_slice(&if outer { DOT1AD } else { DOT1Q }.to_be_bytes());
            frame.extend_from_slice(&id.to_be_bytes());
        }
        let body = self.transport_bytes();
        match &self.network {
            Network::V4(header) => {
                frame.extend_from_slice(&IPV4.to_be_bytes());
                frame.extend_from_slice(&ipv4_bytes(header, self.protocol(), body.len()));
            }
            Network::V6(header, extensions) => {
                frame.extend_from_slice(&IPV6.to_be_bytes());
                let chain = extension_bytes(extensions, self.protocol());
                let first = extensions.first().map_or(self.protocol(), |kind| kind.number());
                frame.extend_from_slice(&ipv6_bytes(header, first, chain.len() + body.len()));
                frame.extend_from_slice(&chain);
            }
        }
        frame.extend_from_slice(&body);
        frame.resize(frame.len().max(self.padded_to), 0);
        frame
    }

    /// Where the network header starts in the frame.
    #[must_use]
    pub fn network_offset(&self) -> usize {
        ETHERNET + VLAN * self.vlans.len()
    }

    /// Where the transport header starts in the frame.
    #[must_use]
    pub fn transport_offset(&self) -> usize {
        self.network_offset()
            + match &self.network {
                Network::V4(header) => header.header_len(),
                Network::V6(_, extensions) => {
                    Ipv6Header::LEN + extensions.iter().map(|kind| kind.length()).sum::<usize>()
                }
            }
    }

    /// Where the payload starts in the frame: the end of all headers.
    #[must_use]
    pub fn payload_offset(&self) -> usize {
        self.transport_offset()
            + match &self.transport {
                Transport::Tcp(header) => header.header_len(),
                Transport::Udp(..) => UdpHeader::LEN,
                Transport::Other(_) => 0,
            }
    }

    fn protocol(&self) -> IpNumber {
        match &self.transport {
            Transport::Tcp(_) => IpNumber::TCP,
            Transport::Udp(..) => IpNumber::UDP,
            Transport::Other(protocol) => *protocol,
        }
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let mut bytes = match &self.transport {
            Transport::Tcp(header) => self.tcp_bytes(header),
            Transport::Udp(header, checksum) => self.udp_bytes(header, *checksum),
            Transport::Other(_) => Vec::new(),
        };
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    fn tcp_bytes(&self, header: &TcpHeader) -> Vec<u8> {
        let mut header = header.clone();
        header.checksum = match &self.network {
            Network::V4(ip) => {
                header.calc_checksum_ipv4_raw(ip.source, ip.destination, &self.payload)
            }
            Network::V6(ip, _) => {
                header.calc_checksum_ipv6_raw(ip.source, ip.destination, &self.payload)
            }
        }
        .expect("the segment fits its length field");
        header.to_bytes().to_vec()
    }

    fn udp_bytes(&self, header: &UdpHeader, checksum: UdpChecksum) -> Vec<u8> {
        let length = UdpHeader::LEN + self.payload.len();
        let mut header = UdpHeader {
            length: u16::try_from(length).expect("the datagram fits its length field"),
            ..header.clone()
        };
        header.checksum = match (checksum, &self.network) {
            (UdpChecksum::Absent, _) => 0,
            (UdpChecksum::Computed, Network::V4(ip)) => header
                .calc_checksum_ipv4_raw(ip.source, ip.destination, &self.payload)
                .expect("the datagram fits its length field"),
            (UdpChecksum::Computed, Network::V6(ip, _)) => header
                .calc_checksum_ipv6_raw(ip.source, ip.destination, &self.payload)
                .expect("the datagram fits its length field"),
        };
        header.to_bytes().to_vec()
    }
}

impl From<&Packet> for Vec<u8> {
    fn from(packet: &Packet) -> Self {
        packet.bytes()
    }
}

impl From<Packet> for Vec<u8> {
    fn from(packet: Packet) -> Self {
        packet.bytes()
    }
}

impl Extension {
    /// The next-header number that announces this extension.
    #[must_use]
    pub fn number(self) -> IpNumber {
        match self {
            Self::HopByHop(_) => IpNumber::IPV6_HEADER_HOP_BY_HOP,
            Self::DestinationOptions(_) => IpNumber::IPV6_DESTINATION_OPTIONS,
            Self::Routing(_) => IpNumber::IPV6_ROUTE_HEADER,
            Self::Fragment(..) => IpNumber::IPV6_FRAGMENTATION_HEADER,
        }
    }

    /// Bytes of this extension header.
    #[must_use]
    pub fn length(self) -> usize {
        match self {
            Self::HopByHop(units) | Self::DestinationOptions(units) | Self::Routing(units) => {
                usize::from(units) * 8
            }
            Self::Fragment(..) => 8,
        }
    }

    fn bytes(self, next: IpNumber) -> Vec<u8> {
        let mut bytes = vec![0; self.length()];
        bytes[0] = next.0;
        match self {
            Self::HopByHop(units) | Self::DestinationOptions(units) => {
                bytes[1] = units - 1;
                // PadN over the rest, in parts of at most 255 bytes of data.
                let mut position = 2;
                while position < bytes.len() {
                    let data = (bytes.len() - position - 2).min(250);
                    bytes[position] = 1;
                    bytes[position + 1] = u8::try_from(data).expect("at most 250");
                    position += 2 + data;
                }
            }
            Self::Routing(units) => bytes[1] = units - 1,
            Self::Fragment(offset, more) => {
                bytes[2..4].copy_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
                bytes[4..8].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
            }
        }
        bytes
    }
}

fn extension_bytes(extensions: &[Extension], last: IpNumber) -> Vec<u8> {
    let following = extensions.iter().skip(1).map(|kind| kind.number()).chain([last]);
    extensions.iter().zip(following).flat_map(|(kind, next)| kind.bytes(next)).collect()
}

fn ipv4_bytes(header: &Ipv4Header, protocol: IpNumber, body: usize) -> Vec<u8> {
    let mut header = header.clone();
    header.protocol = protocol;
    header.set_payload_len(body).expect("the packet fits its length field");
    header.header_checksum = header.calc_header_checksum();
    header.to_bytes().to_vec()
}

fn ipv6_bytes(header: &Ipv6Header, next: IpNumber, body: usize) -> Vec<u8> {
    let payload_length = u16::try_from(body).expect("the packet fits its length field");
    Ipv6Header { next_header: next, payload_length, ..header.clone() }.to_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{flag, verify};

    fn every_shape() -> Vec<Packet> {
        let (from4, to4) = ("192.0.2.1:1000".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
        let (from6, to6) =
            ("[2001:db8::1]:1000".parse().unwrap(), "[2001:db8::2]:80".parse().unwrap());
        let mut shapes = Vec::new();
        for (from, to) in [(from4, to4), (from6, to6)] {
            shapes.push(Packet::tcp(from, to).flags(flag::SYN).tcp_options(&[2, 4, 5, 180]));
            shapes.push(Packet::tcp(from, to).payload(b"odd").vlans(&[5]).padded_to(90));
            shapes.push(Packet::udp(from, to).payload(b"query").vlans(&[5, 6]));
        }
        shapes.push(Packet::udp(from4, to4).ip_options(&[1; 8]).payload(b"x"));
        shapes.push(
            Packet::tcp(from6, to6)
                .extensions(&[
                    Extension::HopByHop(1),
                    Extension::Routing(3),
                    Extension::DestinationOptions(2),
                ])
                .payload(b"y"),
        );
        shapes
    }

    #[test]
    fn every_shape_is_sound() {
        for packet in every_shape() {
            verify::sound(&packet.bytes()).unwrap_or_else(|fault| panic!("{packet:?}: {fault}"));
        }
    }

    #[test]
    fn offsets_point_at_the_headers() {
        for packet in every_shape() {
            let bytes = packet.bytes();
            let transport = &bytes[packet.transport_offset()..];
            assert_eq!(&transport[..2], &packet.source().port().to_be_bytes());
            assert_eq!(&transport[2..4], &packet.destination().port().to_be_bytes());
            assert!(bytes[packet.payload_offset()..].starts_with(&packet.payload));
        }
    }

    #[test]
    fn a_wrong_byte_is_found() {
        for packet in every_shape() {
            let mut bytes = packet.bytes();
            let last = packet.payload_offset() - 1;
            bytes[last] ^= 1;
            assert!(verify::sound(&bytes).is_err(), "{packet:?}");
        }
    }
}
