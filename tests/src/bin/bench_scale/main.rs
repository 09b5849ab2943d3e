//! `bench_scale`: the agent and its data plane with as much configured as there are ids for.
//!
//! A configuration with 512 VIPs, 4,096 servers and 100,000 denied networks runs in a namespace of
//! its own, as an operator would run it; a million flows are put into its tables. Measured are
//! a change of one server, a start over the pinned tables, a sweep, memory, and (by
//! `bench_datapath`, with as many ids) what packets cost.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod changes;
mod figure;
mod memory;
mod packets;
mod scene;
mod sweeps;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use testbed::bed::{Bed, Mode};

use figure::Figure;
use scene::Scene;

/// Measure a large configuration with many flows
#[derive(Parser)]
struct Options {
    /// Write the figures to this file as a JSON array
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Flows in the table of IPv4
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    flows: u32,
    /// VIPs
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=512))]
    vips: u32,
    /// Backends that VIPs share
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=512))]
    backends: u32,
    /// Servers, over all backends
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=4096))]
    servers: u32,
    /// Networks on the list of denied sources
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    prefixes: u32,
    /// Changes of a server, and starts over pinned tables divided by five
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(5..))]
    changes: u32,
    /// Leave out what packets cost
    #[arg(long)]
    without_packets: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut figures = Vec::new();
    let mut note = |made: Vec<Figure>| {
        for figure in made {
            println!("{figure}");
            figures.push(figure);
        }
    };
    println!(
        "{} VIPs, {} backends, {} servers, {} prefixes, {} flows\n\n{}",
        options.vips,
        options.backends,
        options.servers,
        options.prefixes,
        options.flows,
        figure::HEADING
    );
    let bed = Bed::new(1, Mode::Native)?;
    let mut scene = Scene::new(&bed, &options)?;
    note(vec![Figure::seconds("start, nothing pinned", scene.start()?)]);
    scene.fill(options.flows)?;
    note(changes::measure(&scene, &options)?);
    note(sweeps::measure(&scene)?);
    note(memory::measure(&scene, &options)?);
    let mut starts = Vec::new();
    for _ in 0..options.changes.div_ceil(5) {
        scene.kill();
        starts.push(scene.start()?);
    }
    starts.sort_unstable();
    let (median, worst) = (starts[starts.len() / 2], starts[starts.len() - 1]);
    note(vec![
        Figure::seconds("start over pinned flows, median", median),
        Figure::seconds("start over pinned flows, worst", worst).goal(2.0),
    ]);
    drop(scene);
    if !options.without_packets {
        note(packets::measure(options.flows)?);
    }
    if let Some(path) = &options.json {
        figure::write_json(&figures, path)?;
    }
    Ok(())
}
