//! `docs`: regenerate the parts of the manual that are written from code.

use anyhow::{Result, ensure};
use clap::Args;

use super::setup::{self, Level};
use crate::process;

/// Regenerate the documents that are written from code (docs/configuration.md)
#[derive(Args)]
pub(crate) struct Options {}

/// The tests that compare documents with the code; they write them when asked to.
const TESTS: &str = "the_manual";

/// Runs the command.
///
/// # Errors
/// Something is missing, or a document could not be generated.
pub(crate) fn run(_options: &Options) -> Result<()> {
    setup::ensure(Level::Build)?;
    let mut command = process::cargo(["test", "--locked", "--package", "lb-userspace", "--lib"]);
    command.arg(TESTS).env("POINTSMAN_BLESS", "1");
    let mut written = 0;
    let succeeded = process::watch(&mut command, |line| {
        written += usize::from(line.starts_with("test ") && line.ends_with(" ok"));
    })?;
    ensure!(succeeded, "a document could not be generated");
    ensure!(written > 0, "no test named {TESTS}... writes a document");
    Ok(())
}
