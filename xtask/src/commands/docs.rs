//! `docs`: regenerate the parts of the manual that are written from code.

use anyhow::Result;
use clap::Args;

use super::setup::{self, Level};
use crate::process;

/// Regenerate the documents that are written from code (docs/configuration.md)
#[derive(Args)]
pub(crate) struct Options {}

/// Runs the command.
///
/// # Errors
/// Something is missing, or a document could not be generated.
pub(crate) fn run(_options: &Options) -> Result<()> {
    setup::ensure(Level::Build)?;
    // The tests that compare documents with the code write them when asked to.
    let arguments = ["test", "--locked", "--package", "lb-userspace", "--lib", "documentation"];
    process::run(process::cargo(arguments).env("POINTSMAN_BLESS", "1"))
}
