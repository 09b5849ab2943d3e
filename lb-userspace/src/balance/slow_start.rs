//! How the share of a server that comes back grows to its weight, so that cold caches and
//! empty pools are not met by full load (HAProxy's `slowstart`). Pure.

use std::time::Duration;

/// Weights are multiplied by this while some server of a tier is growing, so that a weight
/// of 1 has steps too.
pub(super) const SCALE: u32 = 16;

/// Steps from nothing to everything.
const STEPS: u32 = 20;

/// The share of a server in thousandths: what it has after `age` of `time`, in steps. At
/// least 1.
pub(crate) fn share(age: Duration, time: Duration) -> u32 {
    let step = step(time);
    let steps = age.as_nanos() / step.as_nanos().max(1);
    let steps = u32::try_from(steps).unwrap_or(STEPS);
    if age >= time || steps >= STEPS { 1000 } else { (steps * 1000 / STEPS).max(1000 / STEPS / 2) }
}

/// Time between two steps.
pub(crate) fn step(time: Duration) -> Duration {
    time / STEPS
}

/// `weight` at a share in thousandths, multiplied by [`SCALE`]; not 0 unless `weight` is.
pub(super) fn scaled(weight: u32, share: u32) -> u32 {
    let full = weight.saturating_mul(SCALE);
    let part = u64::from(full) * u64::from(share) / 1000;
    u32::try_from(part).unwrap_or(full).max(u32::from(weight > 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIME: Duration = Duration::from_secs(20);

    #[test]
    fn grows_from_little_to_everything() {
        let at = |seconds| share(Duration::from_secs(seconds), TIME);
        assert_eq!([at(0), at(1), at(10), at(19), at(20), at(99)], [25, 50, 500, 950, 1000, 1000]);
        assert_eq!(share(Duration::ZERO, Duration::ZERO), 1000);
    }

    #[test]
    fn a_weight_above_nothing_stays_above_nothing() {
        assert_eq!(scaled(1, 25), 1);
        assert_eq!(scaled(0, 500), 0);
        assert_eq!(scaled(256, 1000), 256 * SCALE);
    }

    proptest! {
        #[test]
        fn never_shrinks(time_ms in 0_u64..100_000, a in 0_u64..200_000, b in 0_u64..200_000) {
            let (early, late) = (a.min(b), a.max(b));
            let share = |ms| share(Duration::from_millis(ms), Duration::from_millis(time_ms));
            prop_assert!(share(early) <= share(late));
            prop_assert!((1..=1000).contains(&share(late)));
        }
    }
}
