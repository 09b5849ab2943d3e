//! Frames built from parts, for tests: what a packet is, told field by field.
//!
//! Owns the description of a frame ([`Packet`]) and the changes a test makes to it. Lengths
//! and checksums are computed in full by etherparse when the frame is serialised
//! ([`Packet::bytes`]), so nothing here shares arithmetic with the code under test.
//! What a frame contains is told by [`fields`], whether it is sound by [`verify`].

pub mod decapsulate;
mod ends;
pub mod fields;
mod fragments;
pub mod icmp;
pub mod reference;
pub mod serialise;
pub mod tunnel;
pub mod verify;

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, TcpHeader,
    TcpOptions, UdpHeader,
};

/// A MAC address.
pub type Mac = [u8; 6];

/// TCP flags as they stand in the fourteenth byte of the header.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

/// IPv6 extension headers a test may put between the IPv6 header and the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options, padded to the given multiple of 8 bytes.
    HopByHop(u8),
    /// Destination options, padded to the given multiple of 8 bytes.
    DestinationOptions(u8),
    /// A routing header with no segments left, of the given multiple of 8 bytes.
    Routing(u8),
    /// A fragment header: offset in units of 8 bytes, and whether more fragments follow.
    Fragment(u16, bool),
}

/// What the UDP checksum of a frame is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpChecksum {
    /// Computed; a computed zero is sent as `ffff` (RFC 768).
    Computed,
    /// Zero: the sender did not compute one.
    Absent,
}

/// The network header of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4; total length and checksum are filled in on serialisation.
    V4(Ipv4Header),
    /// IPv6; payload length and next header are filled in on serialisation.
    V6(Ipv6Header, Vec<Extension>),
}

/// What the network header carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP; the checksum is filled in on serialisation.
    Tcp(TcpHeader),
    /// UDP; length and checksum are filled in on serialisation.
    Udp(UdpHeader, UdpChecksum),
    /// Any other protocol: only the payload follows the network header.
    Other(IpNumber),
}

/// One Ethernet frame, told by its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source MAC address.
    pub source_mac: Mac,
    /// Destination MAC address.
    pub destination_mac: Mac,
    /// VLAN ids, outermost first. With two the outer tag is 802.1ad.
    pub vlans: Vec<u16>,
    /// IPv4 or IPv6.
    pub network: Network,
    /// TCP, UDP or another protocol.
    pub transport: Transport,
    /// What follows the transport header.
    pub payload: Vec<u8>,
    /// The frame is padded with zeros to this length, as short frames are on the wire.
    pub padded_to: usize,
}

impl Packet {
    /// A TCP segment: ACK, sequence number 1000, acknowledgement number 2000, no payload.
    ///
    /// # Panics
    /// If the addresses are of different families.
    #[must_use]
    pub fn tcp(from: SocketAddr, to: SocketAddr) -> Self {
        let mut header = TcpHeader::new(from.port(), to.port(), 1000, 64_240);
        header.acknowledgment_number = 2000;
        header.ack = true;
        Self::new(from.ip(), to.ip(), Transport::Tcp(header))
    }

    /// A UDP datagram with a computed checksum and no payload.
    ///
    /// # Panics
    /// If the addresses are of different families.
    #[must_use]
    pub fn udp(from: SocketAddr, to: SocketAddr) -> Self {
        let header = UdpHeader {
            source_port: from.port(),
            destination_port: to.port(),
            length: 0,
            checksum: 0,
        };
        Self::new(from.ip(), to.ip(), Transport::Udp(header, UdpChecksum::Computed))
    }

    /// A packet of another IP protocol.
    ///
    /// # Panics
    /// If the addresses are of different families.
    #[must_use]
    pub fn other(protocol: u8, from: IpAddr, to: IpAddr, body: &[u8]) -> Self {
        Self::new(from, to, Transport::Other(IpNumber(protocol))).payload(body)
    }

    fn new(from: IpAddr, to: IpAddr, transport: Transport) -> Self {
        let network = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Network::V4(Ipv4Header {
                identification: 0x1f2e,
                dont_fragment: true,
                time_to_live: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv4Header::default()
            }),
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = Ipv6Header {
                    traffic_class: 0x12,
                    flow_label: Ipv6FlowLabel::try_new(0xabcde).expect("20 bits"),
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                Network::V6(header, Vec::new())
            }
            _ => panic!("{from} and {to} are of different families"),
        };
        Self {
            source_mac: [0; 6],
            destination_mac: [0; 6],
            vlans: Vec::new(),
            network,
            transport,
            payload: Vec::new(),
            padded_to: 0,
        }
    }

    /// Sent from one MAC address to another.
    #[must_use]
    pub fn link(mut self, source: Mac, destination: Mac) -> Self {
        (self.source_mac, self.destination_mac) = (source, destination);
        self
    }

    /// With VLAN tags, outermost first.
    #[must_use]
    pub fn vlans(mut self, ids: &[u16]) -> Self {
        self.vlans = ids.to_vec();
        self
    }

    /// With exactly these TCP flags ([`flag`]).
    ///
    /// # Panics
    /// If the packet is not TCP.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        let header = self.tcp_header();
        header.fin = flags & flag::FIN != 0;
        header.syn = flags & flag::SYN != 0;
        header.rst = flags & flag::RST != 0;
        header.psh = flags & flag::PSH != 0;
        header.ack = flags & flag::ACK != 0;
        self
    }

    /// With these TCP sequence and acknowledgement numbers.
    ///
    /// # Panics
    /// If the packet is not TCP.
    #[must_use]
    pub fn sequence(mut self, sequence: u32, acknowledgement: u32) -> Self {
        let header = self.tcp_header();
        header.sequence_number = sequence;
        header.acknowledgment_number = acknowledgement;
        self
    }

    /// With these added to its numbers, modulo 2^32, as far as it is a TCP segment that has them.
    #[must_use]
    pub fn shifted(mut self, sequence: u32, acknowledgement: u32) -> Self {
        if let Transport::Tcp(header) = &mut self.transport {
            header.sequence_number = header.sequence_number.wrapping_add(sequence);
            let acknowledgement = if header.ack { acknowledgement } else { 0 };
            header.acknowledgment_number =
                header.acknowledgment_number.wrapping_add(acknowledgement);
        }
        self
    }

    /// With this TCP window.
    ///
    /// # Panics
    /// If the packet is not TCP.
    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        self.tcp_header().window_size = window;
        self
    }

    /// With these TCP options.
    ///
    /// # Panics
    /// If the packet is not TCP or the options exceed 40 bytes.
    #[must_use]
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        self.tcp_header().options = TcpOptions::try_from_slice(options).expect("40 bytes at most");
        self
    }

    fn tcp_header(&mut self) -> &mut TcpHeader {
        match &mut self.transport {
            Transport::Tcp(header) => header,
            other => panic!("not TCP: {other:?}"),
        }
    }

    /// With or without a UDP checksum.
    ///
    /// # Panics
    /// If the packet is not UDP.
    #[must_use]
    pub fn udp_checksum(mut self, checksum: UdpChecksum) -> Self {
        match &mut self.transport {
            Transport::Udp(_, kind) => *kind = checksum,
            other => panic!("not UDP: {other:?}"),
        }
        self
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Padded with zeros to at least this length.
    #[must_use]
    pub fn padded_to(mut self, length: usize) -> Self {
        self.padded_to = length;
        self
    }

    /// With this TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        match &mut self.network {
            Network::V4(header) => header.time_to_live = ttl,
            Network::V6(header, _) => header.hop_limit = ttl,
        }
        self
    }

    /// The TTL or hop limit.
    #[must_use]
    pub fn ttl_now(&self) -> u8 {
        match &self.network {
            Network::V4(header) => header.time_to_live,
            Network::V6(header, _) => header.hop_limit,
        }
    }

    /// With IPv4 options.
    ///
    /// # Panics
    /// If the packet is IPv6, or the options are not a multiple of 4 up to 40 bytes.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        let options = Ipv4Options::try_from(options).expect("a multiple of 4 up to 40 bytes");
        self.ipv4_header().options = options;
        self
    }

    /// With this IPv4 identification; whether the packet may be fragmented stays as it is.
    ///
    /// # Panics
    /// If the packet is IPv6.
    #[must_use]
    pub fn identification(mut self, identification: u16) -> Self {
        self.ipv4_header().identification = identification;
        self
    }

    /// As an IPv4 fragment: offset in units of 8 bytes, and whether more fragments follow.
    ///
    /// # Panics
    /// If the packet is IPv6 (there a fragment has an [`Extension::Fragment`]).
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        let header = self.ipv4_header();
        header.dont_fragment = false;
        header.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
        header.more_fragments = more;
        self
    }

    fn ipv4_header(&mut self) -> &mut Ipv4Header {
        match &mut self.network {
            Network::V4(header) => header,
            Network::V6(..) => panic!("not IPv4"),
        }
    }

    /// With this IPv6 traffic class and flow label.
    ///
    /// # Panics
    /// If the packet is IPv4 or the label exceeds 20 bits.
    #[must_use]
    pub fn traffic(mut self, class: u8, label: u32) -> Self {
        match &mut self.network {
            Network::V4(_) => panic!("not IPv6"),
            Network::V6(header, _) => {
                header.traffic_class = class;
                header.flow_label = Ipv6FlowLabel::try_new(label).expect("20 bits");
            }
        }
        self
    }

    /// With IPv6 extension headers, in this order.
    ///
    /// # Panics
    /// If the packet is IPv4.
    #[must_use]
    pub fn extensions(mut self, list: &[Extension]) -> Self {
        match &mut self.network {
            Network::V4(_) => panic!("not IPv6"),
            Network::V6(_, extensions) => *extensions = list.to_vec(),
        }
        self
    }

    /// The same packet between other addresses and ports: what translation is to make of it.
    ///
    /// # Panics
    /// If the addresses are of another family than the packet.
    #[must_use]
    pub fn between(mut self, from: SocketAddr, to: SocketAddr) -> Self {
        match (&mut self.network, from.ip(), to.ip()) {
            (Network::V4(header), IpAddr::V4(from), IpAddr::V4(to)) => {
                (header.source, header.destination) = (from.octets(), to.octets());
            }
            (Network::V6(header, _), IpAddr::V6(from), IpAddr::V6(to)) => {
                (header.source, header.destination) = (from.octets(), to.octets());
            }
            _ => panic!("{from} or {to} is of another family than the packet"),
        }
        match &mut self.transport {
            Transport::Tcp(header) => {
                (header.source_port, header.destination_port) = (from.port(), to.port());
            }
            Transport::Udp(header, _) => {
                (header.source_port, header.destination_port) = (from.port(), to.port());
            }
            Transport::Other(_) => {}
        }
        self
    }

    /// The same packet one hop further: TTL or hop limit less one.
    ///
    /// # Panics
    /// If the TTL is zero.
    #[must_use]
    pub fn routed(self) -> Self {
        let ttl = self.ttl_now().checked_sub(1).expect("a packet with TTL 0 is not routed");
        self.ttl(ttl)
    }
}
