//! Taking a packet out of the one it travels in, the slow way, with an eye on every field of the
//! outer headers. Shares nothing with the code under test.

use std::net::IpAddr;

/// What outer headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Source address.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
    /// Ports of the UDP header, if there is one.
    pub ports: Option<(u16, u16)>,
    /// Flow label; 0 in IPv4.
    pub label: u32,
}

const MAC_ADDRESSES: usize = 12;
const VLAN: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const UDP: u8 = 17;
const UDP_BYTES: usize = 8;

/// The frame as if its packet had not been encapsulated, and what the outer headers say.
///
/// # Errors
/// What of the outer headers is not as it must be.
pub fn decapsulate(frame: &[u8]) -> Result<(Outer, Vec<u8>), String> {
    let start = network(frame).ok_or("no network header")?;
    let packet = &frame[start..];
    let ether_type = [frame[start - 2], frame[start - 1]];
    let (mut outer, protocol, header, length) = match ether_type {
        IPV4 => outer4(packet)?,
        IPV6 => outer6(packet)?,
        other => return Err(format!("ethertype {other:02x?}")),
    };
    let mut inside = packet.get(header..).ok_or("cut off")?;
    let mut inner_length = length - header;
    if protocol == UDP {
        let udp = inside.get(..UDP_BYTES).ok_or("no whole UDP header")?;
        expect("UDP length", number(udp, 4).into(), inner_length)?;
        expect("UDP checksum", number(udp, 6).into(), 0)?;
        outer.ports = Some((number(udp, 0), number(udp, 2)));
        inside = &inside[UDP_BYTES..];
        inner_length -= UDP_BYTES;
    }
    let version = inside.first().ok_or("nothing inside")? >> 4;
    let (inner_type, carried, class, says) = match version {
        4 => (IPV4, 4, inside[1], usize::from(number(inside, 2))),
        6 => (IPV6, 41, inside[0] << 4 | inside[1] >> 4, usize::from(number(inside, 4)) + 40),
        other => return Err(format!("version {other} inside")),
    };
    if protocol != UDP {
        expect("protocol", protocol.into(), carried)?;
    }
    expect("length", inner_length, says)?;
    let outer_class = if ether_type == IPV4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
    expect("class", outer_class.into(), class.into())?;
    Ok((outer, [&frame[..start - 2], &inner_type, inside].concat()))
}

type Header = (Outer, u8, usize, usize);

fn outer4(packet: &[u8]) -> Result<Header, String> {
    let header: [u8; 20] = packet.first_chunk().copied().ok_or("no whole header")?;
    expect("version and length", header[0].into(), 0x45)?;
    expect("identification", number(&header, 4).into(), 0)?;
    expect("fragmentation", number(&header, 6).into(), 0x4000)?;
    expect("TTL", header[8].into(), 64)?;
    let words = header.chunks(2).map(|word| u32::from(number(word, 0)));
    let sum = words.sum::<u32>();
    expect("sum", ((sum & 0xffff) + (sum >> 16)) as usize, 0xffff)?;
    let address = |at: usize| IpAddr::from([0, 1, 2, 3].map(|octet| header[at + octet]));
    let outer = Outer { from: address(12), to: address(16), ports: None, label: 0 };
    Ok((outer, header[9], 20, whole(packet, number(&header, 2).into())?))
}

fn outer6(packet: &[u8]) -> Result<Header, String> {
    let header: [u8; 40] = packet.first_chunk().copied().ok_or("no whole header")?;
    expect("version", usize::from(header[0] >> 4), 6)?;
    expect("hop limit", header[7].into(), 64)?;
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen octets");
        IpAddr::from(octets)
    };
    let label = u32::from_be_bytes([0, header[1] & 0x0f, header[2], header[3]]);
    let outer = Outer { from: address(8), to: address(24), ports: None, label };
    Ok((outer, header[6], 40, whole(packet, usize::from(number(&header, 4)) + 40)?))
}

/// The length that a header gives, if the frame has as much.
fn whole(packet: &[u8], length: usize) -> Result<usize, String> {
    if length > packet.len() {
        return Err(format!("{length} bytes of {}", packet.len()));
    }
    Ok(length)
}

/// Where the network header starts.
fn network(frame: &[u8]) -> Option<usize> {
    let mut at = MAC_ADDRESSES;
    while VLAN.contains(frame.get(at..at + 2)?.try_into().ok()?) {
        at += 4;
    }
    Some(at + 2)
}

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn expect(what: &str, got: usize, expected: usize) -> Result<(), String> {
    if got == expected {
        return Ok(());
    }
    Err(format!("outer {what}: got {got:#x}, expected {expected:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, tunnel::Tunnel};

    fn tunnels() -> Vec<Tunnel> {
        let ends = [("10.0.1.1", "10.0.1.20"), ("fd00:1::1", "fd00:1::a20")];
        let parse = |text: &str| text.parse().unwrap();
        let of = |(from, to): (&str, &str)| {
            [None, Some((50_000, 6080))].map(|ports| Tunnel {
                from: parse(from),
                to: parse(to),
                ports,
                label: if from.contains(':') { 0x1234 } else { 0 },
            })
        };
        ends.into_iter().flat_map(of).collect()
    }

    #[test]
    fn what_was_put_in_comes_out_and_a_changed_outer_header_is_noticed() {
        let packets = [
            Packet::udp("192.0.2.1:1000".parse().unwrap(), "192.0.2.2:80".parse().unwrap()),
            Packet::udp("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:8".parse().unwrap()),
        ];
        for (packet, tunnel) in
            packets.iter().flat_map(|p| tunnels().into_iter().map(move |t| (p, t)))
        {
            let packet = packet.clone().class(0xb9).vlans(&[7]).payload(&[9; 50]);
            let frame = packet.inside(&tunnel).bytes();
            let (outer, inside) = decapsulate(&frame).unwrap();
            assert_eq!((outer.from, outer.to, outer.ports), (tunnel.from, tunnel.to, tunnel.ports));
            assert_eq!(outer.label, tunnel.label);
            assert_eq!(inside[12..], packet.bytes()[12..]);
            let start = packet.network_offset();
            let header = frame.len() - inside.len();
            for byte in start..start + header {
                let mut changed = frame.clone();
                changed[byte] ^= 0x10;
                let got = decapsulate(&changed);
                assert!(got.is_err() || got != Ok((outer, inside.clone())), "byte {byte}");
            }
        }
    }
}
