//! `fuzz`: every parser of bytes and texts from outside, with more input than `test` has time
//! for. Twice: with what their property tests make up, and with what libFuzzer finds out to
//! reach new code.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::{
    setup::{self, Level},
    stages::{self, Counts},
};
use crate::{instrument, process, workspace};

/// Run the property tests of the parsers for longer, and a fuzzer
#[derive(Args)]
pub(crate) struct Options {
    /// Inputs for each property; 0 for none
    #[arg(long, default_value_t = 100_000)]
    cases: u32,
    /// Seconds of libFuzzer for each parser; 0 for none
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only parsers whose name has this in it
    parser: Option<String>,
}

/// Parsers as the fuzzer names them (`lb-userspace/src/fuzz.rs`).
pub(super) const TARGETS: [&str; 11] = [
    "configuration",
    "rules",
    "rule_template",
    "log_template",
    "host",
    "path",
    "http1",
    "http2",
    "proxy_protocol",
    "server_name",
    "cookie",
];

/// What each parser's code must have been tried with at least, a second; far less than any
/// machine manages.
const LEAST_PER_SECOND: u64 = 20;

/// Parsers, and where their tests are in the agent.
const PARSERS: [(&str, &str); 12] = [
    ("configuration", "config::tests::hostile"),
    ("rules", "config::rules::tests::hostile"),
    ("templates of rules", "model::rule::template"),
    ("templates of logs", "model::access_log::template"),
    ("hosts", "model::rule::host"),
    ("paths", "model::rule::path"),
    ("messages of HTTP/1", "proxy::http::guard"),
    ("frames of HTTP/2", "proxy::http::frames"),
    ("PROXY protocol", "proxy::proxy_protocol"),
    ("server names", "proxy::sni"),
    ("evaluation of rules", "proxy::rules"),
    ("cookies", "balance::cookie"),
];

/// Runs the command. An input that fails a property is kept by proptest beside the test, one
/// that libFuzzer finds in `target/fuzz/findings`; both are named.
///
/// # Errors
/// A property does not hold, or there is no such parser.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(Level::Unit)?;
    let wanted = options.parser.as_deref().unwrap_or_default();
    let parsers: Vec<_> = PARSERS.iter().filter(|(name, _)| name.contains(wanted)).collect();
    let targets: Vec<_> = TARGETS.into_iter().filter(|name| name.contains(wanted)).collect();
    if parsers.is_empty() && targets.is_empty() {
        let names: Vec<_> = PARSERS.iter().map(|(name, _)| *name).chain(TARGETS).collect();
        bail!("there is no parser {wanted:?}; there are: {}", names.join(", "));
    }
    if options.cases > 0 {
        for &(name, tests) in parsers {
            let began = Instant::now();
            let mut command = process::cargo(["test", "--locked", "--quiet"]);
            command.args(["--package", "lb-userspace", "--lib", "--", tests]);
            command.env("PROPTEST_CASES", options.cases.to_string());
            stages::run_tests(&mut command, &mut Counts::default()).context(name)?;
            println!("== {name}: {:.1} s", began.elapsed().as_secs_f64());
        }
    }
    if options.seconds > 0 && !targets.is_empty() {
        let fuzzer = Fuzzer::build()?;
        for name in targets {
            fuzzer.run(name, options.seconds)?;
        }
    }
    Ok(())
}

/// All parsers for so long each; returns how many there are.
///
/// # Errors
/// The fuzzer can not be built, or found something.
pub(super) fn run_targets(seconds: u32) -> Result<u64> {
    let fuzzer = Fuzzer::build()?;
    for name in TARGETS {
        fuzzer.run(name, seconds)?;
    }
    Ok(TARGETS.len() as u64)
}

/// libFuzzer with our parsers.
struct Fuzzer;

impl Fuzzer {
    fn build() -> Result<Self> {
        let mut command = process::cargo(["build", "--locked", "--quiet"]);
        command.args(["--package", "pointsman-tests", "--features", "fuzz", "--bin", "fuzz"]);
        instrument::prepare(&mut command)?;
        process::run(&mut command).context("the fuzzer")?;
        Ok(Self)
    }

    fn run(&self, name: &str, seconds: u32) -> Result<()> {
        let directory = workspace::target().join("fuzz");
        let corpus = directory.join("corpus").join(name);
        let findings = directory.join("findings");
        for path in [&corpus, &findings] {
            fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        }
        let mut command = Command::new(workspace::target().join("debug/fuzz"));
        command
            .arg(&corpus)
            .arg(format!("-max_total_time={seconds}"))
            // Of the input in bytes, of one run in seconds, and of memory.
            .args(["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"])
            .args(["-print_final_stats=1", "-verbosity=0"])
            .arg(format!("-artifact_prefix={}/{name}-", findings.display()))
            .env("POINTSMAN_FUZZ_TARGET", name)
            .env("POINTSMAN_FUZZ_SEEDS", &corpus);
        let began = Instant::now();
        let output = command.output().with_context(|| format!("start the fuzzer of {name}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name}: {}\n{said}", output.status);
        let runs = executed(&said).with_context(|| format!("{name}: no figures in\n{said}"))?;
        let least = u64::from(seconds) * LEAST_PER_SECOND;
        ensure!(runs >= least, "{name}: only {runs} inputs in {seconds} s\n{said}");
        let kept = count(&corpus)?;
        report(name, runs, kept, began.elapsed());
        Ok(())
    }
}

fn report(name: &str, runs: u64, kept: usize, took: Duration) {
    let took = took.as_secs_f64();
    println!("== {name}: {runs} inputs in {took:.1} s, {kept} that reach code of their own");
}

/// The number of inputs, in libFuzzer's closing figures.
fn executed(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    line?.trim().parse().ok()
}

fn count(directory: &Path) -> Result<usize> {
    let entries = fs::read_dir(directory);
    Ok(entries.with_context(|| format!("list {}", directory.display()))?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_inputs_is_found_among_the_figures() {
        let said = "Done 12 runs\nstat::number_of_executed_units: 8123\nstat::peak_rss_mb: 40\n";
        assert_eq!(executed(said), Some(8123));
        assert_eq!(executed("nothing"), None);
    }

    #[test]
    fn the_fuzzer_and_this_command_know_the_same_parsers() {
        let source = workspace::root().join("lb-userspace/src/fuzz.rs");
        let source = fs::read_to_string(source).expect("readable");
        let names = source.split("name: \"").skip(1).filter_map(|rest| rest.split('"').next());
        assert_eq!(names.collect::<Vec<_>>(), TARGETS);
    }
}
