//! `bench_flood`: packets a second through the data plane, on one core, with live frames.
//!
//! The product's own programs, as the agent loads them, behind a generator that gives each packet
//! the tuple of another flow ([`testbed::bench::datapath::flood`]). What is forwarded leaves by a
//! virtual link and is counted and dropped at its far end. Generator, data plane, link and far end share
//! the core; `generate_drop` and `generate_send` are what is there without a data plane.
//! Verdicts and counters are checked packet by packet before anything is timed. Scenarios take
//! turns, round by round, so that what the machine does meanwhile meets all of them.
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
            flood::Burst,
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

/// What is measured, and how the flows of the IPv4 table reach their servers meanwhile, in the
/// order of a round. The flood is last: it leaves the table of half-open flows full, which no
/// other scenario looks at.
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
    /// Seconds for each scenario, over all rounds
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds, in each of which every scenario has its turn; figures are medians of them
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets of each burst, of which a turn has one or more
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
        "core {core}, {} flows, bursts of {} packets, {} s each in {} rounds\n",
        options.flows, options.packets, options.seconds, options.rounds
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
    let mut courses: Vec<Course> = SCENARIOS
        .into_iter()
        .filter(|(_, scenario)| {
            options.only.is_empty() || options.only.iter().any(|name| name == scenario.name())
        })
        .map(|(forward, scenario)| Course::new(forward, scenario, options))
        .collect();
    for Course { forward, scenario, flows, .. } in &courses {
        tables.fill(TCP, *forward, options.flows)?;
        object.verify(*scenario, *flows, &mut tables).with_context(|| scenario.name())?;
    }
    for _ in 0..options.rounds {
        for course in &mut courses {
            tables.fill(TCP, course.forward, options.flows)?;
            tables.switch(course.scenario)?;
            course.take_turn(object, options)?;
        }
    }
    let figures = courses.iter().map(|course| {
        let figure = Figure::of(course.scenario, course.flows, &course.rounds)?;
        println!("{figure}");
        Ok(figure)
    });
    figures.collect()
}

/// One scenario and its turns so far.
struct Course {
    forward: Forward,
    scenario: Scenario,
    flows: u32,
    /// Bursts so far, those that do not count among them: each goes on where the one before
    /// stopped.
    bursts: u32,
    /// Those that count, by round.
    rounds: Vec<Vec<Burst>>,
}

impl Course {
    fn new(forward: Forward, scenario: Scenario, options: &Options) -> Self {
        let floods = scenario == Scenario::SynFlood4;
        let flows = if floods { FLOOD_FLOWS } else { options.flows };
        Self { forward, scenario, flows, bursts: 0, rounds: Vec::new() }
    }

    /// The bursts of a round.
    fn take_turn(&mut self, object: &mut Loop, options: &Options) -> Result<()> {
        let turn = Duration::try_from_secs_f64(options.seconds / f64::from(options.rounds))?;
        // The first warms the caches, which other scenarios had meanwhile, and fills the table
        // that a flood is to find full.
        self.burst(object, options)?;
        let until = Instant::now() + turn;
        let mut bursts = vec![self.burst(object, options)?];
        while Instant::now() < until {
            bursts.push(self.burst(object, options)?);
        }
        self.rounds.push(bursts);
        Ok(())
    }

    fn burst(&mut self, object: &mut Loop, options: &Options) -> Result<Burst> {
        let burst = object.flood(self.scenario, self.flows, self.bursts, options.packets)?;
        self.bursts += 1;
        Ok(burst)
    }
}
