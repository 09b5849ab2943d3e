//! How many retries a backend bears: a token bucket that requests fill and retries drain,
//! so that a backend in trouble is not given several times its load (the idea is Finagle's
//! `RetryBudget`). Time and counts are parameters; one atomic number is all its state.
//!
//! What was earned is a function of how many requests there were and how long it has been,
//! so a request does not touch the bucket: only retries do. It begins with what [`SAVED`]
//! brings, or the first request to a server that is down would fail.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::model::balance::Retries;

/// Retries are counted in thousandths.
const RETRY: u64 = 1000;
/// How long what was earned can be saved up.
const SAVED: Duration = Duration::from_secs(10);
/// Requests whose share can be saved up, beside what [`SAVED`] brings.
const SAVED_REQUESTS: u64 = 1000;

/// The bucket of one backend.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// Thousandths of retries spent, or forfeited because they were not spent in time.
    spent: AtomicU64,
}

impl Budget {
    /// Takes one retry if the budget has it. `requests` were there in all, in `elapsed`
    /// since the beginning; neither goes backwards.
    pub(super) fn withdraw(&self, rules: &Retries, requests: u64, elapsed: Duration) -> bool {
        let percent = u64::from(rules.budget_percent) * RETRY / 100;
        let floor = u64::from(rules.budget_floor) * RETRY;
        let time = elapsed.saturating_add(SAVED);
        let earned = requests.saturating_mul(percent).saturating_add(over(floor, time));
        let most = (SAVED_REQUESTS * percent + over(floor, SAVED)).max(RETRY);
        let take = |spent: u64| {
            let from = spent.max(earned.saturating_sub(most));
            (earned >= from.saturating_add(RETRY)).then_some(from + RETRY)
        };
        self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// What `per_second` comes to in `time`.
fn over(per_second: u64, time: Duration) -> u64 {
    let sum = u128::from(per_second) * time.as_millis() / 1000;
    u64::try_from(sum).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::balance::RetryStatuses;

    const RULES: Retries =
        Retries { attempts: 3, budget_percent: 20, budget_floor: 1, statuses: RetryStatuses::NONE };

    fn drain(budget: &Budget, rules: &Retries, requests: u64, seconds: u64) -> u32 {
        let mut taken = 0;
        while budget.withdraw(rules, requests, Duration::from_secs(seconds)) {
            taken += 1;
        }
        taken
    }

    #[test]
    fn requests_and_time_earn_retries() {
        let budget = Budget::default();
        assert_eq!(drain(&budget, &RULES, 0, 0), 10);
        assert_eq!(drain(&budget, &RULES, 100, 0), 20);
        assert_eq!(drain(&budget, &RULES, 100, 3), 3);
        assert_eq!(drain(&budget, &RULES, 105, 4), 2);
    }

    #[test]
    fn what_is_not_spent_is_forfeited_beyond_a_limit() {
        let budget = Budget::default();
        assert_eq!(drain(&budget, &RULES, 1_000_000, 3600), 210);
        assert_eq!(drain(&budget, &RULES, 1_000_010, 3600), 2);
    }

    #[test]
    fn a_budget_of_nothing_allows_nothing() {
        let none = Retries { budget_percent: 0, budget_floor: 0, ..RULES };
        assert_eq!(drain(&Budget::default(), &none, 1_000_000, 3600), 0);
    }

    #[test]
    fn extreme_counts_do_not_overflow() {
        let all =
            Retries { attempts: 1, budget_percent: u32::MAX, budget_floor: u32::MAX, ..RULES };
        assert!(Budget::default().withdraw(&all, u64::MAX, Duration::MAX));
    }
}
