//! `dist`: a release as one archive with a checksum: the stripped binary, licences (ours
//! and those of the crates in it), example configurations and a systemd unit. The same
//! sources give the same archive.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::Args;

use super::{
    build,
    setup::{self, Level},
};
use crate::{process, workspace};

/// Make a release archive and its checksum in target/dist
#[derive(Args)]
pub(crate) struct Options {}

/// Files that go into the archive as they are, and where.
const FILES: [(&str, &str); 4] = [
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("README.md", "README.md"),
    ("xtask/dist/pointsman.service", "systemd/pointsman.service"),
];

/// Directories that go into the archive as they are.
const DIRECTORIES: [&str; 2] = ["configs", "docs"];

/// Runs the command.
///
/// # Errors
/// Something is missing, the build failed, or the archive could not be written.
pub(crate) fn run(_options: &Options) -> Result<()> {
    setup::ensure(Level::Unit)?;
    let agent = build::agent(true)?;
    let name = format!("pointsman-{}-linux-{}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let out = workspace::target().join("dist");
    let staging = out.join(&name);
    if staging.exists() {
        fs::remove_dir_all(&staging).context("could not remove the last release's directory")?;
    }

    let binary = staging.join("bin/pointsman");
    copy(&agent, &binary)?;
    process::run(Command::new("strip").arg(&binary))?;
    let root = workspace::root();
    for (from, to) in FILES {
        copy(&root.join(from), &staging.join(to))?;
    }
    for directory in DIRECTORIES {
        copy_directory(&root.join(directory), &staging.join(directory))?;
    }
    let licences = process::output(&mut process::cargo(["deny", "--log-level", "error", "list"]))?;
    fs::write(staging.join("THIRD-PARTY"), licences).context("could not write THIRD-PARTY")?;

    let archive = pack(&out, &name)?;
    println!("{}", archive.display());
    Ok(())
}

/// Packs `out/name` reproducibly: sorted, owned by root, dated by the last commit.
fn pack(out: &Path, name: &str) -> Result<PathBuf> {
    let root = workspace::root();
    let date =
        process::output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root))?;
    let file = format!("{name}.tar.gz");
    process::run(
        Command::new("tar")
            .current_dir(out)
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .arg(format!("--mtime=@{}", date.trim()))
            .args(["--use-compress-program", "gzip -n -9", "-cf", &file, name]),
    )?;
    let sum = process::output(Command::new("sha256sum").arg(&file).current_dir(out))?;
    fs::write(out.join(format!("{file}.sha256")), &sum).context("could not write the checksum")?;
    print!("{sum}");
    Ok(out.join(file))
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    let entries =
        fs::read_dir(from).with_context(|| format!("could not list {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &to)?;
        } else {
            copy(&entry.path(), &to)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("could not create {}", parent.display()))?;
    }
    fs::copy(from, to)
        .with_context(|| format!("could not copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
