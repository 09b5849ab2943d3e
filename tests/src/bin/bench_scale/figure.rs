//! One measured number, beside what it should be.

use std::{fmt, fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

/// The heading of a table of figures.
pub(crate) const HEADING: &str = "what                                        measured        goal";

/// One measured number.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// What was measured.
    name: &'static str,
    /// The number.
    value: f64,
    /// Its unit.
    unit: &'static str,
    /// The most it should be, in the same unit; none if nobody asked for any.
    goal: Option<f64>,
}

impl Figure {
    /// A figure without a goal.
    pub(crate) fn new(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, goal: None }
    }

    /// A time in milliseconds.
    pub(crate) fn milliseconds(name: &'static str, time: Duration) -> Self {
        Self::new(name, time.as_secs_f64() * 1000.0, "ms")
    }

    /// A time in seconds.
    pub(crate) fn seconds(name: &'static str, time: Duration) -> Self {
        Self::new(name, time.as_secs_f64(), "s")
    }

    /// The same with the most it should be.
    pub(crate) fn goal(self, most: f64) -> Self {
        Self { goal: Some(most), ..self }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<38} {:>10.2} {:<6}", self.name, self.value, self.unit)?;
        match self.goal {
            None => Ok(()),
            Some(most) if self.value <= most => write!(f, " <= {most}"),
            Some(most) => write!(f, " <= {most}: MISSED"),
        }
    }
}

/// Writes figures as a JSON array.
///
/// # Errors
/// If the file can not be written.
pub(crate) fn write_json(figures: &[Figure], path: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(figures).context("render the figures")?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
