//! Numbers for people.

use std::time::Duration;

/// A count with at most four digits: `950`, `12.3k`, `4.5M`.
#[must_use]
pub fn count(number: u64) -> String {
    scaled(number, 1000, &["", "k", "M", "G", "T", "P", "E"])
}

/// Bytes in powers of 1024: `950 B`, `12.3 KiB`.
#[must_use]
pub fn bytes(number: u64) -> String {
    scaled(number, 1024, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

/// A length of time by its two largest units: `3h 12m`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let whole = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A share in percent with one digit: `12.5 %`; of nothing, `0.0 %`.
#[must_use]
pub fn percent(part: u64, whole: u64) -> String {
    let tenths = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn scaled(number: u64, base: u64, units: &[&str]) -> String {
    let (mut scale, mut unit) = (1, 0);
    while number / scale >= base && unit + 1 < units.len() {
        scale *= base;
        unit += 1;
    }
    let unit_name = units.get(unit).copied().unwrap_or_default();
    let whole = number / scale;
    if unit == 0 {
        return format!("{whole}{unit_name}");
    }
    let tenth = u128::from(number % scale) * 10 / u128::from(scale);
    format!("{whole}.{tenth}{unit_name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_cut_off() {
        for (number, expected) in
            [(0, "0"), (999, "999"), (1000, "1.0k"), (12_399, "12.3k"), (u64::MAX, "18.4E")]
        {
            assert_eq!(count(number), expected);
        }
        for (number, expected) in
            [(1023, "1023 B"), (1024, "1.0 KiB"), (5_872_025, "5.5 MiB"), (u64::MAX, "15.9 EiB")]
        {
            assert_eq!(bytes(number), expected);
        }
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (3_725, "1h 2m"), (90_061, "1day 1h"), (7200, "2h")]
        {
            assert_eq!(duration(seconds), expected);
        }
    }

    #[test]
    fn a_share_of_nothing_is_nothing() {
        assert_eq!(percent(1, 8), "12.5 %");
        assert_eq!(percent(0, 0), "0.0 %");
        assert_eq!(percent(u64::MAX, u64::MAX), "100.0 %");
    }
}
