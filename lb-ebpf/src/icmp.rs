//! ICMP and ICMPv6 messages to our addresses: errors about packets of flows are translated
//! and sent on, whichever side they come from, and echo requests for VIPs are answered. All
//! else is the kernel's.
//!
//! `lb_common::icmp` has the rules. Errors are told from the packets they quote, never from
//! who sent them: any router on the way may.

use lb_common::{
    address::{Address, Address4, Address6},
    checksum,
    drop_reason::DropReason,
    flow::{Direction, FlowEntry, FlowKey, Handle},
    forward::Forward,
    hash,
    icmp::{self, Kind},
    settings::flag,
    syn_cookie,
    tcp_state::Progress,
    token_bucket::{self, Rate},
    vip::VipKey,
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    clock,
    context::Context,
    counters,
    family::{Family, V4, V6},
    maps::{SCRATCH, SETTINGS, VIPS},
    one_way::{self, Way},
    packet::Packet,
    parse::{self, Link, TCP, UDP},
    related, select, transmit,
    verdict::{Step, Verdict},
    verifier,
};

/// TTL and hop limit of answers.
const ANSWER_TTL: u8 = 64;

/// A message as it stands in the packet.
pub struct Message<F: Family> {
    ip: *mut F::Header,
    /// Its header, within the packet.
    icmp: *mut [u8; icmp::HEADER_BYTES],
    /// Offset of what it quotes, if it is an error.
    body: usize,
    /// Offset behind the last byte that belongs to it.
    end: usize,
}

/// The packet that an error quotes.
pub struct Quote<F: Family> {
    ip: *mut F::Header,
    ports: *mut [[u8; 2]; 2],
    /// Offset of its transport header.
    transport: usize,
    /// Its tuple.
    key: FlowKey<F::Address>,
}

/// What differs between ICMP and ICMPv6 in packets.
pub trait Icmp: Family {
    /// What a type means.
    fn kind(message_type: u8) -> Kind;
    /// The message of a packet; none if it is not whole.
    fn message(packet: &Packet, link: &Link) -> Option<Message<Self>>;
    /// What an error quotes; none if it is no TCP or UDP packet, or not enough of it.
    fn quote(packet: &Packet, message: &Message<Self>) -> Option<Quote<Self>>;
    /// Source and destination of a header.
    fn addresses(header: &Self::Header) -> (Self::Address, Self::Address);
    /// Type of the answer to an echo request.
    const ECHO_REPLY: u8;
    /// What that adds to the checksum of the message.
    const ECHO_DELTA: u16;
    /// Makes of the header of an echo request that of its answer. False, and nothing is done, if
    /// it has options.
    fn answer(header: &mut Self::Header, source: Self::Address, destination: Self::Address)
    -> bool;
    /// Writes both addresses of a quoted header and repairs its checksum by `delta`.
    fn translate_quoted(
        header: &mut Self::Header,
        source: Self::Address,
        destination: Self::Address,
        delta: u16,
    );
}

/// Handles a packet that carries an ICMP or ICMPv6 message; none if it is an echo request, for
/// which [`echo`] is.
#[inline(always)]
pub fn handle<F: Icmp>(ctx: Context) -> Option<Step> {
    let packet = Packet::new(ctx);
    let passed = Some(Step::Settled(Verdict::Pass));
    let Some(link) = parse::link(&packet) else { return passed };
    let Some(message) = F::message(&packet, &link) else { return passed };
    // SAFETY: `message` checked the bounds.
    match F::kind(unsafe { (*message.icmp)[0] }) {
        Kind::Error => Some(error(ctx, &packet, &link, &message).unwrap_or_else(|step| step)),
        Kind::EchoRequest => None,
        Kind::Other => passed,
    }
}

/// Answers an echo request for a VIP address.
#[inline(always)]
pub fn echo<F: Icmp>(ctx: Context) -> Verdict {
    let packet = Packet::new(ctx);
    let Some(link) = parse::link(&packet) else { return Verdict::Pass };
    let Some(message) = F::message(&packet, &link) else { return Verdict::Pass };
    if SETTINGS.get(0).is_none_or(|settings| settings.flags & flag::ANSWER_ECHO == 0) {
        return Verdict::Pass;
    }
    // SAFETY: `message` checked the bounds.
    let (source, destination) = F::addresses(unsafe { &*message.ip });
    let record = VipKey::address_record(destination.to_common());
    // SAFETY: the reference is not kept.
    if unsafe { VIPS.get(&record) }.is_none() {
        return Verdict::Pass;
    }
    if !source.can_be_client() || source == destination {
        return Verdict::Drop(DropReason::BadSource);
    }
    // SAFETY: as above; nothing else refers to these bytes.
    let plain = unsafe { F::answer(&mut *message.ip, source, destination) };
    if !plain {
        return Verdict::Pass;
    }
    if !may_answer() {
        return Verdict::Drop(DropReason::EchoRate);
    }
    // SAFETY: as above.
    unsafe {
        let [.., high, low, _, _, _, _] = *message.icmp;
        let (reply, delta) = (F::ECHO_REPLY, F::ECHO_DELTA);
        let sum = checksum::apply(u16::from_ne_bytes([high, low]), delta).to_ne_bytes();
        ((*message.icmp)[0], (*message.icmp)[2], (*message.icmp)[3]) = (reply, sum[0], sum[1]);
        transmit::send(ctx, link.ethernet, &transmit::hop_of(ctx, link.ethernet))
    }
}

/// Whether this CPU may answer one more echo request.
#[inline(always)]
fn may_answer() -> bool {
    const RATE: Rate = Rate::new(icmp::ECHO_PER_SECOND, icmp::ECHO_BURST);
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return false };
    let now_ns = clock::now_ns();
    // SAFETY: the value belongs to this CPU.
    unsafe {
        let full_ns = (*scratch).echo_full_ns;
        match token_bucket::take_one(full_ns, now_ns, RATE.interval_ns, RATE.burst_ns) {
            Some(after_ns) => {
                (*scratch).echo_full_ns = after_ns;
                true
            }
            None => false,
        }
    }
}

/// Sends an error to whoever it is for.
#[inline(always)]
fn error<F: Icmp>(
    ctx: Context,
    packet: &Packet,
    link: &Link,
    message: &Message<F>,
) -> Result<Step, Step> {
    let passed = Step::Settled(Verdict::Pass);
    let quote = F::quote(packet, message).ok_or(passed)?;
    // SAFETY: `message` checked the bounds.
    let (_, destination) = F::addresses(unsafe { &*message.ip });
    let key = icmp::flow_of(&quote.key, destination).ok_or(passed)?;
    let found = related::find::<F>(&key);
    let bound = match found {
        Some(entry) => Bound {
            vip: entry.vip,
            server: entry.server,
            forward: Progress(entry.progress).forward(),
        },
        None => unknown(&quote.key, &key).map_err(Step::Settled)?,
    };
    // SAFETY: `message` checked the bounds.
    if F::ttl(unsafe { &*message.ip }) <= 1 {
        return Err(Step::Settled(Verdict::Drop(DropReason::TtlExpired)));
    }
    let bytes = packet.len() as u64;
    if bound.forward.is_one_way() {
        let server = related::server(bound.server).map_err(Step::Settled)?;
        // SAFETY: as above.
        let checked = one_way::check(F::bytes(unsafe { &*message.ip }), server, bound.forward);
        checked.map_err(|step| match step {
            // No error is ever answered by another.
            Step::TooBig(_) => Step::Settled(Verdict::Drop(DropReason::TooBig)),
            step => step,
        })?;
        counters::count_packet(bound.vip, bound.server, Direction::Forward, bytes);
        // The server knows both ends as the error has them.
        return Ok(Step::OneWay(Way::new(bound.server, bound.forward, hash::tuple_hash(&key))));
    }
    let Some(entry) = found else {
        return Err(Step::Settled(Verdict::Drop(DropReason::IcmpNoFlow)));
    };
    let hop = related::hop::<F>(ctx, entry).map_err(Step::Settled)?;
    translate(packet, message, &quote, entry);
    counters::count_packet(entry.vip, entry.server, entry.direction(), bytes);
    // SAFETY: `link` checked the bounds.
    Ok(Step::Settled(unsafe { transmit::send(ctx, link.ethernet, &hop) }))
}

/// What the packets of a flow are bound to.
struct Bound {
    vip: Handle,
    server: Handle,
    forward: Forward,
}

/// An error about a flow that is not known: the kernel's, unless a VIP sent the packet. Routers
/// in front that spread flows over several balancers may hand an error to another one than its
/// flow. Where the server has sent the packet in the VIP's name, the ring says which it was as
/// long as it has not changed since the flow was opened; a translated flow's port is known to
/// nobody else.
#[inline(always)]
fn unknown<A: Address>(quoted: &FlowKey<A>, flow: &FlowKey<A>) -> Result<Bound, Verdict> {
    let key = VipKey::new(quoted.source.to_common(), quoted.source_port, quoted.protocol);
    // SAFETY: the value is copied, the reference is not kept.
    let Some(vip) = unsafe { VIPS.get(&key) }.copied() else { return Err(Verdict::Pass) };
    let forward = Forward::from_raw(vip.forward);
    if !forward.is_one_way() {
        return Err(Verdict::Drop(DropReason::IcmpNoFlow));
    }
    let (server, _) =
        select::select_for(&vip, flow).ok_or(Verdict::Drop(DropReason::IcmpNoFlow))?;
    Ok(Bound { vip: Handle { id: vip.id, generation: vip.generation }, server, forward })
}

/// Makes of an error what its receiver can recognise: from the end that it knows, about the
/// packet that it sent.
#[inline(always)]
fn translate<F: Icmp>(
    packet: &Packet,
    message: &Message<F>,
    quote: &Quote<F>,
    entry: &FlowEntry<F::Address>,
) {
    let to = entry.translation();
    // SAFETY: `message` and `quote` checked the bounds; nothing else refers to these bytes.
    unsafe {
        let (source, destination) = F::addresses(&*message.ip);
        let outer = checksum::delta(
            source.word_sum() + destination.word_sum(),
            to.source.word_sum() + to.destination.word_sum(),
        );
        F::translate(&mut *message.ip, *to.source, *to.destination, outer);
        F::translate_quoted(&mut *quote.ip, *to.destination, *to.source, to.deltas.header);
        *quote.ports =
            [to.destination_port.wire().to_ne_bytes(), to.source_port.wire().to_ne_bytes()];
        let mut deltas = to.deltas;
        deltas.transport = checksum::add(deltas.transport, shift_quoted(quote, entry));
        let repaired = repair(packet, message, quote, deltas.transport);
        let delta = icmp::message_delta::<F::Address>(deltas, repaired);
        // Only ICMPv6 has a pseudo header.
        let delta = if F::Address::HEADER_CHECKSUM { delta } else { checksum::add(delta, outer) };
        let stored = message.icmp.cast::<u8>().add(icmp::CHECKSUM).cast::<[u8; 2]>();
        *stored = checksum::apply(u16::from_ne_bytes(*stored), delta).to_ne_bytes();
    }
}

/// Gives a server the sequence number that it sent, if a SYN cookie began the flow; what that
/// adds to checksums.
///
/// # Safety
/// The quote's ports are followed by four octets.
#[inline(always)]
unsafe fn shift_quoted<F: Icmp>(quote: &Quote<F>, entry: &FlowEntry<F::Address>) -> u16 {
    if entry.sequence_shift == 0 || entry.direction() == Direction::Reply {
        return 0;
    }
    // SAFETY: the caller's.
    unsafe {
        let place = quote.ports.cast::<u8>().add(4).cast::<[u8; 4]>();
        let before = u32::from_be_bytes(*place);
        let after = before.wrapping_sub(entry.sequence_shift);
        *place = after.to_be_bytes();
        syn_cookie::number_delta(before, after)
    }
}

/// Repairs the quoted TCP or UDP checksum if it is there; whether it is.
#[inline(always)]
fn repair<F: Icmp>(packet: &Packet, message: &Message<F>, quote: &Quote<F>, delta: u16) -> bool {
    let offset = quote.transport + icmp::quoted_checksum(quote.key.protocol);
    if offset + 2 > message.end {
        return false;
    }
    let Some(stored) = packet.at::<[u8; 2]>(offset) else { return false };
    // SAFETY: `at` checked the bounds.
    let before = u16::from_ne_bytes(unsafe { *stored });
    if quote.key.protocol == UDP && before == 0 {
        return false;
    }
    let after = if quote.key.protocol == TCP {
        checksum::apply(before, delta)
    } else {
        checksum::apply_udp4(before, delta)
    };
    // SAFETY: as above.
    unsafe { *stored = after.to_ne_bytes() };
    true
}

impl Icmp for V4 {
    const ECHO_REPLY: u8 = 0;
    const ECHO_DELTA: u16 = icmp::ECHO_DELTA4;

    #[inline(always)]
    fn answer(header: &mut Ipv4Hdr, source: Address4, destination: Address4) -> bool {
        if header.vihl != 0x45 {
            return false;
        }
        // The first octet of a word that the checksum covers; the addresses change places.
        let before = u32::from(u16::from_ne_bytes([header.ttl, 0]));
        let after = u32::from(u16::from_ne_bytes([ANSWER_TTL, 0]));
        let sum = checksum::apply(u16::from_ne_bytes(header.check), checksum::delta(before, after));
        header.check = sum.to_ne_bytes();
        header.ttl = ANSWER_TTL;
        header.src_addr = destination.octets;
        header.dst_addr = source.octets;
        true
    }

    #[inline(always)]
    fn kind(message_type: u8) -> Kind {
        icmp::kind4(message_type)
    }

    #[inline(always)]
    fn message(packet: &Packet, link: &Link) -> Option<Message<Self>> {
        let header = packet.at::<Ipv4Hdr>(link.offset)?;
        // SAFETY: `at` checked the bounds.
        let ip = unsafe { &*header };
        let header_bytes = usize::from(ip.vihl & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes(ip.tot_len));
        let fragment = u16::from_be_bytes(ip.frags) & 0x3fff != 0;
        if ip.vihl >> 4 != 4
            || header_bytes < Ipv4Hdr::LEN
            || fragment
            || total < header_bytes + icmp::HEADER_BYTES
            || total > packet.remaining(link.offset)
        {
            return None;
        }
        let at = link.offset + header_bytes;
        let icmp = packet.at(at)?;
        Some(Message { ip: header, icmp, body: at + icmp::HEADER_BYTES, end: link.offset + total })
    }

    #[inline(always)]
    fn quote(packet: &Packet, message: &Message<Self>) -> Option<Quote<Self>> {
        let header = packet.at::<Ipv4Hdr>(message.body)?;
        // SAFETY: `at` checked the bounds.
        let ip = unsafe { &*header };
        let header_bytes = usize::from(ip.vihl & 0x0f) * 4;
        // Only the first fragment has ports.
        let later = u16::from_be_bytes(ip.frags) & 0x1fff != 0;
        if ip.vihl >> 4 != 4 || header_bytes < Ipv4Hdr::LEN || later {
            return None;
        }
        if ip.proto != TCP && ip.proto != UDP {
            return None;
        }
        let transport = message.body + header_bytes;
        let ports = packet.at::<[u8; icmp::QUOTED_BYTES]>(transport)?;
        if transport + icmp::QUOTED_BYTES > message.end {
            return None;
        }
        // SAFETY: `at` checked the bounds.
        let key = unsafe { parse::key4(header, ports.cast(), ip.proto) };
        Some(Quote { ip: header, ports: ports.cast(), transport, key })
    }

    #[inline(always)]
    fn addresses(header: &Ipv4Hdr) -> (Address4, Address4) {
        (Address4::new(header.src_addr), Address4::new(header.dst_addr))
    }

    #[inline(always)]
    fn translate_quoted(header: &mut Ipv4Hdr, source: Address4, destination: Address4, delta: u16) {
        let check = u16::from_ne_bytes(header.check);
        header.check = checksum::apply(check, delta).to_ne_bytes();
        header.src_addr = source.octets;
        header.dst_addr = destination.octets;
    }
}

impl Icmp for V6 {
    const ECHO_REPLY: u8 = 129;
    const ECHO_DELTA: u16 = icmp::ECHO_DELTA6;

    #[inline(always)]
    fn answer(header: &mut Ipv6Hdr, source: Address6, destination: Address6) -> bool {
        if header.next_hdr != icmp::ICMPV6 {
            return false;
        }
        header.hop_limit = ANSWER_TTL;
        header.src_addr = destination.octets;
        header.dst_addr = source.octets;
        true
    }

    #[inline(always)]
    fn kind(message_type: u8) -> Kind {
        icmp::kind6(message_type)
    }

    #[inline(always)]
    fn message(packet: &Packet, link: &Link) -> Option<Message<Self>> {
        let header = packet.at::<Ipv6Hdr>(link.offset)?;
        // SAFETY: `at` checked the bounds.
        let ip = unsafe { &*header };
        let start = link.offset + Ipv6Hdr::LEN;
        let payload = usize::from(u16::from_be_bytes(ip.payload_len));
        if ip.vcf[0] >> 4 != 6 || payload > packet.remaining(start) {
            return None;
        }
        let (protocol, extensions) = walk(packet, start, ip.next_hdr, false)?;
        if protocol != icmp::ICMPV6 || payload < extensions + icmp::HEADER_BYTES {
            return None;
        }
        let at = start + extensions;
        let icmp = packet.at(at)?;
        Some(Message { ip: header, icmp, body: at + icmp::HEADER_BYTES, end: start + payload })
    }

    #[inline(always)]
    fn quote(packet: &Packet, message: &Message<Self>) -> Option<Quote<Self>> {
        let header = packet.at::<Ipv6Hdr>(message.body)?;
        // SAFETY: `at` checked the bounds.
        let ip = unsafe { &*header };
        if ip.vcf[0] >> 4 != 6 {
            return None;
        }
        let start = message.body + Ipv6Hdr::LEN;
        let (protocol, extensions) = walk(packet, start, ip.next_hdr, true)?;
        if protocol != TCP && protocol != UDP {
            return None;
        }
        let transport = start + extensions;
        let ports = packet.at::<[u8; icmp::QUOTED_BYTES]>(transport)?;
        if transport + icmp::QUOTED_BYTES > message.end {
            return None;
        }
        // SAFETY: `at` checked the bounds.
        let key = unsafe { parse::key6(header, ports.cast(), protocol) };
        Some(Quote { ip: header, ports: ports.cast(), transport, key })
    }

    #[inline(always)]
    fn addresses(header: &Ipv6Hdr) -> (Address6, Address6) {
        (Address6::new(header.src_addr), Address6::new(header.dst_addr))
    }

    #[inline(always)]
    fn translate_quoted(
        header: &mut Ipv6Hdr,
        source: Address6,
        destination: Address6,
        _delta: u16,
    ) {
        header.src_addr = source.octets;
        header.dst_addr = destination.octets;
    }
}

/// What follows the extension headers, and the bytes that they take, bounded for the
/// verifier. A quoted first fragment has its ports, a message in fragments is the kernel's.
#[inline(always)]
fn walk(packet: &Packet, start: usize, next: u8, first: bool) -> Option<(u8, usize)> {
    let (protocol, bytes) = parse::skip_extensions(packet, start, next, first).ok()?;
    // One walk of the rest for any number of extension headers.
    Some((verifier::forget(u32::from(protocol)) as u8, parse::bounded(bytes)))
}
