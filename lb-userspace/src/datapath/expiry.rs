//! Whether a flow is over because nothing was heard of it. Pure.

use lb_common::{address::Address, tcp_state::Progress, timeouts::Timeouts};

use super::tables::{Half, Table};
use crate::model::snapshot::FlowTimeouts;

/// What the sweep does with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Keep,
    /// Deletes it and reports its end.
    Report,
    /// Deletes it; its end has been reported by the data plane.
    Delete,
}

/// Whether this half alone has been idle for its limit: a flow can be over only then, and
/// it takes no look at the partner to say that it is not.
pub(crate) fn may_be_over<A: Address>(half: &Half<A>, timeouts: &Timeouts, now_ns: u64) -> bool {
    let progress = Progress(half.entry.progress);
    let half_open = half.table == Table::HalfOpen;
    timeouts.expired(half.key.protocol, progress, half_open, half.entry.last_seen_ns, now_ns)
}

/// A flow is idle only if both of its directions are. A half without a partner has its own
/// timeout. A flow between the tables counts as confirmed.
pub(crate) fn decide<A: Address>(
    half: &Half<A>,
    partner: Option<&Half<A>>,
    timeouts: &Timeouts,
    now_ns: u64,
) -> Verdict {
    let mut last_seen_ns = half.entry.last_seen_ns;
    let mut progress = half.entry.progress;
    let mut half_open = half.table == Table::HalfOpen;
    if let Some(partner) = partner {
        last_seen_ns = last_seen_ns.max(partner.entry.last_seen_ns);
        progress |= partner.entry.progress;
        half_open &= partner.table == Table::HalfOpen;
    }
    let protocol = half.key.protocol;
    if !timeouts.expired(protocol, Progress(progress), half_open, last_seen_ns, now_ns) {
        return Verdict::Keep;
    }
    if progress & Progress::REPORTED == 0 { Verdict::Report } else { Verdict::Delete }
}

/// The configured timeouts in the form the decisions take.
#[must_use]
pub fn timeouts(configured: &FlowTimeouts) -> Timeouts {
    let nanoseconds =
        |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Timeouts {
        half_open_ns: nanoseconds(configured.half_open),
        established_ns: nanoseconds(configured.established),
        closing_ns: nanoseconds(configured.closing),
        closed_ns: nanoseconds(configured.closed),
        udp_ns: nanoseconds(configured.udp),
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        address::Address4,
        flow::{FlowEntry4, FlowKey4},
    };

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const ESTABLISHED: u32 = Progress::SYN | Progress::SYN_ACK | Progress::CONFIRMED;

    fn half(protocol: u8, table: Table, progress: u32, last_seen_ns: u64) -> Half<Address4> {
        let key = FlowKey4 { protocol, ..FlowKey4::default() };
        let entry = FlowEntry4 { last_seen_ns, progress, protocol, ..FlowEntry4::default() };
        Half { key, entry, table }
    }

    fn check(halves: &[Half<Address4>], now_ns: u64, expected: Verdict) {
        let timeouts = Timeouts::default();
        let [half, partners @ ..] = halves else { panic!("a flow has a half") };
        assert_eq!(decide(half, partners.first(), &timeouts, now_ns), expected);
        if expected != Verdict::Keep {
            assert!(may_be_over(half, &timeouts, now_ns), "the first look lets it pass");
        }
    }

    #[test]
    fn each_state_has_the_timeout_of_its_name() {
        let [half_open, established, closing, closed, udp] =
            [1, 2, 3, 4, 5].map(std::time::Duration::from_secs);
        let timeouts = timeouts(&FlowTimeouts { half_open, established, closing, closed, udp });
        let last_ms = |protocol, table, progress| {
            let half = half(protocol, table, progress, 0);
            let ends = |ms: &u64| decide(&half, None, &timeouts, ms * 1_000_000) != Verdict::Keep;
            (0..10_000).find(ends)
        };
        let fin = ESTABLISHED | Progress::CLIENT_FIN;
        let (both, rst) = (fin | Progress::SERVER_FIN, ESTABLISHED | Progress::SERVER_RST);
        for (protocol, table, progress, expected) in [
            (6, Table::HalfOpen, Progress::SYN, half_open),
            (6, Table::HalfOpen, Progress::SYN | Progress::SYN_ACK, half_open),
            (17, Table::HalfOpen, 0, half_open),
            (6, Table::Confirmed, ESTABLISHED, established),
            (6, Table::Confirmed, fin, closing),
            (6, Table::Confirmed, both, closed),
            (6, Table::Confirmed, rst, closed),
            (17, Table::Confirmed, 0, udp),
        ] {
            let found = last_ms(protocol, table, progress);
            let expected = u64::try_from(expected.as_millis()).ok();
            assert_eq!(found, expected, "{protocol} {table:?} {progress:#b}");
        }
    }

    #[test]
    fn one_busy_direction_keeps_the_flow() {
        let idle = half(17, Table::Confirmed, 0, 0);
        let busy = half(17, Table::Confirmed, 0, 50 * SECOND);
        check(&[idle, busy], 61 * SECOND, Verdict::Keep);
        check(&[idle, busy], 110 * SECOND, Verdict::Report);
        check(&[idle], 61 * SECOND, Verdict::Report);
    }

    #[test]
    fn established_connections_outlive_half_open_ones() {
        let half_open = half(6, Table::HalfOpen, Progress::SYN, 0);
        let established = half(6, Table::Confirmed, ESTABLISHED, 0);
        check(&[half_open], 30 * SECOND, Verdict::Report);
        check(&[established, established], 3 * 3600 * SECOND - 1, Verdict::Keep);
        check(&[established, established], 3 * 3600 * SECOND, Verdict::Report);
    }

    #[test]
    fn a_flow_between_the_tables_counts_as_confirmed() {
        let moved = half(6, Table::Confirmed, ESTABLISHED, 0);
        let left = half(6, Table::HalfOpen, ESTABLISHED, 0);
        check(&[left, moved], 60 * SECOND, Verdict::Keep);
    }

    #[test]
    fn an_end_is_reported_once() {
        let bits = ESTABLISHED | Progress::CLIENT_FIN | Progress::SERVER_FIN;
        let ended = half(6, Table::Confirmed, bits | Progress::REPORTED, 0);
        check(&[ended, half(6, Table::Confirmed, bits, 0)], 10 * SECOND, Verdict::Delete);
        let unreported = half(6, Table::Confirmed, bits, 0);
        check(&[unreported, unreported], 10 * SECOND, Verdict::Report);
    }

    #[test]
    fn a_packet_after_the_clock_was_read_keeps_the_flow() {
        check(&[half(17, Table::Confirmed, 0, 5 * SECOND)], 4 * SECOND, Verdict::Keep);
    }
}
