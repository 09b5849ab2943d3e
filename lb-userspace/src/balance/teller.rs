//! Who counts: a worker, and the line of counters that is its own.
//!
//! Workers count in lines of their own, so that two cores do not pass one cache line back and
//! forth for every request. There are only so many lines; where workers have to share them they
//! add with atomic instructions, and where they do not, which is on most hosts, a plain addition
//! will do: nobody else writes, and whoever reads sees the number before it or after it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Lines of counters; workers beyond share them.
pub(crate) const LINES: usize = 8;

/// A worker as it counts. There is one at a time of each number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Teller {
    line: usize,
    /// No other worker has that line.
    is_alone: bool,
}

impl Teller {
    /// Worker `number` of so many, from 0.
    #[must_use]
    pub const fn new(number: usize, workers: usize) -> Self {
        Self { line: number % LINES, is_alone: workers <= LINES }
    }

    /// Its line.
    pub(crate) fn line<L>(self, lines: &[L; LINES]) -> &L {
        &lines[self.line % LINES]
    }

    /// Adds to a counter of its line.
    pub(crate) fn add(self, counter: &AtomicU64, more: u64) {
        if self.is_alone {
            let sum = counter.load(Ordering::Relaxed).wrapping_add(more);
            counter.store(sum, Ordering::Relaxed);
        } else {
            counter.fetch_add(more, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Lost additions would not be noticed otherwise.
    #[test]
    fn workers_that_share_a_line_lose_nothing() {
        for workers in [LINES, 2 * LINES] {
            let lines: [AtomicU64; LINES] = Default::default();
            thread::scope(|scope| {
                for number in 0..workers {
                    let (lines, teller) = (&lines, Teller::new(number, workers));
                    scope.spawn(move || {
                        (0..10_000).for_each(|_| teller.add(teller.line(lines), 1));
                    });
                }
            });
            let sum: u64 = lines.iter().map(|line| line.load(Ordering::Relaxed)).sum();
            assert_eq!(sum, 10_000 * workers as u64);
        }
    }
}
