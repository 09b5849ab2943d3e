//! The load: wrk (<https://github.com/wg/wrk>) with one thread.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result};

use crate::namespace::output;

/// What wrk counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    /// Requests answered.
    pub answered: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Socket errors (connect, read, write, timeout) and answers other than 2xx and 3xx.
    pub failures: u64,
    /// The time that one in a hundred took longer than, milliseconds.
    pub p99_ms: f64,
}

/// Runs `command`, which is wrk, with so many connections against a URL.
///
/// # Errors
/// When wrk can not be started, fails, or prints something unknown.
pub fn run(
    mut command: Command,
    connections: u32,
    time: Duration,
    headers: &[&str],
    url: &str,
) -> Result<Count> {
    command
        .args(["--threads", "1", "--connections", &connections.to_string(), "--latency"])
        .args(["--duration", &format!("{}s", time.as_secs().max(1))]);
    for header in headers {
        command.args(["--header", header]);
    }
    let printed = output(command.arg(url))?;
    parse(&printed).with_context(|| format!("wrk printed:\n{printed}"))
}

/// Reads what wrk prints. Lines about failures are there only if something failed.
fn parse(printed: &str) -> Result<Count> {
    let mut count = None;
    let mut failures = 0;
    let mut p99_ms = 0.0;
    for line in printed.lines().map(str::trim) {
        if let Some((answered, rest)) = line.split_once(" requests in ") {
            let time = rest.split(',').next().unwrap_or_default();
            count = Some((answered.parse::<u64>().context("requests")?, seconds(time)?));
        } else if let Some(time) = line.strip_prefix("99%") {
            p99_ms = seconds(time.trim())? * 1000.0;
        } else if let Some(errors) = line.strip_prefix("Socket errors: ") {
            for error in errors.split(", ") {
                let (_, number) = error.split_once(' ').context("socket errors")?;
                failures += number.parse::<u64>().context("socket errors")?;
            }
        } else if let Some(number) = line.strip_prefix("Non-2xx or 3xx responses: ") {
            failures += number.parse::<u64>().context("other responses")?;
        }
    }
    let (answered, seconds) = count.context("no line with the number of requests")?;
    Ok(Count { answered, seconds, failures, p99_ms })
}

/// `980.12ms`, `3.00s` or `1.02m`.
fn seconds(text: &str) -> Result<f64> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let scale = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        unit => anyhow::bail!("unknown unit {unit:?}"),
    };
    Ok(digits.parse::<f64>().context("duration")? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Running 3s test @ http://192.0.2.1/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.02ms  100.00us   9.91ms   91.02%
    Req/Sec    61.10k     2.34k   66.12k    70.00%
  Latency Distribution
     50%    1.01ms
     99%    1.53ms
  182345 requests in 3.01s, 27.13MB read
Requests/sec:  60580.12
Transfer/sec:      9.01MB
";

    #[test]
    fn a_run_without_failures_is_read() {
        let count = parse(GOOD).unwrap();
        assert_eq!(count, Count { answered: 182_345, seconds: 3.01, failures: 0, p99_ms: 1.53 });
    }

    #[test]
    fn every_kind_of_failure_counts() {
        let text = GOOD.replace(
            "Requests/sec",
            "  Socket errors: connect 1, read 20, write 300, timeout 4000\n\
             \x20 Non-2xx or 3xx responses: 50000\nRequests/sec",
        );
        assert_eq!(parse(&text).unwrap().failures, 54_321);
    }

    #[test]
    fn unknown_output_is_an_error() {
        assert!(parse("unable to connect to 192.0.2.1:80 Connection refused\n").is_err());
        assert!(seconds("3h").is_err());
    }

    #[test]
    fn durations_have_units() {
        let close = |text: &str, wanted: f64| (seconds(text).unwrap() - wanted).abs() < 1e-9;
        assert!(close("980.00ms", 0.98));
        assert!(close("1.50m", 90.0));
    }
}
