//! Fragments to our addresses. The first of a packet leaves its ports and goes on as a segment
//! like others; those that follow find the flow by them and have their addresses translated.
//!
//! `lb_common::fragment` has the rules. The transport checksum is over the whole packet and
//! stands in the first fragment, where translation repairs it by the difference.

use aya_ebpf::btf_maps::LruHashMap;
use lb_common::{
    abi,
    address::{Address, Address4, Address6},
    checksum,
    drop_reason::DropReason,
    flow::{Direction, FlowEntry, FlowKey},
    fragment::{FragmentEntry, FragmentKey, Part},
    hash,
    tcp_state::Progress,
    vip::VipKey,
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    access, atomic, clock,
    context::Context,
    counters,
    family::{Family, V4, V6},
    maps::{FRAGMENT_NUMBER, FRAGMENTS4, FRAGMENTS6, SETTINGS, VIPS},
    one_way::{self, Way},
    packet::Packet,
    parse::{self, Link, Other, Stop, TCP},
    related, transmit,
    verdict::{Step, Verdict},
    verifier,
};

const BPF_ANY: u64 = 0;

/// What first fragments leave, of a family.
pub type Table<A> = LruHashMap<FragmentKey<A>, FragmentEntry, { abi::FRAGMENT_ENTRIES as usize }>;

/// A fragment as it stands in the packet.
pub struct Piece<F: Family> {
    ip: *mut F::Header,
    /// Offset of what it carries.
    body: usize,
    part: Part,
    /// Protocol of what the packet carries; for IPv6 of what follows the fragment header.
    protocol: u8,
    key: FragmentKey<F::Address>,
    /// IPv6's fragment header; unused for IPv4.
    header: *mut [u8; 8],
}

/// What differs between fragments of IPv4 and of IPv6.
pub trait Fragmented: Family {
    /// What first fragments leave.
    fn table() -> &'static Table<Self::Address>;
    /// The fragment of a packet.
    ///
    /// # Errors
    /// What becomes of a packet that is none, or not a whole one.
    fn piece(packet: &Packet, link: &Link) -> Result<Piece<Self>, Other>;
    /// Protocol and offset of the transport header of a first fragment.
    fn transport(packet: &Packet, piece: &Piece<Self>) -> Option<(u8, usize)>;
    /// The tuple.
    ///
    /// # Safety
    /// `header` and `ports` point to a whole header and to both ports.
    unsafe fn tuple(
        header: *const Self::Header,
        ports: *const [[u8; 2]; 2],
        protocol: u8,
    ) -> FlowKey<Self::Address>;
    /// Writes another identification and repairs the header checksum.
    fn identify(piece: &Piece<Self>, identification: u32);
}

/// Handles a fragment; none if it is a first one, which goes on as a segment.
#[inline(always)]
pub fn handle<F: Fragmented>(ctx: Context) -> Option<Step> {
    let packet = Packet::new(ctx);
    let Some(link) = parse::link(&packet) else { return Some(Step::Settled(Verdict::Pass)) };
    let piece = match F::piece(&packet, &link) {
        Ok(piece) => piece,
        Err(other) => return Some(Step::Settled(settled(other))),
    };
    if !piece.part.is_sound() {
        return Some(Step::Settled(refuse(&piece, DropReason::Malformed)));
    }
    if piece.part.is_first() {
        first(&packet, &piece).map(Step::Settled)
    } else {
        Some(later(ctx, &packet, &link, &piece).unwrap_or_else(Step::Settled))
    }
}

/// Leaves the ports for those that follow, if the packet is for a VIP or of a flow.
#[inline(always)]
fn first<F: Fragmented>(packet: &Packet, piece: &Piece<F>) -> Option<Verdict> {
    let Some((protocol, transport)) = F::transport(packet, piece) else {
        return Some(refuse(piece, DropReason::FragmentShort));
    };
    let Some(ports) = transport_header(packet, piece, protocol, transport) else {
        return Some(refuse(piece, DropReason::FragmentShort));
    };
    // SAFETY: `piece` and `transport_header` checked the bounds.
    let tuple = unsafe { F::tuple(piece.ip, ports, protocol) };
    if related::find::<F>(&tuple).is_none() && !is_vip(&tuple) {
        return Some(Verdict::Pass);
    }
    let now_ns = clock::now_ns();
    // A repeated fragment must not part the packet in two.
    let known = find::<F>(&piece.key, now_ns)
        .filter(|known| {
            known.source_port == tuple.source_port
                && known.destination_port == tuple.destination_port
        })
        .map(|known| known.identification);
    let identification = match known {
        Some(identification) => identification,
        None => next_number(),
    };
    let entry = FragmentEntry {
        seen_ns: now_ns,
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        identification,
        first_bytes: piece.part.bytes as u16,
        protocol,
        padding0: 0,
        padding1: 0,
    };
    if F::table().insert(&piece.key, &entry, BPF_ANY).is_ok() {
        F::identify(piece, identification);
    }
    None
}

/// Sends a fragment after the first.
#[inline(always)]
fn later<F: Fragmented>(
    ctx: Context,
    packet: &Packet,
    link: &Link,
    piece: &Piece<F>,
) -> Result<Step, Verdict> {
    let now_ns = clock::now_ns();
    let Some(first) = find::<F>(&piece.key, now_ns) else {
        return Err(refuse(piece, DropReason::Fragment));
    };
    if first.is_overlapped_by(&piece.part) {
        return Err(Verdict::Drop(DropReason::FragmentOverlap));
    }
    let key = FlowKey {
        source: piece.key.source,
        destination: piece.key.destination,
        source_port: first.source_port,
        destination_port: first.destination_port,
        protocol: first.protocol,
        padding: [0; 3],
    };
    let identification = first.identification;
    let Some(entry) = related::find::<F>(&key) else {
        return Err(Verdict::Drop(DropReason::Fragment));
    };
    if entry.direction() == Direction::Forward {
        // The first left its ports whether or not its source was let through afterwards, and a
        // flow that was heard of is not judged again.
        let settings = SETTINGS.get(0).ok_or(Verdict::Drop(DropReason::Internal))?;
        let refused = access::screen_source::<F>(&key.source, entry.vip, false, settings);
        if let Some(reason) = refused {
            return Err(Verdict::Drop(reason));
        }
    }
    // SAFETY: `piece` checked the bounds.
    if F::ttl(unsafe { &*piece.ip }) <= 1 {
        return Err(Verdict::Drop(DropReason::TtlExpired));
    }
    let bytes = packet.len() as u64;
    let forward = Progress(entry.progress).forward();
    if forward.is_one_way() {
        let (server, flow) = (related::server(entry.server)?, entry.server);
        // SAFETY: as above.
        let whole = F::bytes(unsafe { &*piece.ip });
        one_way::check(whole, server, forward).map_err(|step| match step {
            Step::Settled(verdict) => verdict,
            // Its sender was told of the first.
            _ => Verdict::Drop(DropReason::TooBig),
        })?;
        F::identify(piece, identification);
        counters::count_packet(entry.vip, flow, Direction::Forward, bytes);
        // SAFETY: `link` checked the bounds.
        let arrival = unsafe { transmit::hop_of(ctx, link.ethernet) };
        related::count::<F>(&key, bytes, arrival);
        return Ok(Step::OneWay(Way::new(flow, forward, hash::tuple_hash(&key))));
    }
    let hop = related::hop::<F>(ctx, entry)?;
    F::identify(piece, identification);
    translate(piece, entry);
    counters::count_packet(entry.vip, entry.server, entry.direction(), bytes);
    // SAFETY: `link` checked the bounds.
    unsafe {
        related::count::<F>(&key, bytes, transmit::hop_of(ctx, link.ethernet));
        Ok(Step::Settled(transmit::send(ctx, link.ethernet, &hop)))
    }
}

#[inline(always)]
fn translate<F: Fragmented>(piece: &Piece<F>, entry: &FlowEntry<F::Address>) {
    let to = entry.translation();
    // SAFETY: `piece` checked the bounds; nothing else refers to these bytes.
    unsafe { F::translate(&mut *piece.ip, *to.source, *to.destination, to.deltas.header) };
}

/// What the first fragment has left, if it is not too old.
#[inline(always)]
fn find<F: Fragmented>(
    key: &FragmentKey<F::Address>,
    now_ns: u64,
) -> Option<&'static FragmentEntry> {
    // SAFETY: entries stay mapped for the run of the program, and any bits are valid while
    // others write.
    F::table().get_ptr(key).map(|entry| unsafe { &*entry }).filter(|entry| entry.is_live(now_ns))
}

/// The ports, if the whole transport header is in the fragment (RFC 1858).
#[inline(always)]
fn transport_header<F: Family>(
    packet: &Packet,
    piece: &Piece<F>,
    protocol: u8,
    transport: usize,
) -> Option<*const [[u8; 2]; 2]> {
    let within = (piece.body + piece.part.bytes as usize).checked_sub(transport)?;
    if protocol != TCP {
        let header = packet.at::<[u8; 8]>(transport)?;
        // SAFETY: `at` checked the bounds.
        let [.., high, low, _, _] = unsafe { *header };
        // What the next stage would refuse is not noted.
        if within < 8 || u16::from_be_bytes([high, low]) < 8 {
            return None;
        }
        return Some(header.cast_const().cast());
    }
    let header = packet.at::<[u8; 20]>(transport)?;
    // SAFETY: `at` checked the bounds.
    let header_bytes = usize::from(unsafe { (*header)[12] } >> 4) * 4;
    if header_bytes < 20 || within < header_bytes {
        return None;
    }
    Some(header.cast_const().cast())
}

#[inline(always)]
fn is_vip<A: Address>(tuple: &FlowKey<A>) -> bool {
    let key = VipKey::new(tuple.destination.to_common(), tuple.destination_port, tuple.protocol);
    // SAFETY: the reference is not kept.
    unsafe { VIPS.get(&key) }.is_some()
}

/// The next identification.
#[inline(always)]
fn next_number() -> u32 {
    match FRAGMENT_NUMBER.get_ptr_mut(0) {
        // SAFETY: an element of an array map.
        Some(number) => unsafe { atomic::add32(number, 1) },
        None => 0,
    }
}

#[inline(always)]
fn refuse<F: Family>(piece: &Piece<F>, reason: DropReason) -> Verdict {
    settled(parse::refuse(piece.key.destination, piece.protocol, reason))
}

#[inline(always)]
fn settled(other: Other) -> Verdict {
    match other {
        Other::Settled(verdict) => verdict,
        _ => Verdict::Pass,
    }
}

impl Fragmented for V4 {
    #[inline(always)]
    fn table() -> &'static Table<Address4> {
        &FRAGMENTS4
    }

    #[inline(always)]
    fn piece(packet: &Packet, link: &Link) -> Result<Piece<Self>, Other> {
        let header = packet.at::<Ipv4Hdr>(link.offset).ok_or(Other::PASS)?;
        // SAFETY: `at` checked the bounds.
        let ip = unsafe { &*header };
        let header_bytes = usize::from(ip.vihl & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes(ip.tot_len));
        let (source, destination) = (Address4::new(ip.src_addr), Address4::new(ip.dst_addr));
        if header_bytes < Ipv4Hdr::LEN
            || total < header_bytes
            || total > packet.remaining(link.offset)
        {
            return Err(parse::refuse(destination, ip.proto, DropReason::Malformed));
        }
        let bytes = (total - header_bytes) as u32;
        Ok(Piece {
            ip: header,
            body: link.offset + header_bytes,
            part: Part::of4(u16::from_be_bytes(ip.frags), bytes),
            protocol: ip.proto,
            key: FragmentKey {
                source,
                destination,
                identification: u32::from(u16::from_ne_bytes(ip.id)),
                protocol: u32::from(ip.proto),
            },
            header: header.cast(),
        })
    }

    #[inline(always)]
    fn transport(_packet: &Packet, piece: &Piece<Self>) -> Option<(u8, usize)> {
        Some((piece.protocol, piece.body))
    }

    #[inline(always)]
    unsafe fn tuple(
        header: *const Ipv4Hdr,
        ports: *const [[u8; 2]; 2],
        protocol: u8,
    ) -> FlowKey<Address4> {
        // SAFETY: the caller's promise.
        unsafe { parse::key4(header, ports, protocol) }
    }

    #[inline(always)]
    fn identify(piece: &Piece<Self>, identification: u32) {
        // SAFETY: `piece` checked the bounds; nothing else refers to these bytes.
        let ip = unsafe { &mut *piece.ip };
        let before = u16::from_ne_bytes(ip.id);
        let after = (identification as u16).to_be();
        let delta = checksum::delta(u32::from(before), u32::from(after));
        ip.id = after.to_ne_bytes();
        ip.check = checksum::apply(u16::from_ne_bytes(ip.check), delta).to_ne_bytes();
    }
}

impl Fragmented for V6 {
    #[inline(always)]
    fn table() -> &'static Table<Address6> {
        &FRAGMENTS6
    }

    #[inline(always)]
    fn piece(packet: &Packet, link: &Link) -> Result<Piece<Self>, Other> {
        let header = packet.at::<Ipv6Hdr>(link.offset).ok_or(Other::PASS)?;
        // SAFETY: `at` checked the bounds.
        let ip = unsafe { &*header };
        let (source, destination) = (Address6::new(ip.src_addr), Address6::new(ip.dst_addr));
        let start = link.offset + Ipv6Hdr::LEN;
        let payload = usize::from(u16::from_be_bytes(ip.payload_len));
        let Err(Stop::Fragment { protocol, walked }) =
            parse::skip_extensions(packet, start, ip.next_hdr, false)
        else {
            return Err(Other::PASS);
        };
        // One walk of the rest for any number of extension headers.
        let walked = parse::bounded(walked);
        let at = start + walked;
        let malformed = || parse::refuse(destination, protocol, DropReason::Malformed);
        let fragment = packet.at::<[u8; 8]>(at).ok_or_else(malformed)?;
        if payload < walked + 8 || payload > packet.remaining(start) {
            return Err(malformed());
        }
        // SAFETY: `at` checked the bounds.
        let [_, _, high, low, a, b, c, d] = unsafe { *fragment };
        let bytes = (payload - walked - 8) as u32;
        Ok(Piece {
            ip: header,
            body: at + 8,
            part: Part::of6(u16::from_be_bytes([high, low]), bytes),
            protocol,
            key: FragmentKey {
                source,
                destination,
                identification: u32::from_ne_bytes([a, b, c, d]),
                protocol: 0,
            },
            header: fragment,
        })
    }

    #[inline(always)]
    fn transport(packet: &Packet, piece: &Piece<Self>) -> Option<(u8, usize)> {
        let (protocol, bytes) =
            parse::skip_extensions(packet, piece.body, piece.protocol, false).ok()?;
        let bytes = parse::bounded(bytes);
        let protocol = verifier::forget(u32::from(protocol)) as u8;
        (protocol == TCP || protocol == parse::UDP).then_some((protocol, piece.body + bytes))
    }

    #[inline(always)]
    unsafe fn tuple(
        header: *const Ipv6Hdr,
        ports: *const [[u8; 2]; 2],
        protocol: u8,
    ) -> FlowKey<Address6> {
        // SAFETY: the caller's promise.
        unsafe { parse::key6(header, ports, protocol) }
    }

    #[inline(always)]
    fn identify(piece: &Piece<Self>, identification: u32) {
        let [a, b, c, d] = identification.to_be_bytes();
        // SAFETY: `piece` checked the bounds; nothing else refers to these bytes.
        unsafe {
            ((*piece.header)[4], (*piece.header)[5], (*piece.header)[6], (*piece.header)[7]) =
                (a, b, c, d);
        };
    }
}
