//! What is worth reading besides "ok": figures of a test that passed (`--nocapture`), and
//! logs of one that failed.

use std::fmt;

/// Prints a line. The test runner keeps it back unless the test fails.
#[allow(clippy::print_stdout, reason = "the one place where suites print")]
pub fn note(line: impl fmt::Display) {
    println!("{line}");
}
