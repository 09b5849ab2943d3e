//! Processor time of the whole machine, whoever spent it: an XDP program's time is charged
//! to whoever was interrupted, so only the sum over everything compares.

use std::fs;

use anyhow::{Context, Result};

/// Microseconds of a tick of `/proc/stat`; `sysconf(_SC_CLK_TCK)` is 100 on Linux.
const TICK_US: f64 = 10_000.0;

/// Time that all processors together have been busy since the machine started,
/// microseconds.
///
/// # Errors
/// When `/proc/stat` can not be read.
pub(crate) fn busy_us() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    parse(&text).context("/proc/stat has an unknown form")
}

/// The first line is `cpu user nice system idle iowait irq softirq steal guest guest_nice`;
/// guest time is part of user time.
fn parse(text: &str) -> Option<f64> {
    let ticks: Vec<u64> = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks.as_slice() else {
        return None;
    };
    // Far below 2^52 ticks, so the conversion is exact.
    Some((user + nice + system + irq + softirq + steal) as f64 * TICK_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_guests_do_not_count() {
        let text = "cpu  1 2 4 1000 1000 8 16 32 5000 5000\ncpu0 1 2 3\n";
        assert_eq!(parse(text), Some(63.0 * TICK_US));
    }

    #[test]
    fn another_form_is_refused() {
        assert_eq!(parse("cpu 1 2 3\n"), None);
        assert_eq!(parse(""), None);
    }
}
