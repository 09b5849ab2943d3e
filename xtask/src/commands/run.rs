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
    /// Interface to attach to, in place of the configuration's; may be repeated
    #[arg(long, value_name = "IF", required = true)]
    iface: Vec<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Do not optimise the agent: it builds in a fraction of the time
    #[arg(long)]
    debug: bool,
    /// Further arguments of `pointsman run`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the command: becomes the agent, so that signals reach it.
///
/// # Errors
/// Something is missing, the build failed, or the agent could not start.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !process::is_root() {
        bail!("loading an XDP program needs root");
    }
    setup::ensure(Level::Build)?;
    crate::install::bpffs::ensure()?;
    let mut command = Command::new(build::agent(!options.debug)?);
    command.arg("run").arg("--config").arg(&options.config);
    for interface in &options.iface {
        command.arg("--interface").arg(interface);
    }
    process::replace(command.args(&options.arguments))
}
