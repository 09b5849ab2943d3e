//! Debian packages, found by the programs they bring. On another distribution, or without
//! root, nothing is installed: what is missing is listed.
//!
//! Packages must not start their services: a database that nobody asked for would take
//! ports and processor time from tests and benchmarks. `policy-rc.d` (Debian policy,
//! invoke-rc.d(8)) refuses the start during installation; units are disabled afterwards.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process;

/// Something the machine must have, and the Debian package that brings it.
#[derive(Clone, Copy)]
pub(crate) struct Need {
    what: What,
    package: &'static str,
    /// The service that the package would start, if any.
    service: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum What {
    /// A program, by name.
    Program(&'static str),
    /// A file in each, or any, version directory: `PARENT/*/REST`.
    Versioned(&'static str, &'static str),
    /// A module that Python can import.
    PythonModule(&'static str),
}

/// A program and its package.
pub(crate) const fn program(name: &'static str, package: &'static str) -> Need {
    Need { what: What::Program(name), package, service: None }
}

/// A program whose package also brings a service.
pub(crate) const fn served(
    name: &'static str,
    package: &'static str,
    service: &'static str,
) -> Need {
    Need { what: What::Program(name), package, service: Some(service) }
}

/// `PARENT/*/REST` and its package, with its service.
pub(crate) const fn versioned(
    parent: &'static str,
    rest: &'static str,
    package: &'static str,
    service: &'static str,
) -> Need {
    Need { what: What::Versioned(parent, rest), package, service: Some(service) }
}

/// A module of the system's Python and its package.
pub(crate) const fn python_module(name: &'static str, package: &'static str) -> Need {
    Need { what: What::PythonModule(name), package, service: None }
}

impl Need {
    fn is_met(&self) -> bool {
        match self.what {
            What::Program(name) => process::find_program(name).is_some(),
            What::Versioned(parent, rest) => fs::read_dir(parent).is_ok_and(|mut versions| {
                versions
                    .any(|version| version.is_ok_and(|version| version.path().join(rest).exists()))
            }),
            What::PythonModule(name) => {
                let import = format!("import {name}");
                process::output(Command::new("/usr/bin/python3").args(["-c", &import])).is_ok()
            }
        }
    }

    fn describe(&self) -> String {
        match self.what {
            What::Program(name) => name.to_owned(),
            What::Versioned(parent, rest) => format!("{parent}/*/{rest}"),
            What::PythonModule(name) => format!("Python module {name}"),
        }
    }
}

/// Installs the packages of all needs that are not met.
///
/// # Errors
/// Something is missing and this is not Debian, or we are not root, or apt-get failed.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = packages(&missing);
    if process::find_program("apt-get").is_none() {
        bail!("{}this is not Debian: install them with your package manager", list(&missing));
    }
    if !process::is_root() {
        bail!("{}run as root:  apt-get install {}", list(&missing), packages.join(" "));
    }
    println!("setup: installing {}", packages.join(" "));
    install(&packages)?;
    disable_services(&missing)?;
    let still: Vec<&Need> = missing.into_iter().filter(|need| !need.is_met()).collect();
    if !still.is_empty() {
        bail!("{}apt-get installed the packages, but did not bring them", list(&still));
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    let _no_services = NoServices::during_installation()?;
    let apt = |arguments: &[&str]| {
        process::run(
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["-q", "-o", "DPkg::Lock::Timeout=120"])
                .args(arguments),
        )
    };
    apt(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}

/// Units start again at the next boot unless they are disabled.
fn disable_services(needs: &[&Need]) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    for service in needs.iter().filter_map(|need| need.service) {
        process::run(Command::new("systemctl").args(["disable", "--quiet", service]))?;
    }
    Ok(())
}

/// While it lives, packages can not start services.
struct NoServices {
    /// The file to remove; none if the machine has a policy of its own.
    ours: Option<PathBuf>,
}

impl NoServices {
    /// 101: action forbidden by policy.
    const POLICY: &str = "#!/bin/sh\n# Made by cargo xtask setup; safe to remove.\nexit 101\n";

    fn during_installation() -> Result<Self> {
        let policy = PathBuf::from("/usr/sbin/policy-rc.d");
        // One of ours is left if an installation was interrupted.
        if policy.exists() && fs::read_to_string(&policy).ok().as_deref() != Some(Self::POLICY) {
            return Ok(Self { ours: None });
        }
        fs::write(&policy, Self::POLICY)
            .and_then(|()| fs::set_permissions(&policy, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("could not write {}", policy.display()))?;
        Ok(Self { ours: Some(policy) })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(policy) = &self.ours
            && let Err(error) = fs::remove_file(policy)
        {
            eprintln!("warning: could not remove {}: {error}", policy.display());
        }
    }
}

fn packages(needs: &[&Need]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = needs.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn list(needs: &[&Need]) -> String {
    let mut text = String::from("missing on this machine:\n");
    for need in needs {
        text += &format!("  {:<34} (Debian package {})\n", need.describe(), need.package);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_met_by_what_is_there() {
        assert!(program("sh", "dash").is_met());
        assert!(!program("no-such-program-here", "none").is_met());
        assert!(versioned("/proc", "cmdline", "none", "none").is_met());
        assert!(!versioned("/no/such/parent", "cmdline", "none", "none").is_met());
    }

    #[test]
    fn packages_are_named_once() {
        let needs = [program("b", "two"), program("c", "one"), program("a", "two")];
        assert_eq!(packages(&needs.iter().collect::<Vec<_>>()), ["one", "two"]);
    }

    #[test]
    fn what_is_missing_is_listed_with_its_package() {
        let need = program("bpftool", "bpftool");
        assert!(list(&[&need]).contains("(Debian package bpftool)"));
    }
}
