//! What many exchanges came to.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::failure::{Failure, FailureKind};

/// What many exchanges came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Good answers, by the name of the server that gave them.
    pub answers: BTreeMap<String, u64>,
    /// Failures, by kind.
    pub failures: BTreeMap<FailureKind, u64>,
    /// The first failure, in words.
    pub first_failure: Option<String>,
    /// From the first exchange to the last.
    pub elapsed: Duration,
}

impl Tally {
    /// Good answers.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.answers.values().sum()
    }

    /// Failures of all kinds.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Good answers a second.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        let milliseconds = u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        self.succeeded().saturating_mul(1000) / milliseconds
    }

    /// Counts one exchange.
    pub fn count(&mut self, outcome: Result<String, Failure>) {
        match outcome {
            Ok(server) => *self.answers.entry(server).or_default() += 1,
            Err(failure) => {
                *self.failures.entry(failure.kind).or_default() += 1;
                self.first_failure.get_or_insert_with(|| failure.to_string());
            }
        }
    }

    /// Adds another tally that ran at the same time.
    pub fn merge(&mut self, other: Self) {
        for (server, answers) in other.answers {
            *self.answers.entry(server).or_default() += answers;
        }
        for (kind, failures) in other.failures {
            *self.failures.entry(kind).or_default() += failures;
        }
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.elapsed = self.elapsed.max(other.elapsed);
    }

    /// Fails unless `expected` exchanges succeeded and none failed.
    ///
    /// # Errors
    /// The whole tally, in words.
    pub fn require_all(&self, expected: u64) -> anyhow::Result<()> {
        let clean = self.failed() == 0 && self.succeeded() == expected;
        anyhow::ensure!(clean, "expected {expected} good answers and no failure, got {self}");
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>| items.join(", ");
        let answers = self.answers.iter().map(|(server, count)| format!("{server} {count}"));
        write!(
            f,
            "{} good ({}), {} failed, in {:.2} s",
            self.succeeded(),
            list(answers.collect()),
            self.failed(),
            self.elapsed.as_secs_f64()
        )?;
        if let Some(first) = &self.first_failure {
            let kinds = self.failures.iter().map(|(kind, count)| format!("{kind} {count}"));
            write!(f, "; failures: {}; the first: {first}", list(kinds.collect()))?;
        }
        Ok(())
    }
}
