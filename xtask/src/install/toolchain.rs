//! The Rust side: components of the pinned toolchain, and programs installed with Cargo.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// Components that building and linting need; `rust-src` because the BPF target has no
/// prebuilt `core`.
const COMPONENTS: [&str; 3] = ["clippy", "rust-src", "rustfmt"];

/// A program installed with `cargo install`, in one version that is known to work.
pub(crate) struct CargoProgram {
    /// Name of the package.
    pub(crate) name: &'static str,
    /// The version; another one on the machine is replaced.
    pub(crate) version: &'static str,
}

/// Links BPF objects. 0.11 and later want LLVM 23; Rust 1.95 carries LLVM 22.
pub(crate) const BPF_LINKER: CargoProgram = CargoProgram { name: "bpf-linker", version: "0.10.3" };

/// Checks licences, sources and bans of dependencies.
pub(crate) const CARGO_DENY: CargoProgram = CargoProgram { name: "cargo-deny", version: "0.20.2" };

/// Conformance cases of HTTP/2; its program is called `httpwg`.
pub(crate) const HTTPWG: CargoProgram = CargoProgram { name: "httpwg-cli", version: "0.2.5" };

/// Installs the pinned toolchain and its components if they are missing.
///
/// # Errors
/// rustup is missing or could not install them.
pub(crate) fn ensure_components() -> Result<()> {
    let toolchain = workspace::toolchain();
    let list = ["component", "list", "--installed", "--toolchain", toolchain];
    let Ok(installed) = process::output(rustup().args(list)) else {
        if process::find_program("rustup").is_none() {
            bail!("rustup is missing: install it from https://rustup.rs");
        }
        println!("setup: installing Rust {toolchain}");
        return process::run(
            rustup()
                .args(["toolchain", "install", toolchain, "--profile", "minimal"])
                .args(COMPONENTS.iter().flat_map(|component| ["--component", component])),
        );
    };
    let missing = missing_components(&installed);
    if missing.is_empty() {
        return Ok(());
    }
    println!("setup: adding {} to Rust {toolchain}", missing.join(", "));
    process::run(rustup().args(["component", "add", "--toolchain", toolchain]).args(missing))
        .context("rustup could not add what the toolchain lacks")
}

/// Installs a program with Cargo unless the machine has it in the wanted version.
///
/// # Errors
/// It could not be built.
pub(crate) fn ensure_program(program: &CargoProgram) -> Result<()> {
    let CargoProgram { name, version } = program;
    let found = process::output(Command::new(name).arg("--version")).unwrap_or_default();
    if found.split_whitespace().last() == Some(version) {
        return Ok(());
    }
    // Not every package has a program of its name that says its version.
    let installed = process::output(&mut process::cargo(["install", "--list"]))?;
    if installed.lines().any(|line| line == format!("{name} v{version}:")) {
        return Ok(());
    }
    println!("setup: installing {name} {version} with cargo (takes minutes, once)");
    process::run(&mut process::cargo(["install", "--locked", &format!("{name}@{version}")]))
        .with_context(|| format!("{name} {version} could not be installed"))
}

fn rustup() -> Command {
    Command::new("rustup")
}

/// Installed components are listed with the target where they have one:
/// `clippy-x86_64-unknown-linux-gnu`, but `rust-src`.
fn missing_components(installed: &str) -> Vec<&'static str> {
    let has = |component: &str| {
        installed.lines().any(|line| {
            line.strip_prefix(component)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    };
    COMPONENTS.into_iter().filter(|component| !has(component)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_recognised_with_and_without_target() {
        let installed =
            "cargo-x86_64-unknown-linux-gnu\nclippy-x86_64-unknown-linux-gnu\nrust-src\n";
        assert_eq!(missing_components(installed), ["rustfmt"]);
    }

    #[test]
    fn the_components_are_those_of_the_toolchain_file() {
        let file = include_str!("../../../rust-toolchain.toml");
        for component in COMPONENTS {
            assert!(file.contains(&format!("\"{component}\"")), "{component}");
        }
    }
}
