//! The load over HTTP/2: h2load of nghttp2, 32 connections with 16 streams each.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use testbed::{bench::wrk::Count, namespace::output};

use crate::site::Site;

/// Runs h2load against a URL.
///
/// # Errors
/// When it can not be started, fails, or prints something unknown.
pub(crate) fn run(site: &Site, url: &str, time: Duration) -> Result<Count> {
    // It shows no percentiles; its log has a line for each request.
    let log = site.file("h2load.log");
    if log.exists() {
        fs::remove_file(&log).context("remove the last log")?;
    }
    let mut command = site.namespace.command("h2load");
    command
        .args(["--threads=1", "--clients=32", "--max-concurrent-streams=16"])
        .arg(format!("--duration={}", time.as_secs().max(1)))
        .arg(format!("--log-file={}", log.display()))
        .arg(url);
    let printed = output(&mut command)?;
    let mut count = parse(&printed).with_context(|| format!("h2load printed:\n{printed}"))?;
    count.seconds = time.as_secs_f64();
    count.p99_ms = p99_ms(&fs::read_to_string(&log).context("read h2load's log")?)?;
    Ok(count)
}

/// `requests: 9 total, 9 started, 9 done, 8 succeeded, 1 failed, 0 errored, 0 timeout`.
fn parse(printed: &str) -> Result<Count> {
    let line = printed.lines().find_map(|line| line.strip_prefix("requests: "));
    let line = line.context("no line with the number of requests")?;
    let number = |what: &str| -> Result<u64> {
        let part = line.split(", ").find_map(|part| part.strip_suffix(what));
        part.with_context(|| format!("no number of{what}"))?.trim().parse().context("a number")
    };
    Ok(Count { answered: number(" succeeded")?, failures: number(" failed")?, ..Count::default() })
}

/// A line is start, status and time, the last in microseconds.
fn p99_ms(log: &str) -> Result<f64> {
    let times = log.lines().map(|line| {
        let time = line.split_whitespace().nth(2).context("a line has three fields")?;
        time.parse::<u64>().context("a time")
    });
    let mut times = times.collect::<Result<Vec<u64>>>()?;
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(0);
    Ok(p99 as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_prints_is_read() {
        let text = "\nfinished in 3.00s, 3.33 req/s, 1KB/s\nrequests: 12 total, 12 started, \
                    11 done, 9 succeeded, 2 failed, 1 errored, 0 timeout\n";
        let count = parse(text).unwrap();
        assert_eq!((count.answered, count.failures), (9, 2));
        assert!(parse("nothing").is_err());
    }

    #[test]
    fn percentiles_come_from_the_log() {
        let log: String = (1..=200).map(|time| format!("1700000000\t200\t{time}000\n")).collect();
        assert!((p99_ms(&log).unwrap() - 199.0).abs() < 1e-9);
        assert!(p99_ms("x\n").is_err());
    }
}
