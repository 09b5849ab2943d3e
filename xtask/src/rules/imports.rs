//! Import directions inside the agent: who may know whom (docs/ARCHITECTURE.md). Between
//! crates the manifests decide, see `manifests`.
//!
//! Sources are read line by line, not parsed: `crate::NAME`, `crate::{NAME, ...}` and
//! `super::` chains that leave their module are what rustfmt leaves to look for.

use std::collections::BTreeSet;

use super::{File, Finding, Repository};

const AGENT: &str = "lb-userspace/src/";

/// What a feature may know besides itself.
const FOUNDATIONS: &[&str] = &["model", "clock"];

/// Modules that are not features, and what they may know besides themselves.
const KNOWS: [(&str, &[&str]); 11] = [
    ("model", &[]),
    ("clock", &[]),
    ("descriptors", &[]),
    ("dial", &["model"]),
    // Checks reach servers as the proxy does.
    ("health", &["model", "clock", "dial"]),
    // The one feature that knows another: balancing is pure, and the proxy alone uses it.
    ("proxy", &["model", "clock", "descriptors", "dial", "balance"]),
    // Everything: they wire the features.
    ("app", ANY),
    ("cli", ANY),
    ("control", ANY),
    // Calls the parsers, wherever they are.
    ("fuzz", ANY),
    ("main", ANY),
];

/// Single files that may know more than their module.
const FILES: [(&str, &[&str]); 2] = [
    // Read the maps, and carry a plan to them; the plan itself is pure.
    ("reconcile/read.rs", RECONCILE_IO),
    ("reconcile/apply.rs", RECONCILE_IO),
];

const RECONCILE_IO: &[&str] = &["model", "clock", "datapath"];

const ANY: &[&str] = &["*"];

/// External crates that only some modules may know.
const OWNED: [(&str, &[&str]); 6] = [
    ("aya", &["datapath"]),
    ("aya_obj", &["datapath"]),
    ("aya_log", &["datapath"]),
    ("hyper", &["admin", "cli", "health", "proxy"]),
    ("prometheus_client", &["metrics"]),
    ("rustls", &["proxy"]),
];

pub(super) fn check(repository: &Repository, findings: &mut Vec<Finding>) {
    let modules: BTreeSet<&str> =
        repository.sources().filter_map(|file| file.path.strip_prefix(AGENT)).map(module).collect();
    for file in repository.sources() {
        let Some(path) = file.path.strip_prefix(AGENT) else { continue };
        // The crate's root declares the modules.
        if path != "lib.rs" {
            check_file(file, path, &modules, findings);
        }
    }
}

fn check_file(file: &File, path: &str, modules: &BTreeSet<&str>, findings: &mut Vec<Finding>) {
    let own = module(path);
    let known = FILES
        .iter()
        .find(|(name, _)| *name == path)
        .or_else(|| KNOWS.iter().find(|(name, _)| *name == own))
        .map_or(FOUNDATIONS, |(_, known)| known);
    let allowed = |name: &str| known == ANY || name == own || known.contains(&name);

    for (line, name) in references(&file.text, path) {
        if modules.contains(name.as_str()) && !allowed(&name) {
            let message = format!("`{own}` must not know `{name}` ({})", list(known));
            findings.push(Finding::error(file, line, message));
        }
    }
    for (name, owners) in OWNED {
        if owners.contains(&own) {
            continue;
        }
        for (number, line) in code_lines(&file.text) {
            if mentions_crate(line, name) && !mentions_only_vocabulary(line) {
                let message = format!("only {} may use the crate `{name}`", owners.join(", "));
                findings.push(Finding::error(file, number, message));
            }
        }
    }
}

fn list(known: &[&str]) -> String {
    if known.is_empty() {
        "it knows no other module".into()
    } else {
        format!("it knows {}", known.join(", "))
    }
}

/// The module of the crate's root that a file belongs to.
fn module(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Modules of the crate's root that a file refers to, with the line.
fn references(text: &str, path: &str) -> Vec<(usize, String)> {
    // `super` steps that lead from the file's module to the crate's root.
    let depth = path.split('/').count() - usize::from(path.ends_with("/mod.rs"));
    let chain = "super::".repeat(depth);
    let mut found = Vec::new();
    for (number, code) in statements(text) {
        for start in ["crate::", chain.as_str()] {
            for (at, _) in code.match_indices(start) {
                // Not the tail of a longer path or name (`pub(in crate::x)` is one of ours).
                let before = code[..at].chars().next_back();
                if before.is_some_and(|c| c == ':' || c == '_' || c.is_alphanumeric()) {
                    continue;
                }
                for name in first_names(&code[at + start.len()..]) {
                    found.push((number, name));
                }
            }
        }
    }
    found
}

/// The first name of each path in `a::b`, or in `{a::b, c::{d, e}, f}`.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else {
        return vec![identifier(path)];
    };
    let mut names = Vec::new();
    let mut depth = 0_i32;
    let mut at_start = true;
    for (at, character) in group.char_indices() {
        match character {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            _ if at_start && !character.is_whitespace() => {
                names.push(identifier(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Code with the number of its first line; a `use` that spans lines is one statement.
fn statements(text: &str) -> Vec<(usize, String)> {
    let mut statements: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (number, line) in code_lines(text) {
        let code = line.trim();
        match statements.last_mut() {
            Some((_, statement)) if open => statement.push_str(code),
            _ => {
                let starts = code.starts_with("use ") || code.contains(" use ");
                statements.push((number, code.to_owned()));
                open = starts;
            }
        }
        if code.ends_with(';') {
            open = false;
        }
    }
    statements
}

/// Lines without comments.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let code = line.trim_start();
        (!code.starts_with("//")).then(|| (index + 1, line.split(" // ").next().unwrap_or(line)))
    })
}

/// `hyper::http` is what HTTP calls things: values without I/O, good for validating.
fn mentions_only_vocabulary(line: &str) -> bool {
    line.match_indices("hyper").all(|(at, _)| line[at..].starts_with("hyper::http::"))
        && line.contains("hyper")
}

/// Whether code uses a path that starts with the crate's name.
fn mentions_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let starts = before.is_none_or(|c| !c.is_alphanumeric() && !"_:\"-.".contains(c));
        let after = &line[at + name.len()..];
        starts
            && (after.starts_with("::") || (line.contains("use ") && after.starts_with([';', ' '])))
    })
}

#[cfg(test)]
mod tests {
    use super::{super::testing::findings, *};

    /// Checks one file of the agent next to an empty file of each module.
    fn check_one(path: &str, text: &str) -> Vec<String> {
        let path = format!("{AGENT}{path}");
        let mut files = vec![(path.as_str(), text)];
        let others = ["model/mod.rs", "health/mod.rs", "network.rs", "datapath/mod.rs", "app.rs"];
        let others = others.map(|name| format!("{AGENT}{name}"));
        files.extend(others.iter().map(|name| (name.as_str(), "//! X.\n")));
        findings(check, &files)
    }

    #[test]
    fn a_feature_knows_the_model() {
        assert!(check_one("health/tcp.rs", "use crate::model::state::Health;\n").is_empty());
        assert!(
            check_one("health/tcp.rs", "use crate::health::check;\nuse super::x;\n").is_empty()
        );
    }

    #[test]
    fn features_do_not_know_each_other() {
        let bad = [
            "use crate::datapath::Maps;\n",
            "use crate::{model::name::Name, network};\n",
            "use crate::{\n    model::{name::Name, state::Health},\n    network::Neighbour,\n};\n",
            "fn f() { crate::datapath::open() }\n",
            "use super::super::network;\n",
            "pub(in crate::app) fn f() {}\n",
        ];
        for text in bad {
            let found = check_one("health/tcp.rs", text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
        }
        assert_eq!(check_one("health/mod.rs", "use super::network;\n").len(), 1);
    }

    #[test]
    fn the_model_knows_nothing() {
        let found = check_one("model/state.rs", "//! X.\nuse crate::health::Kind;\n");
        assert!(found[0].contains("state.rs:2: `model` must not know `health`"), "{found:?}");
    }

    #[test]
    fn app_knows_all_and_a_plan_is_pure_until_applied() {
        assert!(check_one("app.rs", "use crate::{datapath, health};\n").is_empty());
        assert!(check_one("reconcile/apply.rs", "use crate::datapath::Maps;\n").is_empty());
        assert_eq!(check_one("reconcile/plan.rs", "use crate::datapath::Maps;\n").len(), 1);
    }

    #[test]
    fn comments_and_other_crates_are_no_references() {
        assert!(check_one("health/tcp.rs", "//! See [`crate::datapath`].\n").is_empty());
        assert!(check_one("health/tcp.rs", "use other_crate::datapath;\n").is_empty());
        assert!(check_one("health/tcp.rs", "let x = 1; // not crate::datapath\n").is_empty());
    }

    #[test]
    fn external_crates_have_owners() {
        assert_eq!(check_one("health/tcp.rs", "use aya::maps::Array;\n").len(), 1);
        assert_eq!(check_one("health/tcp.rs", "fn f(x: aya_obj::Map) {}\n").len(), 1);
        assert_eq!(check_one("network.rs", "use hyper::body::Bytes;\n").len(), 1);
        assert!(check_one("health/tcp.rs", "use hyper::body::Bytes;\n").is_empty());
        assert!(check_one("network.rs", "use hyper::http::Method;\n").is_empty());
        assert_eq!(check_one("network.rs", "use hyper::http::Method; use hyper::rt;\n").len(), 1);
        assert!(check_one("health/tcp.rs", "let malaya = papaya::x();\n").is_empty());
    }
}
