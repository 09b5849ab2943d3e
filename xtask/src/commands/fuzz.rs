//! `fuzz`: the property tests of every parser of bytes and texts from outside, for longer than
//! `test` runs them.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{
    setup::{self, Level},
    test::{self, Counts},
};
use crate::process;

/// Run the property tests of the parsers for longer
#[derive(Args)]
pub(crate) struct Options {
    /// Inputs for each property
    #[arg(long, default_value_t = 100_000)]
    cases: u32,
    /// Only parsers whose name has this in it
    parser: Option<String>,
}

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

/// Runs the command. An input that fails is kept by proptest beside the test, and named.
///
/// # Errors
/// A property does not hold, or there is no such parser.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(Level::Build)?;
    let wanted = options.parser.as_deref().unwrap_or_default();
    let parsers: Vec<_> = PARSERS.iter().filter(|(name, _)| name.contains(wanted)).collect();
    if parsers.is_empty() {
        let names: Vec<_> = PARSERS.iter().map(|(name, _)| *name).collect();
        bail!("there is no parser {wanted:?}; there are: {}", names.join(", "));
    }
    for &(name, tests) in parsers {
        let began = Instant::now();
        let mut command = process::cargo(["test", "--locked", "--quiet"]);
        command.args(["--package", "lb-userspace", "--lib", "--", tests]);
        command.env("PROPTEST_CASES", options.cases.to_string());
        test::run_tests(&mut command, &mut Counts::default()).context(name)?;
        println!("== {name}: {:.1} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}
