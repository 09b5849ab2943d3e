//! A TCP RST in place of a server's answer, built in the client's own packet.

use aya_ebpf::helpers::generated::bpf_xdp_adjust_tail;
use lb_common::{address::Address, checksum, drop_reason::DropReason, rst, tcp_state::TcpFlags};
use network_types::tcp::TcpHdr;

use crate::{
    context::Context,
    counters,
    made::Frame,
    packet::Packet,
    parse::{Segment, TCP},
    transmit,
    verdict::Verdict,
};

/// Turns the client's segment into a RST and sends it back, or drops a segment that gets
/// no answer. Counts `reason` either way.
#[inline(always)]
pub fn answer<F: Frame>(ctx: Context, segment: &Segment<F>, reason: DropReason) -> Verdict {
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
        *segment.ip = F::network_header(source, destination, TcpHdr::LEN as u16);
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
