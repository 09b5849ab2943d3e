//! From bursts to figures: medians, the table's lines.

use std::fmt;

use anyhow::Result;
use serde::Serialize;
use testbed::bench::{
    datapath::{flood::Burst, scenario::Scenario},
    statistics::{median, rounded},
};

/// What stands over the table.
pub(crate) const HEADING: &str = "scenario              flows     Mpps  ns a packet  arrived %\n\
     ----------------------------------------------------------";

/// One scenario.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// Its stable name.
    scenario: &'static str,
    /// Flows that packets belonged to, in turn.
    flows: u32,
    /// Million packets a second, of the median burst.
    mpps: f64,
    /// Nanoseconds a packet, of the same.
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
    /// If there was no burst.
    pub(crate) fn of(scenario: Scenario, flows: u32, bursts: &[Burst]) -> Result<Self> {
        // Bursts take far less than 2^52 ns, so the conversion is exact.
        let ns = median(bursts.iter().map(|burst| burst.ns as f64 / f64::from(burst.packets)))?;
        Ok(Self {
            scenario: scenario.name(),
            flows,
            mpps: rounded(1000.0 / ns),
            ns: rounded(ns),
            packets: bursts.iter().map(|burst| u64::from(burst.packets)).sum(),
            arrived: bursts.iter().map(|burst| burst.arrived).sum(),
        })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, flows, mpps, ns, packets, arrived } = self;
        let share = *arrived as f64 * 100.0 / *packets as f64;
        write!(f, "{scenario:<16} {flows:>10} {mpps:>8.2} {ns:>12.1} {share:>10.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_of_the_median_burst() {
        let burst = |ns| Burst { packets: 1000, ns, arrived: 999 };
        let bursts = [burst(100_000), burst(9_000_000), burst(125_000)];
        let figure = Figure::of(Scenario::Deny4, 1, &bursts).expect("there are bursts");
        assert!((figure.mpps - 8.0).abs() < 1e-9 && (figure.ns - 125.0).abs() < 1e-9);
        assert_eq!((figure.packets, figure.arrived), (3000, 2997));
        assert!(Figure::of(Scenario::Deny4, 1, &[]).is_err());
    }
}
