//! Stages of `test`: what is run, how its results are counted, and what is said of them.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{fuzz, tidy};
use crate::process;

/// A part of the test run.
pub(super) struct Stage {
    pub(super) name: String,
    pub(super) work: Work,
}

/// What a stage does.
pub(super) enum Work {
    /// Counts as one check.
    Command(Command),
    /// The rules of the repository; counts as one check.
    Tidy,
    /// Counts as many checks as the test runner reports.
    Tests(Command),
    /// The fuzzer, so many seconds for each parser; each counts as one check.
    Fuzz(u32),
}

impl Stage {
    /// One command.
    pub(super) fn command(name: &str, command: Command) -> Self {
        Self { name: name.into(), work: Work::Command(command) }
    }

    /// Does it, and says how it went.
    pub(super) fn run(self) -> Outcome {
        println!("\n== {}", self.name);
        let start = Instant::now();
        let mut counts = Counts::default();
        let result = match self.work {
            Work::Command(mut command) => process::run(&mut command).map(|()| counts.passed = 1),
            Work::Tidy => tidy::run(&tidy::Options {}).map(|()| counts.passed = 1),
            Work::Tests(mut command) => run_tests(&mut command, &mut counts),
            Work::Fuzz(seconds) => fuzz::run_targets(seconds).map(|count| counts.passed = count),
        };
        let error = result.err().map(|error| {
            // A crash or a compile error fails no test by name.
            counts.failed = counts.failed.max(1);
            format!("{error:#}")
        });
        let outcome = Outcome { name: self.name, took: start.elapsed(), counts, error };
        println!("== {outcome}");
        outcome
    }
}

/// Runs a program of tests and counts them.
///
/// # Errors
/// A test failed, or there was none.
pub(super) fn run_tests(command: &mut Command, counts: &mut Counts) -> Result<()> {
    let succeeded = process::watch(command, |line| counts.add(line))?;
    if !succeeded {
        bail!("the test run failed");
    }
    if counts.passed == 0 {
        bail!("there was no test to run");
    }
    Ok(())
}

/// What a stage came to.
pub(super) struct Outcome {
    name: String,
    took: Duration,
    counts: Counts,
    error: Option<String>,
}

impl Outcome {
    /// Nothing failed and nothing was skipped.
    pub(super) fn succeeded(&self) -> bool {
        self.error.is_none() && self.counts.failed == 0 && self.counts.skipped == 0
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { passed, failed, skipped } = self.counts;
        let word = if self.succeeded() { "ok" } else { "FAILED" };
        let seconds = self.took.as_secs_f64();
        write!(f, "{:<28} {word:<6} {seconds:>7.1} s  {passed} passed", self.name)?;
        if failed > 0 {
            write!(f, ", {failed} failed")?;
        }
        if skipped > 0 {
            write!(f, ", {skipped} skipped")?;
        }
        if let Some(error) = &self.error {
            write!(f, ": {error}")?;
        }
        Ok(())
    }
}

/// Tests by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    /// Adds a summary line of Rust's test runner; other lines say nothing.
    fn add(&mut self, line: &str) {
        let Some(summary) = line.strip_prefix("test result: ") else { return };
        for part in summary.split(['.', ';']) {
            let Some((number, word)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// All outcomes again, and the last line.
///
/// # Errors
/// A check failed.
pub(super) fn summarise(outcomes: &[Outcome]) -> Result<()> {
    println!("\n== summary");
    let (mut passed, mut failed) = (0, 0);
    for outcome in outcomes {
        println!("{outcome}");
        passed += outcome.counts.passed;
        failed += outcome.counts.failed + outcome.counts.skipped;
    }
    println!("\n{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("{failed} checks failed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_test_programs_add_up() {
        let mut counts = Counts::default();
        counts.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s");
        counts.add("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        counts.add("test drain ... ok");
        assert_eq!(counts, Counts { passed: 14, failed: 1, skipped: 1 });
    }

    #[test]
    fn a_skipped_test_fails_its_stage() {
        let counts = Counts { passed: 5, failed: 0, skipped: 1 };
        let outcome = Outcome { name: "x".into(), took: Duration::ZERO, counts, error: None };
        assert!(!outcome.succeeded());
        assert!(summarise(&[outcome]).is_err());
    }

    #[test]
    fn a_run_that_breaks_off_counts_as_a_failure() {
        let stage = Stage { name: "x".into(), work: Work::Tests(Command::new("false")) };
        let outcome = stage.run();
        assert_eq!(outcome.counts.failed, 1);
        assert!(!outcome.succeeded());
    }

    #[test]
    fn a_run_without_tests_fails() {
        let stage = Stage { name: "x".into(), work: Work::Tests(Command::new("true")) };
        assert!(!stage.run().succeeded());
    }

    #[test]
    fn a_command_that_succeeds_counts_as_one_check() {
        let outcome = Stage::command("x", Command::new("true")).run();
        assert_eq!(outcome.counts, Counts { passed: 1, failed: 0, skipped: 0 });
        assert!(outcome.succeeded());
    }
}
