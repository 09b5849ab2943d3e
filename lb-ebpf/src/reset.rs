//! A TCP RST in place of a server's answer, built in the client's own packet.

use aya_ebpf::helpers::generated::bpf_xdp_adjust_tail;
use lb_common::{address::Address, checksum, drop_reason::DropReason, rst, tcp_state::TcpFlags};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use crate::{
    context::Context,
    counters,
    family::{Family, V4, V6},
    packet::Packet,
    parse::{Segment, TCP},
    transmit,
    verdict::Verdict,
};

/// TTL and hop limit of answers.
const ANSWER_TTL: u8 = 64;

/// The header of an answer, which differs by family.
pub trait AnswerHeader: Family {
    /// A header without options for `TcpHdr::LEN` bytes of TCP.
    fn answer_header(source: Self::Address, destination: Self::Address) -> Self::Header;
}

impl AnswerHeader for V4 {
    #[inline(always)]
    fn answer_header(source: Self::Address, destination: Self::Address) -> Ipv4Hdr {
        const TOTAL: u16 = (Ipv4Hdr::LEN + TcpHdr::LEN) as u16;
        // The words that do not depend on the addresses, as numbers.
        const FIXED: u32 = 0x4500 + TOTAL as u32 + 0x4000 + ((ANSWER_TTL as u32) << 8) + TCP as u32;
        let fixed = checksum::fold(u64::from(FIXED)).to_be();
        let sum = u64::from(fixed) + u64::from(source.word_sum() + destination.word_sum());
        Ipv4Hdr {
            vihl: 0x45,
            tos: 0,
            tot_len: TOTAL.to_be_bytes(),
            id: [0; 2],
            frags: [0x40, 0],
            ttl: ANSWER_TTL,
            proto: TCP,
            check: (!checksum::fold(sum)).to_ne_bytes(),
            src_addr: source.octets,
            dst_addr: destination.octets,
        }
    }
}

impl AnswerHeader for V6 {
    #[inline(always)]
    fn answer_header(source: Self::Address, destination: Self::Address) -> Ipv6Hdr {
        Ipv6Hdr {
            vcf: [0x60, 0, 0, 0],
            payload_len: (TcpHdr::LEN as u16).to_be_bytes(),
            next_hdr: TCP,
            hop_limit: ANSWER_TTL,
            src_addr: source.octets,
            dst_addr: destination.octets,
        }
    }
}

/// Turns the client's segment into a RST and sends it back, or drops a segment that gets
/// no answer. Counts `reason` either way.
#[inline(always)]
pub fn answer<F: AnswerHeader>(ctx: Context, segment: &Segment<F>, reason: DropReason) -> Verdict {
    let packet = Packet::new(ctx);
    let Some(tcp) = packet.at_pointer::<[u8; TcpHdr::LEN]>(segment.ports.cast()) else {
        return Verdict::Drop(DropReason::Internal);
    };
    // SAFETY: `at` checked the bounds.
    let tcp = unsafe { *tcp };
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let acknowledgement = u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]);
    let length = segment.payload
        + u32::from(segment.flags.has(TcpFlags::SYN))
        + u32::from(segment.flags.has(TcpFlags::FIN));
    let Some(reset) = rst::answer(segment.flags, sequence, acknowledgement, length) else {
        return Verdict::Drop(reason);
    };
    let behind = segment.ip.cast::<u8>().wrapping_add(F::HEADER_BYTES);
    let Some(transport) = packet.at_pointer::<[u8; TcpHdr::LEN]>(behind) else {
        return Verdict::Drop(DropReason::Internal);
    };
    let (source, destination) = (segment.key.destination, segment.key.source);
    let hop = transmit::arrival_hop(ctx, segment);
    let [s0, s1, s2, s3] = reset.sequence.to_be_bytes();
    let [a0, a1, a2, a3] = reset.acknowledgement.to_be_bytes();
    let [p0, p1] = segment.key.destination_port.wire().to_ne_bytes();
    let [q0, q1] = segment.key.source_port.wire().to_ne_bytes();
    let header_words = 5 << 4;
    let mut header = [
        p0,
        p1,
        q0,
        q1,
        s0,
        s1,
        s2,
        s3,
        a0,
        a1,
        a2,
        a3,
        header_words,
        reset.flags.0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let pseudo = u64::from(source.word_sum() + destination.word_sum())
        + u64::from(u16::from(TCP).to_be())
        + u64::from((TcpHdr::LEN as u16).to_be());
    let sum = pseudo + checksum::sum(&header);
    [header[16], header[17]] = (!checksum::fold(sum)).to_ne_bytes();
    // SAFETY: `at` checked the bounds; nothing else refers to these bytes.
    unsafe {
        *segment.ip = F::answer_header(source, destination);
        *transport = header;
    }
    let verdict = transmit::transmit(ctx, segment, &hop);
    let wanted = segment.ip_offset + F::HEADER_BYTES + TcpHdr::LEN;
    let excess = packet.remaining(wanted) as i32;
    // SAFETY: the context is valid; no packet pointer is used afterwards.
    if unsafe { bpf_xdp_adjust_tail(ctx.raw(), -excess) } != 0 {
        return Verdict::Drop(DropReason::Resize);
    }
    counters::count_drop(reason);
    verdict
}
