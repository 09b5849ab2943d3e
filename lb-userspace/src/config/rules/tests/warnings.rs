//! What is allowed but hardly meant.

use super::read;

/// Holds the warnings of rules, one a line from line 2 on, against the expected lines.
#[track_caller]
fn check(rules: &[&str], expected: &[&str]) {
    let yaml = format!("rules:\n- {}\n", rules.join("\n- "));
    match read(&yaml) {
        Ok((_, warnings)) => assert_eq!(warnings, expected, "\n{yaml}"),
        Err(faults) => panic!("{yaml}\n{}", faults.join("\n")),
    }
}

#[test]
fn rules_behind_an_unconditional_end() {
    check(
        &["{backend: api}", "{if: {tls: true}, deny: 403}", "{deny: 403}"],
        &[
            "3: rules[1]: is never reached: the rule in line 2 ends every request (hint: move it up, or remove it)",
        ],
    );
    check(
        &["{if: {percentage: 100}, backend: api}", "{deny: 403}"],
        &[
            "3: rules[1]: is never reached: the rule in line 2 ends every request (hint: move it up, or remove it)",
        ],
    );
    check(&["{set_variable: {a: b}}", "{backend: api}"], &[]);
}

#[test]
fn rules_with_the_condition_of_an_earlier_end() {
    check(
        &["{if: {path: /a}, backend: api}", "{if: {path: /a}, backend: web}"],
        &["3: rules[1]: is never reached: the rule in line 2 ends the same requests"],
    );
    check(&["{if: {path: /a}, set_variable: {a: b}}", "{if: {path: /a}, backend: web}"], &[]);
    // A variable may have changed in between.
    check(
        &["{if: {variable: {a: b}}, backend: api}", "{if: {variable: {a: b}}, backend: web}"],
        &[],
    );
}

#[test]
fn rules_for_no_request() {
    check(&["{if: {percentage: 0}, deny: 403}"], &["2: rules[0]: matches no request"]);
    check(
        &["{if: {tls: false, sni: a.test}, deny: 403}"],
        &["2: rules[0]: matches no request: tls: false and sni contradict each other"],
    );
    check(
        &["{if: {path: /a, path_prefix: /b}, deny: 403}"],
        &["2: rules[0]: matches no request: one path and the other contradict each other"],
    );
    check(&["{if: {path: /a/b, path_prefix: /a}, deny: 403}"], &[]);
    check(&["{if: {host: a.test, host_suffix: test}, deny: 403}"], &[]);
}

#[test]
fn redirects_in_a_circle() {
    check(
        &["{if: {host: a.test}, redirect: {scheme: https}}"],
        &[
            "2: rules[0]: redirects requests that are https already, in a circle (hint: add `if: {tls: false}`)",
        ],
    );
    check(&["{if: {tls: false}, redirect: {scheme: https}}"], &[]);
    check(&["{redirect: {scheme: https, host: b.test}}"], &[]);
}

#[test]
fn conditions_that_nothing_uses() {
    let (_, warnings) = read("conditions:\n  a: {tls: true}\n").unwrap();
    assert_eq!(warnings, ["2: conditions.a: no rule uses the condition \"a\""]);
}
