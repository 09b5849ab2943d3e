//! The TCP state machine: named life cycles, and what holds for every set of bits.

use lb_common::{
    flow::Direction::{self, Forward, Reply},
    forward::Forward as Forwarding,
    tcp_state::{FirstPacket, Progress, TcpFlags, TcpState, first_packet},
};
use proptest::prelude::*;

const FIN: u8 = TcpFlags::FIN;
const SYN: u8 = TcpFlags::SYN;
const RST: u8 = TcpFlags::RST;
const ACK: u8 = TcpFlags::ACK;
/// Bits that the state does not depend on: PSH, URG, ECE, CWR.
const NOISE: u8 = 0xe8;
const ALL_BITS: u32 = (Progress::SERVER_DOWN << 1) - 1;

fn observe(progress: Progress, direction: Direction, flags: u8) -> Progress {
    Progress(progress.0 | progress.observe(direction, TcpFlags(flags)))
}

/// Runs segments through a flow and compares the state after each.
#[track_caller]
fn check(mut progress: Progress, steps: &[(Direction, u8, TcpState)]) -> Progress {
    for (step, (direction, flags, expected)) in steps.iter().enumerate() {
        progress = observe(progress, *direction, *flags);
        assert_eq!(progress.state(), *expected, "after step {step}");
    }
    progress
}

const HANDSHAKE: [(Direction, u8, TcpState); 3] = [
    (Forward, SYN, TcpState::SynSent),
    (Reply, SYN | ACK, TcpState::SynReceived),
    (Forward, ACK, TcpState::Established),
];

fn established() -> Progress {
    check(Progress::default(), &HANDSHAKE)
}

#[test]
fn a_connection_lives_and_dies() {
    let progress = check(
        established(),
        &[
            (Forward, ACK | NOISE, TcpState::Established),
            (Reply, ACK, TcpState::Established),
            (Forward, FIN | ACK, TcpState::ClientClosing),
            (Reply, ACK, TcpState::ClientClosing),
            (Reply, FIN | ACK, TcpState::Closing),
            (Forward, ACK, TcpState::Closed),
        ],
    );
    assert!(progress.is_over() && progress.recyclable());
}

#[test]
fn the_server_may_close_first_and_the_client_go_on() {
    check(
        established(),
        &[
            (Reply, FIN | ACK, TcpState::ServerClosing),
            (Forward, ACK, TcpState::ServerClosing),
            (Forward, ACK, TcpState::ServerClosing),
            (Forward, FIN | ACK, TcpState::Closing),
            (Forward, FIN | ACK, TcpState::Closing),
            (Reply, ACK, TcpState::Closed),
        ],
    );
}

#[test]
fn both_may_close_at_once() {
    let progress = check(
        established(),
        &[
            (Forward, FIN | ACK, TcpState::ClientClosing),
            (Reply, FIN | ACK, TcpState::Closing),
            (Reply, FIN | ACK, TcpState::Closing),
        ],
    );
    assert!(progress.recyclable() && !progress.is_over());
    check(progress, &[(Reply, ACK, TcpState::Closed), (Forward, ACK, TcpState::Closed)]);
}

#[test]
fn retransmissions_of_the_handshake_change_nothing() {
    check(
        Progress::default(),
        &[
            (Forward, SYN, TcpState::SynSent),
            (Forward, SYN, TcpState::SynSent),
            (Reply, SYN | ACK, TcpState::SynReceived),
            (Forward, SYN, TcpState::SynReceived),
            (Reply, SYN | ACK, TcpState::SynReceived),
            (Forward, ACK, TcpState::Established),
            (Reply, SYN | ACK, TcpState::Established),
            (Forward, SYN, TcpState::Established),
        ],
    );
}

#[test]
fn the_clients_data_or_fin_confirms_when_its_ack_was_lost() {
    check(
        Progress::default(),
        &[HANDSHAKE[0], HANDSHAKE[1], (Forward, FIN | ACK, TcpState::ClientClosing)],
    );
    let progress = observe(check(Progress::default(), &HANDSHAKE[..2]), Forward, FIN | ACK);
    assert!(progress.is_confirmed());
}

#[test]
fn nothing_but_the_handshake_confirms() {
    let opened = check(Progress::default(), &HANDSHAKE[..1]);
    // A challenge ACK of a server in TIME-WAIT, and a client that guesses.
    for (direction, flags) in
        [(Reply, ACK), (Forward, ACK), (Forward, FIN | ACK), (Reply, FIN | ACK)]
    {
        assert_eq!(observe(opened, direction, flags), opened, "{direction:?} {flags:#x}");
    }
    let answered = check(Progress::default(), &HANDSHAKE[..2]);
    assert!(!observe(answered, Reply, ACK).is_confirmed());
    // Neither side plays the other's part.
    assert_eq!(opened.observe(Reply, TcpFlags(SYN)), 0);
    assert_eq!(opened.observe(Forward, TcpFlags(SYN | ACK)), 0);
}

#[test]
fn a_refused_connection_is_over_and_makes_way() {
    let progress =
        check(Progress::default(), &[HANDSHAKE[0], (Reply, RST | ACK, TcpState::Closed)]);
    assert!(progress.is_over() && progress.recyclable() && !progress.is_confirmed());
}

#[test]
fn a_picked_up_flow_waits_for_the_server() {
    let progress = check(
        Progress(Progress::PICKED_UP),
        &[
            (Forward, ACK, TcpState::SynReceived),
            (Reply, SYN | ACK, TcpState::SynReceived),
            (Reply, ACK, TcpState::Established),
        ],
    );
    assert!(progress.is_confirmed());
    check(Progress(Progress::PICKED_UP), &[(Reply, RST, TcpState::Closed)]);
    let closing = check(
        Progress(Progress::PICKED_UP),
        &[(Forward, FIN | ACK, TcpState::ClientClosing), (Reply, FIN | ACK, TcpState::Closing)],
    );
    assert!(!closing.is_confirmed());
}

#[test]
fn a_carried_fin_never_becomes_a_confirmed_flow() {
    let carried = check(
        Progress(Progress::CARRIED),
        &[
            (Reply, ACK, TcpState::ClientClosing),
            (Forward, FIN | ACK, TcpState::ClientClosing),
            (Forward, ACK, TcpState::ClientClosing),
        ],
    );
    assert!(!carried.is_confirmed() && !carried.is_over() && carried.recyclable());
    let over =
        check(carried, &[(Reply, FIN | ACK, TcpState::Closing), (Forward, ACK, TcpState::Closed)]);
    assert!(!over.is_confirmed() && over.is_over());
}

#[test]
fn a_flow_whose_server_died_is_over() {
    let progress = Progress(established().0 | Progress::SERVER_DOWN);
    assert_eq!(progress.state(), TcpState::Closed);
    assert!(progress.is_over() && progress.recyclable());
}

#[test]
fn the_first_packet_decides_how_a_flow_begins() {
    for flags in 0..=0xff_u8 {
        let expected = match flags & !NOISE {
            SYN => FirstPacket::Open,
            ACK => FirstPacket::PickUp,
            control if control == FIN | ACK => FirstPacket::Carry,
            _ => FirstPacket::Refuse,
        };
        assert_eq!(first_packet(TcpFlags(flags)), expected, "{flags:#x}");
    }
}

#[test]
fn malformed_flags_advance_nothing() {
    let malformed = |flags: u8| {
        let control = flags & !NOISE;
        let contradiction = [SYN | FIN, SYN | RST, FIN | RST];
        contradiction.iter().any(|bits| flags & bits == *bits) || control == 0 || control == FIN
    };
    for flags in 0..=0xff {
        assert_eq!(TcpFlags(flags).is_well_formed(), !malformed(flags), "{flags:#x}");
        for bits in 0..=ALL_BITS {
            for direction in [Forward, Reply] {
                let added = Progress(bits).observe(direction, TcpFlags(flags));
                assert!(!malformed(flags) || added == 0, "{flags:#x} adds {added:#x} to {bits:#x}");
            }
        }
    }
}

#[test]
fn adding_bits_never_goes_back() {
    for bits in 0..=ALL_BITS {
        let before = Progress(bits);
        for bit in 0..ALL_BITS.count_ones() {
            let after = Progress(bits | 1 << bit);
            let (from, to) = (before.state(), after.state());
            assert!(to.rank() >= from.rank(), "{from:?} to {to:?} by bit {bit} of {bits:#x}");
            assert!(!before.is_over() || after.is_over());
            assert!(!before.recyclable() || after.recyclable());
        }
        assert!(!before.is_over() || before.recyclable());
        assert_eq!(before.is_over(), before.state() == TcpState::Closed);
    }
}

#[test]
fn only_packets_that_change_nothing_escape_attention() {
    let mut spared = 0;
    for bits in 0..=ALL_BITS {
        for flags in 0..=0xff {
            let (progress, flags) = (Progress(bits), TcpFlags(flags));
            if progress.needs_attention(flags) {
                continue;
            }
            spared += 1;
            assert_eq!(progress.state(), TcpState::Established);
            assert_eq!(flags.0 & (SYN | FIN | RST), 0);
            for direction in [Forward, Reply] {
                assert_eq!(progress.observe(direction, flags) & !bits, 0);
            }
        }
    }
    assert!(spared > 0);
    assert!(!established().needs_attention(TcpFlags(ACK)));
    assert!(!established().needs_attention(TcpFlags(ACK | TcpFlags::PSH)));
}

#[test]
fn observing_only_adds_what_segments_can_tell() {
    let told = Progress::PICKED_UP | Progress::REPORTED | Progress::SERVER_DOWN;
    for bits in 0..=ALL_BITS {
        for flags in 0..=0xff {
            for direction in [Forward, Reply] {
                let added = Progress(bits).observe(direction, TcpFlags(flags));
                assert_eq!(added & told, 0);
                assert_eq!(added & !ALL_BITS, 0);
            }
        }
    }
}

fn segments() -> impl Strategy<Value = Vec<(bool, u8)>> {
    let flags = prop_oneof![
        4 => Just(ACK),
        2 => Just(SYN),
        2 => Just(SYN | ACK),
        2 => Just(FIN | ACK),
        1 => Just(RST),
        1 => any::<u8>(),
    ];
    prop::collection::vec((any::<bool>(), flags), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_segments_goes_forward(picked_up: bool, segments in segments()) {
        let mut progress = Progress(if picked_up { Progress::PICKED_UP } else { 0 });
        for (reply, flags) in segments {
            let direction = if reply { Reply } else { Forward };
            let next = observe(progress, direction, flags);
            prop_assert!(next.state().rank() >= progress.state().rank());
            // Half a flow never counts as confirmed.
            prop_assert!(
                !next.is_confirmed() || next.0 & (Progress::SYN_ACK | Progress::PICKED_UP) != 0
            );
            prop_assert!(next.0 & Progress::SYN_ACK == 0 || next.0 & Progress::SYN != 0);
            progress = next;
        }
    }

    #[test]
    fn two_cpus_agree_whoever_is_first(bits in 0..=ALL_BITS, a in 0..=ALL_BITS, b in 0..=ALL_BITS) {
        let one = Progress(Progress(bits | a).0 | b);
        let other = Progress(Progress(bits | b).0 | a);
        prop_assert_eq!(one.state(), other.state());
    }
}

#[test]
fn states_have_distinct_names_and_the_documented_order() {
    let states = [
        TcpState::SynSent,
        TcpState::SynReceived,
        TcpState::Established,
        TcpState::ClientClosing,
        TcpState::ServerClosing,
        TcpState::Closing,
        TcpState::Closed,
    ];
    for pair in states.windows(2) {
        assert!(pair[0] < pair[1] && pair[0].rank() <= pair[1].rank());
        assert_ne!(pair[0].name(), pair[1].name());
    }
}

#[test]
fn a_one_way_flow_lives_by_the_clients_packets_alone() {
    for forward in [Forwarding::Dsr, Forwarding::Ipip, Forwarding::Gue] {
        let new = Progress::default().with_forward(forward);
        assert_eq!((new.forward(), new.is_one_way()), (forward, true));
        let closing = check(
            new,
            &[
                (Forward, SYN, TcpState::SynSent),
                // Retransmitted: still nobody has answered.
                (Forward, SYN, TcpState::SynSent),
                (Forward, ACK, TcpState::Established),
                (Forward, ACK, TcpState::Established),
                (Forward, FIN | ACK, TcpState::ClientClosing),
                (Forward, ACK, TcpState::ClientClosing),
            ],
        );
        assert!(closing.is_confirmed() && closing.recyclable() && !closing.is_over());
        assert_eq!(closing.forward(), forward, "the way never changes");
        let reset =
            check(new, &[(Forward, SYN, TcpState::SynSent), (Forward, RST, TcpState::Closed)]);
        assert!(reset.is_over() && reset.recyclable());
        let picked_up = Progress(Progress::PICKED_UP).with_forward(forward);
        assert!(observe(picked_up, Forward, ACK).is_confirmed(), "by its second packet");
        let carried = Progress(Progress::CARRIED).with_forward(forward);
        assert!(!observe(carried, Forward, ACK).is_confirmed() && carried.recyclable());
    }
    assert!(!Progress(ALL_BITS).is_one_way());
}

#[test]
fn a_one_way_connection_that_goes_on_is_not_recycled() {
    let open = Progress::default().with_forward(Forwarding::Dsr);
    let open =
        check(open, &[(Forward, SYN, TcpState::SynSent), (Forward, ACK, TcpState::Established)]);
    assert!(!open.recyclable() && !open.needs_attention(TcpFlags(ACK)));
}
