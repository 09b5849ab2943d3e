//! When an idle flow is forgotten. Times are parameters; nothing here reads a clock.

use crate::tcp_state::{Progress, TcpState};

/// Idle timeouts by protocol and state, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP with the handshake not finished, UDP without a reply.
    pub half_open_ns: u64,
    /// TCP, established.
    pub established_ns: u64,
    /// TCP, one side has sent FIN. One-way flows wait for [`ONE_WAY_CLOSING_NS`] at most.
    pub closing_ns: u64,
    /// TCP, both sides have sent FIN, or one a RST, be it a doubtful one.
    pub closed_ns: u64,
    /// UDP with replies.
    pub udp_ns: u64,
}

const SECOND_NS: u64 = 1_000_000_000;

/// Longest silence of a one-way flow whose client has sent FIN, nanoseconds. The server's FIN
/// is never seen, so most such flows are over; one whose server goes on sending hears from its
/// client, which acknowledges, and TIME-WAIT is as long on Linux. (IPVS has 120 s here.)
pub const ONE_WAY_CLOSING_NS: u64 = 60 * SECOND_NS;

impl Default for Timeouts {
    /// 30 s half-open, 3 h established (Linux's keep-alive starts after 2 h), 10 min with
    /// one FIN, 10 s closed, 60 s UDP.
    fn default() -> Self {
        Self {
            half_open_ns: 30 * SECOND_NS,
            established_ns: 3 * 3600 * SECOND_NS,
            closing_ns: 600 * SECOND_NS,
            closed_ns: 10 * SECOND_NS,
            udp_ns: 60 * SECOND_NS,
        }
    }
}

impl Timeouts {
    /// How long a flow may be idle, in nanoseconds. `half_open_table` says that its entry
    /// is in the table of half-open flows, whatever was seen of it.
    #[must_use]
    pub const fn idle_limit(&self, protocol: u8, progress: Progress, half_open_table: bool) -> u64 {
        if protocol != TCP {
            return if half_open_table { self.half_open_ns } else { self.udp_ns };
        }
        let by_state = match progress.state() {
            TcpState::SynSent | TcpState::SynReceived => self.half_open_ns,
            TcpState::Established => self.established_ns,
            TcpState::ClientClosing | TcpState::ServerClosing => {
                let one_way = progress.is_one_way() && self.closing_ns > ONE_WAY_CLOSING_NS;
                if one_way { ONE_WAY_CLOSING_NS } else { self.closing_ns }
            }
            TcpState::Closing | TcpState::Closed => self.closed_ns,
        };
        let in_doubt = progress.is_in_doubt() && by_state > self.closed_ns;
        let by_state = if in_doubt { self.closed_ns } else { by_state };
        if half_open_table && by_state > self.half_open_ns { self.half_open_ns } else { by_state }
    }

    /// Whether a flow last seen at `last_seen_ns` has been idle for its limit at `now_ns`.
    /// A flow seen after `now_ns` was read is not idle, whatever the limit.
    #[must_use]
    pub const fn expired(
        &self,
        protocol: u8,
        progress: Progress,
        half_open_table: bool,
        last_seen_ns: u64,
        now_ns: u64,
    ) -> bool {
        now_ns > last_seen_ns
            && now_ns - last_seen_ns >= self.idle_limit(protocol, progress, half_open_table)
    }
}

const TCP: u8 = 6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::forward::Forward;

    const UDP: u8 = 17;
    const DEFAULT: Timeouts = Timeouts {
        half_open_ns: 30 * SECOND_NS,
        established_ns: 10_800 * SECOND_NS,
        closing_ns: 600 * SECOND_NS,
        closed_ns: 10 * SECOND_NS,
        udp_ns: 60 * SECOND_NS,
    };

    #[track_caller]
    fn check(protocol: u8, bits: u32, half_open_table: bool, expected_s: u64) {
        let limit = Timeouts::default().idle_limit(protocol, Progress(bits), half_open_table);
        assert_eq!(limit, expected_s * SECOND_NS);
    }

    #[test]
    fn each_state_has_its_limit() {
        const OPEN: u32 = Progress::SYN | Progress::SYN_ACK | Progress::CONFIRMED;
        const BOTH_FIN: u32 = OPEN | Progress::CLIENT_FIN | Progress::SERVER_FIN;
        assert_eq!(Timeouts::default(), DEFAULT);
        check(TCP, Progress::SYN, true, 30);
        check(TCP, Progress::SYN | Progress::SYN_ACK, true, 30);
        check(TCP, Progress::PICKED_UP, true, 30);
        check(TCP, OPEN, false, 10_800);
        check(TCP, OPEN | Progress::CLIENT_FIN, false, 600);
        check(TCP, OPEN | Progress::SERVER_FIN, false, 600);
        check(TCP, BOTH_FIN, false, 10);
        check(TCP, BOTH_FIN | Progress::LAST_ACK, false, 10);
        check(TCP, OPEN | Progress::CLIENT_RST, false, 10);
        check(TCP, OPEN | Progress::SERVER_DOWN, false, 10);
        check(TCP, OPEN | Progress::CLIENT_DOUBT, false, 10);
        check(TCP, OPEN | Progress::SERVER_FIN | Progress::SERVER_DOUBT, false, 10);
        let one_way = Progress(OPEN).with_forward(Forward::Dsr).0;
        check(TCP, one_way, false, 10_800);
        check(TCP, one_way | Progress::CLIENT_FIN, false, 60);
        check(UDP, 0, false, 60);
        check(UDP, 0, true, 30);
    }

    #[test]
    fn the_half_open_table_never_keeps_longer_but_may_forget_sooner() {
        check(TCP, Progress::SYN | Progress::SYN_ACK | Progress::CONFIRMED, true, 30);
        check(TCP, Progress::SYN | Progress::SERVER_RST, true, 10);
    }

    proptest! {
        #[test]
        fn idle_for_the_limit_is_expired_and_less_is_not(
            bits in 0_u32..2048,
            half_open: bool,
            tcp: bool,
            last_seen_ns in 0..u64::MAX / 2,
        ) {
            let protocol = if tcp { TCP } else { UDP };
            let progress = Progress(bits);
            let limit = DEFAULT.idle_limit(protocol, progress, half_open);
            let expired =
                |now_ns| DEFAULT.expired(protocol, progress, half_open, last_seen_ns, now_ns);
            prop_assert!(!expired(last_seen_ns));
            prop_assert!(!expired(last_seen_ns + limit - 1));
            prop_assert!(expired(last_seen_ns + limit));
            prop_assert!(expired(u64::MAX));
        }

        #[test]
        fn a_flow_seen_in_the_future_is_never_expired(
            now_ns: u64,
            ahead_ns: u64,
            limit_ns in 0_u64..100,
        ) {
            let timeouts = Timeouts { udp_ns: limit_ns, ..DEFAULT };
            let last_seen_ns = now_ns.saturating_add(ahead_ns);
            prop_assert!(!timeouts.expired(UDP, Progress(0), false, last_seen_ns, now_ns));
        }
    }
}
