//! How long requests took, in few classes: of a frontend, or of a backend.
//!
//! Workers count in lines of their own ([`Teller`]). A request costs two
//! additions for each duration that it has.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::teller::{LINES, Teller};
use crate::model::histogram::{BOUNDS_US, Histogram, TimingTotals};

/// Durations of requests, or of sessions of `mode: tcp`, that are over. They outlive reloads.
#[derive(Debug, Default)]
pub struct Timings {
    lines: [Line; LINES],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Line {
    queue: Classes,
    connect: Classes,
    response: Classes,
    total: Classes,
}

#[derive(Debug, Default)]
struct Classes {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    /// Microseconds.
    sum_us: AtomicU64,
}

/// The durations of one that is over; none of what there was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// Waiting for a server with room.
    pub queue: Option<Duration>,
    /// Connecting to a server.
    pub connect: Option<Duration>,
    /// From sending the request to the header of the response.
    pub response: Option<Duration>,
    /// All of it.
    pub total: Duration,
}

impl Timings {
    /// Counts one that is over.
    pub fn count(&self, teller: Teller, durations: &Durations) {
        let line = teller.line(&self.lines);
        let of = |classes: &Classes, duration: Option<Duration>| {
            if let Some(duration) = duration {
                classes.count(teller, duration);
            }
        };
        of(&line.queue, durations.queue);
        of(&line.connect, durations.connect);
        of(&line.response, durations.response);
        line.total.count(teller, durations.total);
    }

    /// All lines together.
    #[must_use]
    pub fn totals(&self) -> TimingTotals {
        let mut totals = TimingTotals::default();
        for line in &self.lines {
            line.queue.add_to(&mut totals.queue);
            line.connect.add_to(&mut totals.connect);
            line.response.add_to(&mut totals.response);
            line.total.add_to(&mut totals.total);
        }
        totals
    }
}

impl Classes {
    fn count(&self, teller: Teller, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS_US.iter().take_while(|bound| us > **bound).count();
        teller.add(&self.counts[class], 1);
        teller.add(&self.sum_us, us);
    }

    fn add_to(&self, histogram: &mut Histogram) {
        for (total, count) in histogram.counts.iter_mut().zip(&self.counts) {
            *total += count.load(Ordering::Relaxed);
        }
        histogram.sum_us += self.sum_us.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_in_their_class_whoever_counts() {
        let timings = Timings::default();
        let us = Duration::from_micros;
        let bounds = [0, 1_000, 1_001, 10_000_000, 10_000_001, 3_600_000_000];
        for (worker, total) in bounds.into_iter().enumerate() {
            let connect = (worker == 3).then_some(us(7));
            let durations = Durations { connect, total: us(total), ..Durations::default() };
            timings.count(Teller::new(4 * worker, 24), &durations);
        }
        let totals = timings.totals();
        assert_eq!(totals.total.counts, [2, 1, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(totals.total.sum_us, bounds.iter().sum::<u64>());
        assert_eq!((totals.connect.counts[0], totals.connect.sum_us), (1, 7));
        assert_eq!((totals.queue, totals.response), (Histogram::default(), Histogram::default()));
    }
}
