//! `packets`: the tests of random and damaged packets, with very many of them.

use anyhow::{Result, bail, ensure};
use clap::Args;

use super::setup::{self, Level};
use crate::process;

/// Send millions of random and damaged packets through the XDP program (as root)
#[derive(Args)]
pub(crate) struct Options {
    /// Packets
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(20_000..))]
    packets: u64,
    /// Repeat the run with this seed, which a failure names
    #[arg(long)]
    seed: Option<u64>,
}

/// The tests that take a number of packets.
const TESTS: &str = "random::";

/// Runs the command.
///
/// # Errors
/// Something is missing, or a packet was not treated as it must be.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !process::is_root() {
        bail!("XDP needs root");
    }
    setup::ensure(Level::Test)?;
    let mut command = process::cargo(["test", "--locked", "--release"]);
    command.args([
        "--package",
        "pointsman-tests",
        "--test",
        "fixtures",
        TESTS,
        "--",
        "--nocapture",
    ]);
    command.env("POINTSMAN_PACKETS", options.packets.to_string());
    if let Some(seed) = options.seed {
        command.env("POINTSMAN_SEED", seed.to_string());
    }
    let mut ran = false;
    let succeeded = process::watch(&mut command, |line| {
        ran |= line.starts_with("test result: ") && !line.contains(" 0 passed; 0 failed");
    })?;
    ensure!(ran, "no test named {TESTS}");
    ensure!(succeeded, "a packet was not treated as it must be");
    Ok(())
}
