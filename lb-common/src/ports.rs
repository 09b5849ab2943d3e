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
        // Most clients' ports are in the range, and the division is the dear part.
        if range.contains(client_port) {
            return client_port;
        }
        return range.at(client_port.wrapping_sub(range.low) as u32 % range.size());
    }
    let bits = hash::mix(hash.wrapping_add((attempt as u64).wrapping_mul(STEP)));
    // The high 32 bits scaled to the range: no division.
    let offset = (((bits >> 32) * range.size() as u64) >> 32) as u32;
    range.at(offset)
}

/// SplitMix64's step: attempts are consecutive numbers of that generator.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = PortRange> {
        prop_oneof![
            (any::<u16>(), any::<u16>()).prop_map(|(a, b)| (a.min(b), a.max(b))),
            any::<u16>().prop_map(|port| (port, port)),
            Just((0, u16::MAX)),
            Just((1024, 32767)),
        ]
        .prop_map(|(low, high)| PortRange::new(low, high).expect("not empty"))
    }

    proptest! {
        #[test]
        fn every_candidate_is_in_range(range in range(), port: u16, hash: u64, attempt: u32) {
            prop_assert!(range.contains(candidate(range, port, hash, attempt)));
            prop_assert!(range.contains(candidate(range, port, hash, 0)));
        }

        #[test]
        fn the_clients_own_port_comes_first(range in range(), port: u16, hash: u64) {
            let first = candidate(range, port, hash, 0);
            prop_assert!(!range.contains(port) || first == port);
            prop_assert_eq!(first, candidate(range, port, !hash, 0));
        }

        #[test]
        fn neighbouring_client_ports_stay_apart(range in range(), port in 0..u16::MAX, hash: u64) {
            prop_assume!(range.size() > 1);
            let next = candidate(range, port + 1, hash, 0);
            prop_assert_ne!(candidate(range, port, hash, 0), next);
        }

        #[test]
        fn candidates_differ_mostly(port: u16, hash: u64) {
            let range = PortRange::new(1024, 32767).expect("not empty");
            let seen: HashSet<u16> =
                (0..PROBES).map(|attempt| candidate(range, port, hash, attempt)).collect();
            // By chance one pair in 64 flows coincides; five are beyond chance.
            prop_assert!(seen.len() > PROBES as usize - 5);
        }
    }

    /// Fills `percent` of a range flow by flow; gives the share of flows that fail while
    /// the last tenth of those ports is given out.
    fn failures(range: PortRange, percent: usize) -> f64 {
        let most = range.size() as usize * percent / 100;
        let (mut used, mut failed, mut tried) = (HashSet::new(), 0, 0);
        for flow in 0_u64.. {
            if used.len() >= most {
                break;
            }
            let hash = hash::mix(flow);
            let port = (hash >> 48) as u16;
            let free = (0..PROBES)
                .map(|attempt| candidate(range, port, hash, attempt))
                .find(|port| !used.contains(port));
            let last = used.len() * 10 >= most * 9;
            tried += u32::from(last);
            match free {
                Some(port) => {
                    used.insert(port);
                }
                None => failed += u32::from(last),
            }
        }
        f64::from(failed) / f64::from(tried)
    }

    #[test]
    fn probes_find_the_last_free_ports_as_often_as_promised() {
        let range = PortRange::new(1024, 32767).expect("not empty");
        assert!(failures(range, 75) < 0.001);
        assert!(failures(range, 90) < 0.05);
    }

    #[test]
    fn a_tiny_range_is_used_up() {
        let range = PortRange::new(5000, 5003).expect("not empty");
        let found: HashSet<u16> =
            (0..PROBES).map(|attempt| candidate(range, 1, 99, attempt)).collect();
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn an_empty_range_is_none() {
        assert_eq!(PortRange::new(2, 1), None);
        assert_eq!(PortRange::new(0, u16::MAX).map(PortRange::size), Some(65_536));
        assert_eq!(PortRange::new(7, 7).map(PortRange::size), Some(1));
    }
}
