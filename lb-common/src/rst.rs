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
