//! Answering packets that would not fit into the link to a server once they are encapsulated:
//! *fragmentation needed* (RFC 792, RFC 1191) or *packet too big* (RFC 4443), in the VIP's
//! name, with the length that would fit.
//!
//! Encapsulated packets are not fragmented on the way, so the sender learns what fits whether
//! or not it allows fragments; Linux takes that to heart either way. Segments alone come here:
//! an ICMP message is never answered by an error (RFC 1122 section 3.2.2).
//!
//! As much is quoted as every link carries: up to 576 bytes of IPv4 (RFC 1812 section 4.3.2.3)
//! and 1280 of IPv6. A packet that is shorter than what is quoted gets no answer; to it, the
//! link's MTU is below what its family allows.

use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use lb_common::{
    address::{Address, Address4, Address6},
    checksum,
    drop_reason::DropReason,
    icmp,
    token_bucket::{self, Rate},
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    clock,
    context::Context,
    counters,
    encapsulate::{Tags, header4},
    family::{V4, V6},
    icmp::Icmp,
    maps::SCRATCH,
    packet::Packet,
    parse::{self, Link},
    transmit,
    verdict::Verdict,
};

/// TTL and hop limit of answers.
const ANSWER_TTL: u8 = 64;
/// The most that `bpf_csum_diff` takes at once before Linux 6.13.
const CHUNK: usize = 512;

/// What differs between the families in an answer.
pub trait Answer: Icmp {
    /// Bytes of the packet that are quoted.
    type Quoted;
    /// Type and code of the message.
    const KIND: [u8; 2];

    /// The header of the answer, before `payload` bytes of ICMP.
    fn header(source: Self::Address, destination: Self::Address, payload: u16) -> Self::Header;
    /// The sum of the pseudo header, memory order; 0 if there is none.
    fn pseudo(source: Self::Address, destination: Self::Address, payload: u16) -> u64;
}

/// Answers a segment that has more than `most` bytes as an IP packet, unless too many were
/// answered already. Counts it either way.
#[inline(always)]
#[must_use]
pub fn answer<F: Answer>(ctx: Context, most: u32) -> Verdict {
    let packet = Packet::new(ctx);
    let answered = parse::link(&packet).and_then(|link| try_answer::<F>(ctx, &packet, &link, most));
    answered.unwrap_or(Verdict::Drop(DropReason::TooBig))
}

/// None if there is no answer; then nothing was done.
#[inline(always)]
fn try_answer<F: Answer>(ctx: Context, packet: &Packet, link: &Link, most: u32) -> Option<Verdict> {
    // Before the compiler knows more of the packet than the verifier does.
    let tags = Tags::read(packet, link.offset)?;
    let quoted = packet.at::<F::Quoted>(link.offset)?;
    let header = packet.at::<F::Header>(link.offset)?;
    if !may_answer() {
        return None;
    }
    // SAFETY: `at` and `link` checked the bounds.
    let (client, vip, hop) = unsafe {
        let (client, vip) = F::addresses(&*header);
        (client, vip, transmit::hop_of(ctx, link.ethernet))
    };
    let sum = sum_of(quoted);
    let payload = (icmp::HEADER_BYTES + size_of::<F::Quoted>()) as u16;
    let room = F::HEADER_BYTES + icmp::HEADER_BYTES;
    let offset = link.offset;
    // SAFETY: the context is valid; pointers into the packet are made anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.raw(), -(room as i32)) } != 0 {
        return Some(Verdict::Drop(DropReason::Resize));
    }
    let packet = Packet::new(ctx);
    let ethernet = packet.at::<EthHdr>(0)?;
    tags.write(&packet, offset, link.ether_type)?;
    let [type_, code] = F::KIND;
    let [high, low] = (most as u16).to_be_bytes();
    let mut message = [type_, code, 0, 0, 0, 0, high, low];
    let sum = sum + checksum::sum(&message) + F::pseudo(vip, client, payload);
    [message[2], message[3]] = (!checksum::fold(sum)).to_ne_bytes();
    // SAFETY: `at` checked the bounds; nothing else refers to these bytes.
    let verdict = unsafe {
        *packet.at::<F::Header>(offset)? = F::header(vip, client, payload);
        *packet.at::<[u8; icmp::HEADER_BYTES]>(offset + F::HEADER_BYTES)? = message;
        transmit::send(ctx, ethernet, &hop)
    };
    let excess = packet.remaining(offset + room + size_of::<F::Quoted>()) as i32;
    // SAFETY: the context is valid; no packet pointer is used afterwards.
    if unsafe { bpf_xdp_adjust_tail(ctx.raw(), -excess) } != 0 {
        return Some(Verdict::Drop(DropReason::Resize));
    }
    counters::count_drop(DropReason::TooBig);
    Some(verdict)
}

/// Whether this CPU may answer one more packet.
#[inline(always)]
fn may_answer() -> bool {
    const RATE: Rate = Rate::new(icmp::TOO_BIG_PER_SECOND, icmp::TOO_BIG_BURST);
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return false };
    let now_ns = clock::now_ns();
    // SAFETY: the value belongs to this CPU.
    unsafe {
        let full_ns = (*scratch).too_big_full_ns;
        match token_bucket::take_one(full_ns, now_ns, RATE.interval_ns, RATE.burst_ns) {
            Some(after_ns) => {
                (*scratch).too_big_full_ns = after_ns;
                true
            }
            None => false,
        }
    }
}

/// The sum of the 16-bit words of a part of a packet, memory order.
#[inline(always)]
fn sum_of<T>(bytes: *mut T) -> u64 {
    const { assert!(size_of::<T>().is_multiple_of(4) && size_of::<T>() <= 3 * CHUNK) };
    let mut sum = 0;
    for start in [0, CHUNK, 2 * CHUNK] {
        let length = size_of::<T>().saturating_sub(start);
        if length > 0 {
            let length = if length > CHUNK { CHUNK } else { length };
            let from = core::ptr::null_mut();
            let to = bytes.cast::<u8>().wrapping_add(start).cast();
            // SAFETY: the caller checked the bounds.
            sum = unsafe { bpf_csum_diff(from, 0, to, length as u32, sum as u32) } as u64;
        }
    }
    sum & 0xffff_ffff
}

impl Answer for V4 {
    type Quoted = [u8; 576 - Ipv4Hdr::LEN - icmp::HEADER_BYTES];
    /// Destination unreachable: fragmentation needed.
    const KIND: [u8; 2] = [3, 4];

    #[inline(always)]
    fn header(source: Address4, destination: Address4, payload: u16) -> Ipv4Hdr {
        header4(source, destination, 0, payload.into(), icmp::ICMP)
    }

    #[inline(always)]
    fn pseudo(_source: Address4, _destination: Address4, _payload: u16) -> u64 {
        0
    }
}

impl Answer for V6 {
    type Quoted = [u8; 1280 - Ipv6Hdr::LEN - icmp::HEADER_BYTES];
    /// Packet too big.
    const KIND: [u8; 2] = [2, 0];

    #[inline(always)]
    fn header(source: Address6, destination: Address6, payload: u16) -> Ipv6Hdr {
        Ipv6Hdr {
            vcf: [0x60, 0, 0, 0],
            payload_len: payload.to_be_bytes(),
            next_hdr: icmp::ICMPV6,
            hop_limit: ANSWER_TTL,
            src_addr: source.octets,
            dst_addr: destination.octets,
        }
    }

    #[inline(always)]
    fn pseudo(source: Address6, destination: Address6, payload: u16) -> u64 {
        u64::from(source.word_sum() + destination.word_sum())
            + u64::from(payload.to_be())
            + u64::from(u16::from(icmp::ICMPV6).to_be())
    }
}
