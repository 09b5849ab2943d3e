//! `demo`: the balancer at work between network namespaces, told step by step. The demo
//! itself is a program of the tests crate; this installs, builds and starts it.

use anyhow::{Result, bail};
use clap::Args;

use super::{
    build,
    setup::{self, Level},
};
use crate::process;

/// Show the balancer at work between network namespaces of this machine (as root)
#[derive(Args)]
pub(crate) struct Options {
    /// Leave everything running, to explore; prints how
    #[arg(long, conflicts_with = "stop")]
    keep: bool,
    /// Take down what `--keep` left
    #[arg(long)]
    stop: bool,
    /// Real servers in place of the embedded ones
    #[arg(long, value_delimiter = ',', value_name = "postgres,redis,rabbitmq")]
    servers: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Something is missing, the build failed, or a step of the demo did not hold.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !process::is_root() {
        bail!("network namespaces and XDP need root");
    }
    if !options.stop {
        setup::ensure(if options.servers.is_empty() { Level::Run } else { Level::Servers })?;
        // As the tests build it: an optimised agent takes minutes more to link, and the data
        // plane is optimised in any case.
        build::agent(false)?;
    }
    let mut command = process::cargo(["run", "--quiet", "--locked"]);
    command.args(["--package", "pointsman-tests", "--bin", "demo", "--"]);
    if options.keep {
        command.arg("--keep");
    }
    if options.stop {
        command.arg("--stop");
    }
    if !options.servers.is_empty() {
        command.arg("--servers").arg(options.servers.join(","));
    }
    process::run(&mut command)
}
