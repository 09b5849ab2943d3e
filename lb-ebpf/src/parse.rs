//! From bytes to a [`Segment`]: Ethernet, up to two VLAN tags, IPv4 with options or IPv6
//! with extension headers, TCP or UDP.
//!
//! Nothing is dropped for being strange unless it is addressed to one of our VIPs: what
//! is not ours is the kernel's.

use core::mem;

use lb_common::{
    address::{Address, Address4, Address6, Be32},
    drop_reason::DropReason,
    flow::{FlowKey, FlowKey4, FlowKey6},
    hash, icmp,
    settings::flag,
    tcp_state::TcpFlags,
    vip::{VipKey, address_flag},
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
    vlan::VlanHdr,
};

use crate::{
    family::{Family, V4, V6},
    maps::{ADDRESS_FILTER, SETTINGS, VIPS},
    packet::Packet,
    verdict::Verdict,
    verifier,
};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// Ethertype of IPv4, network byte order.
pub const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
/// Ethertype of IPv6, network byte order.
pub const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_VLAN: u16 = 0x8100_u16.to_be();
const ETHERTYPE_QINQ: u16 = 0x88a8_u16.to_be();

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = 16;
/// Most VLAN tags that are looked through.
const MAX_VLAN_TAGS: usize = 2;
/// Most IPv6 extension headers that are looked through.
const MAX_EXTENSION_HEADERS: usize = 6;
/// Most bytes that they may take; a mask of the multiples of 8 up to it, for [`bounded`].
const MAX_EXTENSION_BYTES: usize = 0xff8;

/// A TCP segment or UDP datagram that may be ours, every header within the packet.
pub struct Segment<F: Family> {
    /// The Ethernet header.
    pub ethernet: *mut EthHdr,
    /// The IP header.
    pub ip: *mut F::Header,
    /// Offset of the IP header.
    pub ip_offset: usize,
    /// Source and destination port in the packet.
    pub ports: *mut [[u8; 2]; 2],
    /// The TCP or UDP checksum in the packet. A pointer of its own, because the verifier
    /// does not connect the protocol with the length that was checked for it.
    pub checksum: *mut [u8; 2],
    /// The tuple.
    pub key: FlowKey<F::Address>,
    /// TCP flags; none for UDP.
    pub flags: TcpFlags,
    /// Bytes of TCP payload; 0 for UDP.
    pub payload: u32,
    /// TCP sequence number; 0 for UDP.
    pub sequence: Be32,
    /// TCP acknowledgement number; 0 for UDP.
    pub acknowledgement: Be32,
    /// Length of the frame in bytes.
    pub bytes: u64,
}

impl<F: Family> Segment<F> {
    /// Length of the IP packet, as its header says.
    #[inline(always)]
    #[must_use]
    pub fn ip_bytes(&self) -> u32 {
        // SAFETY: the parser checked the bounds.
        F::bytes(unsafe { &*self.ip })
    }
}

/// What the link layer says of a packet.
pub struct Link {
    /// The Ethernet header.
    pub ethernet: *mut EthHdr,
    /// Offset of the network header, behind any VLAN tags.
    pub offset: usize,
    /// Ethertype of the network header, network byte order.
    pub ether_type: u16,
}

/// What is no segment that belongs to a flow.
#[derive(Clone, Copy)]
pub enum Other {
    /// The packet is settled.
    Settled(Verdict),
    /// An ICMP or ICMPv6 message that may be ours.
    Icmp,
    /// A fragment of a TCP or UDP packet that may be ours.
    Fragment,
}

/// The transport part of a segment, before the tuple is put together.
struct Transport {
    ports: *mut [[u8; 2]; 2],
    checksum: *mut [u8; 2],
    flags: TcpFlags,
    payload: u32,
    sequence: Be32,
    acknowledgement: Be32,
}

/// The tuple of an IPv4 packet, put together in two words: what the lookup reads in words
/// must not be written in parts, or it waits for them.
///
/// # Safety
/// `header` and `ports` point to a whole IPv4 header and to both ports.
#[inline(always)]
pub unsafe fn key4(header: *const Ipv4Hdr, ports: *const [[u8; 2]; 2], protocol: u8) -> FlowKey4 {
    // SAFETY: source and destination stand next to each other in the header as in the key,
    // and the key is 16 bytes of plain integers.
    unsafe {
        let addresses = (&raw const (*header).src_addr).cast::<u64>().read_unaligned();
        mem::transmute::<[u64; 2], FlowKey4>([addresses, key_tail(ports, protocol)])
    }
}

/// The tuple of an IPv6 packet; see [`key4`].
///
/// # Safety
/// `header` and `ports` point to a whole IPv6 header and to both ports.
#[inline(always)]
pub unsafe fn key6(header: *const Ipv6Hdr, ports: *const [[u8; 2]; 2], protocol: u8) -> FlowKey6 {
    // SAFETY: as in `key4`; the key is 40 bytes.
    unsafe {
        let [a, b, c, d] = (&raw const (*header).src_addr).cast::<[u64; 4]>().read_unaligned();
        mem::transmute::<[u64; 5], FlowKey6>([a, b, c, d, key_tail(ports, protocol)])
    }
}

/// The last word of a key: both ports, the protocol, zeros.
///
/// # Safety
/// `ports` points to both ports.
#[inline(always)]
unsafe fn key_tail(ports: *const [[u8; 2]; 2], protocol: u8) -> u64 {
    const { assert!(cfg!(target_endian = "little"), "the protocol is the fifth byte") };
    // SAFETY: the caller's.
    let ports = unsafe { ports.cast::<u32>().read_unaligned() };
    u64::from(ports) | u64::from(protocol) << 32
}

/// Reads the Ethernet header and the VLAN tags; none if the packet ends within them.
#[inline(always)]
#[must_use]
pub fn link(packet: &Packet) -> Option<Link> {
    let ethernet = packet.at::<EthHdr>(0)?;
    // SAFETY: `at` checked the bounds.
    let mut ether_type = unsafe { (*ethernet).ether_type };
    let mut offset = EthHdr::LEN;
    for _ in 0..MAX_VLAN_TAGS {
        if ether_type != ETHERTYPE_VLAN && ether_type != ETHERTYPE_QINQ {
            break;
        }
        let tag = packet.at::<VlanHdr>(offset)?;
        // SAFETY: `at` checked the bounds.
        ether_type = unsafe { (*tag).ether_type };
        offset += VlanHdr::LEN;
    }
    if offset != EthHdr::LEN {
        // One walk for one tag and for two.
        offset = (verifier::forget(offset as u32) & 0x1e) as usize;
    }
    Some(Link { ethernet, offset, ether_type })
}

/// Reads an IPv4 packet up to its ports. `noted` says that first fragments are segments like
/// others, because they have left their ports for those that follow (`fragment`).
///
/// # Errors
/// What becomes of a packet that is not ours, or not one that can be balanced.
#[inline(always)]
pub fn parse_v4(packet: &Packet, link: &Link, noted: bool) -> Result<Segment<V4>, Other> {
    let Link { ethernet, offset, .. } = *link;
    let header = packet.at::<Ipv4Hdr>(offset).ok_or(Other::PASS)?;
    // SAFETY: `at` checked the bounds; nothing else refers to these bytes.
    let ip = unsafe { &*header };
    let destination = Address4::new(ip.dst_addr);
    if !may_be_ours(destination) && !may_return(Address4::new(ip.src_addr), ip.proto) {
        return Err(Other::PASS);
    }
    let header_bytes = usize::from(ip.vihl & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes(ip.tot_len));
    if ip.vihl >> 4 != 4 || header_bytes < Ipv4Hdr::LEN || total < header_bytes {
        return Err(refuse(destination, ip.proto, DropReason::Malformed));
    }
    if ip.proto != TCP && ip.proto != UDP {
        return Err(if ip.proto == icmp::ICMP { Other::Icmp } else { Other::PASS });
    }
    // More-fragments flag or an offset: ports are missing here or in later fragments.
    let fragment = u16::from_be_bytes(ip.frags);
    if fragment & 0x3fff != 0 && (!noted || fragment & 0x1fff != 0) {
        return Err(Other::Fragment);
    }
    if total > packet.remaining(offset) {
        return Err(refuse(destination, ip.proto, DropReason::Malformed));
    }
    let transport_offset = offset + header_bytes;
    let Some(transport) =
        parse_transport(packet, transport_offset, ip.proto, total - header_bytes, noted)
    else {
        return Err(refuse(destination, ip.proto, DropReason::Malformed));
    };
    Ok(Segment {
        ethernet,
        ip: header,
        ip_offset: offset,
        ports: transport.ports,
        checksum: transport.checksum,
        // SAFETY: `at` and `parse_transport` checked the bounds.
        key: unsafe { key4(header, transport.ports, ip.proto) },
        flags: transport.flags,
        payload: transport.payload,
        sequence: transport.sequence,
        acknowledgement: transport.acknowledgement,
        bytes: packet.len() as u64,
    })
}

/// Reads an IPv6 packet up to its ports; `noted` as in [`parse_v4`].
///
/// # Errors
/// What becomes of a packet that is not ours, or not one that can be balanced.
#[inline(always)]
pub fn parse_v6(packet: &Packet, link: &Link, noted: bool) -> Result<Segment<V6>, Other> {
    let Link { ethernet, offset, .. } = *link;
    let header = packet.at::<Ipv6Hdr>(offset).ok_or(Other::PASS)?;
    // SAFETY: `at` checked the bounds; nothing else refers to these bytes.
    let ip = unsafe { &*header };
    let destination = Address6::new(ip.dst_addr);
    if !may_be_ours(destination) && !may_return(Address6::new(ip.src_addr), ip.next_hdr) {
        return Err(Other::PASS);
    }
    let payload_bytes = usize::from(u16::from_be_bytes(ip.payload_len));
    if ip.vcf[0] >> 4 != 6 || payload_bytes > packet.remaining(offset + Ipv6Hdr::LEN) {
        return Err(refuse(destination, TCP, DropReason::Malformed));
    }
    let (protocol, extension_bytes) = if ip.next_hdr == TCP || ip.next_hdr == UDP {
        (ip.next_hdr, 0)
    } else {
        let start = offset + Ipv6Hdr::LEN;
        let (protocol, bytes) = match skip_extensions(packet, start, ip.next_hdr, noted) {
            Ok((protocol @ (TCP | UDP), bytes)) => (protocol, bytes),
            Ok((icmp::ICMPV6, _)) => return Err(Other::Icmp),
            Err(Stop::Truncated) => return Err(refuse(destination, TCP, DropReason::Malformed)),
            Err(Stop::Fragment { .. }) => return Err(Other::Fragment),
            Ok(_) | Err(Stop::SourceRoute) => return Err(Other::PASS),
        };
        // One walk of the rest for any number of extension headers.
        (verifier::forget(u32::from(protocol)) as u8, bounded(bytes))
    };
    if extension_bytes > payload_bytes {
        return Err(refuse(destination, protocol, DropReason::Malformed));
    }
    let transport_offset = offset + Ipv6Hdr::LEN + extension_bytes;
    let Some(transport) =
        parse_transport(packet, transport_offset, protocol, payload_bytes - extension_bytes, noted)
    else {
        return Err(refuse(destination, protocol, DropReason::Malformed));
    };
    Ok(Segment {
        ethernet,
        ip: header,
        ip_offset: offset,
        ports: transport.ports,
        checksum: transport.checksum,
        // SAFETY: `at` and `parse_transport` checked the bounds.
        key: unsafe { key6(header, transport.ports, protocol) },
        flags: transport.flags,
        payload: transport.payload,
        sequence: transport.sequence,
        acknowledgement: transport.acknowledgement,
        bytes: packet.len() as u64,
    })
}

/// Where a walk over extension headers ends early.
pub enum Stop {
    /// The packet ends within a header, or behind more of them than are looked through.
    Truncated,
    /// At a fragment header.
    Fragment {
        /// The protocol that it announces.
        protocol: u8,
        /// Bytes in front of it.
        walked: u32,
    },
    /// At a routing header that is not at its last hop.
    SourceRoute,
}

/// Walks the extension headers (RFC 8200 section 4); gives what follows them and the bytes
/// walked over, [`MAX_EXTENSION_BYTES`] at the most. With `first` it goes on behind the header
/// of a first fragment.
///
/// # Errors
/// Where the walk ends early.
#[inline(always)]
pub fn skip_extensions(
    packet: &Packet,
    start: usize,
    next: u8,
    first: bool,
) -> Result<(u8, u32), Stop> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;

    let mut next = next;
    let mut walked = 0;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if walked > MAX_EXTENSION_BYTES {
            break;
        }
        match next {
            FRAGMENT => {
                let header = packet.at::<[u8; 8]>(start + walked).ok_or(Stop::Truncated)?;
                // SAFETY: `at` checked the bounds.
                let [protocol, _, offset_high, offset_low, ..] = unsafe { *header };
                // An atomic fragment (RFC 6946) has neither offset nor followers.
                let later = offset_high != 0 || offset_low & 0xf8 != 0;
                if later || (offset_low & 1 != 0 && !first) {
                    return Err(Stop::Fragment { protocol, walked: walked as u32 });
                }
                next = protocol;
                walked += 8;
            }
            // Hop-by-hop options anywhere but first are an error that the kernel answers.
            HOP_BY_HOP | ROUTING | DESTINATION if next != HOP_BY_HOP || walked == 0 => {
                let header = packet.at::<[u8; 8]>(start + walked).ok_or(Stop::Truncated)?;
                // SAFETY: `at` checked the bounds.
                let [following, length, _, segments_left, ..] = unsafe { *header };
                if next == ROUTING && segments_left != 0 {
                    return Err(Stop::SourceRoute);
                }
                next = following;
                walked += (usize::from(length) + 1) * 8;
            }
            _ => break,
        }
    }
    if walked > MAX_EXTENSION_BYTES {
        return Err(Stop::Truncated);
    }
    Ok((next, walked as u32))
}

/// Bytes that [`skip_extensions`] walked over, as an offset whose bounds the verifier knows
/// and of which it knows nothing else.
#[inline(always)]
#[must_use]
pub fn bounded(walked: u32) -> usize {
    verifier::forget(walked) as usize & MAX_EXTENSION_BYTES
}

/// Reads the ports and flags; none if the header contradicts the length of the datagram.
/// `length` is what the IP header leaves for header and payload.
#[inline(always)]
fn parse_transport(
    packet: &Packet,
    offset: usize,
    protocol: u8,
    length: usize,
    noted: bool,
) -> Option<Transport> {
    if protocol == TCP {
        let header = packet.at::<[u8; TcpHdr::LEN]>(offset)?;
        // SAFETY: `at` checked the bounds.
        let tcp = unsafe { &*header };
        let header_bytes = usize::from(tcp[12] >> 4) * 4;
        if header_bytes < TcpHdr::LEN || header_bytes > length {
            return None;
        }
        Some(Transport {
            ports: header.cast(),
            // SAFETY: within the header.
            checksum: unsafe { header.cast::<u8>().add(TCP_CHECKSUM).cast() },
            flags: TcpFlags(tcp[13]),
            payload: (length - header_bytes) as u32,
            sequence: Be32::from_octets([tcp[4], tcp[5], tcp[6], tcp[7]]),
            acknowledgement: Be32::from_octets([tcp[8], tcp[9], tcp[10], tcp[11]]),
        })
    } else {
        let header = packet.at::<UdpHdr>(offset)?;
        // SAFETY: `at` checked the bounds.
        let udp = unsafe { &*header };
        let udp_length = usize::from(u16::from_be_bytes(udp.len));
        // The length is the whole datagram's, not that of its first fragment.
        if udp_length < UdpHdr::LEN || (udp_length > length && !noted) {
            return None;
        }
        Some(Transport {
            ports: header.cast(),
            // SAFETY: within the header.
            checksum: unsafe { (&raw mut (*header).check).cast() },
            flags: TcpFlags(0),
            payload: 0,
            sequence: Be32::default(),
            acknowledgement: Be32::default(),
        })
    }
}

impl Other {
    /// The kernel's.
    pub const PASS: Self = Self::Settled(Verdict::Pass);
}

/// Whether the filter knows the address. It may err, but never for an address of ours.
#[inline(always)]
fn may_be_ours<A: Address>(address: A) -> bool {
    let bit = hash::filter_bit(address);
    ADDRESS_FILTER.get(bit / 64).is_some_and(|word| word.bits >> (bit % 64) & 1 != 0)
}

/// Whether a packet to somebody else may come from a server that sees its clients' addresses,
/// or be an error about one to such a server, which any router may send.
#[inline(always)]
fn may_return<A: Address>(source: A, protocol: u8) -> bool {
    if SETTINGS.get(0).is_none_or(|settings| settings.flags & flag::RETURN_PATHS == 0) {
        return false;
    }
    may_be_ours(source) || protocol == icmp::ICMP || protocol == icmp::ICMPV6
}

/// Drops a packet for a reason if its address has a VIP of its protocol, else leaves it
/// to the kernel.
#[inline(always)]
pub fn refuse<A: Address>(destination: A, protocol: u8, reason: DropReason) -> Other {
    let record = VipKey::address_record(destination.to_common());
    let wanted = match protocol {
        TCP => address_flag::TCP,
        UDP => address_flag::UDP,
        _ => return Other::PASS,
    };
    // SAFETY: the reference is not kept.
    match unsafe { VIPS.get(&record) } {
        Some(entry) if entry.flags & wanted != 0 => Other::Settled(Verdict::Drop(reason)),
        _ => Other::PASS,
    }
}
