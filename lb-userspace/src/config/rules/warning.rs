//! Rules that are allowed but hardly meant: those that no request reaches, and redirects in
//! a circle. Only what can be told for certain is told.

use std::{
    collections::HashMap,
    fmt::{self, Write},
    hash::{DefaultHasher, Hasher},
};

use super::super::fault::{Place, Refusal, Sink};
use crate::model::rule::{
    Rule,
    action::{Ending, Redirect, RedirectTo, Scheme},
    condition::{Condition, Test},
    host::HostPattern,
    path::PathPattern,
};

/// Tests of one conjunction that are compared with each other.
const MAX_COMPARED: usize = 32;

/// Warns of odd rules of a frontend, given with their places.
pub(super) fn judge(rules: &[(Rule, Place)], sink: &Sink) {
    let mut ends: HashMap<u64, usize> = HashMap::new();
    for (number, (rule, place)) in rules.iter().enumerate() {
        let condition = &rule.condition;
        let tests = conjunction(condition);
        if condition.is_never() {
            sink.warn(place, Refusal::new("matches no request"));
        } else if let Some((one, other)) = contradiction(&tests) {
            let message = format!("matches no request: {one} and {other} contradict each other");
            sink.warn(place, Refusal::new(message));
        }
        if loops(rule, &tests) {
            let refusal = Refusal::new("redirects requests that are https already, in a circle");
            sink.warn(place, refusal.hint("add `if: {tls: false}`"));
        }
        let key = fingerprint(condition);
        let earlier = ends.get(&key).map(|number| &rules[*number]);
        if let Some((_, first)) = earlier.filter(|(first, _)| first.condition == *condition) {
            let line = first.mark.line;
            let message =
                format!("is never reached: the rule in line {line} ends the same requests");
            sink.warn(place, Refusal::new(message));
        }
        let Some(_) = rule.ending else { continue };
        if condition.is_always() {
            if let Some((_, next)) = rules.get(number + 1) {
                let line = place.mark.line;
                let message =
                    format!("is never reached: the rule in line {line} ends every request");
                sink.warn(next, Refusal::new(message).hint("move it up, or remove it"));
            }
            return;
        }
        if !mentions_variables(condition) {
            ends.entry(key).or_insert(number);
        }
    }
}

/// The tests that must all hold for a condition to be true.
fn conjunction(condition: &Condition) -> Vec<&Test> {
    match condition {
        Condition::All(parts) => parts.iter().flat_map(conjunction).take(MAX_COMPARED).collect(),
        Condition::Named(named) => conjunction(&named.condition),
        Condition::Test(test) => vec![test],
        Condition::Any(_) | Condition::Not(_) => Vec::new(),
    }
}

/// Two tests of which never both hold, by their keys.
fn contradiction(tests: &[&Test]) -> Option<(&'static str, &'static str)> {
    let mut pairs = tests.iter().flat_map(|one| tests.iter().map(move |other| (*one, *other)));
    pairs.find_map(|(one, other)| match (one, other) {
        (Test::Tls(true), Test::Tls(false)) => Some(("tls: true", "tls: false")),
        (Test::Tls(false), Test::Sni(_)) => Some(("tls: false", "sni")),
        (Test::Tls(false), Test::HasCertificate(true) | Test::Certificate(..)) => {
            Some(("tls: false", "client_certificate"))
        }
        (Test::WebSocket(true), Test::WebSocket(false)) => {
            Some(("websocket: true", "websocket: false"))
        }
        (Test::Host(exact), Test::Host(others)) => {
            let matches = |pattern: &HostPattern| match pattern {
                HostPattern::Exact(host) => others.iter().any(|other| other.matches(host)),
                _ => true,
            };
            (!exact.iter().any(matches)).then_some(("one host", "the other"))
        }
        (Test::Path(exact), Test::Path(others)) => {
            let matches = |pattern: &PathPattern| match pattern {
                PathPattern::Exact(path) => others.iter().any(|other| other.matches(path)),
                _ => true,
            };
            (!exact.iter().any(matches)).then_some(("one path", "the other"))
        }
        _ => None,
    })
}

/// Whether a rule sends requests to https that are there already.
fn loops(rule: &Rule, tests: &[&Test]) -> bool {
    let to_https = matches!(
        &rule.ending,
        Some(Ending::Redirect(Redirect {
            to: RedirectTo::Parts { scheme: Some(Scheme::Https), host: None, port: None },
            ..
        }))
    );
    let tells_apart = |test: &&Test| matches!(test, Test::Tls(false) | Test::DestinationPort(_));
    to_https && !tests.iter().any(tells_apart) && !excludes_tls(&rule.condition)
}

/// Whether a condition has a `not` or an `any`, behind which TLS may be told apart.
fn excludes_tls(condition: &Condition) -> bool {
    match condition {
        Condition::All(parts) => parts.iter().any(excludes_tls),
        Condition::Named(named) => excludes_tls(&named.condition),
        Condition::Any(_) | Condition::Not(_) => true,
        Condition::Test(_) => false,
    }
}

fn mentions_variables(condition: &Condition) -> bool {
    match condition {
        Condition::All(parts) | Condition::Any(parts) => parts.iter().any(mentions_variables),
        Condition::Not(part) => mentions_variables(part),
        Condition::Named(named) => mentions_variables(&named.condition),
        Condition::Test(test) => matches!(test, Test::Variable(..)),
    }
}

/// A hash of a condition, from what it looks like when it is shown.
fn fingerprint(condition: &Condition) -> u64 {
    struct Hashed(DefaultHasher);
    impl Write for Hashed {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut hashed = Hashed(DefaultHasher::new());
    // Writing to a hasher does not fail.
    let _ = write!(hashed, "{condition:?}");
    hashed.0.finish()
}
