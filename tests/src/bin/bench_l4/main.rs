//! `bench_l4`: what layer-4 balancing costs, in connections a second and in processor
//! time of the whole machine.
//!
//! wrk loads nginx over a direct link, through pointsman, through HAProxy in TCP mode and
//! through nftables, in turns, so that a machine that gets slower or faster does so for
//! all; figures are medians over the rounds. Client, balancer and servers share the
//! machine: rates say who gets in whose way, processor time a unit says what it costs.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod contender;
mod direct;
mod processor;
mod report;
mod scenario;
mod server;

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use testbed::{
    bed::{Bed, Mode},
    bench::statistics,
};

use contender::Contender;
use report::{Figure, Sample};
use scenario::Scenario;

const SERVERS: u8 = 2;
const WARM_UP: Duration = Duration::from_secs(1);
/// Between turns, so that the last one's closing connections are not the next one's cost.
const PAUSE: Duration = Duration::from_millis(500);

/// Compare layer-4 balancing by pointsman, HAProxy and nftables with a direct link
#[derive(Parser)]
struct Options {
    /// Write the figures to this file as a JSON array
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Turns of each contender in each scenario
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Only this scenario
    #[arg(long, value_enum)]
    scenario: Option<Scenario>,
    /// Only these contenders beside the direct link
    #[arg(long = "contender", value_enum)]
    contenders: Vec<Contender>,
}

impl Options {
    /// Whether a contender takes turns; the direct link, which all are compared with, does.
    fn wants(&self, contender: Contender) -> bool {
        contender == Contender::Direct
            || self.contenders.is_empty()
            || self.contenders.contains(&contender)
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let bed = Bed::new(SERVERS, Mode::Native)?;
    let _stubs = direct::connect(&bed)?;
    let _servers = server::start(&bed)?;

    let mut figures = Vec::new();
    println!("{}", report::HEADING);
    let scenarios = Scenario::ALL.into_iter();
    for scenario in scenarios.filter(|one| options.scenario.is_none_or(|only| only == *one)) {
        for figure in compare(&bed, scenario, &options)? {
            println!("{figure}");
            figures.push(figure);
        }
    }
    println!("\nkeepalive counts requests, close counts connections; cpu us is the processor time");
    println!("of the whole machine for one of them, over direct is what the middle adds.");
    if let Some(path) = &options.json {
        statistics::write_json(&figures, path)?;
    }
    Ok(())
}

/// All rounds of one scenario.
fn compare(bed: &Bed, scenario: Scenario, options: &Options) -> Result<Vec<Figure>> {
    let time = Duration::from_secs(options.seconds);
    let wanted = Contender::ALL.into_iter().filter(|contender| options.wants(*contender));
    let mut all: Vec<(Contender, Vec<Sample>)> = wanted.map(|one| (one, Vec::new())).collect();
    for _ in 0..options.rounds {
        for (contender, samples) in &mut all {
            let sample = measure(bed, *contender, scenario, time)
                .with_context(|| format!("{scenario} through {}", contender.name()))?;
            samples.push(sample);
        }
    }
    let (_, direct) = all.first().context("the direct link always takes turns")?;
    all.iter()
        .map(|(contender, samples)| Figure::of(scenario, contender.name(), samples, direct))
        .collect()
}

/// One turn of one contender.
fn measure(bed: &Bed, contender: Contender, scenario: Scenario, time: Duration) -> Result<Sample> {
    let _turn = contender.begin(bed)?;
    let warm = scenario.load(&bed.client, contender.target(), WARM_UP)?;
    ensure!(warm.answered > 0, "no {} at all in the warm-up", scenario.unit());
    thread::sleep(PAUSE);
    let before = processor::busy_us()?;
    let count = scenario.load(&bed.client, contender.target(), time)?;
    let busy = processor::busy_us()? - before;
    ensure!(count.answered > 0, "no {} at all", scenario.unit());
    // Counts of a few seconds are far below 2^52, so the conversion is exact.
    let answered = count.answered as f64;
    Ok(Sample {
        per_second: answered / count.seconds,
        cpu_us: busy / answered,
        failures: count.failures,
    })
}
