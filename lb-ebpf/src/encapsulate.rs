//! A packet inside another one, to a server that takes it out again: IPv4 or IPv6 in either,
//! with a UDP header in between for GUE.
//!
//! Outer headers, by field:
//! - **DSCP and ECN** are the inner ones (RFC 2983 uniform model; RFC 6040 normal mode).
//! - **TTL** is fixed ([`forward::OUTER_TTL`]): the path to the server is not the client's.
//! - **Identification** is 0 under *don't fragment*, which makes the packet atomic (RFC 6864).
//! - **Source** is our own address towards the server. What tells flows apart for routers and
//!   network cards on the way is the IPv6 flow label, or the UDP source port.
//! - **UDP checksum** is 0 in both families (RFC 768; RFC 6935 for tunnels over IPv6): inner
//!   packets have their own.

use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use lb_common::{
    address::{Address, Address4},
    checksum,
    drop_reason::DropReason,
    forward::{self, Forward, OUTER_TTL, PROTOCOL_IPV4, PROTOCOL_IPV6},
    server::{ServerEntry, flag},
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
    vlan::VlanHdr,
};

use crate::{
    context::Context,
    one_way::Way,
    packet::Packet,
    parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, UDP},
    transmit,
    verdict::Verdict,
    words,
};

/// What outer headers take from the packet inside.
pub struct Inner {
    /// Length of the IP packet in bytes.
    pub bytes: u32,
    /// DSCP and ECN.
    pub class: u8,
    /// IPv4, else IPv6.
    pub is_v4: bool,
}

/// Makes room, writes the outer headers into it, and sends the packet, whose IP header is at
/// `offset`. None if the packet is not what it was.
#[inline(always)]
#[must_use]
pub fn encapsulate(
    ctx: Context,
    packet: &Packet,
    offset: usize,
    inner: &Inner,
    way: Way,
    server: &ServerEntry,
) -> Option<Verdict> {
    let is_gue = matches!(way.forward(), Forward::Gue);
    let outer_is_v6 = server.flags & flag::V6 != 0;
    let tags = Tags::read(packet, offset)?;
    let ip_bytes = if outer_is_v6 { Ipv6Hdr::LEN } else { Ipv4Hdr::LEN };
    let udp_bytes = if is_gue { UdpHdr::LEN } else { 0 };
    let room = (ip_bytes + udp_bytes) as i32;
    // SAFETY: the context is valid; pointers into the packet are made anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.raw(), -room) } != 0 {
        return Some(Verdict::Drop(DropReason::Resize));
    }
    let packet = Packet::new(ctx);
    let ethernet = packet.at::<EthHdr>(0)?;
    let ether_type = if outer_is_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    tags.write(&packet, offset, ether_type)?;
    let carried = if inner.is_v4 { PROTOCOL_IPV4 } else { PROTOCOL_IPV6 };
    let protocol = if is_gue { UDP } else { carried };
    let payload = inner.bytes + udp_bytes as u32;
    // SAFETY: `at` checked the bounds; nothing else refers to these bytes.
    unsafe {
        if outer_is_v6 {
            let header = &mut *packet.at::<Ipv6Hdr>(offset)?;
            header.vcf = forward::outer_v6_start(inner.class, way.entropy()).to_be_bytes();
            header.payload_len = (payload as u16).to_be_bytes();
            header.next_hdr = protocol;
            header.hop_limit = OUTER_TTL;
            words::copy(&server.snat_address.octets, &mut header.src_addr);
            words::copy(&server.address.octets, &mut header.dst_addr);
        } else {
            let source = Address4::from_common(server.snat_address);
            let destination = Address4::from_common(server.address);
            *packet.at::<Ipv4Hdr>(offset)? =
                header4(source, destination, inner.class, payload, protocol);
        }
        if is_gue {
            *packet.at::<UdpHdr>(offset + ip_bytes)? = UdpHdr {
                src: forward::outer_port(way.entropy()).to_be_bytes(),
                dst: server.gue_port.wire().to_ne_bytes(),
                len: (payload as u16).to_be_bytes(),
                check: [0; 2],
            };
        }
        Some(transmit::send(ctx, ethernet, &transmit::hop_to(server)))
    }
}

/// An IPv4 header without options, as outer headers are, before `payload` bytes.
#[inline(always)]
#[must_use]
pub fn header4(
    source: Address4,
    destination: Address4,
    tos: u8,
    payload: u32,
    protocol: u8,
) -> Ipv4Hdr {
    const DONT_FRAGMENT: u32 = 0x4000;
    let total = payload + Ipv4Hdr::LEN as u32;
    let words = (0x4500 | u32::from(tos))
        + total
        + DONT_FRAGMENT
        + (u32::from(OUTER_TTL) << 8 | u32::from(protocol));
    let words = u64::from(checksum::fold(u64::from(words)).to_be());
    let sum = words + u64::from(source.word_sum() + destination.word_sum());
    Ipv4Hdr {
        vihl: 0x45,
        tos,
        tot_len: (total as u16).to_be_bytes(),
        id: [0; 2],
        frags: (DONT_FRAGMENT as u16).to_be_bytes(),
        ttl: OUTER_TTL,
        proto: protocol,
        check: (!checksum::fold(sum)).to_ne_bytes(),
        src_addr: source.octets,
        dst_addr: destination.octets,
    }
}

/// What stands between the MAC addresses and the last ethertype: up to two VLAN tags.
pub struct Tags {
    outer: [u8; 4],
    inner: [u8; 4],
}

const MAC_ADDRESSES: usize = 12;

impl Tags {
    /// Those of a frame whose network header is at `offset`; none if it ends within them.
    #[inline(always)]
    #[must_use]
    pub fn read(packet: &Packet, offset: usize) -> Option<Self> {
        let mut tags = Self { outer: [0; 4], inner: [0; 4] };
        // SAFETY: `at` checked the bounds.
        unsafe {
            if offset > EthHdr::LEN {
                tags.outer = *packet.at::<[u8; 4]>(MAC_ADDRESSES)?;
            }
            if offset > EthHdr::LEN + VlanHdr::LEN {
                tags.inner = *packet.at::<[u8; 4]>(MAC_ADDRESSES + VlanHdr::LEN)?;
            }
        }
        Some(tags)
    }

    /// Writes them and the ethertype, network byte order, in front of `offset`.
    #[inline(always)]
    #[must_use]
    pub fn write(&self, packet: &Packet, offset: usize, ether_type: u16) -> Option<()> {
        const OUTER: usize = MAC_ADDRESSES;
        const INNER: usize = OUTER + VlanHdr::LEN;
        // At fixed offsets: the verifier knows no lower bound of `offset`.
        // SAFETY: `at` checked the bounds; nothing else refers to these bytes.
        unsafe {
            if offset > EthHdr::LEN + VlanHdr::LEN {
                *packet.at::<[u8; 4]>(OUTER)? = self.outer;
                *packet.at::<[u8; 4]>(INNER)? = self.inner;
                *packet.at::<[u8; 2]>(INNER + VlanHdr::LEN)? = ether_type.to_ne_bytes();
            } else if offset > EthHdr::LEN {
                *packet.at::<[u8; 4]>(OUTER)? = self.outer;
                *packet.at::<[u8; 2]>(INNER)? = ether_type.to_ne_bytes();
            } else {
                *packet.at::<[u8; 2]>(OUTER)? = ether_type.to_ne_bytes();
            }
        }
        Some(())
    }
}
