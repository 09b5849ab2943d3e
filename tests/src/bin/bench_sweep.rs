//! `bench_sweep`: what it costs the agent to look for idle flows, and for how long a single
//! system call holds the tables.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use testbed::sweep_bench::{self, SweepFigures};

/// Measure sweeps of the flow tables
#[derive(Parser)]
struct Options {
    /// Write the figures to this file as a JSON array
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Flows in the table; may be given several times
    #[arg(long, value_name = "N", default_values_t = [10_000, 100_000, 1_000_000])]
    flows: Vec<u32>,
    /// Runs of each size; the one with the median time counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

fn main() -> Result<()> {
    let options = Options::parse();
    println!("             nothing is idle           half of the flows are");
    println!("    flows    all ms  longest call ms   all ms  longest call ms");
    let mut figures = Vec::new();
    for &flows in &options.flows {
        let figure = median_run(flows, options.rounds)?;
        println!(
            "{flows:>9} {:>9.2} {:>16.2} {:>8.2} {:>16.2}",
            figure.idle_ms, figure.idle_longest_ms, figure.half_ms, figure.half_longest_ms
        );
        figures.push(figure);
    }
    if let Some(path) = &options.json {
        let mut text = serde_json::to_string_pretty(&figures).context("render the figures")?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The run whose sweep with nothing to do took the median time.
fn median_run(flows: u32, rounds: u32) -> Result<SweepFigures> {
    let mut runs = Vec::new();
    for _ in 0..rounds {
        runs.push(sweep_bench::run(flows)?);
    }
    runs.sort_by(|a, b| a.idle_ms.total_cmp(&b.idle_ms));
    runs.get(runs.len() / 2).copied().context("there was no run")
}
