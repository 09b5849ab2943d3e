//! Deadlines of one worker, cheap enough to set for every request: a number each, looked
//! at ten times a second. A timeout fires at most [`TICK`] late, and never early.
//!
//! Timers of the runtime are exact and cost a lock and a place in a wheel each time they
//! are set; timeouts of a proxy are set often, hardly ever fire, and need not be exact.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// How often deadlines are looked at.
pub const TICK: Duration = Duration::from_millis(100);

/// No deadline.
const NEVER: u64 = u64::MAX;

thread_local! {
    static WHEEL: Wheel = Wheel {
        started: Instant::now(),
        now_ms: Cell::new(0),
        entries: RefCell::default(),
    };
}

/// The deadlines of a worker.
struct Wheel {
    started: Instant,
    /// As of the last tick.
    now_ms: Cell<u64>,
    entries: RefCell<Vec<Rc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    /// In milliseconds of the wheel.
    at: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

/// A deadline that can be set again and again. It belongs to the worker that made it.
#[derive(Debug)]
pub struct Deadline(Rc<Entry>);

impl Default for Deadline {
    fn default() -> Self {
        let entry = Rc::new(Entry { at: Cell::new(NEVER), waker: RefCell::default() });
        WHEEL.with(|wheel| wheel.entries.borrow_mut().push(Rc::clone(&entry)));
        Self(entry)
    }
}

impl Deadline {
    /// Sets it to `after` from now.
    pub fn set(&self, after: Duration) {
        // The clock may be a tick behind, and a part of a millisecond is a whole one.
        let after = after.saturating_add(TICK).as_millis();
        let after = u64::try_from(after).unwrap_or(NEVER);
        self.0.at.set(WHEEL.with(|wheel| wheel.now_ms.get()).saturating_add(after));
    }

    /// Nothing is waited for.
    pub fn clear(&self) {
        self.0.at.set(NEVER);
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.at.get() != NEVER
    }

    /// Ready once it has passed. Clears it then.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let now = WHEEL.with(|wheel| wheel.now_ms.get());
        if self.0.at.get() <= now {
            self.clear();
            return Poll::Ready(());
        }
        let mut waker = self.0.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until it has passed.
    pub async fn passed(&self) {
        std::future::poll_fn(|context| self.poll(context)).await;
    }
}

/// Looks at the deadlines of this worker for ever.
pub async fn run() {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        WHEEL.with(Wheel::turn);
    }
}

impl Wheel {
    fn turn(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(NEVER - 1);
        self.now_ms.set(now);
        let mut due = Vec::new();
        self.entries.borrow_mut().retain(|entry| {
            if entry.at.get() <= now {
                due.extend(entry.waker.borrow_mut().take());
            }
            // The last one that knows of it is this list.
            Rc::strong_count(entry) > 1
        });
        due.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fires_late_by_a_tick_or_two_and_never_early() {
        let local = tokio::task::LocalSet::new();
        local.spawn_local(run());
        local
            .run_until(async {
                let deadline = Deadline::default();
                let started = Instant::now();
                deadline.set(Duration::from_millis(150));
                deadline.passed().await;
                assert!(started.elapsed() >= Duration::from_millis(150));
                assert!(started.elapsed() < Duration::from_secs(5));
                assert!(!deadline.is_set());
            })
            .await;
    }

    #[tokio::test]
    async fn those_that_are_dropped_are_forgotten() {
        drop([Deadline::default(), Deadline::default()]);
        let kept = Deadline::default();
        WHEEL.with(|wheel| {
            wheel.turn();
            assert_eq!(wheel.entries.borrow().len(), 1);
        });
        assert!(!kept.is_set());
    }
}
