//! When a server is checked. Pure: time and randomness are parameters.
//!
//! Intervals run from start to start and are jittered by a tenth, so that the checks of
//! many servers, and of many nodes that check one server, do not march in step.

use std::time::{Duration, Instant};

/// Longest wait for the first check of a server, whatever its interval: a start or a reload
/// should soon know what is well.
pub const FIRST_SPREAD: Duration = Duration::from_secs(2);

/// Least time between the end of a check and the start of the next, so that a server whose
/// checks take longer than the interval is not checked in a tight loop.
pub const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// When to check for the first time: a point within one interval, at most
/// [`FIRST_SPREAD`], chosen by `random` (all values equally likely).
#[must_use]
pub fn first_start(now: Instant, interval: Duration, random: u32) -> Instant {
    now + fraction(interval.min(FIRST_SPREAD), random)
}

/// When to check again after a check that began at `started` and ended `now`: one interval
/// of 90 to 110 %, chosen by `random`, after the start.
#[must_use]
pub fn next_start(started: Instant, now: Instant, interval: Duration, random: u32) -> Instant {
    let tenth = interval / 10;
    let jittered = interval - tenth + fraction(tenth * 2, random);
    (started + jittered).max(now + LEAST_PAUSE)
}

/// `whole * random / 2^32`.
fn fraction(whole: Duration, random: u32) -> Duration {
    whole.mul_f64(f64::from(random) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn jitter_stays_within_a_tenth(interval_ms in 20_u64..100_000, random: u32) {
            let started = Instant::now();
            let interval = Duration::from_millis(interval_ms);
            let wait = next_start(started, started, interval, random) - started;
            prop_assert!(wait >= interval.mul_f64(0.899) && wait <= interval.mul_f64(1.101));
        }

        #[test]
        fn first_checks_come_within_the_interval(interval_ms in 1_u64..100_000, random: u32) {
            let now = Instant::now();
            let interval = Duration::from_millis(interval_ms);
            let wait = first_start(now, interval, random) - now;
            prop_assert!(wait <= interval && wait <= FIRST_SPREAD);
        }
    }

    #[test]
    fn jitter_uses_the_whole_range() {
        let started = Instant::now();
        let second = Duration::from_secs(1);
        let wait = |random| next_start(started, started, second, random) - started;
        assert_eq!(wait(0), Duration::from_millis(900));
        assert!(wait(u32::MAX) > Duration::from_millis(1099));
    }

    #[test]
    fn a_check_longer_than_its_interval_is_followed_by_a_pause() {
        let started = Instant::now();
        let now = started + Duration::from_secs(5);
        assert_eq!(next_start(started, now, Duration::from_secs(1), 0), now + LEAST_PAUSE);
    }
}
