//! `pointsman check`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Outcome, output::Output, reload::render_faults, run::DEFAULT_CONFIGURATION};
use crate::{
    admin::api::FaultView,
    config::{self, ConfigError, Loaded},
    control::reload::{fault, faults},
};

/// Options of `pointsman check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Configuration file
    #[arg(value_name = "CONFIG", default_value = DEFAULT_CONFIGURATION)]
    pub config: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `pointsman check` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct CheckResult {
    /// Whether the configuration is good.
    valid: bool,
    /// Everything wrong with it.
    faults: Vec<FaultView>,
    /// What is allowed but hardly meant.
    warnings: Vec<FaultView>,
}

/// Validates a configuration file; needs neither an agent nor privilege.
///
/// # Errors
/// If the file can not be read or standard output not written.
pub fn run(args: &CheckArgs, output: &mut Output) -> anyhow::Result<Outcome> {
    let result = match load(&args.config)? {
        Ok(loaded) => {
            let warnings = loaded.warnings.iter().map(|warning| fault(&warning.0)).collect();
            CheckResult { valid: true, faults: Vec::new(), warnings }
        }
        Err(faults) => CheckResult { faults, ..CheckResult::default() },
    };
    output.print(args.json, &result, |result| render(&args.config, result))?;
    Ok(if result.valid { Outcome::Good } else { Outcome::No })
}

/// Loads a configuration, or says everything that is wrong with it.
///
/// # Errors
/// If the file can not be read at all.
pub(super) fn load(path: &Path) -> anyhow::Result<Result<Loaded, Vec<FaultView>>> {
    match config::load(path) {
        Ok(loaded) => Ok(Ok(loaded)),
        Err(error @ ConfigError::Faults(_)) => Ok(Err(faults(path, &error))),
        Err(error) => Err(error.into()),
    }
}

fn render(path: &Path, result: &CheckResult) -> String {
    if !result.valid {
        return render_faults(&result.faults);
    }
    let warnings = result.warnings.iter().map(|warning| format!("WARNING: {warning}\n"));
    warnings.collect::<String>() + &format!("{} is good\n", path.display())
}
