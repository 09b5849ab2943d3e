//! The account: numbered steps, and under each what was seen.

use std::{fmt, time::Instant};

use anyhow::{Context, Result};

use super::Interruption;
use crate::report::note;

/// Prints the account while the demo goes on.
#[derive(Debug)]
pub struct Account {
    steps: u32,
    start: Instant,
    interruption: Interruption,
}

impl Account {
    /// Starts an account.
    #[must_use]
    pub fn new(interruption: &Interruption) -> Self {
        Self { steps: 0, start: Instant::now(), interruption: interruption.clone() }
    }

    /// Tells one step: its title, then what `act` has to say, line by line.
    ///
    /// # Errors
    /// When the step does not hold; the error names it.
    pub fn step<T>(&mut self, title: &str, act: impl FnOnce(&mut Lines) -> Result<T>) -> Result<T> {
        self.interruption.check()?;
        self.steps += 1;
        let number = self.steps;
        note(format_args!("\n{number:>2}. {title}"));
        act(&mut Lines(())).with_context(|| format!("step {number} did not hold: {title}"))
    }

    /// Prints the last line.
    pub fn end(&self) {
        let seconds = self.start.elapsed().as_secs_f64();
        note(format_args!("\nAll {} steps held, in {seconds:.1} s.", self.steps));
    }
}

/// The lines under a step.
#[derive(Debug)]
pub struct Lines(());

impl Lines {
    /// Prints one.
    pub fn add(&mut self, line: impl fmt::Display) {
        note(format_args!("      {line}"));
    }

    /// Prints a table or other text, further indented.
    pub fn block(&mut self, text: &str) {
        for line in text.lines() {
            note(format_args!("        {line}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_step_that_does_not_hold_is_named_with_its_reason() {
        let mut account = Account::new(&Interruption::default());
        let seen = account.step("Count", |_| Ok(1)).unwrap();
        assert_eq!(seen, 1);
        let error = account.step::<()>("Forward", |_| bail!("3 failed")).unwrap_err();
        assert_eq!(format!("{error:#}"), "step 2 did not hold: Forward: 3 failed");
    }
}
