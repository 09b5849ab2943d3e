//! Rules about single source files: header, length, name, words that must not be there.

use super::{Finding, Repository};

const WARN_LINES: usize = 400;
const MOST_LINES: usize = 600;

/// Names that say nothing about what a file owns.
const EMPTY_NAMES: [&str; 8] =
    ["util", "utils", "helper", "helpers", "misc", "common_stuff", "stuff", "tools"];

/// Text that must not be in sources, and why. Written in two parts, so that this file
/// passes its own check.
const FORBIDDEN: [(&str, &str, &str); 6] = [
    ("todo", "!(", "unfinished code does not land"),
    ("unimplemented", "!(", "unfinished code does not land"),
    ("dbg", "!(", "left over from debugging"),
    ("#[ign", "ore", "a test that does not run is not a test"),
    ("allow(dead", "_code", "remove the code instead"),
    ("expect(dead", "_code", "remove the code instead"),
];

pub(super) fn check(repository: &Repository, findings: &mut Vec<Finding>) {
    for file in &repository.files {
        for (number, line) in file.lines() {
            if line.ends_with([' ', '\t', '\r']) {
                findings.push(Finding::error(file, number, "white space at the end of the line"));
            }
        }
        if !file.text.is_empty() && !file.text.ends_with('\n') {
            findings.push(Finding::error(file, 0, "no newline at the end of the file"));
        }
    }
    for file in repository.sources() {
        if !file.text.starts_with("//!") {
            findings.push(Finding::error(file, 1, "starts without `//!`: say what the file owns"));
        }
        let stem = file.path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs"));
        let directory = file.path.rsplit('/').nth(1);
        if [stem, directory].into_iter().flatten().any(|name| EMPTY_NAMES.contains(&name)) {
            findings.push(Finding::error(file, 0, "the name says nothing: name what it owns"));
        }
        for (number, line) in file.lines() {
            for (start, end, why) in FORBIDDEN {
                if line.find(start).is_some_and(|at| line[at + start.len()..].starts_with(end)) {
                    findings.push(Finding::error(file, number, format!("`{start}{end}`: {why}")));
                }
            }
        }
        let lines = lines_without_tests(&file.text);
        if is_test_file(&file.path) {
            continue;
        }
        if lines > MOST_LINES {
            let message = format!("{lines} lines without tests, {MOST_LINES} at most: split it");
            findings.push(Finding::error(file, 0, message));
        } else if lines > WARN_LINES {
            let message = format!("{lines} lines without tests, more than {WARN_LINES}");
            findings.push(Finding::warning(file, 0, message));
        }
    }
}

/// Lines before the module of tests, which comes last in a file.
fn lines_without_tests(text: &str) -> usize {
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}

/// Integration tests, in `CRATE/tests/`.
fn is_test_file(path: &str) -> bool {
    path.contains("/tests/")
}

#[cfg(test)]
mod tests {
    use super::{super::testing::findings, *};

    fn check_one(path: &str, text: &str) -> Vec<String> {
        findings(check, &[(path, text)])
    }

    #[test]
    fn a_good_file_has_no_findings() {
        assert!(check_one("lb-common/src/maglev.rs", "//! Rings.\n\nfn f() {}\n").is_empty());
    }

    #[test]
    fn the_header_is_missed() {
        let found = check_one("a/src/flow.rs", "use std::fmt;\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("flow.rs:1: starts without `//!`"), "{found:?}");
    }

    #[test]
    fn empty_names_are_refused_for_files_and_directories() {
        assert_eq!(check_one("a/src/utils.rs", "//! X.\n").len(), 1);
        assert_eq!(check_one("a/src/helpers/flow.rs", "//! X.\n").len(), 1);
        assert!(check_one("a/src/utility_poles.rs", "//! X.\n").is_empty());
    }

    #[test]
    fn forbidden_words_are_found_with_their_line() {
        for (start, end, _) in FORBIDDEN {
            let found = check_one("a/src/flow.rs", &format!("//! X.\n    {start}{end}\n"));
            assert_eq!(found.len(), 1, "{start}{end}");
            assert!(found[0].contains("flow.rs:2:"), "{found:?}");
        }
    }

    #[test]
    fn length_is_counted_without_tests() {
        let body = |lines: usize| format!("//! X.\n{}", "// line\n".repeat(lines - 1));
        assert!(check_one("a/src/flow.rs", &body(400)).is_empty());
        assert!(check_one("a/src/flow.rs", &body(401))[0].starts_with("warning"));
        assert!(check_one("a/src/flow.rs", &body(601))[0].starts_with("error"));
        let tests = format!("{}#[cfg(test)]\n{}", body(400), "// line\n".repeat(400));
        assert!(check_one("a/src/flow.rs", &tests).is_empty());
        assert!(check_one("a/tests/flow.rs", &body(700)).is_empty());
    }

    #[test]
    fn white_space_at_the_end_is_found_in_any_text() {
        assert_eq!(check_one("docs/a.md", "one \ntwo\n").len(), 1);
        assert_eq!(check_one("docs/a.md", "one\ntwo").len(), 1);
    }
}
