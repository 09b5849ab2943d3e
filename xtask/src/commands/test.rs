//! `test`: every check there is, in named and timed stages, the quick ones first. All
//! stages run even if one fails; a test that is skipped counts as failed.

use std::{fs, num::NonZero, path::Path, process::Command, thread};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{
    setup::{self, Level},
    stages::{Stage, Work, summarise},
};
use crate::{
    install::{python, toolchain::CARGO_DENY},
    process, workspace,
};

/// Run all lints and tests; as root, because the suites use XDP and network namespaces
#[derive(Args)]
pub(crate) struct Options {
    /// Only what needs no privilege: lints and unit tests
    #[arg(long)]
    unit: bool,
    /// Stop at the first stage that fails
    #[arg(long)]
    fail_fast: bool,
    /// Every suite that attaches XDP programs in generic mode too, not only those that the mode
    /// makes a difference to
    #[arg(long)]
    all_modes: bool,
}

/// Suites that run in generic mode as well: those of attaching, of what packets look like when
/// they arrive, and of each way in which they leave. What is decided in between is the same.
const ALSO_GENERIC: &[&str] = &[
    "checks_as_traffic",
    "forwarding",
    "half_nat",
    "icmp",
    "idle_resets",
    "interfaces",
    "lifecycle",
    "syn_flood",
    "trace",
    "traffic",
];

/// Runs the command.
///
/// # Errors
/// Something is missing, or a stage failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !options.unit && !process::is_root() {
        bail!(
            "the suites need root (XDP, network namespaces): run as root, or run what needs \
             no privilege with --unit"
        );
    }
    setup::ensure(if options.unit { Level::Unit } else { Level::Test })?;

    let mut stages = lints();
    stages.extend(unit_tests());
    if !options.unit {
        stages.extend(suites(options.all_modes)?);
    }
    let mut outcomes = Vec::new();
    for stage in stages {
        let outcome = stage.run();
        let failed = !outcome.succeeded();
        outcomes.push(outcome);
        if failed && options.fail_fast {
            break;
        }
    }
    summarise(&outcomes)
}

/// Rust's test runner reads it.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

fn lints() -> Vec<Stage> {
    let mut rustdoc = process::cargo(["doc", "--locked", "--workspace", "--exclude", "lb-ebpf"]);
    rustdoc.args(["--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
    // The advisory database is not on a package registry: `cargo deny check advisories` is
    // for machines that reach it.
    let deny = ["deny", "--log-level", "error", "check", "licenses", "bans", "sources"];
    vec![
        Stage::command("formatting", process::cargo(["fmt", "--all", "--check"])),
        Stage { name: "rules of the repository".into(), work: Work::Tidy },
        Stage::command(CARGO_DENY.name, process::cargo(deny)),
        Stage::command("clippy", clippy()),
        Stage::command("clippy, BPF target", clippy_bpf(&[])),
        Stage::command("clippy, packet log", clippy_packet_log()),
        Stage::command("clippy, packet log, BPF", clippy_bpf(&["--features", "log"])),
        Stage::command("documentation", rustdoc),
    ]
}

fn clippy() -> Command {
    let mut command = process::cargo(["clippy", "--locked", "--workspace", "--all-targets"]);
    command.args(["--exclude", "lb-ebpf", "--quiet", "--", "-D", "warnings"]);
    command
}

/// The agent of development builds that log packets.
fn clippy_packet_log() -> Command {
    let mut command = process::cargo(["clippy", "--locked", "--package", "lb-userspace", "--lib"]);
    command.args(["--features", "dataplane-log", "--quiet", "--", "-D", "warnings"]);
    command
}

/// The crate that only exists for the BPF target, in the directory where
/// `lb-userspace/build.rs` builds it.
fn clippy_bpf(features: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", workspace::toolchain(), "cargo", "clippy", "--locked", "--quiet"])
        .args([
            "--release",
            "--package",
            "lb-ebpf",
            "--lib",
            "--bins",
            "--target",
            "bpfel-unknown-none",
        ])
        .args(features)
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(workspace::target().join("ebpf"))
        .args(["--", "-D", "warnings"])
        .current_dir(workspace::root())
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "--cfg=bpf_target_arch=\"x86_64\" -Ctarget-cpu=v3");
    // What Cargo sets for us is meant for the host.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTC", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN"]
    {
        command.env_remove(name);
    }
    command
}

fn unit_tests() -> Vec<Stage> {
    let tests = |name: &str, arguments: &[&str]| {
        let mut command = process::cargo(["test", "--locked", "--no-fail-fast"]);
        command.args(arguments);
        wait_together(&mut command);
        Stage { name: name.into(), work: Work::Tests(command) }
    };
    vec![
        tests("unit tests, lb-common", &["--package", "lb-common"]),
        // With the feature that the test bed asks for, so that it is compiled once for both.
        tests(
            "unit tests, lb-userspace",
            &["--package", "lb-userspace", "--features", "test-objects"],
        ),
        tests("unit tests, xtask", &["--package", "xtask"]),
        tests("unit tests, test bed", &["--package", "pointsman-tests", "--lib", "--bins"]),
        Stage { name: "fuzzer".into(), work: Work::Fuzz(2) },
    ]
}

/// The suites of the tests crate, one stage each; the packet fixtures first, because they
/// are quick and explain most failures of the others.
///
/// A suite that asks for the mode of the XDP program can run in each.
fn suites(all_modes: bool) -> Result<Vec<Stage>> {
    let directory = workspace::root().join("tests/tests");
    let mut suites = Vec::new();
    for entry in fs::read_dir(&directory).context("could not list tests/tests")? {
        let path = entry?.path();
        let main = if path.is_dir() { path.join("main.rs") } else { path.clone() };
        let is_suite = main.is_file() && main.extension().is_some_and(|kind| kind == "rs");
        if let (true, Some(name)) = (is_suite, path.file_stem().and_then(|name| name.to_str())) {
            suites.push((name.to_owned(), asks_for_mode(&path)?));
        }
    }
    if suites.is_empty() {
        bail!("{} holds no suite", directory.display());
    }
    suites.sort_by_key(|(name, _)| (name != "fixtures", name.clone()));
    for name in ALSO_GENERIC {
        if !suites.iter().any(|(suite, asks)| suite == name && *asks) {
            bail!("there is no suite {name} that asks for the mode");
        }
    }
    // The suites run the agent's binary; built with them, it is compiled once.
    let mut build = process::cargo(["build", "--locked", "--quiet"]);
    build.args(["--package", "lb-userspace", "--package", "pointsman-tests"]);
    let mut stages = vec![Stage::command("build", build)];
    stages.extend(suites.iter().map(|(name, _)| suite(name, "native")));
    let generic = suites
        .iter()
        .filter(|(name, asks)| *asks && (all_modes || ALSO_GENERIC.contains(&name.as_str())));
    stages.extend(generic.map(|(name, _)| suite(name, "generic")));
    Ok(stages)
}

/// Whether a suite, a file or a directory of files, asks for the mode.
fn asks_for_mode(path: &Path) -> Result<bool> {
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
            if asks_for_mode(&entry?.path())? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let text = fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&text).contains("Mode::from_environment"))
}

/// One suite with the XDP program attached in the given mode.
fn suite(name: &str, mode: &str) -> Stage {
    let mut command = process::cargo(["test", "--locked", "--no-fail-fast"]);
    command
        .args(["--package", "pointsman-tests", "--test", name])
        .env("POINTSMAN_TEST_MODE", mode)
        .env("POINTSMAN_PYTHON", python::interpreter());
    wait_together(&mut command);
    Stage { name: format!("suite {name}, {mode}"), work: Work::Tests(command) }
}

/// Runs twice as many tests at a time as there are processors: most of them wait most of the
/// time.
fn wait_together(command: &mut Command) {
    if std::env::var_os(TEST_THREADS).is_none() {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        command.env(TEST_THREADS, (2 * processors).to_string());
    }
}
