//! `build`: the XDP programs and the agent. `lb-userspace/build.rs` builds the former and
//! the agent embeds them, so one Cargo command does both.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::setup::{self, Level};
use crate::{process, workspace};

/// Build the XDP programs and the agent
#[derive(Args)]
pub(crate) struct Options {
    /// Optimise
    #[arg(long)]
    release: bool,
}

/// Runs the command.
///
/// # Errors
/// Something is missing, or the build failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(Level::Build)?;
    println!("built {}", agent(options.release)?.display());
    Ok(())
}

/// Builds the agent and returns where it is.
///
/// # Errors
/// The build failed.
pub(crate) fn agent(release: bool) -> Result<PathBuf> {
    let mut command = process::cargo(["build", "--locked", "--package", "lb-userspace"]);
    if release {
        command.arg("--release");
    }
    process::run(&mut command)?;
    Ok(workspace::target().join(if release { "release" } else { "debug" }).join("pointsman"))
}
