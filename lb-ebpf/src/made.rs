//! TCP segments that are made here, in the place of a packet that came.

use aya_ebpf::helpers::generated::bpf_xdp_adjust_tail;
use lb_common::{
    address::{Address, Be16},
    checksum,
    drop_reason::DropReason,
    flow::Hop,
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    context::Context,
    family::{Family, V4, V6},
    packet::Packet,
    parse::{Segment, TCP},
    transmit,
    verdict::Verdict,
    verifier,
};

/// TTL and hop limit of packets made here.
const MADE_TTL: u8 = 64;

/// Between whom a packet travels that is made here.
pub struct Ends<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source and destination port.
    pub ports: [Be16; 2],
}

/// What it says.
pub struct Made {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// The segment size that it offers, in segments of 24 bytes.
    pub segment_size: u16,
}

/// Network headers of packets made here.
pub trait Frame: Family {
    /// A header without options for `length` bytes of TCP.
    fn network_header(
        source: Self::Address,
        destination: Self::Address,
        length: u16,
    ) -> Self::Header;
}

impl Frame for V4 {
    #[inline(always)]
    fn network_header(
        source: Self::Address,
        destination: Self::Address,
        length: u16,
    ) -> Self::Header {
        let total = Ipv4Hdr::LEN as u16 + length;
        let fixed = 0x4500 + 0x4000 + ((MADE_TTL as u32) << 8) + TCP as u32 + u32::from(total);
        let fixed = checksum::fold(u64::from(fixed)).to_be();
        let sum = u64::from(fixed) + u64::from(source.word_sum() + destination.word_sum());
        Ipv4Hdr {
            vihl: 0x45,
            tos: 0,
            tot_len: total.to_be_bytes(),
            id: [0; 2],
            frags: [0x40, 0],
            ttl: MADE_TTL,
            proto: TCP,
            check: (!checksum::fold(sum)).to_ne_bytes(),
            src_addr: source.octets,
            dst_addr: destination.octets,
        }
    }
}

impl Frame for V6 {
    #[inline(always)]
    fn network_header(
        source: Self::Address,
        destination: Self::Address,
        length: u16,
    ) -> Self::Header {
        Ipv6Hdr {
            vcf: [0x60, 0, 0, 0],
            payload_len: length.to_be_bytes(),
            next_hdr: TCP,
            hop_limit: MADE_TTL,
            src_addr: source.octets,
            dst_addr: destination.octets,
        }
    }
}

/// Puts a segment of `N` bytes in the place of a packet and sends it. With 24 bytes it has the
/// option of the segment size; a 21st byte alone is an octet of data.
#[inline(always)]
pub fn make<F: Frame, const N: usize>(
    ctx: Context,
    segment: &Segment<F>,
    ends: &Ends<F::Address>,
    made: &Made,
    hop: &Hop,
) -> Verdict {
    let offset = segment.ip_offset;
    let wanted = offset + F::HEADER_BYTES + N;
    let (start, end) = ctx.data();
    let change = wanted as i32 - verifier::distance(start, end) as i32;
    // SAFETY: the context is valid; no pointer into the packet is used afterwards.
    if unsafe { bpf_xdp_adjust_tail(ctx.raw(), change) } != 0 {
        return Verdict::Drop(DropReason::Resize);
    }
    let packet = Packet::new(ctx);
    let offset = (verifier::forget(offset as u32) & 0x1e) as usize;
    let (Some(ethernet), Some(ip)) = (packet.at::<EthHdr>(0), packet.at::<[u8; 20]>(offset)) else {
        return Verdict::Drop(DropReason::Internal);
    };
    // From the same pointer: its bounds are then those of the network header, too.
    let behind = ip.cast::<u8>().wrapping_add(F::HEADER_BYTES);
    let Some(tcp) = packet.at_pointer::<[u8; N]>(behind) else {
        return Verdict::Drop(DropReason::Internal);
    };
    let mut header = tcp_header::<F, N>(ends, made);
    let pseudo = u64::from(ends.source.word_sum() + ends.destination.word_sum())
        + u64::from(u16::from(TCP).to_be())
        + u64::from((N as u16).to_be());
    let mut sum = pseudo;
    // Word by word: what is behind the header is a whole word or a zero.
    let mut at = 0;
    while at + 1 < N {
        sum += u64::from(u16::from_ne_bytes([header[at], header[at + 1]]));
        at += 2;
    }
    [header[16], header[17]] = (!checksum::fold(sum)).to_ne_bytes();
    // SAFETY: `at` checked the bounds (the TCP header's include the network header's); nothing
    // else refers to these bytes.
    unsafe {
        *ip.cast::<F::Header>() = F::network_header(ends.source, ends.destination, N as u16);
        *tcp = header;
        transmit::send(ctx, ethernet, hop)
    }
}

#[inline(always)]
fn tcp_header<F: Family, const N: usize>(ends: &Ends<F::Address>, made: &Made) -> [u8; N] {
    let [p0, p1] = ends.ports[0].wire().to_ne_bytes();
    let [q0, q1] = ends.ports[1].wire().to_ne_bytes();
    let [s0, s1, s2, s3] = made.sequence.to_be_bytes();
    let [a0, a1, a2, a3] = made.acknowledgement.to_be_bytes();
    let [w0, w1] = made.window.to_be_bytes();
    let words: u8 = if N == 24 { 6 << 4 } else { 5 << 4 };
    let fixed =
        [p0, p1, q0, q1, s0, s1, s2, s3, a0, a1, a2, a3, words, made.flags, w0, w1, 0, 0, 0, 0];
    let mut header = [0; N];
    let mut at = 0;
    while at < 20 {
        header[at] = fixed[at];
        at += 1;
    }
    if N == 24 {
        let [m0, m1] = made.segment_size.to_be_bytes();
        (header[N - 4], header[N - 3]) = (2, 4);
        (header[N - 2], header[N - 1]) = (m0, m1);
    }
    header
}
