//! How often something may happen: a token bucket as a single number.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A, virtual scheduling): in place of a
//! count of tokens and the time it was true, the bucket is the time at which it will be full
//! again. An event moves that time on by its interval; it may not move further ahead of the
//! present than the burst. Over any stretch of time `t` no more than `burst + t / interval`
//! events pass. No division, no clock: the present is a parameter, and intervals are made
//! from rates by [`Rate::new`], outside of the data plane.
//!
//! Two processors that read the same number and both write would let one event through
//! uncounted; whoever shares a bucket holds a lock.

/// Events a second, and how many may come at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// The time that an event takes, nanoseconds; 0 for no limit.
    pub interval_ns: u32,
    /// The time that events may take ahead, nanoseconds.
    pub burst_ns: u64,
}

/// Highest rate: 10 million events a second take 100 ns each. An interval is a whole number
/// of nanoseconds, rounded up, which at this rate is exact and below it less than 1 % off.
pub const MAX_PER_SECOND: u32 = 10_000_000;

const SECOND_NS: u32 = 1_000_000_000;

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self { interval_ns: 0, burst_ns: 0 };

    /// `per_second` events on average, `burst` at once. Zeros count as one, rates beyond
    /// [`MAX_PER_SECOND`] as that.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let per_second = match per_second {
            0 => 1,
            MAX_PER_SECOND.. => MAX_PER_SECOND,
            other => other,
        };
        let interval_ns = SECOND_NS.div_ceil(per_second);
        let burst = if burst == 0 { 1 } else { burst as u64 };
        // Below 2^62: 10^9 times 2^32.
        Self { interval_ns, burst_ns: burst * interval_ns as u64 }
    }
}

/// Takes `wanted` tokens from a bucket, or one if it has not that many: how many it gave, and
/// the bucket after that. A bucket that is 0 is full.
#[inline(always)]
#[must_use]
pub const fn take(
    full_ns: u64,
    now_ns: u64,
    wanted: u32,
    interval_ns: u32,
    burst_ns: u64,
) -> (u32, u64) {
    // Two numbers of 32 bits: no overflow.
    let together_ns = interval_ns as u64 * wanted as u64;
    if let Some(after_ns) = take_ns(full_ns, now_ns, together_ns, burst_ns) {
        return (wanted, after_ns);
    }
    match take_one(full_ns, now_ns, interval_ns, burst_ns) {
        Some(after_ns) if wanted > 0 => (1, after_ns),
        _ => (0, full_ns),
    }
}

/// Takes one token: the bucket after that, or none if it is empty.
#[inline(always)]
#[must_use]
pub const fn take_one(full_ns: u64, now_ns: u64, interval_ns: u32, burst_ns: u64) -> Option<u64> {
    take_ns(full_ns, now_ns, interval_ns as u64, burst_ns)
}

#[inline(always)]
const fn take_ns(full_ns: u64, now_ns: u64, cost_ns: u64, burst_ns: u64) -> Option<u64> {
    let full_ns = if full_ns < now_ns { now_ns } else { full_ns };
    let after_ns = full_ns.saturating_add(cost_ns);
    if after_ns <= now_ns.saturating_add(burst_ns) { Some(after_ns) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_one_an_interval() {
        let Rate { interval_ns, burst_ns } = Rate::new(100, 5);
        let (mut bucket, mut passed) = (0, 0);
        // A second, looked at every millisecond.
        for now_ms in 1..=1000_u64 {
            while let Some(after) = take_one(bucket, now_ms * 1_000_000, interval_ns, burst_ns) {
                (bucket, passed) = (after, passed + 1);
            }
        }
        assert_eq!(passed, 5 + 99);
    }

    #[test]
    fn rates_at_the_ends_are_held_to_what_can_be_done() {
        assert_eq!(Rate::new(0, 0), Rate { interval_ns: SECOND_NS, burst_ns: SECOND_NS.into() });
        assert_eq!(Rate::new(u32::MAX, 3), Rate { interval_ns: 100, burst_ns: 300 });
        assert_eq!(Rate::new(3, 1).interval_ns, 333_333_334);
        let greatest = Rate::new(1, u32::MAX);
        assert_eq!(
            take_one(u64::MAX, u64::MAX, greatest.interval_ns, greatest.burst_ns),
            Some(u64::MAX)
        );
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_over_any_stretch(
            per_second in 1..=MAX_PER_SECOND,
            burst in 1..10_000_u32,
            start_ns in 0..1_u64 << 60,
            steps in prop::collection::vec((0..50_000_000_u64, 1..300_u32), 1..60),
        ) {
            let rate = Rate::new(per_second, burst);
            let (mut bucket, mut now) = (0, start_ns);
            // When each event passed.
            let mut events: Vec<u64> = Vec::new();
            for (pause, wanted) in steps {
                now += pause;
                let (taken, after) = take(bucket, now, wanted, rate.interval_ns, rate.burst_ns);
                prop_assert!(taken <= wanted && after >= bucket);
                bucket = after;
                events.extend(std::iter::repeat_n(now, taken as usize));
            }
            for (first, since) in events.iter().enumerate().step_by(7) {
                let within = (now - since) as f64 / f64::from(SECOND_NS) * f64::from(per_second);
                let count = (events.len() - first) as f64;
                prop_assert!(count <= f64::from(burst) + within + 1e-6, "{count} events");
            }
        }

        #[test]
        fn tokens_taken_together_are_as_many_as_one_by_one_or_a_single_one(
            per_second in 1..=MAX_PER_SECOND, burst in 1..500_u32,
            now in 1_000_000_000..1_u64 << 62, saved in 0..2_000_000_000_u64, wanted in 1..600_u32,
        ) {
            let Rate { interval_ns, burst_ns } = Rate::new(per_second, burst);
            let bucket = now - 1_000_000_000 + saved;
            let (taken, after) = take(bucket, now, wanted, interval_ns, burst_ns);
            let (mut singly, mut there) = (bucket, 0);
            while there < wanted {
                let Some(next) = take_one(singly, now, interval_ns, burst_ns) else { break };
                (singly, there) = (next, there + 1);
            }
            prop_assert_eq!(taken, if there == wanted { wanted } else { there.min(1) });
            if taken == wanted {
                prop_assert_eq!(after, singly);
            }
        }

        #[test]
        fn no_numbers_overflow(bucket: u64, now: u64, wanted: u32, interval: u32, burst: u64) {
            let (taken, after) = take(bucket, now, wanted, interval, burst);
            prop_assert!(taken <= wanted && after >= bucket);
            prop_assert!(take_one(bucket, now, interval, burst).is_none_or(|after| after >= now));
        }
    }
}
