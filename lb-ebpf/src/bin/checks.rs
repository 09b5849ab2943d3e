//! Sends checks the way of traffic (`check.via: vip`, `lb_common::check_path`). Two classifiers
//! (tcx) on the interfaces, attached by the agent while a backend asks for them; nothing of this
//! is pinned.
//!
//! Packets of sockets that the agent has said nothing of are left alone, which costs one
//! look-up of the socket's storage; so is what arrives and belongs to no check, which costs
//! one look-up in a hash. Offsets are those of Ethernet: VLAN tags are not in the frame here.
#![no_std]
#![no_main]
#![expect(clippy::cast_possible_truncation, reason = "lengths of packets are short")]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "keys passed by value are copied to the stack again"
)]
#![expect(clippy::needless_pass_by_value, reason = "the macro's calling convention")]

use core::ptr;

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    btf_maps::{LruHashMap, SkStorage},
    helpers::generated::{
        bpf_csum_diff, bpf_sk_fullsock, bpf_sk_release, bpf_sk_storage_get, bpf_skb_store_bytes,
        bpf_skc_lookup_tcp,
    },
    macros::{btf_map, classifier},
    programs::TcContext,
};
use lb_common::{
    address::{Address6, Be16},
    check_path::{self, CheckPath, CheckReturn},
    checksum,
    forward::{self, Forward, OUTER_TTL, PROTOCOL_IPV4, PROTOCOL_IPV6},
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

/// What the agent says of sockets.
#[btf_map]
static CHECK_PATHS: SkStorage<CheckPath> = SkStorage::new();

/// Which server answers come from.
#[btf_map]
static CHECK_RETURNS: LruHashMap<CheckReturn, Address6, { check_path::RETURNS as usize }> =
    LruHashMap::new();

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Of a TCP header.
const CHECKSUM_OFFSET: usize = 16;
/// Linux 6.16: a change of an IPv6 address that the checksum makes up for.
const BPF_F_IPV6: u64 = 0x80;

/// Packets that leave.
#[classifier]
fn check_out(ctx: TcContext) -> i32 {
    outward(&ctx).unwrap_or(TC_ACT_UNSPEC)
}

/// Packets that arrive.
#[classifier]
fn check_back(ctx: TcContext) -> i32 {
    inward(&ctx).unwrap_or(TC_ACT_UNSPEC)
}

/// None if the packet is not a check's.
#[inline(always)]
fn outward(ctx: &TcContext) -> Option<i32> {
    // SAFETY: the kernel's own argument; pointers are looked at before they are used, and the
    // value lives as long as the socket, which the packet holds.
    let path = unsafe {
        let socket = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if socket.is_null() {
            return None;
        }
        let socket = bpf_sk_fullsock(socket);
        if socket.is_null() {
            return None;
        }
        let map = (&raw const CHECK_PATHS).cast_mut().cast();
        let value = bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0);
        *value.cast::<CheckPath>().as_ref()?
    };
    let segment = Segment::read(ctx)?;
    // What another interface has sent this way already is left alone.
    if bits(segment.destination) != bits(path.server) {
        return None;
    }
    let sent = remember(&segment, &path)
        .and_then(|()| segment.translate(ctx, segment.to_destination(), path.server, path.vip))
        .and_then(|()| encapsulate(ctx, &segment, &path));
    Some(sent.map_or(TC_ACT_SHOT, |()| TC_ACT_UNSPEC))
}

/// None if the packet is not for a check.
#[inline(always)]
fn inward(ctx: &TcContext) -> Option<i32> {
    let segment = Segment::read(ctx)?;
    let key = CheckReturn {
        vip: segment.source,
        node: segment.destination,
        vip_port: segment.source_port,
        node_port: segment.destination_port,
        padding: 0,
    };
    // SAFETY: nobody writes to a value once it is there, save with the same address.
    let server = *unsafe { CHECK_RETURNS.get(&key) }?;
    // What is remembered outlives checks. The port may be that of a connection of ours to the VIP
    // itself by now, with another node in between.
    if !segment.has_socket(ctx, server) {
        return None;
    }
    let translated = segment.translate(ctx, segment.to_source(), segment.source, server);
    Some(translated.map_or(TC_ACT_SHOT, |()| TC_ACT_UNSPEC))
}

/// Words of the packet. One by one and whole: the verifier wants accesses to the stack aligned,
/// which the compiler, told that packets need not be, does not keep to if it may choose.
#[inline(always)]
fn load<const N: usize>(ctx: &TcContext, offset: usize) -> Option<[u64; N]> {
    let read: [u64; N] = ctx.load(offset).ok()?;
    let mut words = [0; N];
    for (word, read) in words.iter_mut().zip(&read) {
        // SAFETY: a reference.
        *word = unsafe { ptr::read_volatile(read) };
    }
    Some(words)
}

/// Writes the first bytes of some words to the packet; the words as [`load`] has them.
#[inline(always)]
fn store<const N: usize>(
    ctx: &TcContext,
    offset: usize,
    words: [u64; N],
    bytes: usize,
) -> Option<()> {
    let mut written = [0_u64; N];
    for (written, word) in written.iter_mut().zip(words) {
        // SAFETY: a reference.
        unsafe { ptr::write_volatile(written, word) };
    }
    let from = (&raw const written).cast();
    // SAFETY: the kernel's own argument; callers name no more bytes than there are.
    let failed =
        unsafe { bpf_skb_store_bytes(ctx.skb.skb, offset as u32, from, bytes as u32, 0) } != 0;
    (!failed).then_some(())
}

/// Four fields of two bytes, host byte order, as a word of a packet.
#[inline(always)]
const fn word(first: u16, second: u16, third: u16, fourth: u16) -> u64 {
    ((first as u64) << 48 | (second as u64) << 32 | (third as u64) << 16 | fourth as u64).to_be()
}

/// The two words of an address, as in a packet; of IPv4 the second one ends with it.
#[inline(always)]
const fn halves(address: Address6) -> [u64; 2] {
    let bits = bits(address);
    if cfg!(target_endian = "big") {
        [(bits >> 64) as u64, bits as u64]
    } else {
        [bits as u64, (bits >> 64) as u64]
    }
}

#[inline(always)]
const fn address(first: u64, second: u64) -> Address6 {
    let bits = if cfg!(target_endian = "big") {
        (first as u128) << 64 | second as u128
    } else {
        (second as u128) << 64 | first as u128
    };
    Address6::new(bits.to_ne_bytes())
}

/// The mapped form of an IPv4 address, host byte order.
#[inline(always)]
const fn mapped(address4: u32) -> Address6 {
    address(0, (0xffff_0000_0000 | address4 as u64).to_be())
}

/// What a socket is looked for by (`struct bpf_sock_tuple`), IPv4; in packets' order.
#[repr(C)]
struct Tuple4 {
    source: u32,
    destination: u32,
    source_port: Be16,
    destination_port: Be16,
}

/// The same, IPv6.
#[repr(C)]
struct Tuple6 {
    source: [u64; 2],
    destination: [u64; 2],
    source_port: Be16,
    destination_port: Be16,
}

/// What is known of a TCP packet.
struct Segment {
    is_v4: bool,
    /// IPv4 in mapped form, as the destination.
    source: Address6,
    destination: Address6,
    source_port: Be16,
    destination_port: Be16,
    /// DSCP and ECN.
    class: u8,
    /// Length of the IP packet in bytes.
    bytes: u32,
}

impl Segment {
    /// None if the packet is none, or has options, extension headers or is a fragment: those of
    /// checks have and are not.
    #[inline(always)]
    fn read(ctx: &TcContext) -> Option<Self> {
        const MORE_AND_OFFSET: u64 = 0x3fff;
        let protocol = u16::from_be(ctx.skb.protocol() as u16);
        if protocol == ETHERTYPE_IPV4 {
            let [first, second, third] = load::<3>(ctx, EthHdr::LEN)?.map(u64::from_be);
            let is_plain = first >> 56 == 0x45 && second >> 48 & 0xff == u64::from(TCP);
            if !is_plain || first & MORE_AND_OFFSET != 0 {
                return None;
            }
            Some(Self {
                is_v4: true,
                source: mapped(second as u32),
                destination: mapped((third >> 32) as u32),
                source_port: Be16::new((third >> 16) as u16),
                destination_port: Be16::new(third as u16),
                class: (first >> 48) as u8,
                bytes: (first >> 32) as u32 & 0xffff,
            })
        } else if protocol == ETHERTYPE_IPV6 {
            let [first, s0, s1, d0, d1, transport] = load::<6>(ctx, EthHdr::LEN)?;
            let (first, transport) = (u64::from_be(first), u64::from_be(transport));
            if first >> 8 & 0xff != u64::from(TCP) {
                return None;
            }
            Some(Self {
                is_v4: false,
                source: address(s0, s1),
                destination: address(d0, d1),
                source_port: Be16::new((transport >> 48) as u16),
                destination_port: Be16::new((transport >> 32) as u16),
                class: (first >> 52) as u8,
                bytes: (first >> 16) as u32 % (1 << 16) + Ipv6Hdr::LEN as u32,
            })
        } else {
            None
        }
    }

    #[inline(always)]
    const fn ip_bytes(&self) -> usize {
        if self.is_v4 { Ipv4Hdr::LEN } else { Ipv6Hdr::LEN }
    }

    /// Where the source address stands.
    #[inline(always)]
    const fn to_source(&self) -> usize {
        EthHdr::LEN + if self.is_v4 { 12 } else { 8 }
    }

    /// Where the destination address stands.
    #[inline(always)]
    const fn to_destination(&self) -> usize {
        EthHdr::LEN + if self.is_v4 { 16 } else { 24 }
    }

    /// Whether there is a socket for the packet if it comes from a server.
    #[inline(always)]
    fn has_socket(&self, ctx: &TcContext, server: Address6) -> bool {
        /// `BPF_F_CURRENT_NETNS`.
        const HERE: u64 = u64::MAX;
        let (source_port, destination_port) = (self.source_port, self.destination_port);
        let socket = if self.is_v4 {
            let [source, destination] = [server, self.destination].map(|end| last4(end).to_be());
            let mut tuple = Tuple4 { source, destination, source_port, destination_port };
            let tuple = (&raw mut tuple).cast();
            // SAFETY: the tuple has the length and the layout of the kernel's.
            unsafe { bpf_skc_lookup_tcp(ctx.skb.skb.cast(), tuple, 12, HERE, 0) }
        } else {
            let [source, destination] = [server, self.destination].map(halves);
            let mut tuple = Tuple6 { source, destination, source_port, destination_port };
            let tuple = (&raw mut tuple).cast();
            // SAFETY: as above.
            unsafe { bpf_skc_lookup_tcp(ctx.skb.skb.cast(), tuple, 36, HERE, 0) }
        };
        if socket.is_null() {
            return false;
        }
        // SAFETY: the kernel counts who holds a socket; this one is not used any more.
        let _released = unsafe { bpf_sk_release(socket.cast()) };
        true
    }

    /// Writes an address in place of another, both of the packet's family, and makes checksums
    /// right. None if it could not; the packet may be half changed.
    #[inline(always)]
    fn translate(&self, ctx: &TcContext, at: usize, old: Address6, new: Address6) -> Option<()> {
        const LENGTH: u32 = size_of::<Address6>() as u32;
        let (mut before, mut after) = (old, new);
        let (before, after) = ((&raw mut before).cast(), (&raw mut after).cast());
        // What mapped forms have in common makes no difference.
        // SAFETY: both are of this length.
        let difference = unsafe { bpf_csum_diff(before, LENGTH, after, LENGTH, 0) } as u64;
        let checksum = EthHdr::LEN + self.ip_bytes() + CHECKSUM_OFFSET;
        let flags = u64::from(BPF_F_PSEUDO_HDR);
        if self.is_v4 {
            const HEADER_CHECKSUM: usize = EthHdr::LEN + 10;
            ctx.l4_csum_replace(checksum, 0, difference, flags).ok()?;
            ctx.l3_csum_replace(HEADER_CHECKSUM, 0, difference, 0).ok()?;
            let [_, second] = halves(new);
            // The lower half of it in a packet's order.
            store(ctx, at, [(u64::from_be(second) << 32).to_be()], 4)
        } else {
            // Kernels that do not know the flag refuse it.
            if ctx.l4_csum_replace(checksum, 0, difference, flags | BPF_F_IPV6).is_err() {
                ctx.l4_csum_replace(checksum, 0, difference, flags).ok()?;
            }
            store(ctx, at, halves(new), 16)
        }
    }
}

/// Lets answers find the way back.
#[inline(always)]
fn remember(segment: &Segment, path: &CheckPath) -> Option<()> {
    let key = CheckReturn {
        vip: path.vip,
        node: segment.source,
        vip_port: segment.destination_port,
        node_port: segment.source_port,
        padding: 0,
    };
    CHECK_RETURNS.insert(&key, &path.server, 0).ok()
}

/// Puts the packet into another one to the server, if its traffic is: the outer headers are
/// those of `lb_ebpf::encapsulate`.
#[inline(always)]
fn encapsulate(ctx: &TcContext, segment: &Segment, path: &CheckPath) -> Option<()> {
    let forward = Forward::from_raw(path.forward);
    if !forward.encapsulates() {
        return Some(());
    }
    let is_gue = matches!(forward, Forward::Gue);
    let room = forward.overhead(!segment.is_v4);
    let (layer_3, carried) = if segment.is_v4 {
        (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, PROTOCOL_IPV4)
    } else {
        (BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, PROTOCOL_IPV6)
    };
    let layer_4 = if is_gue { BPF_F_ADJ_ROOM_ENCAP_L4_UDP } else { 0 };
    ctx.skb.adjust_room(room as i32, BPF_ADJ_ROOM_MAC, u64::from(layer_3 | layer_4)).ok()?;
    let protocol = if is_gue { UDP } else { carried };
    let payload = segment.bytes + if is_gue { UdpHdr::LEN as u32 } else { 0 };
    let entropy = segment.source_port.get();
    if segment.is_v4 {
        let header = header4(segment, path.server, payload, protocol);
        store(ctx, EthHdr::LEN, header, Ipv4Hdr::LEN)?;
    } else {
        let start = forward::outer_v6_start(segment.class, entropy & 0x3fff);
        let (high, low) = ((start >> 16) as u16, start as u16);
        let next = u16::from_be_bytes([protocol, OUTER_TTL]);
        let ([s0, s1], [d0, d1]) = (halves(segment.source), halves(path.server));
        let header = [word(high, low, payload as u16, next), s0, s1, d0, d1];
        store(ctx, EthHdr::LEN, header, Ipv6Hdr::LEN)?;
    }
    if is_gue {
        let port = forward::outer_port(entropy);
        let header = [word(port, path.gue_port.get(), payload as u16, 0)];
        store(ctx, EthHdr::LEN + segment.ip_bytes(), header, UdpHdr::LEN)?;
    }
    Some(())
}

/// An IPv4 header without options, and four bytes of nothing.
#[inline(always)]
fn header4(segment: &Segment, server: Address6, payload: u32, protocol: u8) -> [u64; 3] {
    const DONT_FRAGMENT: u16 = 0x4000;
    let (source, server) = (last4(segment.source), last4(server));
    let total = (payload + Ipv4Hdr::LEN as u32) as u16;
    let (start, ttl) =
        (0x4500 | u16::from(segment.class), u16::from_be_bytes([OUTER_TTL, protocol]));
    let fields = [start, total, DONT_FRAGMENT, ttl];
    let addresses = [source >> 16, source & 0xffff, server >> 16, server & 0xffff];
    let sum = fields.iter().map(|field| u64::from(*field)).sum::<u64>()
        + addresses.iter().map(|half| u64::from(*half)).sum::<u64>();
    let check = !checksum::fold(sum);
    [
        word(start, total, 0, DONT_FRAGMENT),
        word(ttl, check, (source >> 16) as u16, source as u16),
        word((server >> 16) as u16, server as u16, 0, 0),
    ]
}

/// The IPv4 address of a mapped form, host byte order.
#[inline(always)]
const fn last4(address: Address6) -> u32 {
    let [_, second] = halves(address);
    u64::from_be(second) as u32
}

/// An address as one number, which is compared word by word.
#[inline(always)]
const fn bits(address: Address6) -> u128 {
    u128::from_ne_bytes(address.octets)
}

/// GPL-compatible, like the product's object.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No code path reaches this: the verifier would refuse the program.
    loop {}
}
