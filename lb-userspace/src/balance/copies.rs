//! What became of the copies of requests that rules want (`mirror`), counted for each frontend,
//! in lines of the workers' own ([`Teller`]).

use std::sync::atomic::{AtomicU64, Ordering};

use super::teller::{LINES, Teller};

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Copied {
    /// A server got it, or was to be connected to for it.
    Sent,
    /// The body of the request is larger than is copied.
    TooLarge,
    /// There were too many copies on their way.
    Busy,
    /// No server had room for it.
    NoServer,
    /// The body of the request did not come to its end.
    Incomplete,
}

impl Copied {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Sent, Self::TooLarge, Self::Busy, Self::NoServer, Self::Incomplete];
}

/// Counters of copies. They outlive reloads.
#[derive(Debug, Default)]
pub struct CopyCounters {
    lines: [Line; LINES],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Line([AtomicU64; Copied::ALL.len()]);

impl CopyCounters {
    /// Counts a copy.
    pub fn count(&self, teller: Teller, copied: Copied) {
        teller.add(&teller.line(&self.lines).0[copied as usize], 1);
    }

    /// All lines together, in the order of [`Copied::ALL`].
    #[must_use]
    pub fn totals(&self) -> [u64; Copied::ALL.len()] {
        let mut totals = [0; Copied::ALL.len()];
        for Line(line) in &self.lines {
            for (total, count) in totals.iter_mut().zip(line) {
                *total += count.load(Ordering::Relaxed);
            }
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_all_workers_are_counted_by_what_became_of_them() {
        let counters = CopyCounters::default();
        for (worker, copied) in Copied::ALL.into_iter().enumerate() {
            assert_eq!(copied as usize, worker);
            counters.count(Teller::new(worker, LINES + 3), copied);
        }
        counters.count(Teller::new(LINES + 2, LINES + 3), Copied::Busy);
        assert_eq!(counters.totals(), [1, 1, 2, 1, 1]);
    }
}
