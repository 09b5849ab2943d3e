//! The circuit breaker of one server: failures seen on traffic that are too many in a row,
//! or too large a share, take it out. Atomics only; time is a parameter.
//!
//! How long it stays out and grows is Envoy's outlier detection; that a server coming back
//! is on probation, so that its first failure takes it out again, is the half-open state
//! of Nygard's circuit breaker.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use crate::model::balance::{ErrorRatio, Passive, PassiveAction};

/// What traffic said of one server.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    in_a_row: AtomicU32,
    /// The window's number, then requests and failures in it; see [`Window`].
    window: AtomicU64,
    /// When it comes back, in ns; [`IN`]: it is not out; [`MARKED`]: when its checks say so.
    out_until: AtomicU64,
    /// How often it was taken out without doing well in between.
    times: AtomicU32,
    /// When it last came back, in ns.
    back_ns: AtomicU64,
}

/// How many servers of a backend are out because of traffic, and how many may be.
#[derive(Debug, Default)]
pub(super) struct Share {
    out: AtomicU32,
    most: AtomicU32,
}

/// Why a server is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trip {
    /// So many failures in a row.
    InARow(u32),
    /// So many failures of so many requests.
    Ratio(u32, u32),
}

const IN: u64 = 0;
const MARKED: u64 = u64::MAX;

impl Breaker {
    /// Whether it is out.
    pub(super) fn is_out(&self) -> bool {
        self.out_until.load(Ordering::Relaxed) != IN
    }

    /// When it comes back by itself, in ns; none if it is not out or waits for its checks.
    pub(super) fn back_at(&self) -> Option<u64> {
        Some(self.out_until.load(Ordering::Relaxed)).filter(|until| ![IN, MARKED].contains(until))
    }

    /// Whether it waits for its checks.
    pub(super) fn is_marked(&self) -> bool {
        self.out_until.load(Ordering::Relaxed) == MARKED
    }

    /// Notes how a request went. What is returned is a reason to take the server out.
    pub(super) fn note(&self, failed: bool, rules: &Passive, now_ns: u64) -> Option<Trip> {
        let ratio = rules.ratio.and_then(|ratio| self.note_in_window(failed, ratio, now_ns));
        if !failed {
            // Written only when it changes: all workers read this line.
            if self.in_a_row.load(Ordering::Relaxed) != 0 {
                self.in_a_row.store(0, Ordering::Relaxed);
            }
            return None;
        }
        let in_a_row = self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let too_many = rules.consecutive.filter(|most| in_a_row >= most.get());
        too_many.map(|_| Trip::InARow(in_a_row)).or(ratio)
    }

    /// Takes the server out unless it is out, or too many are. Whether it was done.
    pub(super) fn take_out(&self, rules: &Passive, share: &Share, now_ns: u64) -> bool {
        if self.is_out() || !share.enter() {
            return false;
        }
        let until = match rules.action {
            PassiveAction::MarkDown => MARKED,
            PassiveAction::Eject { first, longest } => {
                let well = now_ns.saturating_sub(self.back_ns.load(Ordering::Relaxed));
                let afresh = Duration::from_nanos(well) >= longest;
                let times = if afresh { 0 } else { self.times.load(Ordering::Relaxed) };
                self.times.store(times.saturating_add(1), Ordering::Relaxed);
                let time = first.saturating_mul(1 << times.min(20)).min(longest);
                now_ns.saturating_add(nanos(time)).clamp(IN + 1, MARKED - 1)
            }
        };
        let done = self
            .out_until
            .compare_exchange(IN, until, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if !done {
            share.leave();
        }
        done
    }

    /// Lets the server back in, on probation. Whether it was out.
    pub(super) fn let_in(&self, rules: Option<&Passive>, share: &Share, now_ns: u64) -> bool {
        let probation = rules.and_then(|rules| rules.consecutive).map_or(0, |most| most.get() - 1);
        self.in_a_row.store(probation, Ordering::Relaxed);
        self.window.store(0, Ordering::Relaxed);
        self.back_ns.store(now_ns, Ordering::Relaxed);
        let was_out = self.out_until.swap(IN, Ordering::Relaxed) != IN;
        if was_out {
            share.leave();
        }
        was_out
    }

    fn note_in_window(&self, failed: bool, ratio: ErrorRatio, now_ns: u64) -> Option<Trip> {
        // Numbers start at 1, so that an empty window is none of ours.
        let number = now_ns / nanos(ratio.window).max(1) + 1;
        let next = |bits| Window::from_bits(bits).after(number, failed).to_bits();
        let update = |bits| Some(next(bits));
        let before = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        let Window { requests, failures, .. } = Window::from_bits(next(before.unwrap_or(0)));
        let too_many = u64::from(failures) * 100 >= u64::from(requests) * u64::from(ratio.percent);
        (failed && requests >= ratio.requests.max(1) && too_many)
            .then_some(Trip::Ratio(failures, requests))
    }
}

impl Share {
    /// How many may be out from now on.
    pub(super) fn set_most(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How many are out beyond what may be.
    pub(super) fn excess(&self) -> u32 {
        let (out, most) = (self.out.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed));
        out.saturating_sub(most)
    }

    fn enter(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let update = |out: u32| (out < most).then_some(out + 1);
        self.out.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).is_ok()
    }

    /// A server that was out is not any more, or is no longer one of ours.
    pub(super) fn leave(&self) {
        let update = |out: u32| Some(out.saturating_sub(1));
        // The closure never refuses.
        let _ = self.out.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }
}

/// Counts of one window: 24 bits of its number, 20 bits each of requests and failures,
/// which stop counting at their most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    number: u32,
    requests: u32,
    failures: u32,
}

const COUNT: u32 = (1 << 20) - 1;

impl Window {
    #[allow(clippy::cast_possible_truncation, reason = "each is masked to its width")]
    const fn from_bits(bits: u64) -> Self {
        Self {
            number: (bits >> 40) as u32,
            requests: (bits >> 20) as u32 & COUNT,
            failures: bits as u32 & COUNT,
        }
    }

    const fn to_bits(self) -> u64 {
        (self.number as u64) << 40 | (self.requests as u64) << 20 | self.failures as u64
    }

    /// With one more request, in the window of this number.
    #[allow(clippy::cast_possible_truncation, reason = "24 bits of the number tell windows apart")]
    fn after(self, number: u64, failed: bool) -> Self {
        let number = number as u32 & 0x00ff_ffff;
        let old =
            if self.number == number { self } else { Self { number, requests: 0, failures: 0 } };
        if old.requests == COUNT {
            return old;
        }
        Self { requests: old.requests + 1, failures: old.failures + u32::from(failed), ..old }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rules(consecutive: u32, ratio: Option<ErrorRatio>) -> Passive {
        let (first, longest) = (Duration::from_secs(10), Duration::from_secs(60));
        let consecutive = NonZeroU32::new(consecutive);
        Passive {
            consecutive,
            ratio,
            action: PassiveAction::Eject { first, longest },
            max_share: 50,
        }
    }

    fn share(most: u32) -> Share {
        let share = Share::default();
        share.set_most(most);
        share
    }

    #[test]
    fn failures_in_a_row_trip_and_a_success_in_between_does_not() {
        let (breaker, rules) = (Breaker::default(), rules(3, None));
        let note = |failed| breaker.note(failed, &rules, 0);
        assert_eq!([true, true, false, true, true].map(note), [None; 5]);
        assert_eq!(note(true), Some(Trip::InARow(3)));
    }

    #[test]
    fn a_share_of_failures_trips_once_there_are_enough_requests() {
        let ratio = ErrorRatio { percent: 50, requests: 10, window: Duration::from_secs(10) };
        let (breaker, rules) = (Breaker::default(), rules(0, Some(ratio)));
        let tripped = (0..20).map(|turn| breaker.note(turn % 2 == 1, &rules, SECOND));
        let first = tripped.enumerate().find_map(|(turn, trip)| Some((turn, trip?)));
        assert_eq!(first, Some((9, Trip::Ratio(5, 10))));
        // The next window starts from nothing.
        assert_eq!(breaker.note(true, &rules, 11 * SECOND), None);
    }

    #[test]
    fn time_out_grows_and_starts_afresh_after_doing_well() {
        let (breaker, rules, share) = (Breaker::default(), rules(1, None), share(1));
        let mut now = 100 * SECOND;
        for expected in [10, 20, 40, 60, 60] {
            assert!(breaker.take_out(&rules, &share, now));
            assert_eq!(breaker.back_at(), Some(now + expected * SECOND));
            now += expected * SECOND;
            assert!(breaker.let_in(Some(&rules), &share, now));
        }
        now += 60 * SECOND;
        assert!(breaker.take_out(&rules, &share, now));
        assert_eq!(breaker.back_at(), Some(now + 10 * SECOND));
    }

    #[test]
    fn who_comes_back_is_on_probation() {
        let (breaker, rules, share) = (Breaker::default(), rules(3, None), share(1));
        assert!(breaker.take_out(&rules, &share, SECOND));
        breaker.let_in(Some(&rules), &share, 2 * SECOND);
        assert_eq!(breaker.note(true, &rules, 2 * SECOND), Some(Trip::InARow(3)));
        breaker.let_in(Some(&rules), &share, 2 * SECOND);
        assert_eq!(breaker.note(false, &rules, 2 * SECOND), None);
        assert_eq!(breaker.note(true, &rules, 2 * SECOND), None);
    }

    #[test]
    fn marked_servers_wait_for_their_checks() {
        let (breaker, share) = (Breaker::default(), share(1));
        let rules = Passive { action: PassiveAction::MarkDown, ..rules(1, None) };
        assert!(breaker.take_out(&rules, &share, SECOND));
        assert!(breaker.is_out() && breaker.is_marked());
        assert_eq!(breaker.back_at(), None);
    }

    proptest! {
        /// Whatever is tried in whatever order, never more than the share is out.
        #[test]
        fn never_more_than_the_share_is_out(
            most in 0_u32..6,
            steps in vec((0_usize..8, any::<bool>()), 0..200),
        ) {
            let breakers: Vec<Breaker> = (0..8).map(|_| Breaker::default()).collect();
            let (rules, share) = (rules(1, None), share(most));
            for (now, (index, take)) in (1..).zip(steps) {
                if take {
                    breakers[index].take_out(&rules, &share, now);
                } else {
                    breakers[index].let_in(Some(&rules), &share, now);
                }
                let out = breakers.iter().filter(|breaker| breaker.is_out()).count();
                prop_assert!(out <= most as usize);
                prop_assert_eq!(out, share.out.load(Ordering::Relaxed) as usize);
            }
        }

        #[test]
        fn counts_survive_packing(number in 0_u32..1 << 24, requests in 0..=COUNT, failures in 0..=COUNT) {
            let window = Window { number, requests, failures };
            prop_assert_eq!(Window::from_bits(window.to_bits()), window);
            let next = window.after(u64::from(number), true);
            prop_assert_eq!(Window::from_bits(next.to_bits()), next);
            prop_assert!(next.requests <= COUNT && next.failures <= COUNT);
        }
    }
}
