//! `bench_flood`: packets a second through the data plane, on one core, with live frames.
//!
//! The product's own programs, as the agent loads them, behind a generator that gives each packet
//! the tuple of another flow ([`testbed::bench::datapath::flood`]). What is forwarded leaves by a
//! virtual link and is counted and dropped at its far end. Generator, data plane, link and far end share
//! the core; `generate_drop` and `generate_send` are what is there without a data plane.
//! Verdicts and counters are checked packet by packet before anything is timed.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod figure;

use std::{path::PathBuf, time::Duration, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lb_common::forward::Forward;
use testbed::{
    bench::{
        core::pin,
        datapath::{
            measure::Loop,
            scenario::{Scenario, TCP},
            tables::Tables,
        },
        statistics::write_json,
    },
    namespace::Namespace,
};

use figure::Figure;

/// Flows that a flood opens in turn, many times what is half open at a time.
const FLOOD_FLOWS: u32 = 1_000_000;

/// What is measured, and how the flows of the IPv4 table reach their servers meanwhile. The
/// flood is last: it leaves the table of half-open flows full.
const SCENARIOS: [(Forward, Scenario); 11] = [
    (Forward::Nat, Scenario::GenerateDrop),
    (Forward::Nat, Scenario::GenerateSend),
    (Forward::Nat, Scenario::Deny4),
    (Forward::Nat, Scenario::Nat4TcpHit),
    (Forward::Nat, Scenario::Nat4TcpReply),
    (Forward::Nat, Scenario::Nat6TcpHit),
    (Forward::Nat, Scenario::SynCookie4),
    (Forward::Dsr, Scenario::Dsr4Hit),
    (Forward::Ipip, Scenario::Ipip4Hit),
    (Forward::Gue, Scenario::Gue4Hit),
    (Forward::Nat, Scenario::SynFlood4),
];

/// Measure packets a second of the data plane on one core, with live frames
#[derive(Parser)]
struct Options {
    /// Write the figures to this file as a JSON array
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds for each scenario
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Packets of each burst, of which a figure is the median
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1000..=8_000_000))]
    packets: u32,
    /// Only this scenario; may be repeated
    #[arg(long, value_name = "SCENARIO")]
    only: Vec<String>,
    /// Flows in the tables
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    flows: u32,
    /// Core to run on; the last one by default
    #[arg(long)]
    core: Option<usize>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    for name in &options.only {
        let is_known = SCENARIOS.iter().any(|(_, scenario)| scenario.name() == name);
        ensure!(is_known, "there is no scenario {name}");
    }
    let core = pin(options.core)?;
    let mut object = Loop::load(None)?;
    let namespace = Namespace::create("flood")?;
    object.connect(&namespace)?;
    println!(
        "core {core}, {} flows, bursts of {} packets, {} s each\n",
        options.flows, options.packets, options.seconds
    );
    println!("{}", figure::HEADING);
    // Interfaces are those of the thread.
    let figures = namespace.run(|| measure(&mut object, &options))?;
    if let Some(path) = &options.json {
        write_json(&figures, path)?;
    }
    Ok(())
}

fn measure(object: &mut Loop, options: &Options) -> Result<Vec<Figure>> {
    let mut tables = Tables::open(object, false)?;
    let mut figures = Vec::new();
    for (forward, scenario) in SCENARIOS {
        if !options.only.is_empty() && !options.only.iter().any(|name| name == scenario.name()) {
            continue;
        }
        tables.fill(TCP, forward, options.flows)?;
        let floods = scenario == Scenario::SynFlood4;
        let flows = if floods { FLOOD_FLOWS } else { options.flows };
        object.verify(scenario, flows, &mut tables).with_context(|| scenario.name())?;
        let until = Instant::now() + Duration::try_from_secs_f64(options.seconds)?;
        let mut bursts = Vec::new();
        // The first warms the caches, and fills the table that a flood is to find full.
        for burst in 0.. {
            let done = object.flood(scenario, flows, burst, options.packets)?;
            if burst > 0 {
                bursts.push(done);
            }
            if burst > 0 && Instant::now() >= until {
                break;
            }
        }
        let figure = Figure::of(scenario, flows, &bursts)?;
        println!("{figure}");
        figures.push(figure);
    }
    Ok(figures)
}
