//! A packet inside another one, told by RFC 2003, RFC 2473, RFC 4213 and variant 1 of GUE.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpDscp, IpEcn, Ipv6FlowLabel};

use super::{Network, Packet, UdpChecksum};

/// How one packet is inside another.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// Outer source address.
    pub from: IpAddr,
    /// Outer destination address.
    pub to: IpAddr,
    /// Ports of a UDP header between the two IP headers.
    pub ports: Option<(u16, u16)>,
    /// Flow label of an outer IPv6 header.
    pub label: u32,
}

impl Packet {
    /// With this TOS or traffic class: DSCP and ECN.
    ///
    /// # Panics
    /// Never: all bits are valid.
    #[must_use]
    pub fn class(mut self, class: u8) -> Self {
        match &mut self.network {
            Network::V4(header) => {
                header.dscp = IpDscp::try_new(class >> 2).expect("6 bits");
                header.ecn = IpEcn::try_new(class & 3).expect("2 bits");
            }
            Network::V6(header, _) => header.traffic_class = class,
        }
        self
    }

    /// The packet inside another one with the same tags and class and a TTL of its own, as
    /// it leaves: not padded and without MAC addresses.
    ///
    /// # Panics
    /// If the outer addresses are of different families.
    #[must_use]
    pub fn inside(&self, tunnel: &Tunnel) -> Self {
        let end = self.payload_offset() + self.payload.len();
        let carried = &self.bytes()[self.network_offset()..end];
        let (protocol, class) = match &self.network {
            Network::V4(header) => (4, header.dscp.value() << 2 | header.ecn.value()),
            Network::V6(header, _) => (41, header.traffic_class),
        };
        let outer = match tunnel.ports {
            None => Self::other(protocol, tunnel.from, tunnel.to, carried),
            Some((from, to)) => {
                let from = SocketAddr::new(tunnel.from, from);
                let to = SocketAddr::new(tunnel.to, to);
                Self::udp(from, to).udp_checksum(UdpChecksum::Absent).payload(carried)
            }
        };
        let mut outer = outer.vlans(&self.vlans).class(class).ttl(64);
        match &mut outer.network {
            Network::V4(header) => header.identification = 0,
            Network::V6(header, _) => {
                header.flow_label = Ipv6FlowLabel::try_new(tunnel.label).expect("20 bits");
            }
        }
        outer
    }
}
