//! `docs`: regenerate the parts of the manual that are written from code.

use anyhow::{Result, ensure};
use clap::Args;

use super::setup::{self, Level};
use crate::process;

/// Regenerate the documents that are written from code (docs/configuration.md; as root,
/// docs/program-size.md too)
#[derive(Args)]
pub(crate) struct Options {}

/// The tests that compare documents with the code; they write them when asked to.
const TESTS: &str = "the_manual";
/// The test that does so with the document of which the kernel has a part.
const SIZE_TEST: &str = "the_table_of_program_sizes";

/// Runs the command.
///
/// # Errors
/// Something is missing, or a document could not be generated.
pub(crate) fn run(_options: &Options) -> Result<()> {
    setup::ensure(Level::Build)?;
    write(&["--package", "lb-userspace", "--lib"], TESTS)?;
    if process::is_root() {
        write(&["--package", "pointsman-tests", "--test", "fixtures"], SIZE_TEST)?;
    }
    Ok(())
}

/// Runs the tests of a target that write documents.
fn write(target: &[&str], tests: &str) -> Result<()> {
    let mut command = process::cargo(["test", "--locked"]);
    command.args(target).arg(tests).env("POINTSMAN_BLESS", "1");
    let mut written = 0;
    let succeeded = process::watch(&mut command, |line| {
        written += usize::from(line.starts_with("test ") && line.ends_with(" ok"));
    })?;
    ensure!(succeeded, "a document could not be generated");
    ensure!(written > 0, "no test named {tests}... writes a document");
    Ok(())
}
