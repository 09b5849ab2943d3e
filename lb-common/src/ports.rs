//! Source ports towards servers: which to try, in which order.
//!
//! The sequence is a pure function of the flow, so a lost entry, or another node that
//! takes over, finds the same port again whenever it was free. Whether a candidate is
//! free is the flow table's answer, not this module's.

use crate::hash;

/// How many candidates to try before giving up.
///
/// Candidates after the first are as good as random, so with a share `u` of the ports
/// towards one server in use, a new flow fails with probability `u^31`: 5e-10 at half,
/// 1e-4 at three quarters, 4 % at nine tenths. More probes would buy little and cost
/// every flow of a full server; the cure for that is another SNAT address.
pub const PROBES: u32 = 32;

/// Ports from `low` to `high`, both included; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    low: u16,
    high: u16,
}

impl PortRange {
    /// From the lowest and the highest port, host byte order; none if that is no port.
    #[inline(always)]
    #[must_use]
    pub const fn new(low: u16, high: u16) -> Option<Self> {
        if low <= high { Some(Self { low, high }) } else { None }
    }

    /// How many ports: 1 to 65,536.
    #[inline(always)]
    #[must_use]
    pub const fn size(self) -> u32 {
        // Widened before adding one, so that the compiler sees that it is never zero.
        self.high.wrapping_sub(self.low) as u32 + 1
    }

    /// Whether `port`, host byte order, is one of them.
    #[inline(always)]
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.low <= port && port <= self.high
    }

    /// The port `offset` above the lowest; `offset` is below `size`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the offset is at most 65,535")]
    const fn at(self, offset: u32) -> u16 {
        self.low.wrapping_add(offset as u16)
    }
}

/// The port to try at `attempt`, host byte order. Attempt 0 is the client's own port, or
/// that port folded into the range so that a client's ports stay apart; later attempts
/// follow from `hash` of the flow and are spread over the whole range.
#[inline(always)]
#[must_use]
pub const fn candidate(range: PortRange, client_port: u16, hash: u64, attempt: u32) -> u16 {
    if attempt == 0 {
        return range.at(client_port.wrapping_sub(range.low) as u32 % range.size());
    }
    let bits = hash::mix(hash.wrapping_add((attempt as u64).wrapping_mul(STEP)));
    // The high 32 bits scaled to the range: no division.
    let offset = (((bits >> 32) * range.size() as u64) >> 32) as u32;
    range.at(offset)
}

/// SplitMix64's step: attempts are consecutive numbers of that generator.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
