//! From rounds to figures: medians, and the JSON file.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

/// Writes figures as a JSON array.
///
/// # Errors
/// When the file can not be written.
pub fn write_json<T: Serialize>(figures: &[T], path: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(figures).context("render the figures")?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// The median, which one bad round does not move.
///
/// # Errors
/// When there is no round.
pub fn median(values: impl Iterator<Item = f64>) -> Result<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle).context("no round was measured")?;
    if values.len() % 2 == 1 {
        return Ok(upper);
    }
    let lower = values.get(middle - 1).copied().unwrap_or(upper);
    Ok(f64::midpoint(lower, upper))
}

/// To a hundredth: the rest is noise.
#[must_use]
pub fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ignore_one_bad_round() {
        assert!((median([3.0, 900.0, 1.0].into_iter()).unwrap() - 3.0).abs() < 1e-9);
        assert!((median([1.0, 2.0, 3.0, 900.0].into_iter()).unwrap() - 2.5).abs() < 1e-9);
        assert!(median(std::iter::empty()).is_err());
    }
}
