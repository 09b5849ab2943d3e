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

use lb_common::{
    checksum,
    drop_reason::DropReason,
    flow::{Direction, Hop},
    half_open::HalfOpenFlow,
    syn_cookie,
    tcp_state::{Progress, TcpFlags},
};
use network_types::tcp::TcpHdr;

use crate::{
    context::Context,
    family::{Family, V6},
    made::{Ends, Frame, Made, make},
    maps::SCRATCH,
    packet::Packet,
    parse::Segment,
    rewrite, transmit,
    verdict::{Step, Verdict},
};

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
