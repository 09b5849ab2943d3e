//! What is measured: frames, the tuples they take turns in, the verdicts they must get.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::packet::{Packet, flag};
use lb_common::{
    abi::PROGRAM,
    bench::{FRAME_BYTES, Order},
    flow::Direction,
    forward::Forward,
};

/// Flow `n` has the lowest of these many bits of `n` as its port.
pub const PORT_BITS: u32 = 14;
/// Source port of flow 0, towards the VIP and towards the servers.
pub const FIRST_PORT: u16 = 1024;
/// Source port of the first flow that is opened while measuring: apart from the others.
const FIRST_NEW_PORT: u16 = 16_384 + FIRST_PORT;
/// Flows that are opened in one batch. They are forgotten before the next one.
const OPENED: u32 = 256;
/// Flows with one port each need this many servers.
pub const SERVERS: u16 = 64;

/// Port of the VIPs.
pub const VIP_PORT: u16 = 5432;
/// Port of the servers.
pub const SERVER_PORT: u16 = 15_432;
/// MAC address of the neighbours.
pub const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC address of our interface.
pub const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// The VIP of a family.
pub fn vip(v6: bool) -> SocketAddr {
    SocketAddr::new(address(v6, 0x0a00_0064), VIP_PORT)
}

/// The address that servers see as the client.
pub fn snat(v6: bool) -> IpAddr {
    address(v6, 0x0a01_fffe)
}

/// The client of flow `number`.
pub fn client(v6: bool, number: u32) -> SocketAddr {
    SocketAddr::new(address(v6, CLIENTS + (number >> PORT_BITS)), port(number))
}

/// The server with an index.
pub fn server(v6: bool, index: u32) -> SocketAddr {
    SocketAddr::new(address(v6, SERVERS_BASE + index), SERVER_PORT)
}

/// The source port of flow `number`.
pub fn port(number: u32) -> u16 {
    FIRST_PORT + (number & ((1 << PORT_BITS) - 1)) as u16
}

const CLIENTS: u32 = 0x6440_0000;
const NEW_CLIENTS: u32 = 0x6480_0000;
/// Those of a flood: flows that it leaves half open are nobody else's.
const FLOOD_CLIENTS: u32 = 0x64a0_0000;
const DENIED_CLIENTS: u32 = 0x64c0_0000;
const SERVERS_BASE: u32 = 0x0a01_0001;
const ELSEWHERE: u32 = 0x0808_0808;

/// Networks on the lists of sources.
const LISTED: u32 = 100_000;

/// The lists of sources: the denied clients, one by one, among as many networks that nobody is
/// in as make up `LISTED`, spread over the addresses and of lengths from 20 to 32.
pub fn denied() -> impl Iterator<Item = (Ipv4Addr, u8)> {
    let clients = (0..SERVERS.into()).map(|index| (Ipv4Addr::from(DENIED_CLIENTS + index), 32));
    let others = (0..LISTED - u32::from(SERVERS)).map(|number| {
        // Below 64.0.0.0, where there is none of the others.
        let length = 20 + (number % 13) as u8;
        let bits = number.wrapping_mul(0x9e37_79b9) >> 2;
        (Ipv4Addr::from(bits & (u32::MAX << (32 - length))), length)
    });
    clients.chain(others)
}

/// An IPv4 address, or an IPv6 address that ends in it.
fn address(v6: bool, bits: u32) -> IpAddr {
    if v6 {
        IpAddr::from(Ipv6Addr::from((0xfd00_u128 << 112) | u128::from(bits)))
    } else {
        IpAddr::from(Ipv4Addr::from(bits))
    }
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// The loop alone.
    Floor,
    /// Parsing and one lookup in an LRU hash.
    Calibration,
    /// A packet to an address that is no VIP.
    PassOther4,
    /// TCP over IPv4, client to server.
    Nat4TcpHit,
    /// TCP over IPv4, server to client.
    Nat4TcpReply,
    /// TCP over IPv6, client to server.
    Nat6TcpHit,
    /// UDP over IPv4, client to server.
    Nat4UdpHit,
    /// A SYN that opens a flow.
    Nat4TcpNew,
    /// As `Nat4TcpHit`, with lists of sources and limits of packets and flows in force.
    Nat4TcpHitFull,
    /// A SYN that is answered with a cookie.
    SynCookie4,
    /// A SYN from a source on a list of many that are denied.
    Deny4,
    /// Room in front of the packet is made and taken back.
    FloorResized,
    /// TCP over IPv4, to the server's own frame address.
    Dsr4Hit,
    /// TCP over IPv4, in IPv4.
    Ipip4Hit,
    /// The server's answer to a client, which passes by.
    Ipip4ReplyNone,
    /// TCP over IPv4, in UDP over IPv4.
    Gue4Hit,
    /// The loop alone, with a frame that is dropped.
    GenerateDrop,
    /// The loop alone, with a frame that is sent.
    GenerateSend,
    /// SYNs that open flows and are not followed by anything, beyond what the table holds.
    SynFlood4,
}

/// Scenarios that want the same flows in the IPv4 table.
pub struct Turn {
    /// Protocol of those flows.
    pub protocol: u8,
    /// How they reach their servers.
    pub forward: Forward,
    /// The scenarios; the first is the yardstick.
    pub scenarios: &'static [Scenario],
}

/// Every scenario once, and the yardstick in each turn.
pub const TURNS: [Turn; 5] = [
    Turn {
        protocol: TCP,
        forward: Forward::Nat,
        scenarios: &[
            Scenario::Calibration,
            Scenario::Floor,
            Scenario::FloorResized,
            Scenario::PassOther4,
            Scenario::Nat4TcpHit,
            Scenario::Nat4TcpReply,
            Scenario::Nat6TcpHit,
            Scenario::Nat4TcpNew,
            Scenario::SynCookie4,
            Scenario::Nat4TcpHitFull,
            Scenario::Deny4,
        ],
    },
    Turn {
        protocol: UDP,
        forward: Forward::Nat,
        scenarios: &[Scenario::Calibration, Scenario::Nat4UdpHit],
    },
    Turn {
        protocol: TCP,
        forward: Forward::Dsr,
        scenarios: &[Scenario::Calibration, Scenario::Dsr4Hit],
    },
    Turn {
        protocol: TCP,
        forward: Forward::Ipip,
        scenarios: &[Scenario::Calibration, Scenario::Ipip4Hit, Scenario::Ipip4ReplyNone],
    },
    Turn {
        protocol: TCP,
        forward: Forward::Gue,
        scenarios: &[Scenario::Calibration, Scenario::Gue4Hit],
    },
];

impl Turn {
    /// The scenarios that are among `names`, and the yardstick; all if no name is given,
    /// none if no name is of this turn.
    pub fn chosen(&self, names: &[String]) -> Vec<Scenario> {
        let named = |scenario: &Scenario| {
            names.is_empty() || names.iter().any(|name| name == scenario.name())
        };
        match self.scenarios {
            [yardstick, rest @ ..] if rest.iter().any(named) => {
                let chosen = rest.iter().copied().filter(named);
                std::iter::once(*yardstick).chain(chosen).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Scenario {
    /// The stable name in the table and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Calibration => "calibration",
            Self::PassOther4 => "pass_other4",
            Self::Nat4TcpHit => "nat4_tcp_hit",
            Self::Nat4TcpReply => "nat4_tcp_reply",
            Self::Nat6TcpHit => "nat6_tcp_hit",
            Self::Nat4UdpHit => "nat4_udp_hit",
            Self::Nat4TcpNew => "nat4_tcp_new",
            Self::Nat4TcpHitFull => "nat4_tcp_hit_full",
            Self::SynCookie4 => "syn_cookie4",
            Self::Deny4 => "deny4",
            Self::FloorResized => "floor_resized",
            Self::Dsr4Hit => "dsr4_hit",
            Self::Ipip4Hit => "ipip4_hit",
            Self::Ipip4ReplyNone => "ipip4_reply_none",
            Self::Gue4Hit => "gue4_hit",
            Self::GenerateDrop => "generate_drop",
            Self::GenerateSend => "generate_send",
            Self::SynFlood4 => "syn_flood4",
        }
    }

    /// The highest ratio to the yardstick that is good at one flow.
    pub const fn goal(self) -> Option<f64> {
        match self {
            Self::PassOther4 => Some(0.9),
            Self::Nat4TcpHit | Self::Nat4TcpReply => Some(1.8),
            Self::Nat6TcpHit => Some(2.2),
            Self::Nat4TcpNew => Some(8.0),
            // 1.2 times what `Nat4TcpHit` is to cost in the end.
            Self::Nat4TcpHitFull => Some(1.92),
            Self::Deny4 => Some(1.2),
            Self::Dsr4Hit => Some(1.4),
            Self::Ipip4Hit => Some(2.0),
            Self::Gue4Hit => Some(2.4),
            Self::Floor
            | Self::FloorResized
            | Self::Calibration
            | Self::Nat4UdpHit
            | Self::SynCookie4
            | Self::GenerateDrop
            | Self::GenerateSend
            | Self::SynFlood4
            | Self::Ipip4ReplyNone => None,
        }
    }

    /// The BPF program that is measured.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::FloorResized => "floor_resized",
            Self::Calibration => "calibration",
            Self::GenerateDrop => "discard",
            Self::GenerateSend => "bounce",
            _ => PROGRAM,
        }
    }

    /// The XDP action that every packet must get.
    pub const fn verdict(self) -> u32 {
        const DROP: u32 = 1;
        const PASS: u32 = 2;
        const TX: u32 = 3;
        match self {
            Self::Floor | Self::FloorResized | Self::PassOther4 | Self::Ipip4ReplyNone => PASS,
            Self::Deny4 | Self::GenerateDrop => DROP,
            _ => TX,
        }
    }

    /// Which way its packets travel through the balancer; none if it does not forward them.
    pub const fn direction(self) -> Option<Direction> {
        match self {
            Self::Floor
            | Self::FloorResized
            | Self::Calibration
            | Self::PassOther4
            | Self::Deny4
            | Self::SynCookie4
            | Self::GenerateDrop
            | Self::GenerateSend
            | Self::Ipip4ReplyNone => None,
            Self::Nat4TcpReply => Some(Direction::Reply),
            _ => Some(Direction::Forward),
        }
    }

    /// Whether each packet opens a flow, which is forgotten after the batch.
    pub const fn opens(self) -> bool {
        matches!(self, Self::Nat4TcpNew)
    }

    /// Packets of a batch when `wanted` are wanted: of flows opened at once, few, because
    /// in operation they do not stay half open for long.
    pub fn packets(self, wanted: u32) -> u32 {
        if self.opens() { wanted.min(OPENED) } else { wanted }
    }

    /// The packet of flow 0.
    pub fn packet(self) -> Packet {
        let packet = match self {
            Self::Floor
            | Self::FloorResized
            | Self::Calibration
            | Self::GenerateDrop
            | Self::GenerateSend
            | Self::Nat4TcpHit
            | Self::Nat4TcpHitFull
            | Self::Dsr4Hit
            | Self::Ipip4Hit
            | Self::Gue4Hit => Packet::tcp(client(false, 0), vip(false)),
            Self::Ipip4ReplyNone => Packet::tcp(vip(false), client(false, 0)),
            Self::PassOther4 => {
                let elsewhere = SocketAddr::new(address(false, ELSEWHERE), VIP_PORT);
                Packet::tcp(client(false, 0), elsewhere)
            }
            Self::Nat4TcpReply => {
                Packet::tcp(server(false, 0), SocketAddr::new(snat(false), FIRST_PORT))
            }
            Self::Nat6TcpHit => Packet::tcp(client(true, 0), vip(true)),
            Self::Nat4UdpHit => Packet::udp(client(false, 0), vip(false)).payload(&[0; 18]),
            Self::Nat4TcpNew | Self::SynCookie4 | Self::SynFlood4 => {
                let floods = self == Self::SynFlood4;
                let clients = if floods { FLOOD_CLIENTS } else { NEW_CLIENTS };
                let from = SocketAddr::new(address(false, clients), FIRST_NEW_PORT);
                Packet::tcp(from, vip(false)).flags(flag::SYN)
            }
            Self::Deny4 => {
                let from = SocketAddr::new(address(false, DENIED_CLIENTS), FIRST_PORT);
                Packet::tcp(from, vip(false)).flags(flag::SYN)
            }
        };
        packet.link(NEIGHBOUR, OWN).padded_to(FRAME_BYTES)
    }

    /// What the BPF program is to do for a batch: `packets` packets, spread over `flows`
    /// flows, going on where batch `batch - 1` stopped.
    pub fn order(self, flows: u32, batch: u32, packets: u32) -> Order {
        let packet = self.packet();
        let mut frame = [0; FRAME_BYTES / 8];
        let bytes = packet.bytes();
        for (word, bytes) in frame.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        // New flows are as many as known ones, so that caches are as hot or cold for both.
        let flows = if self.opens() { flows.max(OPENED) } else { flows };
        let stride = stride(flows);
        let done = u64::from(batch) * u64::from(packets) * u64::from(stride);
        let first = u32::try_from(done % u64::from(flows)).unwrap_or(0);
        let source = packet.source();
        let (ip, transport) = (packet.network_offset(), packet.transport_offset());
        let (address, address_offset) = match source.ip() {
            IpAddr::V4(address) => (u32::from(address), ip + 12),
            IpAddr::V6(address) => ((u128::from(address) & 0xffff_ffff) as u32, ip + 8 + 12),
        };
        let (first_port, port_offset) = match self.direction() {
            Some(Direction::Reply) => (packet.destination().port(), transport + 2),
            _ => (source.port(), transport),
        };
        Order {
            frame,
            iterations: packets,
            flows,
            first,
            stride,
            address,
            port_bits: PORT_BITS,
            address_offset: u32::try_from(address_offset).unwrap_or(u32::MAX),
            port_offset: u32::try_from(port_offset).unwrap_or(u32::MAX),
            first_port,
            padding: [0; 6],
        }
    }
}

/// Near the golden section of `flows` and coprime to it, so that all flows take turns and
/// neighbours in the table do not follow each other.
fn stride(flows: u32) -> u32 {
    let golden = flows / 1000 * 618 + flows % 1000 * 618 / 1000;
    (golden..flows).find(|candidate| greatest_common_divisor(*candidate, flows) == 1).unwrap_or(0)
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_of_one_batch_are_opened_once() {
        for flows in [1, 300, 100_000] {
            let order = Scenario::Nat4TcpNew.order(flows, 7, Scenario::Nat4TcpNew.packets(5000));
            assert!(order.iterations <= order.flows, "{order:?}");
        }
    }

    #[test]
    fn strides_visit_every_flow() {
        assert_eq!(stride(1), 0);
        for flows in [2, 3, 10, 1000, 1 << 14] {
            let step = stride(flows);
            let mut seen = vec![false; flows as usize];
            let mut number = 0;
            for _ in 0..flows {
                seen[number as usize] = true;
                number = (number + step) % flows;
            }
            assert!(seen.iter().all(|seen| *seen), "{flows} flows, stride {step}");
        }
    }

    #[test]
    fn orders_vary_what_the_packet_has_there() {
        for scenario in TURNS.iter().flat_map(|turn| turn.scenarios) {
            let order = scenario.order(1000, 3, 100);
            let frame: Vec<u8> = order.bytes().collect();
            let at = order.address_offset as usize;
            assert_eq!(frame[at..at + 4], order.address.to_be_bytes(), "{scenario:?}");
            let at = order.port_offset as usize;
            assert_eq!(frame[at..at + 2], order.first_port.to_be_bytes(), "{scenario:?}");
            assert!(order.first < order.flows && order.stride < order.flows, "{scenario:?}");
        }
    }
}
