//! From bursts to figures: medians, the table's lines.

use std::fmt;

use anyhow::Result;
use serde::Serialize;
use testbed::bench::{
    datapath::{flood::Burst, scenario::Scenario},
    statistics::{median, rounded},
};

/// What stands over the table.
pub(crate) const HEADING: &str = "scenario              flows     Mpps      low     high  ns a packet  arrived %\n\
     ----------------------------------------------------------------------------";

/// One scenario.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// Its stable name.
    scenario: &'static str,
    /// Flows that packets belonged to, in turn.
    flows: u32,
    /// Million packets a second, of the median round. A round is its median burst.
    mpps: f64,
    /// The same of the slowest round.
    mpps_low: f64,
    /// The same of the fastest round.
    mpps_high: f64,
    /// Nanoseconds a packet, of the median round.
    ns: f64,
    /// Packets that were sent through.
    packets: u64,
    /// Those that came to the far end of the link.
    arrived: u64,
}

impl Figure {
    /// The figure of a scenario.
    ///
    /// # Errors
    /// If there was no round, or none of its bursts.
    pub(crate) fn of(scenario: Scenario, flows: u32, rounds: &[Vec<Burst>]) -> Result<Self> {
        // Bursts take far less than 2^52 ns, so the conversion is exact.
        let each = |burst: &Burst| burst.ns as f64 / f64::from(burst.packets);
        let rounds_ns = rounds.iter().map(|bursts| median(bursts.iter().map(each)));
        let rounds_ns: Vec<f64> = rounds_ns.collect::<Result<_>>()?;
        let ns = median(rounds_ns.iter().copied())?;
        let bursts = rounds.iter().flatten();
        Ok(Self {
            scenario: scenario.name(),
            flows,
            mpps: rounded(1000.0 / ns),
            mpps_low: rounded(1000.0 / rounds_ns.iter().copied().fold(ns, f64::max)),
            mpps_high: rounded(1000.0 / rounds_ns.iter().copied().fold(ns, f64::min)),
            ns: rounded(ns),
            packets: bursts.clone().map(|burst| u64::from(burst.packets)).sum(),
            arrived: bursts.map(|burst| burst.arrived).sum(),
        })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, flows, mpps, mpps_low, mpps_high, ns, packets, arrived } = self;
        let share = *arrived as f64 * 100.0 / *packets as f64;
        write!(f, "{scenario:<16} {flows:>10} {mpps:>8.2} {mpps_low:>8.2} {mpps_high:>8.2} ")?;
        write!(f, "{ns:>12.1} {share:>10.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_of_the_median_round() {
        let burst = |ns| Burst { packets: 1000, ns, arrived: 999 };
        let rounds = [
            // A bad moment, a bad round, and a good one.
            vec![burst(125_000), burst(9_000_000), burst(100_000)],
            vec![burst(500_000)],
            vec![burst(100_000)],
        ];
        let figure = Figure::of(Scenario::Deny4, 1, &rounds).expect("there are rounds");
        let (mpps, ns) = (figure.mpps, figure.ns);
        for (got, expected) in
            [(mpps, 8.0), (figure.mpps_low, 2.0), (figure.mpps_high, 10.0), (ns, 125.0)]
        {
            assert!((got - expected).abs() < 1e-9, "{figure:?}");
        }
        assert_eq!((figure.packets, figure.arrived), (5000, 4995));
        assert!(Figure::of(Scenario::Deny4, 1, &[]).is_err());
        assert!(Figure::of(Scenario::Deny4, 1, &[Vec::new()]).is_err());
    }
}
