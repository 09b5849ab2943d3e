//! Deadlines of one worker, cheap enough to set for every request: a number each, looked
//! at ten times a second. A timeout fires at most [`TICK`] late, and never early.
//!
//! Timers of the runtime are exact and cost a lock and a place in a wheel each time they
//! are set; timeouts of a proxy are set often, hardly ever fire, and need not be exact.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

use pin_project_lite::pin_project;

/// How often deadlines are looked at.
pub const TICK: Duration = Duration::from_millis(TICK_MS);
const TICK_MS: u64 = 100;

/// Longest wait before a server is connected to again that has just failed, if there is no
/// other; it may be starting. As long as HAProxy waits.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// No deadline.
const NEVER: u64 = u64::MAX;
/// Deadlines that nobody has and that are kept all the same.
const FREE: usize = 64;

thread_local! {
    static WHEEL: Wheel = Wheel {
        started: Instant::now(),
        wall: Cell::new((Instant::now(), SystemTime::now())),
        now_ms: Cell::new(0),
        coarse: Cell::new(Instant::now()),
        entries: RefCell::default(),
        free: RefCell::default(),
    };
}

/// The deadlines of a worker.
struct Wheel {
    started: Instant,
    /// Both clocks as of the last tick.
    wall: Cell<(Instant, SystemTime)>,
    /// As of the last tick.
    now_ms: Cell<u64>,
    /// The same as a moment.
    coarse: Cell<Instant>,
    entries: RefCell<Vec<Rc<Entry>>>,
    /// Those that nobody has, the last one used last: it is still in the caches.
    free: RefCell<Vec<Rc<Entry>>>,
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
        WHEEL.with(|wheel| {
            if let Some(entry) = wheel.free.borrow_mut().pop() {
                return Self(entry);
            }
            let entry = Rc::new(Entry { at: Cell::new(NEVER), waker: RefCell::default() });
            wheel.entries.borrow_mut().push(Rc::clone(&entry));
            Self(entry)
        })
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.clear();
        // A waker keeps the memory of its task.
        self.0.waker.take();
        // The thread may be ending.
        let _ = WHEEL.try_with(|wheel| wheel.free.borrow_mut().push(Rc::clone(&self.0)));
    }
}

impl Deadline {
    /// Sets it to `after` from now.
    pub fn set(&self, after: Duration) {
        // The clock may be a tick behind, and a part of a millisecond is a whole one.
        let after =
            after.as_secs().saturating_mul(1000).saturating_add(after.subsec_millis().into());
        let after = after.saturating_add(TICK_MS);
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

pin_project! {
    /// [`within`].
    #[derive(Debug)]
    pub(crate) struct Within<F> {
        #[pin]
        future: F,
        deadline: Deadline,
    }
}

/// What `future` gives, unless it takes too long. Not an `async fn`, which would have room
/// for the future twice.
pub(crate) fn within<F: Future>(after: Duration, future: F) -> Within<F> {
    let deadline = Deadline::default();
    deadline.set(after);
    Within { future, deadline }
}

impl<F: Future> Future for Within<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.future.poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => this.deadline.poll(context).map(|()| None),
        }
    }
}

/// The time as of the last tick, at most [`TICK`] ago: for what need not be exact.
#[must_use]
pub fn coarse_now() -> Instant {
    WHEEL.with(|wheel| wheel.coarse.get())
}

/// The wall time of a moment that was not long ago. It may lag behind a clock that is set
/// by a tick.
#[must_use]
pub fn wall(at: Instant) -> SystemTime {
    WHEEL.with(|wheel| {
        let (then, wall) = wheel.wall.get();
        match at.checked_duration_since(then) {
            Some(since) => wall + since,
            None => wall.checked_sub(then - at).unwrap_or(SystemTime::UNIX_EPOCH),
        }
    })
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
        self.wall.set((Instant::now(), SystemTime::now()));
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(NEVER - 1);
        self.now_ms.set(now);
        self.coarse.set(self.started + Duration::from_millis(now));
        let mut due = Vec::new();
        self.forget_half();
        self.entries.borrow_mut().retain(|entry| {
            if entry.at.get() <= now {
                due.extend(entry.waker.borrow_mut().take());
            }
            // The last one that knows of it is this list.
            Rc::strong_count(entry) > 1
        });
        due.into_iter().for_each(Waker::wake);
    }

    /// Lets go of some that nobody has, so that a crowd leaves nothing behind.
    fn forget_half(&self) {
        let mut free = self.free.borrow_mut();
        let surplus = free.len().saturating_sub(FREE) / 2;
        free.drain(..surplus);
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
    async fn those_that_are_dropped_are_used_again() {
        let first = Deadline::default();
        first.set(Duration::ZERO);
        drop(first);
        let second = Deadline::default();
        assert!(!second.is_set());
        WHEEL.with(|wheel| assert_eq!(wheel.entries.borrow().len(), 1));
    }

    #[tokio::test]
    async fn a_crowd_that_has_left_is_forgotten() {
        let crowd: Vec<_> = (0..10 * FREE).map(|_| Deadline::default()).collect();
        let kept = Deadline::default();
        drop(crowd);
        WHEEL.with(|wheel| {
            (0..20).for_each(|_| wheel.turn());
            assert!((1..=FREE + 2).contains(&wheel.entries.borrow().len()));
        });
        assert!(!kept.is_set());
    }
}
