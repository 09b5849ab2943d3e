//! From batches to figures: percentiles, ratios, the table, the JSON file.

use std::{fmt, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use testbed::bench::datapath::scenario::Scenario;

/// One scenario at one number of flows.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// [`Scenario::name`].
    pub(crate) scenario: &'static str,
    /// Flows in the table.
    pub(crate) flows: u32,
    /// Nanoseconds a packet: a tenth of the batches was faster.
    pub(crate) ns_p10: f64,
    /// Nanoseconds a packet; median over the batches.
    pub(crate) ns_p50: f64,
    /// Nanoseconds a packet: a tenth of the batches was slower.
    pub(crate) ns_p90: f64,
    /// `ns_p50` over that of `calibration` in the same turn.
    pub(crate) ratio: f64,
    #[serde(skip)]
    goal: Option<f64>,
}

/// The heading of a table of figures.
pub(crate) const HEADING: &str = "scenario              flows      p10      p50      p90   ratio";

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<16} {:>10} {:>8.1} {:>8.1} {:>8.1} {:>7.2}",
            self.scenario, self.flows, self.ns_p10, self.ns_p50, self.ns_p90, self.ratio
        )
    }
}

/// The figures of scenarios measured in turns; the first is the yardstick. The yardstick of
/// a later turn was reported by the first one already.
///
/// # Errors
/// If nothing was measured.
pub(crate) fn figures(
    scenarios: &[Scenario],
    flows: u32,
    samples: &mut [Vec<f64>],
) -> Result<Vec<Figure>> {
    for batches in samples.iter_mut() {
        batches.sort_by(f64::total_cmp);
    }
    let yardstick = percentile(samples.first().context("no scenario")?, 50)?;
    let repeated = !scenarios.contains(&Scenario::Floor);
    scenarios
        .iter()
        .zip(samples.iter())
        .skip(usize::from(repeated))
        .map(|(scenario, batches)| {
            let median = percentile(batches, 50)?;
            Ok(Figure {
                scenario: scenario.name(),
                flows,
                ns_p10: rounded(percentile(batches, 10)?),
                ns_p50: rounded(median),
                ns_p90: rounded(percentile(batches, 90)?),
                ratio: rounded(median / yardstick),
                goal: scenario.goal(),
            })
        })
        .collect()
}

/// How the figures at one flow compare with the goals, one line each.
pub(crate) fn goals(figures: &[Figure]) -> String {
    let mut text = String::from("goals at 1 flow, as ratio to calibration:\n");
    for figure in figures.iter().filter(|figure| figure.flows == 1) {
        if let Some(goal) = figure.goal {
            let verdict = if figure.ratio <= goal { "met" } else { "missed" };
            let (scenario, ratio) = (figure.scenario, figure.ratio);
            let _ = writeln!(text, "{scenario:<16} {ratio:>6.2} <= {goal:.1}: {verdict}");
        }
    }
    text
}

/// Writes the figures as a JSON array.
///
/// # Errors
/// When the file can not be written.
pub(crate) fn write_json(figures: &[Figure], path: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(figures).context("render the figures")?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// The value that `percent` of the sorted values are below.
fn percentile(sorted: &[f64], percent: usize) -> Result<f64> {
    let last = sorted.len().checked_sub(1).context("no batch was measured")?;
    sorted.get(last * percent / 100).copied().context("no batch was measured")
}

/// To a hundredth: the rest is noise.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_median_of_the_first_scenario() {
        let scenarios = [Scenario::Calibration, Scenario::Floor];
        let mut samples = [vec![30.0, 10.0, 20.0], vec![9.0, 90.0, 10.0]];
        let figures = figures(&scenarios, 7, &mut samples).unwrap();
        assert_eq!(figures.len(), 2);
        assert!((figures[0].ratio - 1.0).abs() < 1e-9);
        assert!((figures[1].ratio - 0.5).abs() < 1e-9);
        assert!((figures[1].ns_p10 - 9.0).abs() < 1e-9);
    }

    #[test]
    fn the_yardstick_of_a_later_turn_is_not_reported_again() {
        let scenarios = [Scenario::Calibration, Scenario::Nat4UdpHit];
        let figures = figures(&scenarios, 1, &mut [vec![10.0], vec![15.0]]).unwrap();
        assert_eq!(figures.len(), 1);
        assert_eq!(figures[0].scenario, "nat4_udp_hit");
        assert!((figures[0].ratio - 1.5).abs() < 1e-9);
    }

    #[test]
    fn the_json_has_the_documented_keys() {
        let figure =
            &figures(&[Scenario::Calibration, Scenario::Floor], 1, &mut [vec![1.0], vec![2.0]])
                .unwrap()[0];
        let json = serde_json::to_value(figure).unwrap();
        let keys: std::collections::BTreeSet<_> =
            json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["scenario", "flows", "ns_p10", "ns_p50", "ns_p90", "ratio"].into());
    }
}
