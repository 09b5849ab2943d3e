//! The numbers of a TCP RST that answers a segment (RFC 9293 section 3.10.7.1). Building
//! the packet around them is the XDP program's work.

use crate::tcp_state::TcpFlags;

/// What a RST segment says; numbers in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number; 0 if `flags` has no ACK.
    pub acknowledgement: u32,
    /// RST, with ACK if the answered segment had none.
    pub flags: TcpFlags,
}

/// The RST that answers a segment as if no connection existed; none if the segment is a
/// RST itself, which must never be answered. Numbers in host byte order;
/// `segment_length` is the payload in bytes, plus one for SYN and one for FIN.
#[inline(always)]
#[must_use]
pub const fn answer(
    flags: TcpFlags,
    sequence: u32,
    acknowledgement: u32,
    segment_length: u32,
) -> Option<Reset> {
    if flags.has(TcpFlags::RST) {
        return None;
    }
    // The receiver accepts what it can match: its own acknowledgement, or, lacking one,
    // the end of what it sent.
    if flags.has(TcpFlags::ACK) {
        return Some(Reset {
            sequence: acknowledgement,
            acknowledgement: 0,
            flags: TcpFlags(TcpFlags::RST),
        });
    }
    Some(Reset {
        sequence: 0,
        acknowledgement: sequence.wrapping_add(segment_length),
        flags: TcpFlags(TcpFlags::RST | TcpFlags::ACK),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SYN: u8 = TcpFlags::SYN;
    const ACK: u8 = TcpFlags::ACK;
    const RST: u8 = TcpFlags::RST;

    #[test]
    fn a_segment_with_ack_is_answered_where_it_expects_us() {
        let expected = Reset { sequence: 7000, acknowledgement: 0, flags: TcpFlags(RST) };
        assert_eq!(answer(TcpFlags(ACK | TcpFlags::PSH), 1000, 7000, 50), Some(expected));
    }

    #[test]
    fn a_syn_is_answered_with_its_end_acknowledged() {
        let expected = Reset { sequence: 0, acknowledgement: 1001, flags: TcpFlags(RST | ACK) };
        assert_eq!(answer(TcpFlags(SYN), 1000, 7000, 1), Some(expected));
    }

    #[test]
    fn sequence_numbers_wrap() {
        let reset = answer(TcpFlags(SYN), u32::MAX, 0, 1).expect("a SYN is answered");
        assert_eq!(reset.acknowledgement, 0);
    }

    proptest! {
        #[test]
        fn resets_are_never_answered_and_everything_else_is(
            flags: u8, sequence: u32, acknowledgement: u32, length: u32,
        ) {
            let answered = answer(TcpFlags(flags), sequence, acknowledgement, length);
            prop_assert_eq!(answered.is_none(), flags & RST != 0);
            if let Some(reset) = answered {
                prop_assert!(reset.flags.has(RST));
                prop_assert!(reset.flags.has(ACK) != (flags & ACK != 0));
                // Two balancers do not answer each other for ever.
                prop_assert_eq!(answer(reset.flags, reset.sequence, reset.acknowledgement, 0), None);
            }
        }
    }
}
