//! `tidy`: the rules of the repository as code. The rules themselves are in `rules`.

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    rules::{self, Severity},
    workspace,
};

/// Check the rules of the repository: import directions, file length, names, documents
#[derive(Args)]
pub(crate) struct Options {}

/// Runs the command.
///
/// # Errors
/// A rule is broken; every place was printed.
pub(crate) fn run(_options: &Options) -> Result<()> {
    let repository = rules::Repository::read(workspace::root())?;
    let findings = rules::check(&repository);
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let warnings = findings.len() - errors;
    println!("tidy: {} files, {errors} errors, {warnings} warnings", repository.files.len());
    if errors > 0 {
        bail!("{errors} places break the rules of the repository");
    }
    Ok(())
}
