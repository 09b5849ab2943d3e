//! From single rounds to figures: medians, ratios and the table.

use std::fmt;

use anyhow::Result;
use serde::Serialize;
use testbed::bench::statistics::{median, rounded};

use crate::scenario::Scenario;

/// One contender in one round. What a scenario does not measure is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Requests a second.
    pub(crate) per_second: Option<f64>,
    /// Processor time of the proxy for one request, microseconds.
    pub(crate) cpu_us: Option<f64>,
    /// The time that one request in a hundred took longer than, milliseconds.
    pub(crate) p99_ms: Option<f64>,
    /// Requests that failed.
    pub(crate) failures: u64,
    /// Resident memory after the load; in `idle` scenarios what it grew by. MiB.
    pub(crate) rss_mib: f64,
}

/// One contender over all rounds; medians, except for failures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// [`Scenario::name`].
    pub(crate) scenario: &'static str,
    /// Name of the contender.
    pub(crate) contender: &'static str,
    /// Requests a second.
    pub(crate) per_second: Option<f64>,
    /// Processor time of the proxy for one request, microseconds.
    pub(crate) cpu_us: Option<f64>,
    /// `cpu_us`, in `idle` scenarios `rss_mib`, over HAProxy's in the same round.
    pub(crate) ratio_to_haproxy: Option<f64>,
    /// The time that one request in a hundred took longer than, milliseconds.
    pub(crate) p99_ms: Option<f64>,
    /// Requests that failed, over all rounds.
    pub(crate) failures: u64,
    /// Resident memory after the load; in `idle` scenarios what it grew by. MiB.
    pub(crate) rss_mib: f64,
}

impl Sample {
    /// What is compared.
    fn cost(&self) -> f64 {
        self.cpu_us.unwrap_or(self.rss_mib)
    }
}

impl Figure {
    /// From a contender's samples and HAProxy's, round by round.
    ///
    /// # Errors
    /// When there is no round.
    pub(crate) fn of(
        scenario: Scenario,
        contender: &'static str,
        samples: &[Sample],
        haproxy: Option<&[Sample]>,
    ) -> Result<Self> {
        let all = |value: fn(&Sample) -> Option<f64>| -> Result<Option<f64>> {
            let values: Option<Vec<f64>> = samples.iter().map(value).collect();
            values.map(|values| median(values.into_iter()).map(rounded)).transpose()
        };
        let ratio = haproxy.map(|haproxy| {
            median(samples.iter().zip(haproxy).map(|(one, other)| one.cost() / other.cost()))
        });
        Ok(Self {
            scenario: scenario.name(),
            contender,
            per_second: all(|sample| sample.per_second)?,
            cpu_us: all(|sample| sample.cpu_us)?,
            ratio_to_haproxy: ratio.transpose()?.map(rounded),
            p99_ms: all(|sample| sample.p99_ms)?,
            failures: samples.iter().map(|sample| sample.failures).sum(),
            rss_mib: rounded(median(samples.iter().map(|sample| sample.rss_mib))?),
        })
    }
}

/// The heading of a table of figures.
pub(crate) const HEADING: &str =
    "scenario      contender   per second    cpu us   ratio    p99 ms  failures   rss MiB";

/// What the columns mean.
pub(crate) const LEGEND: &str = "cpu us is the processor time of the proxy's process for one \
request, ratio that over HAProxy's\nin the same round. In idle scenarios rss is what 10,000 \
connections add, and ratio compares that.";

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: Option<f64>, digits| match value {
            Some(value) => format!("{value:.digits$}"),
            None => "-".into(),
        };
        write!(
            f,
            "{:<13} {:<10} {:>11} {:>9} {:>7} {:>9} {:>9} {:>9.1}",
            self.scenario,
            self.contender,
            shown(self.per_second, 0),
            shown(self.cpu_us, 2),
            shown(self.ratio_to_haproxy, 2),
            shown(self.p99_ms, 2),
            self.failures,
            self.rss_mib
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu_us: Option<f64>, failures: u64, rss_mib: f64) -> Sample {
        Sample { per_second: cpu_us, cpu_us, p99_ms: cpu_us, failures, rss_mib }
    }

    #[test]
    fn a_figure_compares_round_by_round_and_adds_failures() {
        let haproxy = [10.0, 20.0, 40.0].map(|us| sample(Some(us), 0, 1.0));
        let samples =
            [sample(Some(5.0), 1, 1.0), sample(Some(12.0), 0, 2.0), sample(Some(28.0), 2, 9.0)];
        let figure = Figure::of(Scenario::H1Small, "x", &samples, Some(&haproxy)).unwrap();
        assert_eq!(figure.ratio_to_haproxy, Some(0.6));
        assert_eq!((figure.cpu_us, figure.failures), (Some(12.0), 3));
        assert!((figure.rss_mib - 2.0).abs() < 1e-9);
        let alone = Figure::of(Scenario::H1Small, "x", &samples, None).unwrap();
        assert_eq!(alone.ratio_to_haproxy, None);
    }

    #[test]
    fn idle_scenarios_compare_memory() {
        let figure = Figure::of(
            Scenario::Idle,
            "x",
            &[sample(None, 0, 40.0)],
            Some(&[sample(None, 0, 20.0)]),
        );
        let figure = figure.unwrap();
        assert_eq!((figure.cpu_us, figure.ratio_to_haproxy), (None, Some(2.0)));
    }

    #[test]
    fn the_json_has_the_documented_keys() {
        let one = [sample(None, 0, 1.0)];
        // What is not measured is null, not absent.
        let figure = Figure::of(Scenario::Idle, "x", &one, None).unwrap();
        let json = serde_json::to_value(&figure).unwrap();
        let keys: std::collections::BTreeSet<_> =
            json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "scenario",
                "contender",
                "per_second",
                "cpu_us",
                "ratio_to_haproxy",
                "p99_ms",
                "failures",
                "rss_mib"
            ]
            .into()
        );
    }
}
