//! `races`: the tests of what happens on several processors at once, for long.

use anyhow::{Result, bail, ensure};
use clap::Args;

use super::setup::{self, Level};
use crate::process;

/// Race packets of one flow, sweeps and ring swaps against each other for long (as root)
#[derive(Args)]
pub(crate) struct Options {
    /// Rounds of the tests in which two processors handle one flow
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Swaps of a ring under traffic; each takes some milliseconds
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(10..))]
    swaps: u64,
    /// Connections, one after the other on few tuples, while sweeps take what is over
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(4_000..))]
    connections: u64,
}

/// Runs the command.
///
/// # Errors
/// Something is missing, or a test failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !process::is_root() {
        bail!("XDP needs root");
    }
    setup::ensure(Level::Test)?;
    let mut command = process::cargo(["test", "--locked", "--release"]);
    command.args(["--package", "pointsman-tests", "--test", "concurrency", "--"]);
    // One after the other, so that both processors are theirs.
    command.args(["--nocapture", "--test-threads", "1"]);
    command.env("POINTSMAN_ROUNDS", options.rounds.to_string());
    command.env("POINTSMAN_SWAPS", options.swaps.to_string());
    command.env("POINTSMAN_CONNECTIONS", options.connections.to_string());
    let mut ran = false;
    let succeeded = process::watch(&mut command, |line| {
        ran |= line.starts_with("test result: ") && !line.contains(" 0 passed; 0 failed");
    })?;
    ensure!(ran, "no test ran");
    ensure!(succeeded, "something did not add up");
    Ok(())
}
