//! Every kind of fault, as the operator reads it.

use super::read;

#[track_caller]
fn check(yaml: &str, expected: &[&str]) {
    let lines = read(yaml).err().unwrap_or_default();
    assert_eq!(lines, expected, "\n{yaml}");
}

/// As [`check`] for one rule with these keys in line 2.
#[track_caller]
fn check_rule(keys: &str, expected: &[&str]) {
    check(&format!("rules:\n  - {{{keys}}}\n"), expected);
}

/// As [`check`] for one rule with these keys in its `if`, in line 2.
#[track_caller]
fn check_if(keys: &str, expected: &[&str]) {
    check_rule(&format!("if: {{{keys}}}, deny: 403"), expected);
}

#[test]
fn words_that_are_not_known() {
    check_if(
        "path_prefx: /a",
        &["2: rules[0].if.path_prefx: unknown key (hint: did you mean \"path_prefix\"?)"],
    );
    check_rule(
        "bakend: api",
        &[
            "2: rules[0].backend: is missing: the rule does nothing (hint: add `backend`, `deny` or another action)",
            "2: rules[0].bakend: unknown key (hint: did you mean \"backend\"?)",
        ],
    );
    check_rule(
        "backend: apy",
        &["2: rules[0].backend: there is no backend \"apy\" (hint: did you mean \"api\"?)"],
    );
    check_if(
        "condition: ofice",
        &[
            "2: rules[0].if.condition: there is no condition \"ofice\" (hint: conditions are defined under `conditions`)",
        ],
    );
    check_rule(
        "set_request_header: {X-A: \"${client.adress}\"}",
        &[
            "2: rules[0].set_request_header.X-A: there is no variable \"client.adress\" (hint: did you mean \"client.address\"?)",
        ],
    );
    check_if(
        "time: {timezone: Europe/Berlni}",
        &[
            "2: rules[0].if.time.timezone: \"Europe/Berlni\" is not a time zone (hint: did you mean \"Europe/Berlin\"?)",
        ],
    );
}

#[test]
fn all_faults_of_a_rule_at_once() {
    check(
        "rules:\n\
         - if: {path: a, host: \"a:80\", any: [{method: get}, {condition: x}]}\n  \
           backend: none\n  \
           deny: 200\n\
         - deny: 403\n  \
           mirror: nowhere\n",
        &[
            "2: rules[0].if.path: no request has the path \"a\": a path starts with '/' (hint: such as /api/)",
            "2: rules[0].if.host: no request has the host \"a:80\": a host is compared without its port (hint: ports are looked at with `destination_port`)",
            "2: rules[0].if.any[0].method: no request has the method \"get\" (hint: did you mean \"GET\"?)",
            "2: rules[0].if.any[1].condition: there is no condition \"x\" (hint: conditions are defined under `conditions`)",
            "3: rules[0].backend: there is no backend \"none\" (hint: backends are defined under `backends`)",
            "4: rules[0].deny: 200 is less than 400 (hint: an integer from 400 to 599)",
            "4: rules[0].deny: ends the request, as \"backend\" does (hint: keep one of the two)",
            "6: rules[1].mirror: there is no backend \"nowhere\" (hint: backends are defined under `backends`)",
        ],
    );
}

#[test]
fn values_of_conditions() {
    check_if(
        "path: /a/../b",
        &[
            "2: rules[0].if.path: no request has the path \"/a/../b\": it has dot segments, which are resolved before paths are compared (hint: write the path that it leads to)",
        ],
    );
    check_if(
        "host: \"*.a.test\"",
        &[
            "2: rules[0].if.host: no request has the host \"*.a.test\": a wildcard has at least one '*', and at most one in each label (hint: `host_wildcard: \"*.example.com\"`)",
        ],
    );
    check_if(
        "path_regex: \"a(\"",
        &["2: rules[0].if.path_regex: \"a(\" is not a regular expression: unclosed group"],
    );
    check_if(
        "path_regex: '(\\w{1000}){1000}'",
        &[
            "2: rules[0].if.path_regex: \"(\\\\w{1000}){1000}\" is too large: it compiles to more than 1024 KiB (hint: split it over a list)",
        ],
    );
    check_if(
        "source: 10.0.0.1/8",
        &[
            "2: rules[0].if.source: \"10.0.0.1/8\" has bits behind its prefix (hint: write 10.0.0.0/8)",
        ],
    );
    check_if(
        "source_file: /nonexistent/x",
        &[
            "2: rules[0].if.source_file: can not read \"/nonexistent/x\": No such file or directory (os error 2)",
        ],
    );
    check_if(
        "source_file: /dev/zero",
        &["2: rules[0].if.source_file: \"/dev/zero\" is not a file"],
    );
    check_if("method: []", &["2: rules[0].if.method: is an empty list: nothing is meant"]);
    check_if("header: {}", &["2: rules[0].if.header: is an empty mapping: nothing is meant"]);
    check_if("header: {\"a b\": x}", &["2: rules[0].if.header.a b: \"a b\" is not a header name"]);
    check_if("header_prefix: {a: \"\"}", &["2: rules[0].if.header_prefix.a: is empty"]);
    check_if(
        "percentage: 101",
        &[
            "2: rules[0].if.percentage: 101 is not a percentage (hint: a number from 0 to 100 with up to two decimals)",
        ],
    );
    check_if(
        "time: {from: 8, timezone: UTC}",
        &[
            "2: rules[0].if.time.from: expected a time of day, got the number 8 (hint: put it in quotes: \"8\")",
        ],
    );
    check_if(
        "time: {days: monday}",
        &[
            "2: rules[0].if.time.timezone: is missing (hint: timezone: Europe/Berlin, or UTC)",
            "2: rules[0].if.time.days: \"monday\" is not a day of the week (hint: one of mon, tue, wed, thu, fri, sat, sun, or a range such as mon-fri)",
        ],
    );
    check_if(
        "usable_servers: {backend: api}",
        &[
            "2: rules[0].if.usable_servers.at_least: says neither at_least nor at_most (hint: at_least: 1)",
        ],
    );
    check_if("any: []", &["2: rules[0].if.any: is an empty list: nothing is meant"]);
    check_if(
        "version: \"3\"",
        &["2: rules[0].if.version: \"3\" is not one of 1.0, 1.1, 2 (hint: did you mean \"2\"?)"],
    );
}

#[test]
fn values_of_actions() {
    check_rule(
        "backend: {web: 0}",
        &["2: rules[0].backend: every weight is 0: no backend serves anyone"],
    );
    check_rule(
        "backend: web, seed: x",
        &["2: rules[0].seed: needs weights in `backend` (hint: backend: {blue: 95, green: 5})"],
    );
    check_rule(
        "redirect: {}",
        &[
            "2: rules[0].redirect.location: is missing: the redirect leads nowhere (hint: such as `scheme: https` or `location: /`)",
        ],
    );
    check_rule(
        "redirect: {scheme: https, location: /}",
        &[
            "2: rules[0].redirect.location: leads elsewhere than the other keys (hint: keep location, prefix, or scheme, host and port)",
        ],
    );
    check_rule(
        "redirect: {location: /, code: 304}",
        &["2: rules[0].redirect.code: 304 does not redirect (hint: 301, 302, 303, 307 or 308)"],
    );
    check_rule(
        "redirect: {host: a/b}",
        &["2: rules[0].redirect.host: \"a/b\" is not a host (hint: such as www.example.com)"],
    );
    check_rule(
        "rewrite: {path: \"/a?b\"}",
        &[
            "2: rules[0].rewrite.path: a path has no '?' and no '#' (hint: the query has a key of its own: `query`)",
        ],
    );
    check_rule(
        "rewrite: {}",
        &[
            "2: rules[0].rewrite.prefix: is missing: the rewrite changes nothing (hint: prefix: {from: /api/, to: /})",
        ],
    );
    check_rule(
        "rewrite: {path: /a, prefix: {from: /b, to: /c}}",
        &[
            "2: rules[0].rewrite.path: gives the whole path, and another key changes it (hint: keep one of them)",
        ],
    );
    check_rule(
        "set_response_header: {Content-Length: \"1\"}",
        &[
            "2: rules[0].set_response_header.Content-Length: \"Content-Length\" is written by the proxy (hint: remove it)",
        ],
    );
    check_rule(
        "set_response_header: {X-A: \"a\\nb\"}",
        &[
            "2: rules[0].set_response_header.X-A: \"a\\nb\" is not a header value (hint: it has no line breaks and no control characters)",
        ],
    );
    check_rule(
        "remove_request_header: Host",
        &[
            "2: rules[0].remove_request_header: a request has one Host header (hint: set it with `set_request_header`)",
        ],
    );
    check_rule(
        "return: {status: 204, body: x}",
        &[
            "2: rules[0].return: an answer with status 204 has no body (hint: remove `body` or `file`)",
        ],
    );
    check_rule(
        "return: {body: x, file: /etc/hostname}",
        &["2: rules[0].return.file: is given together with body (hint: keep one of the two)"],
    );
    check_rule(
        "error_pages: [{status: 503}]",
        &[
            "2: rules[0].error_pages[0].file: is missing: there is no page (hint: file: /etc/pointsman/503.html, or body)",
        ],
    );
    check_rule(
        "set_timeout: {}",
        &["2: rules[0].set_timeout.server: is missing: no timeout is set (hint: server: 5m)"],
    );
    check_rule(
        "set_variable: {a-b: x}",
        &[
            "2: rules[0].set_variable.a-b: \"a-b\" is not a name of a variable (hint: it has 1 to 32 letters, digits and '_')",
        ],
    );
}

#[test]
fn conditions_that_refer_to_themselves_or_are_too_large() {
    check(
        "conditions:\n  a: {condition: b}\n  b: {condition: a}\nrules: []\n",
        &["3: conditions.b.condition: the condition \"a\" refers to itself"],
    );
    let deep =
        format!("conditions:\n  a: {}{{tls: true}}{}\n", "{not: ".repeat(20), "}".repeat(20));
    check(&deep, &["2: conditions.a: conditions are nested more than 16 deep"]);
    // Each names the one before it a hundred times: written out, more than there is memory.
    let mut bomb = String::from("conditions:\n  a0: {tls: true}\n");
    for level in 1..7 {
        let names = vec![format!("a{}", level - 1); 100].join(", ");
        bomb.push_str(&format!("  a{level}: {{condition: [{names}]}}\n"));
    }
    let faults = read(&bomb).unwrap_err();
    assert!(
        faults[0]
            .ends_with("it has more than 4096 tests (hint: put values of one kind into one list)"),
        "{faults:?}"
    );
    let mut chain = String::from("conditions:\n  a0: {tls: true}\n");
    for level in 1..2000 {
        chain.push_str(&format!("  a{level}: {{condition: a{}}}\n", level - 1));
    }
    let faults = read(&chain).unwrap_err();
    assert!(faults[0].contains("nested more than 16 deep"), "{faults:?}");
}

#[test]
fn a_list_of_networks_tells_its_lines() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "10.0.0.0/8\nhere\n10.0.0.1/8\n").unwrap();
    let yaml = format!("rules:\n- {{if: {{source_file: {}}}, deny: 403}}\n", file.path().display());
    check(
        &yaml,
        &[
            "2: rules[0].if.source_file: line 2 of the file: \"here\" is not a network (hint: such as 10.0.0.0/8 or \"2001:db8::/32\")",
            "2: rules[0].if.source_file: line 3 of the file: \"10.0.0.1/8\" has bits behind its prefix (hint: write 10.0.0.0/8)",
        ],
    );
}

#[test]
fn names_are_given_once() {
    check(
        "rules:\n- {name: a, deny: 403}\n- {name: a, deny: 404}\n",
        &[
            "3: rules[1]: the name \"a\" is given twice, first in line 2 (hint: logs tell rules by their names)",
        ],
    );
}
