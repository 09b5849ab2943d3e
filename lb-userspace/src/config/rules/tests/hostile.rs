//! Texts that mean harm, or are just broken: faults, never a panic.

use proptest::prelude::*;

use super::read;

const EXAMPLE: &str = "\
conditions:
  office: {source: [10.0.0.0/8, \"2001:db8::/32\"]}
rules:
  - {if: {tls: false}, redirect: {scheme: https, code: 301}}
  - {if: {path_prefix: /admin/, not: {condition: office}}, deny: {status: 403, body: \"no ${client.address|x}\"}}
  - {if: {any: [{path_regex: \"^/v([0-9]+)/\"}, {host_wildcard: \"*.example.com\"}]}, backend: {api: 95, web: 5}, split_by: {cookie: id}}
  - {if: {time: {from: \"08:00\", days: [mon-fri], timezone: Europe/Berlin}, percentage: 0.5}, mirror: {backend: shadow}}
  - {rewrite: {prefix: {from: /api/, to: /}, query_regex: {match: a, replace: $1}}, set_timeout: {server: 5m}}
  - {set_response_header: {X-A: \"${request.header.x-b}$$\"}, error_pages: [{status: 503, body: x}], return: 200}
";

#[test]
fn the_example_is_good() {
    read(EXAMPLE).unwrap();
}

/// Texts that stand where others are expected.
fn odd() -> impl Strategy<Value = String> {
    prop_oneof![
        "[-${}()|*.?+/%:\\\\#a-z0-9\u{e9}]{0,12}".prop_map(String::from),
        prop::sample::select(vec![
            "",
            "~",
            "[]",
            "{}",
            "true",
            "-1",
            "99999999999999999999",
            "1e9",
            "\"\\0\"",
            "${",
            "${a",
            "/..",
            "/%00",
            "(((((",
            "*",
            "[[[]]]",
            "24:00",
            "0.0.0.0/0",
            "::/0",
            "/dev/zero",
            "\"${|}\"",
        ])
        .prop_map(String::from),
    ]
}

proptest! {
    // More if PROPTEST_CASES says so.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(1000)))]

    #[test]
    fn a_changed_example_is_good_or_has_faults(
        changes in prop::collection::vec((any::<prop::sample::Index>(), odd()), 1..5),
    ) {
        let mut words: Vec<&str> = EXAMPLE.split_inclusive([' ', ',', '{', '[', '\n']).collect();
        let replaced: Vec<String> = changes.iter().map(|(_, text)| format!("{text} ")).collect();
        for ((at, _), text) in changes.iter().zip(&replaced) {
            let at = at.index(words.len());
            words[at] = text;
        }
        if let Err(faults) = read(&words.concat()) {
            prop_assert!(!faults.is_empty());
        }
    }

    #[test]
    fn any_value_of_a_key_is_good_or_has_faults(
        key in prop::sample::select(vec![
            "path", "path_prefix", "path_regex", "host", "host_wildcard", "method", "header",
            "header_regex", "query", "cookie", "source", "source_file", "sni", "time", "percentage",
            "usable_servers", "client_certificate", "any", "not", "condition",
        ]),
        value in odd(),
    ) {
        let _ = read(&format!("rules:\n- {{if: {{{key}: {value}}}, deny: 403}}\n"));
        let _ = read(&format!("rules:\n- {{if: {{{key}: {{a: {value}}}}}, deny: 403}}\n"));
    }
}
