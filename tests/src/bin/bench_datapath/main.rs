//! `bench_datapath`: nanoseconds a packet inside the XDP program.
//!
//! The product's own programs, as the agent loads them, are run by the thousand in one call
//! (`lb-ebpf/src/bin/bench.rs`); the packet is restored before each run and given the tuple of
//! another flow. Every figure includes that, `floor` is that alone. Batches of all scenarios
//! take turns, so that a machine that gets slower or faster does so for all. Verdicts and
//! counters are checked packet by packet before anything is timed.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod report;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use lb_common::trace::Filter;

use report::Figure;
use testbed::bench::{
    core::pin,
    datapath::{
        measure::Loop,
        scenario::{self, Scenario},
        tables::Tables,
    },
};

/// Measure the data plane, packet by packet, inside BPF
#[derive(Parser)]
struct Options {
    /// Write the figures to this file as a JSON array
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Batches of each scenario
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..))]
    batches: u32,
    /// Packets of each batch
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=8_000_000))]
    packets: u32,
    /// Only this scenario and the yardstick; may be repeated
    #[arg(long, value_name = "SCENARIO")]
    only: Vec<String>,
    /// Flows in the tables, in turn; from low to high
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 100_000, 1_000_000],
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    flows: Vec<u32>,
    /// Measure the data plane as it is while one packet in N is traced; 0: while all are looked
    /// at, and none is wanted
    #[arg(long, value_name = "N")]
    traced: Option<u32>,
    /// Have flows count for 512 VIPs and belong to 4,096 servers, not two and 64
    #[arg(long)]
    spread: bool,
    /// Core to run on; the last one by default
    #[arg(long)]
    core: Option<usize>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let core = pin(options.core)?;
    let mut object = Loop::load(options.traced.map(filter).as_ref())?;
    let mut tables = Tables::open(&object, options.spread)?;
    println!(
        "core {core}, {} batches of {} packets; ns a packet, the loop included\n",
        options.batches, options.packets
    );
    println!("{}", report::HEADING);
    let mut figures = Vec::new();
    for flows in options.flows.iter().copied() {
        for turn in scenario::TURNS {
            let scenarios = turn.chosen(&options.only);
            if scenarios.is_empty() {
                continue;
            }
            tables.fill(turn.protocol, turn.forward, flows)?;
            for figure in measure_turn(&mut object, &mut tables, &scenarios, flows, &options)? {
                println!("{figure}");
                figures.push(figure);
            }
        }
    }
    println!("\n{}", report::goals(&figures));
    if let Some(path) = &options.json {
        report::write_json(&figures, path)?;
    }
    Ok(())
}

/// What `pointsman trace --sample N` asks for; of another address if N is 0.
fn filter(sample: u32) -> Filter {
    let mut filter =
        Filter { sample: sample.max(1), snap: 256, until_ns: u64::MAX, ..Filter::default() };
    if sample == 0
        && let Some(end) = filter.ends.first_mut()
    {
        end.address.octets = [0xff; 16];
    }
    filter
}

/// All batches of the scenarios that share a filling of the tables. The first of them is
/// the yardstick of the others.
fn measure_turn(
    object: &mut Loop,
    tables: &mut Tables,
    scenarios: &[Scenario],
    flows: u32,
    options: &Options,
) -> Result<Vec<Figure>> {
    for scenario in scenarios {
        object
            .verify(*scenario, flows, tables)
            .with_context(|| format!("{} at {flows} flows", scenario.name()))?;
    }
    let mut samples = vec![Vec::new(); scenarios.len()];
    for batch in 0..options.batches {
        for (scenario, samples) in scenarios.iter().zip(&mut samples) {
            samples.push(object.batch(*scenario, flows, batch, options.packets, tables)?);
        }
    }
    report::figures(scenarios, flows, &mut samples)
}
