//! When the neighbour watch acts: after a burst of kernel events, and how often it asks
//! after one neighbour. Pure: time is a parameter.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::neighbours::{Need, Place};

/// A burst of events is over after this long without one.
const QUIET: Duration = Duration::from_millis(20);

/// A burst is acted on after this long even if it goes on.
const LONGEST_BURST: Duration = Duration::from_millis(200);

/// Between the first two attempts to resolve a neighbour; doubles each time. The kernel
/// itself asks three times in a row at each.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Longest time between attempts to resolve a neighbour.
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Between attempts to confirm a neighbour that stays stale.
const CONFIRM_RETRY: Duration = Duration::from_secs(30);

/// Makes one action of a burst of events.
#[derive(Debug, Default)]
pub(super) struct Debounce {
    first_last: Option<(Instant, Instant)>,
}

impl Debounce {
    /// An event happened.
    pub(super) fn note(&mut self, now: Instant) {
        let first = self.first_last.map_or(now, |(first, _)| first);
        self.first_last = Some((first, now));
    }

    /// When to act; none if nothing happened.
    pub(super) fn due(&self) -> Option<Instant> {
        self.first_last.map(|(first, last)| (last + QUIET).min(first + LONGEST_BURST))
    }

    /// The action was taken.
    pub(super) fn clear(&mut self) {
        self.first_last = None;
    }
}

/// When each neighbour was last asked after.
#[derive(Debug, Default)]
pub(super) struct Attempts(BTreeMap<Place, Attempt>);

#[derive(Clone, Copy, Debug)]
struct Attempt {
    need: Need,
    next: Instant,
    wait: Duration,
}

impl Attempts {
    /// Which of the places in need are to be acted on now; they count as acted on. A new
    /// need is due at once. Places without need are forgotten.
    pub(super) fn take_due(&mut self, needs: &BTreeMap<Place, Need>, now: Instant) -> Vec<Place> {
        self.0.retain(|place, attempt| needs.get(place) == Some(&attempt.need));
        let mut due = Vec::new();
        for (&place, &need) in needs {
            let earlier = self.0.get(&place);
            if earlier.is_some_and(|attempt| attempt.next > now) {
                continue;
            }
            let wait = match (need, earlier) {
                (Need::Confirm, _) => CONFIRM_RETRY,
                (Need::Resolve, None) => FIRST_RETRY,
                (Need::Resolve, Some(attempt)) => (attempt.wait * 2).min(LAST_RETRY),
            };
            self.0.insert(place, Attempt { need, next: now + wait, wait });
            due.push(place);
        }
        due
    }

    /// When the next place is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|attempt| attempt.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_is_one_action() {
        let start = Instant::now();
        let mut debounce = Debounce::default();
        assert_eq!(debounce.due(), None);
        debounce.note(start);
        debounce.note(start + 15 * MS);
        assert_eq!(debounce.due(), Some(start + 35 * MS));
        debounce.clear();
        assert_eq!(debounce.due(), None);
    }

    #[test]
    fn a_burst_without_end_is_acted_on() {
        let start = Instant::now();
        let mut debounce = Debounce::default();
        for step in 0..100 {
            debounce.note(start + step * 10 * MS);
        }
        assert_eq!(debounce.due(), Some(start + LONGEST_BURST));
    }

    /// The seconds, of the first 60, at which a place with this need is acted on.
    fn acted_on(need: Need) -> Vec<u64> {
        let start = Instant::now();
        let needs = BTreeMap::from([((1, "10.0.0.1".parse().unwrap()), need)]);
        let mut attempts = Attempts::default();
        let mut due =
            |second| !attempts.take_due(&needs, start + Duration::from_secs(second)).is_empty();
        (0..60).filter(|&second| due(second)).collect()
    }

    #[test]
    fn attempts_to_resolve_become_rarer_but_never_end() {
        assert_eq!(acted_on(Need::Resolve), [0, 1, 3, 7, 15, 25, 35, 45, 55]);
        assert_eq!(acted_on(Need::Confirm), [0, 30]);
    }

    #[test]
    fn a_place_whose_need_changes_is_due_at_once() {
        let start = Instant::now();
        let place = (1, "10.0.0.1".parse().unwrap());
        let mut attempts = Attempts::default();
        assert_eq!(attempts.take_due(&BTreeMap::from([(place, Need::Confirm)]), start), [place]);
        assert_eq!(attempts.next(), Some(start + CONFIRM_RETRY));
        let resolve = BTreeMap::from([(place, Need::Resolve)]);
        assert_eq!(attempts.take_due(&resolve, start), [place]);
        assert_eq!(attempts.take_due(&BTreeMap::new(), start), []);
        assert_eq!(attempts.next(), None);
        assert_eq!(attempts.take_due(&resolve, start), [place], "forgotten, so new again");
    }
}
