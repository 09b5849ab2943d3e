//! `rewrite`: what the server is asked for in place of what the client asked for.

use super::{
    super::{
        decode::Entries,
        fault::{Refusal, quoted},
        schema::{Key, Nested, Presence, Section, Text},
    },
    header::template,
    request::{path_prefix, regex},
};
use crate::model::rule::{
    action::Rewrite,
    path::{NormalPath, PathPattern},
    template::Template,
    text::Regex,
};

const UNCHANGED: Presence = Presence::Optional("unchanged");

/// `rewrite`; in the order in which they are done.
pub(super) static REWRITE: Key<Nested<Vec<Rewrite>>> = Key {
    name: "rewrite",
    shape: Nested { section: &SECTION, decode },
    presence: UNCHANGED,
    doc: "Changes path and query for the server.",
};

static SECTION: Section = Section {
    path: "frontends.NAME.rules[N].rewrite",
    doc: "What the server is asked for. Rewrites of later rules build on those of earlier ones; \
          conditions go on seeing what the client sent. A path that a rewrite leads upwards \
          with `..` is answered with 400.",
    keys: &[&PATH, &PREFIX, &REGEX, &QUERY, &QUERY_REGEX],
    unbuilt: &[],
};

static PATH: Key<Text<Template>> = Key {
    name: "path",
    shape: Text { what: "a path with variables", parse: path_template },
    presence: UNCHANGED,
    doc: "The whole path: `/app${request.path}`. Alone among the keys for the path.",
};

static PREFIX: Key<Nested<Rewrite>> = Key {
    name: "prefix",
    shape: Nested { section: &PREFIX_SECTION, decode: decode_prefix },
    presence: UNCHANGED,
    doc: "Puts another prefix in place of one: `{from: /api/, to: /}`.",
};

static REGEX: Key<Nested<(Regex, Box<str>)>> = Key {
    name: "regex",
    shape: Nested { section: &REGEX_SECTION, decode: decode_regex },
    presence: UNCHANGED,
    doc: "Replaces the first match in the path: `{match: \"^/user/([0-9]+)$\", replace: \
          \"/users/$1\"}`.",
};

static QUERY: Key<Text<Template>> = Key {
    name: "query",
    shape: Text { what: "a query with variables", parse: query_template },
    presence: UNCHANGED,
    doc: "The whole query, without its question mark: `${request.query}&via=edge`; empty for \
          none.",
};

static QUERY_REGEX: Key<Nested<(Regex, Box<str>)>> = Key {
    name: "query_regex",
    shape: Nested { section: &QUERY_REGEX_SECTION, decode: decode_regex },
    presence: UNCHANGED,
    doc: "Replaces the first match in the query, as it was sent.",
};

static PREFIX_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].rewrite.prefix",
    doc: "A prefix of the path, by whole segments, and what takes its place. Paths that do not \
          have it stay as they are.",
    keys: &[&FROM, &TO],
    unbuilt: &[],
};

static FROM: Key<Text<PathPattern>> = Key {
    name: "from",
    shape: Text { what: "a path", parse: path_prefix },
    presence: Presence::Required("from: /api/"),
    doc: "The prefix; a slash at its end makes no difference.",
};

static TO: Key<Text<Box<str>>> = Key {
    name: "to",
    shape: Text { what: "a path", parse: new_prefix },
    presence: Presence::Required("to: /"),
    doc: "What takes its place; a slash at its end makes no difference.",
};

static REGEX_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].rewrite.regex",
    doc: "A regular expression and what takes the place of its first match.",
    keys: &[&MATCH, &REPLACE],
    unbuilt: &[],
};

static QUERY_REGEX_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].rewrite.query_regex",
    doc: "A regular expression and what takes the place of its first match.",
    keys: &[&MATCH, &REPLACE],
    unbuilt: &[],
};

static MATCH: Key<Text<Regex>> = Key {
    name: "match",
    shape: Text { what: "a regular expression", parse: regex },
    presence: Presence::Required("match: \"^/old/(.*)$\""),
    doc: "What is looked for.",
};

static REPLACE: Key<Text<Box<str>>> = Key {
    name: "replace",
    shape: Text { what: "a text", parse: replacement },
    presence: Presence::Required("replace: \"/new/$1\""),
    doc: "What stands there then; `$1` or `${name}` is a group of the expression. Variables of \
          requests are not known here.",
};

fn decode(entries: &Entries<'_>) -> Option<Vec<Rewrite>> {
    let path = entries.get(&PATH).map(Rewrite::Path);
    let prefix = entries.get(&PREFIX);
    let regex = entries.get(&REGEX);
    let regex = regex.map(|(regex, replacement)| Rewrite::PathRegex { regex, replacement });
    let query = entries.get(&QUERY).map(Rewrite::Query);
    let query_regex = entries.get(&QUERY_REGEX);
    let query_regex =
        query_regex.map(|(regex, replacement)| Rewrite::QueryRegex { regex, replacement });
    if entries.has(&PATH) && (entries.has(&PREFIX) || entries.has(&REGEX)) {
        let refusal = Refusal::new("gives the whole path, and another key changes it");
        entries.reject(&PATH, refusal.hint("keep one of them"));
    }
    let given = [
        (entries.has(&PATH), path),
        (entries.has(&PREFIX), prefix),
        (entries.has(&REGEX), regex),
        (entries.has(&QUERY), query),
        (entries.has(&QUERY_REGEX), query_regex),
    ];
    if !given.iter().any(|(is_given, _)| *is_given) {
        let refusal = Refusal::new("is missing: the rewrite changes nothing");
        entries.reject(&PREFIX, refusal.hint("prefix: {from: /api/, to: /}"));
        return None;
    }
    given.into_iter().filter(|(is_given, _)| *is_given).map(|(_, rewrite)| rewrite).collect()
}

fn decode_prefix(entries: &Entries<'_>) -> Option<Rewrite> {
    let (from, to) = (entries.get(&FROM), entries.get(&TO));
    match (from?, to?) {
        (PathPattern::Prefix(from), to) => Some(Rewrite::Prefix { from, to }),
        _ => None,
    }
}

fn decode_regex(entries: &Entries<'_>) -> Option<(Regex, Box<str>)> {
    let (regex, replacement) = (entries.get(&MATCH), entries.get(&REPLACE));
    Some((regex?, replacement?))
}

fn path_template(text: &str) -> Result<Template, Refusal> {
    if !text.starts_with('/') && !text.starts_with("${request.path}") {
        let message = format!("{} is not a path", quoted(text));
        return Err(Refusal::new(message).hint("it starts with '/'"));
    }
    let template = template(text)?;
    if template.texts().any(|text| text.contains(['?', '#'])) {
        return Err(Refusal::new("a path has no '?' and no '#'")
            .hint("the query has a key of its own: `query`"));
    }
    Ok(template)
}

fn query_template(text: &str) -> Result<Template, Refusal> {
    let template = template(text)?;
    if text.starts_with('?') || template.texts().any(|text| text.contains('#')) {
        return Err(Refusal::new("a query has no '#' and is written without its '?'"));
    }
    Ok(template)
}

fn new_prefix(text: &str) -> Result<Box<str>, Refusal> {
    let refuse = |why: &str| {
        let message =
            format!("{} is not a path that servers can be asked for: {why}", quoted(text));
        Err(Refusal::new(message).hint("such as / or /v2"))
    };
    if !text.starts_with('/') || text.contains(['?', '#']) {
        return refuse("it starts with '/' and has no '?' and no '#'");
    }
    match NormalPath::new(text) {
        Ok(path) if !path.had_dots => {
            Ok(path.clean.strip_suffix('/').unwrap_or(&path.clean).into())
        }
        Ok(_) => refuse("it has dot segments"),
        Err(error) => refuse(&error.to_string()),
    }
}

fn replacement(text: &str) -> Result<Box<str>, Refusal> {
    if text.len() > Regex::MAX_BYTES {
        return Err(Refusal::new("is too long"));
    }
    Ok(text.into())
}
