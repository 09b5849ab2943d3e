//! `soak`: the proxy under mixed load for a while, with reloads. No request may fail, and the
//! agent's memory has to stay flat.

use anyhow::{Context, Result};
use clap::Args;

use super::{
    build,
    setup::{self, Level},
};
use crate::{process, workspace};

/// Run the proxy under load and reloads, and see that nothing fails or grows
#[derive(Args)]
pub(crate) struct Options {
    /// For how long
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Reloads, spread over that time
    #[arg(long, default_value_t = 1000)]
    reloads: u64,
}

/// Runs the command.
///
/// # Errors
/// The build failed, or the agent did not bear it.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(Level::Build)?;
    build::agent(true)?;
    let agent = workspace::target().join("release/pointsman");
    let mut command = process::cargo(["run", "--quiet", "--locked"]);
    command.args(["--package", "pointsman-tests", "--bin", "soak", "--"]);
    command.args(["--seconds", &options.seconds.to_string()]);
    command.args(["--reloads", &options.reloads.to_string()]);
    process::run(command.env("POINTSMAN_BINARY", agent)).context("the soak failed")
}
