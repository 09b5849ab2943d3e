//! `test`: every check there is, in named and timed stages, the quick ones first. All
//! stages run even if one fails; a test that is skipped counts as failed.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{
    fuzz,
    setup::{self, Level},
    tidy,
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
}

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
        stages.extend(suites()?);
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

struct Stage {
    name: String,
    work: Work,
}

enum Work {
    /// Counts as one check.
    Command(Command),
    /// The rules of the repository; counts as one check.
    Tidy,
    /// Counts as many checks as the test runner reports.
    Tests(Command),
    /// The fuzzer, so many seconds for each parser; each counts as one check.
    Fuzz(u32),
}

impl Stage {
    fn command(name: &str, command: Command) -> Self {
        Self { name: name.into(), work: Work::Command(command) }
    }

    fn run(self) -> Outcome {
        println!("\n== {}", self.name);
        let start = Instant::now();
        let mut counts = Counts::default();
        let result = match self.work {
            Work::Command(mut command) => process::run(&mut command).map(|()| counts.passed = 1),
            Work::Tidy => tidy::run(&tidy::Options {}).map(|()| counts.passed = 1),
            Work::Tests(mut command) => run_tests(&mut command, &mut counts),
            Work::Fuzz(seconds) => fuzz::run_targets(seconds).map(|count| counts.passed = count),
        };
        let error = result.err().map(|error| {
            // A crash or a compile error fails no test by name.
            counts.failed = counts.failed.max(1);
            format!("{error:#}")
        });
        let outcome = Outcome { name: self.name, took: start.elapsed(), counts, error };
        println!("== {outcome}");
        outcome
    }
}

pub(super) fn run_tests(command: &mut Command, counts: &mut Counts) -> Result<()> {
    let succeeded = process::watch(command, |line| counts.add(line))?;
    if !succeeded {
        bail!("the test run failed");
    }
    if counts.passed == 0 {
        bail!("there was no test to run");
    }
    Ok(())
}

/// What a stage came to.
struct Outcome {
    name: String,
    took: Duration,
    counts: Counts,
    error: Option<String>,
}

impl Outcome {
    fn succeeded(&self) -> bool {
        self.error.is_none() && self.counts.failed == 0 && self.counts.skipped == 0
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { passed, failed, skipped } = self.counts;
        let word = if self.succeeded() { "ok" } else { "FAILED" };
        let seconds = self.took.as_secs_f64();
        write!(f, "{:<28} {word:<6} {seconds:>7.1} s  {passed} passed", self.name)?;
        if failed > 0 {
            write!(f, ", {failed} failed")?;
        }
        if skipped > 0 {
            write!(f, ", {skipped} skipped")?;
        }
        if let Some(error) = &self.error {
            write!(f, ": {error}")?;
        }
        Ok(())
    }
}

/// Tests by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    /// Adds a summary line of Rust's test runner; other lines say nothing.
    fn add(&mut self, line: &str) {
        let Some(summary) = line.strip_prefix("test result: ") else { return };
        for part in summary.split(['.', ';']) {
            let Some((number, word)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

fn summarise(outcomes: &[Outcome]) -> Result<()> {
    println!("\n== summary");
    let (mut passed, mut failed) = (0, 0);
    for outcome in outcomes {
        println!("{outcome}");
        passed += outcome.counts.passed;
        failed += outcome.counts.failed + outcome.counts.skipped;
    }
    println!("\n{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("{failed} checks failed");
    }
    Ok(())
}

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
        Stage { name: name.into(), work: Work::Tests(command) }
    };
    vec![
        tests("unit tests, lb-common", &["--package", "lb-common"]),
        tests("unit tests, lb-userspace", &["--package", "lb-userspace"]),
        tests("unit tests, xtask", &["--package", "xtask"]),
        tests("unit tests, test bed", &["--package", "pointsman-tests", "--lib", "--bins"]),
        Stage { name: "fuzzer".into(), work: Work::Fuzz(2) },
    ]
}

/// The suites of the tests crate, one stage each; the packet fixtures first, because they
/// are quick and explain most failures of the others.
///
/// A suite that asks for the mode of the XDP program runs once in each.
fn suites() -> Result<Vec<Stage>> {
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
    // The suites run the agent's binary; built with them, it is compiled once.
    let mut build = process::cargo(["build", "--locked", "--quiet"]);
    build.args(["--package", "lb-userspace", "--package", "pointsman-tests"]);
    let mut stages = vec![Stage::command("build", build)];
    stages.extend(suites.iter().map(|(name, _)| suite(name, "native")));
    stages.extend(suites.iter().filter(|(_, both)| *both).map(|(name, _)| suite(name, "generic")));
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
    Stage { name: format!("suite {name}, {mode}"), work: Work::Tests(command) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_test_programs_add_up() {
        let mut counts = Counts::default();
        counts.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s");
        counts.add("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        counts.add("test drain ... ok");
        assert_eq!(counts, Counts { passed: 14, failed: 1, skipped: 1 });
    }

    #[test]
    fn a_skipped_test_fails_its_stage() {
        let counts = Counts { passed: 5, failed: 0, skipped: 1 };
        let outcome = Outcome { name: "x".into(), took: Duration::ZERO, counts, error: None };
        assert!(!outcome.succeeded());
        assert!(summarise(&[outcome]).is_err());
    }

    #[test]
    fn a_run_that_breaks_off_counts_as_a_failure() {
        let stage = Stage { name: "x".into(), work: Work::Tests(Command::new("false")) };
        let outcome = stage.run();
        assert_eq!(outcome.counts.failed, 1);
        assert!(!outcome.succeeded());
    }

    #[test]
    fn a_run_without_tests_fails() {
        let stage = Stage { name: "x".into(), work: Work::Tests(Command::new("true")) };
        assert!(!stage.run().succeeded());
    }

    #[test]
    fn a_command_that_succeeds_counts_as_one_check() {
        let outcome = Stage::command("x", Command::new("true")).run();
        assert_eq!(outcome.counts, Counts { passed: 1, failed: 0, skipped: 0 });
        assert!(outcome.succeeded());
    }
}
