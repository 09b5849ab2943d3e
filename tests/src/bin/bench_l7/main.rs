//! `bench_l7`: what the proxy costs, in processor time a request, against HAProxy and nginx.
//!
//! The proxy has processor 0 to itself; the server (nginx), the load and this program are
//! on processor 1. Contenders take turns, round by round, each started for its turn and
//! gone after it; figures are medians over the rounds. What counts is the processor time
//! of the proxy's process alone, so a load that can not keep up does no harm to it, only to
//! the rates.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod account;
mod contender;
mod h2load;
mod idle;
mod load;
mod report;
mod scenario;
mod site;
mod tls_client;

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use testbed::bench::statistics;

use account::Account;
use contender::Contender;
use report::{Figure, Sample};
use scenario::Scenario;
use site::Site;

const WARM_UP: Duration = Duration::from_secs(1);
/// Between warm-up and measurement, so that closing connections are not the next one's cost.
const PAUSE: Duration = Duration::from_millis(300);

/// Compare what a request costs pointsman, HAProxy and nginx
#[derive(Parser)]
struct Options {
    /// Write the figures to this file as a JSON array
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only these scenarios
    #[arg(long, value_enum, value_name = "SCENARIO")]
    only: Vec<Scenario>,
    /// Only these contenders; ratios need haproxy
    #[arg(long, value_enum, value_name = "CONTENDER")]
    contender: Vec<Contender>,
    /// Turns of each contender in each scenario
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let site = Site::new()?;
    let contenders = chosen(&options.contender, &Contender::ALL);
    let mut figures = Vec::new();
    println!("{}", report::HEADING);
    for scenario in chosen(&options.only, &Scenario::ALL) {
        for figure in compare(&site, scenario, &contenders, &options)? {
            println!("{figure}");
            figures.push(figure);
        }
    }
    println!("\n{}", report::LEGEND);
    if let Some(path) = &options.json {
        statistics::write_json(&figures, path)?;
    }
    Ok(())
}

/// What was asked for, or all.
fn chosen<T: Copy>(asked: &[T], all: &[T]) -> Vec<T> {
    if asked.is_empty() { all.to_vec() } else { asked.to_vec() }
}

/// All rounds of one scenario.
fn compare(
    site: &Site,
    scenario: Scenario,
    contenders: &[Contender],
    options: &Options,
) -> Result<Vec<Figure>> {
    let serving = contenders.iter().copied().filter(|contender| contender.serves(scenario));
    let contenders: Vec<Contender> = serving.collect();
    let time = Duration::from_secs(options.seconds);
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); contenders.len()];
    for _ in 0..options.rounds {
        for (contender, samples) in contenders.iter().zip(&mut samples) {
            let sample = measure(site, *contender, scenario, time)
                .with_context(|| format!("{scenario} through {}", contender.name()))?;
            samples.push(sample);
        }
    }
    let yardstick = contenders.iter().position(|contender| *contender == Contender::Haproxy);
    let yardstick = yardstick.map(|index| samples[index].clone());
    contenders
        .iter()
        .zip(&samples)
        .map(|(contender, samples)| {
            Figure::of(scenario, contender.name(), samples, yardstick.as_deref())
        })
        .collect()
}

/// One turn of one contender.
fn measure(
    site: &Site,
    contender: Contender,
    scenario: Scenario,
    time: Duration,
) -> Result<Sample> {
    let turn = contender.begin(site)?;
    let account = Account::of(&turn)?;
    if let Some(encrypted) = scenario.idle_connections() {
        return idle::measure(site, &account, encrypted);
    }
    let warm = load::run(site, scenario, WARM_UP)?;
    ensure!(warm.answered > 0, "nothing was answered in the warm-up");
    thread::sleep(PAUSE);
    let before = account.busy_us()?;
    let count = load::run(site, scenario, time)?;
    let busy_us = account.busy_us()? - before;
    ensure!(count.answered > 0, "nothing was answered");
    // Counts of a few seconds are far below 2^52, so the conversion is exact.
    let answered = count.answered as f64;
    Ok(Sample {
        per_second: Some(answered / count.seconds),
        cpu_us: Some(busy_us / answered),
        p99_ms: Some(count.p99_ms),
        failures: count.failures,
        rss_mib: account.resident_mib()?,
    })
}
