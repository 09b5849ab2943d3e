//! How far servers of layer 4 that have come back have grown to their weights (`slow_start`).
//!
//! Not remembered over a restart of the agent: a server that grew then has its whole weight.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::book::ServerBook;
use crate::{
    balance::slow_start,
    model::{
        snapshot::Snapshot,
        state::{ServerId, ServerState},
    },
};

/// Since when servers are back.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// Whether each was up when last seen, and when it came back, if it was seen out.
    seen: BTreeMap<ServerId, (bool, Option<Instant>)>,
}

/// The shares of their weights that growing servers have at the moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shares {
    /// In thousandths; of the others nothing is said.
    pub(super) thousandths: BTreeMap<ServerId, u32>,
    /// When one of them takes its next step; none if there are none.
    pub(super) next: Option<Instant>,
}

impl Growth {
    /// Looks at the states of servers; whoever was not up and is now has come back.
    pub(super) fn look(&mut self, snapshot: &Snapshot, book: &ServerBook, now: Instant) -> Shares {
        let before = std::mem::take(&mut self.seen);
        let (mut shares, forwarded) = (Shares::default(), snapshot.l4_backends());
        for (id, record) in book.iter() {
            let is_up = record.state() == ServerState::Up;
            let back = match before.get(id) {
                Some((false, _)) if is_up => Some(now),
                Some((true, back)) if is_up => *back,
                _ => None,
            };
            self.seen.insert(id.clone(), (is_up, back));
            let time = snapshot.backends.get(&id.0).map(|one| one.proxy.balancing.slow_start);
            if let (Some(back), Some(time)) = (back, time)
                && forwarded.contains(&id.0)
            {
                shares.note(id, now.saturating_duration_since(back), time, now);
            }
        }
        shares
    }
}

impl Shares {
    fn note(&mut self, id: &ServerId, age: Duration, time: Duration, now: Instant) {
        let share = slow_start::share(age, time);
        if share < 1000 {
            self.thousandths.insert(id.clone(), share);
            let step = slow_start::step(time).max(Duration::from_millis(1));
            let steps = age.as_nanos() / step.as_nanos() + 1;
            let next = step * u32::try_from(steps).unwrap_or(u32::MAX);
            let next = now + next.saturating_sub(age);
            self.next = Some(self.next.map_or(next, |known| known.min(next)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::{
        fixture::{name, pg, snapshot},
        state::Health,
    };

    #[test]
    fn who_comes_back_grows_in_steps_and_who_was_there_from_the_start_does_not() {
        let mut snapshot = snapshot(&[("pg1", "10.0.1.20:5432"), ("pg2", "10.0.1.21:5432")]);
        let backend = snapshot.backends.get_mut(&name("pg")).expect("there is one");
        backend.proxy.balancing.slow_start = Duration::from_secs(20);
        let wall = SystemTime::UNIX_EPOCH;
        let mut book = ServerBook::new(&snapshot, Vec::new(), wall);
        let (mut growth, start) = (Growth::default(), Instant::now());
        let mut at = |book: &ServerBook, seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            let Shares { thousandths, next } = growth.look(&snapshot, book, now);
            (thousandths.into_iter().collect::<Vec<_>>(), next.map(|next| next - now))
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(at(&book, 0), (vec![], None));
        book.note_health(&pg("pg1"), Health::Down, "refused".into(), wall);
        assert_eq!(at(&book, 1), (vec![], None));
        book.note_health(&pg("pg1"), Health::Up, "connected".into(), wall);
        assert_eq!(at(&book, 10), (vec![(pg("pg1"), 25)], second));
        assert_eq!(at(&book, 20), (vec![(pg("pg1"), 500)], second));
        assert_eq!(at(&book, 30), (vec![], None));
    }
}
