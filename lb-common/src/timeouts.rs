//! When an idle flow is forgotten. Times are parameters; nothing here reads a clock.

use crate::tcp_state::{Progress, TcpState};

/// Idle timeouts by protocol and state, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP with the handshake not finished, UDP without a reply.
    pub half_open_ns: u64,
    /// TCP, established.
    pub established_ns: u64,
    /// TCP, one side has sent FIN.
    pub closing_ns: u64,
    /// TCP, both sides have sent FIN, or one a RST.
    pub closed_ns: u64,
    /// UDP with replies.
    pub udp_ns: u64,
}

const SECOND_NS: u64 = 1_000_000_000;

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
            TcpState::ClientClosing | TcpState::ServerClosing => self.closing_ns,
            TcpState::Closing | TcpState::Closed => self.closed_ns,
        };
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
