//! Where a packet comes from and where it goes to.

use std::net::{IpAddr, SocketAddr};

use etherparse::{Ipv4Header, Ipv6Header};

use super::{Network, Packet, Transport};

impl Packet {
    /// Where the source of the packet is: address and port (0 without ports).
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.end(|header| header.source, |header| header.source, |ports| ports.0)
    }

    /// Where the destination of the packet is: address and port (0 without ports).
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.end(|header| header.destination, |header| header.destination, |ports| ports.1)
    }

    fn end(
        &self,
        address4: impl Fn(&Ipv4Header) -> [u8; 4],
        address6: impl Fn(&Ipv6Header) -> [u8; 16],
        port: impl Fn((u16, u16)) -> u16,
    ) -> SocketAddr {
        let address = match &self.network {
            Network::V4(header) => IpAddr::from(address4(header)),
            Network::V6(header, _) => IpAddr::from(address6(header)),
        };
        let ports = match &self.transport {
            Transport::Tcp(header) => (header.source_port, header.destination_port),
            Transport::Udp(header, _) => (header.source_port, header.destination_port),
            Transport::Other(_) => (0, 0),
        };
        SocketAddr::new(address, port(ports))
    }
}
