//! `bench`: the benchmarks, each a program of the tests crate. This installs what they are
//! compared with, builds and starts them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::{
    build,
    setup::{self, Level},
};
use crate::process;

/// Run a benchmark (as root, on an idle machine)
#[derive(Args)]
pub(crate) struct Options {
    /// Which one
    #[arg(value_enum)]
    benchmark: Benchmark,
    /// Write the figures to this file as a JSON array
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Options of the benchmark itself, after `--`; `-- --help` lists them
    #[arg(last = true)]
    rest: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Benchmark {
    /// Nanoseconds a packet inside the XDP program, at 1 to 1,000,000 flows
    Datapath,
    /// Packets a second through the data plane, on one core, with live frames
    Flood,
    /// Requests and connections a second, and processor time of each, against nginx
    /// directly, HAProxy and nftables
    L4,
    /// Processor time of the proxy for each request, against HAProxy and nginx
    L7,
    /// What it costs to sweep 1,000,000 flows for idle ones
    Sweep,
    /// A large configuration with 1,000,000 flows: changes, starts, sweeps, memory, packets
    Scale,
}

/// Runs the command.
///
/// # Errors
/// Something is missing, the build failed, or the benchmark did.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !process::is_root() {
        bail!("XDP and network namespaces need root");
    }
    let (program, level) = match options.benchmark {
        Benchmark::Datapath => ("bench_datapath", Level::Run),
        Benchmark::Flood => ("bench_flood", Level::Run),
        Benchmark::L4 => ("bench_l4", Level::Bench),
        Benchmark::L7 => ("bench_l7", Level::Bench),
        Benchmark::Sweep => ("bench_sweep", Level::Run),
        Benchmark::Scale => ("bench_scale", Level::Run),
    };
    setup::ensure(level)?;
    build::agent(true)?;
    if matches!(options.benchmark, Benchmark::L7) {
        let bare = ["build", "--locked", "--release", "--package", "pointsman-tests"];
        process::run(process::cargo(bare).args(["--bin", "bare_proxy"]))?;
    }
    if matches!(options.benchmark, Benchmark::Scale) {
        let datapath = ["build", "--locked", "--release", "--package", "pointsman-tests"];
        process::run(process::cargo(datapath).args(["--bin", "bench_datapath"]))?;
    }
    let mut command = process::cargo(["run", "--quiet", "--locked", "--release"]);
    command.args(["--package", "pointsman-tests", "--bin", program, "--"]);
    if let Some(file) = &options.json {
        // The program runs in the root of the repository, we may not.
        let file = std::path::absolute(file).context("could not resolve the JSON file's path")?;
        command.arg("--json").arg(file);
    }
    process::run(command.args(&options.rest))
}
