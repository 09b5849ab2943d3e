//! From single rounds to figures: medians and the table.

use std::fmt;

use anyhow::Result;
use serde::Serialize;
use testbed::bench::statistics::{median, rounded};

use crate::scenario::Scenario;

/// One contender in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Units a second.
    pub(crate) per_second: f64,
    /// Processor time of the whole machine for one unit, microseconds.
    pub(crate) cpu_us: f64,
    /// Units that failed.
    pub(crate) failures: u64,
}

/// One contender over all rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// [`Scenario::name`].
    pub(crate) scenario: &'static str,
    /// Name of the contender.
    pub(crate) contender: &'static str,
    /// Units a second; median.
    pub(crate) per_second: f64,
    /// Processor time of the whole machine for one unit, microseconds; median.
    pub(crate) cpu_us: f64,
    /// The same less what the direct path took in the same round; median.
    pub(crate) cpu_us_over_direct: f64,
    /// Units that failed, over all rounds.
    pub(crate) failures: u64,
}

impl Figure {
    /// From a contender's samples and the direct path's, round by round.
    ///
    /// # Errors
    /// When there is no round.
    pub(crate) fn of(
        scenario: Scenario,
        contender: &'static str,
        samples: &[Sample],
        direct: &[Sample],
    ) -> Result<Self> {
        let over = samples.iter().zip(direct).map(|(sample, direct)| sample.cpu_us - direct.cpu_us);
        Ok(Self {
            scenario: scenario.name(),
            contender,
            per_second: rounded(median(samples.iter().map(|sample| sample.per_second))?),
            cpu_us: rounded(median(samples.iter().map(|sample| sample.cpu_us))?),
            cpu_us_over_direct: rounded(median(over)?),
            failures: samples.iter().map(|sample| sample.failures).sum(),
        })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<10} {:<10} {:>10.0} {:>9.2} {:>12.2} {:>9}",
            self.scenario,
            self.contender,
            self.per_second,
            self.cpu_us,
            self.cpu_us_over_direct,
            self.failures
        )
    }
}

/// The heading of a table of figures.
pub(crate) const HEADING: &str =
    "scenario   contender    per second    cpu us  over direct  failures";

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(per_second: f64, cpu_us: f64, failures: u64) -> Sample {
        Sample { per_second, cpu_us, failures }
    }

    #[test]
    fn a_figure_compares_round_by_round_and_adds_failures() {
        let direct = [sample(100.0, 10.0, 0), sample(100.0, 20.0, 0), sample(100.0, 30.0, 0)];
        let samples = [sample(90.0, 11.0, 1), sample(80.0, 22.0, 0), sample(70.0, 33.0, 2)];
        let figure = Figure::of(Scenario::Close, "x", &samples, &direct).unwrap();
        assert!((figure.per_second - 80.0).abs() < 1e-9);
        assert!((figure.cpu_us - 22.0).abs() < 1e-9);
        assert!((figure.cpu_us_over_direct - 2.0).abs() < 1e-9);
        assert_eq!(figure.failures, 3);
    }

    #[test]
    fn the_json_has_the_documented_keys() {
        let one = [sample(1.0, 1.0, 0)];
        let figure = Figure::of(Scenario::Close, "x", &one, &one).unwrap();
        let json = serde_json::to_value(&figure).unwrap();
        let keys: std::collections::BTreeSet<_> =
            json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["scenario", "contender", "per_second", "cpu_us", "cpu_us_over_direct", "failures"]
                .into()
        );
    }
}
