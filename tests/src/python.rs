//! The Python that has the packages tests use as clients.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The interpreter: `POINTSMAN_PYTHON`, or that of the environment which `cargo xtask setup`
/// makes in the target directory.
///
/// # Errors
/// When there is none.
pub fn interpreter() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("POINTSMAN_PYTHON") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("find this program")?;
    let found = own.ancestors().map(|dir| dir.join("python/bin/python")).find(|path| path.exists());
    found.context("no Python environment: run cargo xtask setup servers")
}
