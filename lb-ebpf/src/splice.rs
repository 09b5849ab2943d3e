//! Two halves of a connection as one: a client that was answered with a cookie, and the server
//! that it is connected with afterwards.
//!
//! The client's ACK becomes a SYN to the server. The server's SYN-ACK becomes a segment to the
//! client with one octet that it has had long since, the SYN's own: a keep-alive (RFC 1122
//! section 4.2.3.6). It opens the window that the cookie's answer had left closed, and its
//! receiver answers it, which is the ACK that the server waits for, whichever side speaks
//! first. From then on sequence numbers are shifted by what the cookie and the server's own
//! first number differ by.
//!
//! Nothing is sent again from here: the client probes its closed window until it hears of its
//! server, and each of its packets becomes the SYN again; the server sends its SYN-ACK again.

use aya_ebpf::helpers::generated::bpf_xdp_adjust_tail;
use lb_common::{
    address::{Address, Be16},
    checksum,
    drop_reason::DropReason,
    flow::{Direction, Hop},
    half_open::HalfOpenFlow,
    syn_cookie,
    tcp_state::{Progress, TcpFlags},
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use crate::{
    context::Context,
    family::{Family, V4, V6},
    maps::SCRATCH,
    packet::Packet,
    parse::{Segment, TCP},
    rewrite, transmit,
    verdict::{Step, Verdict},
    verifier,
};

/// TTL and hop limit of packets made here.
const MADE_TTL: u8 = 64;

/// What the stage is to do, beside the flow in the draft.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Task {
    /// Where the packet goes.
    pub hop: Hop,
    /// [`Direction`] as a number.
    pub direction: u32,
    /// Zero.
    pub padding: u32,
}

/// The numbers of a segment, host byte order.
#[derive(Clone, Copy)]
pub struct Numbers {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Window, as it stands there.
    pub window: u16,
    /// The header that they stand in, within the packet.
    pub header: *mut [u8; TcpHdr::LEN],
}

/// Reads the numbers of a TCP segment.
#[inline(always)]
#[must_use]
pub fn numbers<F: Family>(ctx: Context, segment: &Segment<F>) -> Option<Numbers> {
    let header = Packet::new(ctx).at_pointer::<[u8; TcpHdr::LEN]>(segment.ports.cast())?;
    // SAFETY: `at_pointer` checked the bounds.
    let tcp = unsafe { &*header };
    Some(Numbers {
        sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
        acknowledgement: u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]),
        window: u16::from_be_bytes([tcp[14], tcp[15]]),
        header,
    })
}

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

/// Notes what the stage of half-open flows behind cookies is to do.
#[inline(always)]
#[must_use]
pub fn hand_over(direction: Direction, hop: Hop) -> Step {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return Step::Settled(Verdict::Drop(DropReason::Internal));
    };
    // SAFETY: the value belongs to this CPU.
    unsafe {
        (*scratch).task = Task { hop, direction: u32::from(direction.to_raw()), padding: 0 };
    }
    Step::Splice
}

/// Whether a server's packet answers no SYN of a flow behind a cookie, although nothing else was
/// sent: it is about a connection that the server believes to have with this tuple still.
#[inline(always)]
#[must_use]
pub fn is_strange<F: Family>(
    segment: &Segment<F>,
    numbers: &Numbers,
    flow: &HalfOpenFlow<F::Address>,
) -> bool {
    let answers = numbers.acknowledgement == flow.client_sequence.wrapping_add(1);
    if segment.flags.is_syn_ack() {
        return !answers;
    }
    Progress(flow.progress).awaits_server() && !segment.flags.has(TcpFlags::RST)
}

/// Handles a packet of the flow in the draft, which is as it is after the packet was noted.
#[inline(always)]
pub fn splice<F: Frame>(ctx: Context, segment: &Segment<F>) -> Step {
    let (Some(scratch), Some(draft)) = (SCRATCH.get_ptr(0), F::scratch()) else {
        return Step::Settled(Verdict::Drop(DropReason::Internal));
    };
    let Some(numbers) = numbers(ctx, segment) else {
        return Step::Settled(Verdict::Drop(DropReason::Internal));
    };
    // SAFETY: the value belongs to this CPU.
    let task = unsafe { (*scratch).task };
    let direction = Direction::from_raw(task.direction as u8);
    let flow = &draft.flow;
    let progress = Progress(flow.progress);
    let to = flow.translation(direction);
    let shift = flow.sequence_shift;
    let is_reset = segment.flags.has(TcpFlags::RST);
    let ends = Ends {
        source: *to.source,
        destination: *to.destination,
        ports: [to.source_port, to.destination_port],
    };
    if direction == Direction::Reply && segment.flags.is_syn_ack() {
        let made = Made {
            sequence: numbers.sequence.wrapping_add(shift),
            acknowledgement: numbers.acknowledgement,
            flags: TcpFlags::ACK,
            window: numbers.window,
            segment_size: 0,
        };
        return Step::Settled(make::<F, 21>(ctx, segment, &ends, &made, &task.hop));
    }
    if !progress.awaits_server() || (is_reset && direction == Direction::Forward) {
        shift_numbers(segment, &numbers, direction, shift);
        rewrite::translate(segment, &to);
        return Step::Settled(transmit::transmit(ctx, segment, &task.hop));
    }
    if direction == Direction::Forward {
        let made = Made {
            sequence: flow.client_sequence,
            acknowledgement: 0,
            flags: TcpFlags::SYN,
            window: numbers.window,
            segment_size: syn_cookie::segment_size(
                F::NUMBER == V6::NUMBER,
                progress.segment_size_index(),
            ),
        };
        return Step::Settled(make::<F, 24>(ctx, segment, &ends, &made, &task.hop));
    }
    // A RST that answers the SYN: it has no number of its own.
    let made = Made {
        sequence: shift.wrapping_add(1),
        acknowledgement: flow.client_sequence.wrapping_add(1),
        flags: TcpFlags::RST | TcpFlags::ACK,
        window: 0,
        segment_size: 0,
    };
    Step::Settled(make::<F, 20>(ctx, segment, &ends, &made, &task.hop))
}

/// Shifts the number that the other end does not know, and repairs the checksum.
#[inline(always)]
pub fn shift_numbers<F: Family>(
    segment: &Segment<F>,
    numbers: &Numbers,
    direction: Direction,
    shift: u32,
) {
    let (place, before, after) = match direction {
        Direction::Reply => (4, numbers.sequence, numbers.sequence.wrapping_add(shift)),
        Direction::Forward if !segment.flags.has(TcpFlags::ACK) => return,
        Direction::Forward => {
            (8, numbers.acknowledgement, numbers.acknowledgement.wrapping_sub(shift))
        }
    };
    // SAFETY: `numbers` were read from these bytes, within the packet; nothing else refers to
    // them.
    unsafe {
        let sum = u16::from_ne_bytes(*segment.checksum);
        let sum = checksum::apply(sum, syn_cookie::number_delta(before, after));
        *segment.checksum = sum.to_ne_bytes();
        *numbers.header.cast::<u8>().add(place).cast::<[u8; 4]>() = after.to_be_bytes();
    }
}
