//! Whether a frame is sound: it parses whole and its checksums hold, computed by etherparse.

use std::net::{IpAddr, SocketAddr};

use etherparse::{Ipv4Header, NetSlice, SlicedPacket, TransportSlice};
use thiserror::Error;

/// What is wrong with a frame.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// A header is cut off or contradicts itself.
    #[error("the frame does not parse: {0}")]
    Unparsable(String),
    /// The frame is neither IPv4 nor IPv6.
    #[error("no IPv4 or IPv6 header")]
    NotIp,
    /// The packet is neither TCP nor UDP, or a fragment.
    #[error("no TCP or UDP header")]
    NoTransport,
    /// The IPv4 header checksum is wrong.
    #[error("IPv4 header checksum is {got:#06x}, should be {expected:#06x}")]
    HeaderChecksum {
        /// What the frame says.
        got: u16,
        /// What a full computation gives.
        expected: u16,
    },
    /// The TCP or UDP checksum is wrong.
    #[error("transport checksum is {got:#06x}, should be {expected:#06x}")]
    TransportChecksum {
        /// What the frame says.
        got: u16,
        /// What a full computation gives.
        expected: u16,
    },
}

/// Source and destination of a sound frame.
pub type Ends = (SocketAddr, SocketAddr);

/// Parses a frame and checks every checksum in it.
///
/// # Errors
/// The first [`Fault`] from the outside in.
pub fn sound(frame: &[u8]) -> Result<Ends, Fault> {
    let parsed =
        SlicedPacket::from_ethernet(frame).map_err(|error| Fault::Unparsable(error.to_string()))?;
    let network = parsed.net.ok_or(Fault::NotIp)?;
    let transport = parsed.transport.ok_or(Fault::NoTransport)?;
    let (source, destination): (IpAddr, IpAddr) = match &network {
        NetSlice::Ipv4(slice) => {
            check_header(&slice.header().to_header())?;
            (slice.header().source_addr().into(), slice.header().destination_addr().into())
        }
        NetSlice::Ipv6(slice) => {
            (slice.header().source_addr().into(), slice.header().destination_addr().into())
        }
        NetSlice::Arp(_) => return Err(Fault::NotIp),
    };
    let ports = check_transport(&transport, source, destination)?;
    Ok((SocketAddr::new(source, ports.0), SocketAddr::new(destination, ports.1)))
}

fn check_header(header: &Ipv4Header) -> Result<(), Fault> {
    let (got, expected) = (header.header_checksum, header.calc_header_checksum());
    if got == expected { Ok(()) } else { Err(Fault::HeaderChecksum { got, expected }) }
}

fn check_transport(
    transport: &TransportSlice<'_>,
    source: IpAddr,
    destination: IpAddr,
) -> Result<(u16, u16), Fault> {
    let too_long =
        |error: etherparse::err::ValueTooBigError<usize>| Fault::Unparsable(error.to_string());
    let (got, expected, ports) = match transport {
        TransportSlice::Tcp(slice) => {
            let header = slice.to_header();
            let expected = match (source, destination) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.calc_checksum_ipv4_raw(from.octets(), to.octets(), slice.payload())
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    header.calc_checksum_ipv6_raw(from.octets(), to.octets(), slice.payload())
                }
                _ => return Err(Fault::NotIp),
            };
            let ports = (header.source_port, header.destination_port);
            (header.checksum, expected.map_err(too_long)?, ports)
        }
        TransportSlice::Udp(slice) => {
            let header = slice.to_header();
            let expected = match (source, destination) {
                (IpAddr::V4(_), _) if header.checksum == 0 => Ok(0),
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.calc_checksum_ipv4_raw(from.octets(), to.octets(), slice.payload())
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    header.calc_checksum_ipv6_raw(from.octets(), to.octets(), slice.payload())
                }
                _ => return Err(Fault::NotIp),
            };
            let ports = (header.source_port, header.destination_port);
            (header.checksum, expected.map_err(too_long)?, ports)
        }
        TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) => return Err(Fault::NoTransport),
        _ => return Err(Fault::NoTransport),
    };
    if got == expected { Ok(ports) } else { Err(Fault::TransportChecksum { got, expected }) }
}
