//! Turns by weight: the sequence in which servers get requests, computed ahead so that
//! taking a turn is one atomic addition. Pure.
//!
//! The sequence is nginx's smooth weighted round-robin
//! (`ngx_http_upstream_round_robin.c`): in each step everyone gains its weight, the
//! richest has its turn and pays what all gained together. Over a cycle everyone has
//! exactly its share, and heavy servers' turns are spread instead of in a row.

/// Most turns of one cycle; more servers or finer weights are rounded to fit.
const MOST_TURNS: u64 = 1 << 16;

/// One cycle of turns, as indexes into the weights. Empty if all weights are 0. A weight
/// above 0 has at least one turn. Shares are exact as long as the weights, divided by
/// their greatest common divisor, add up to at most 65536, and rounded beyond.
///
/// `weights` has at most 65535 elements.
pub(super) fn cycle(weights: &[u32]) -> Box<[u16]> {
    let weights = reduce(weights);
    let total: i64 = weights.iter().sum();
    let mut credits = vec![0_i64; weights.len()];
    let mut turns = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for _ in 0..total {
        let mut richest = 0;
        for index in 0..credits.len() {
            credits[index] += weights[index];
            if credits[index] > credits[richest] {
                richest = index;
            }
        }
        credits[richest] -= total;
        turns.push(u16::try_from(richest).unwrap_or(u16::MAX));
    }
    turns.into_boxed_slice()
}

/// The weights in lowest terms, or rounded to fit a cycle.
fn reduce(weights: &[u32]) -> Vec<i64> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let reduced: Vec<u64> = weights.iter().map(|weight| u64::from(weight / divisor)).collect();
    let total: u64 = reduced.iter().sum();
    let fit = |weight: u64| match weight {
        0 => 0,
        _ if total <= MOST_TURNS => weight,
        _ => (weight * MOST_TURNS / total).max(1),
    };
    reduced.into_iter().map(|weight| i64::try_from(fit(weight)).unwrap_or(0)).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn check(weights: &[u32], expected: &[u16]) {
        assert_eq!(&*cycle(weights), expected, "{weights:?}");
    }

    #[test]
    fn heavy_servers_do_not_get_their_turns_in_a_row() {
        check(&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]);
        check(&[100, 100], &[0, 1]);
        check(&[0, 3], &[1]);
        check(&[], &[]);
        check(&[0, 0], &[]);
    }

    #[test]
    fn weights_that_do_not_fit_keep_their_shares_roughly_and_nobody_is_lost() {
        let weights: Vec<u32> = (0..2000).map(|index| 1 + index % 256).collect();
        let turns = cycle(&weights);
        assert!(turns.len() <= (1 << 16) + weights.len());
        let mut counts = vec![0_u32; weights.len()];
        turns.iter().for_each(|turn| counts[usize::from(*turn)] += 1);
        assert!(counts.iter().all(|count| *count > 0));
        assert!(counts[255] > 50 * counts[0], "{} {}", counts[255], counts[0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Wherever a cycle is entered, everyone has its exact share after one round.
        #[test]
        fn shares_are_exact_over_a_cycle(weights in vec(0_u32..=256, 1..12), start in 0_usize..4000) {
            let turns = cycle(&weights);
            let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
            let mut counts = vec![0_u32; weights.len()];
            for step in 0..turns.len() {
                counts[usize::from(turns[(start + step) % turns.len()])] += 1;
            }
            let shares: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
            prop_assert_eq!(counts, shares);
        }

        /// At no time is anybody more than one turn per other server off its share.
        #[test]
        fn turns_are_spread(weights in vec(1_u32..=256, 1..8)) {
            let turns = cycle(&weights);
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0_u32; weights.len()];
            for (step, turn) in (1_u32..).zip(turns.iter()) {
                counts[usize::from(*turn)] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let due = f64::from(step) * f64::from(*weight) / f64::from(total);
                    prop_assert!((f64::from(*count) - due).abs() <= weights.len() as f64);
                }
            }
        }
    }
}
