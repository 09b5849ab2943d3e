//! `run`: build, and balance on a real interface of this host.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};
use clap::Args;

use super::{
    build,
    setup::{self, Level},
};
use crate::process;

/// Build the agent and run it on an interface of this host (as root)
#[derive(Args)]
pub(crate) struct Options {
    /// Interface to attach to, in place of the configuration's
    #[arg(long, value_name = "IF")]
    iface: String,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Further arguments of `pointsman run`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Something is missing, the build failed, or the agent did.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !process::is_root() {
        bail!("loading an XDP program needs root");
    }
    setup::ensure(Level::Build)?;
    crate::install::bpffs::ensure()?;
    let agent = build::agent(true)?;
    process::run(
        Command::new(agent)
            .arg("run")
            .arg("--config")
            .arg(&options.config)
            .args(["--interface", &options.iface])
            .args(&options.arguments),
    )
}
