//! `pointsman run`.

use std::path::PathBuf;

use super::{Outcome, check::load, output::Output};
use crate::{app, logging::LogFormat};

/// Options of `pointsman run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIGURATION)]
    pub config: PathBuf,
    /// Attach to this interface in place of the configuration's; may be given several times
    #[arg(long = "interface", value_name = "IF")]
    pub interfaces: Vec<String>,
    /// Remove the data plane and the managed VIP addresses at the end; forwarding stops
    #[arg(long)]
    pub detach_on_exit: bool,
    /// How log lines on standard error look
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The configuration unless the command line says otherwise.
pub const DEFAULT_CONFIGURATION: &str = "/etc/pointsman/pointsman.yaml";

/// Runs the agent in the foreground until it is told to stop.
///
/// # Errors
/// If it can not start, go on, or end in order.
pub fn run(args: RunArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let loaded = match load(&args.config)? {
        Ok(loaded) => loaded,
        Err(faults) => {
            output.complain(&super::reload::render_faults(&faults))?;
            return Ok(Outcome::No);
        }
    };
    app::run(
        app::Options {
            configuration: args.config,
            interfaces: args.interfaces,
            detach_on_exit: args.detach_on_exit,
            log_format: args.log_format,
        },
        loaded,
    )?;
    Ok(Outcome::Good)
}
