//! `/sys/fs/bpf`: mounted if missing, and pin directories of this process's own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::namespace;

/// Where bpffs is mounted.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Mounts bpffs at its usual place unless it is there.
///
/// # Errors
/// When the kernel refuses.
pub fn mount_if_missing() -> Result<()> {
    let there = statfs(BPFFS).with_context(|| format!("look at {BPFFS}"))?;
    if there.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("mount bpffs at {BPFFS}"))
}

/// A pin directory below [`BPFFS`] that nobody else uses; whoever pins there creates it.
/// Dropping it removes it with all pins, which detaches programs.
#[derive(Debug)]
pub struct PinDirectory {
    path: PathBuf,
}

impl PinDirectory {
    /// Chooses the name.
    #[must_use]
    pub fn unique() -> Self {
        Self { path: Path::new(BPFFS).join(namespace::unique_name()) }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        // It may never have been created.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the pin directories of earlier runs that were killed before they could.
///
/// # Errors
/// When bpffs can not be read.
pub fn sweep_stale() -> Result<()> {
    for entry in fs::read_dir(BPFFS).with_context(|| format!("list {BPFFS}"))? {
        let entry = entry?;
        if namespace::is_stale(&entry.file_name().to_string_lossy()) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}
