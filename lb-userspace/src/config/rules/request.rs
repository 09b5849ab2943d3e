//! The keys of `if` that look at the request itself.

use hyper::http::{HeaderName, Method, Version};

use super::{
    super::{
        fault::{Refusal, quoted},
        schema::{Bool, Choice, Key, Presence, Text},
    },
    condition::{Parts, RawCondition},
    shape::{ByName, OneOf, all},
};
use crate::model::rule::{
    condition::Test,
    host::{HostPattern, HostPatternError},
    path::{PathPattern, PathPatternError},
    template::VariableName,
    text::{Regex, RegexError, TextPattern},
};

/// A value or a list of them.
type Texts<T> = OneOf<Text<T>>;
/// Names, each with a value or a list of them.
type TextsByName<N> = ByName<N, Texts<TextPattern>>;

/// What names are of, and how one is read.
type Name<N> = (&'static str, fn(&str) -> Result<N, Refusal>);
/// What a text is, and how one is read.
type Pattern = (&'static str, fn(&str) -> Result<TextPattern, Refusal>);

const NOT_LOOKED_AT: Presence = Presence::Optional("any");

/// A key with texts.
pub(super) const fn texts<T>(
    name: &'static str,
    what: &'static str,
    parse: fn(&str) -> Result<T, Refusal>,
    doc: &'static str,
) -> Key<Texts<T>> {
    Key { name, shape: OneOf { item: Text { what, parse } }, presence: NOT_LOOKED_AT, doc }
}

/// A key with texts for each of several names.
const fn by_name<N>(
    name: &'static str,
    (of, parse_name): Name<N>,
    (what, parse): Pattern,
    doc: &'static str,
) -> Key<TextsByName<N>> {
    let item = OneOf { item: Text { what, parse } };
    let shape = ByName { of, name: parse_name, item };
    Key { name, shape, presence: NOT_LOOKED_AT, doc }
}

pub(super) static PATH: Key<Texts<PathPattern>> =
    texts("path", "a path", path, "The path is exactly this; a slash at the end counts.");
pub(super) static PATH_PREFIX: Key<Texts<PathPattern>> = texts(
    "path_prefix",
    "a path",
    path_prefix,
    "The path is this or below it, by whole segments: `/admin` and `/admin/` both cover \
     `/admin` and `/admin/x`, and not `/administrator`.",
);
pub(super) static PATH_SUFFIX: Key<Texts<PathPattern>> =
    texts("path_suffix", "the end of a path", path_suffix, "The path ends with this: `.png`.");
pub(super) static PATH_CONTAINS: Key<Texts<PathPattern>> =
    texts("path_contains", "a part of a path", path_contains, "The path holds this somewhere.");
pub(super) static PATH_REGEX: Key<Texts<PathPattern>> = texts(
    "path_regex",
    "a regular expression",
    |text| regex(text).map(PathPattern::Regex),
    "The expression matches in the path.",
);

pub(super) static HOST: Key<Texts<HostPattern>> =
    texts("host", "a host name", host, "The host is exactly this.");
pub(super) static HOST_SUFFIX: Key<Texts<HostPattern>> = texts(
    "host_suffix",
    "a host name",
    host_suffix,
    "The host is this name or one below it: `example.com` covers `www.example.com` and not \
     `badexample.com`.",
);
pub(super) static HOST_WILDCARD: Key<Texts<HostPattern>> = texts(
    "host_wildcard",
    "a host name with `*`",
    host_wildcard,
    "The host has these labels, where `*` stands for any part of one label: `*.example.com`, \
     `api-*.example.com`.",
);
pub(super) static HOST_REGEX: Key<Texts<HostPattern>> = texts(
    "host_regex",
    "a regular expression",
    host_regex,
    "The expression matches in the host (which is in lower case).",
);

pub(super) static METHOD: Key<Texts<Method>> =
    texts("method", "an HTTP method", method, "The method: `GET`, `[POST, PUT]`.");

const HEADERS: Name<HeaderName> = ("header names", header_name);
const PARAMETERS: Name<Box<str>> = ("parameter names", plain_name);
const COOKIES: Name<Box<str>> = ("cookie names", cookie_name);
const VARIABLES: Name<VariableName> = ("variable names", variable_name);

const EXACT: Pattern = ("a text", |text| Ok(TextPattern::Exact(text.into())));
const PREFIX: Pattern = ("a text", |text| some(text).map(TextPattern::Prefix));
const SUFFIX: Pattern = ("a text", |text| some(text).map(TextPattern::Suffix));
const CONTAINS: Pattern = ("a text", |text| some(text).map(TextPattern::Contains));
const REGEX: Pattern = ("a regular expression", |text| regex(text).map(TextPattern::Regex));

pub(super) static HEADER: Key<TextsByName<HeaderName>> = by_name(
    "header",
    HEADERS,
    EXACT,
    "A line of the header is exactly this; each header that is named must be so.",
);
pub(super) static HEADER_PRESENT: Key<Texts<HeaderName>> =
    texts("header_present", "a header name", header_name, "The request has the header.");
pub(super) static HEADER_PREFIX: Key<TextsByName<HeaderName>> =
    by_name("header_prefix", HEADERS, PREFIX, "A line of the header starts with this.");
pub(super) static HEADER_SUFFIX: Key<TextsByName<HeaderName>> =
    by_name("header_suffix", HEADERS, SUFFIX, "A line of the header ends with this.");
pub(super) static HEADER_CONTAINS: Key<TextsByName<HeaderName>> =
    by_name("header_contains", HEADERS, CONTAINS, "A line of the header holds this somewhere.");
pub(super) static HEADER_REGEX: Key<TextsByName<HeaderName>> =
    by_name("header_regex", HEADERS, REGEX, "The expression matches in a line of the header.");

pub(super) static QUERY: Key<TextsByName<Box<str>>> =
    by_name("query", PARAMETERS, EXACT, "A value of the query parameter is exactly this, decoded.");
pub(super) static QUERY_PRESENT: Key<Texts<Box<str>>> =
    texts("query_present", "a parameter name", plain_name, "The query has the parameter.");
pub(super) static QUERY_REGEX: Key<TextsByName<Box<str>>> = by_name(
    "query_regex",
    PARAMETERS,
    REGEX,
    "The expression matches in a value of the query parameter, decoded.",
);

pub(super) static COOKIE: Key<TextsByName<Box<str>>> =
    by_name("cookie", COOKIES, EXACT, "The cookie has exactly this value.");
pub(super) static COOKIE_PRESENT: Key<Texts<Box<str>>> =
    texts("cookie_present", "a cookie name", cookie_name, "The request has the cookie.");
pub(super) static COOKIE_REGEX: Key<TextsByName<Box<str>>> =
    by_name("cookie_regex", COOKIES, REGEX, "The expression matches in the cookie's value.");

pub(super) static VARIABLE: Key<TextsByName<VariableName>> = by_name(
    "variable",
    VARIABLES,
    EXACT,
    "The variable, which an earlier rule has set with `set_variable`, has exactly this value.",
);
pub(super) static VARIABLE_REGEX: Key<TextsByName<VariableName>> = by_name(
    "variable_regex",
    VARIABLES,
    REGEX,
    "The expression matches in the value of a variable.",
);

pub(super) static VERSION: Key<OneOf<Choice<Version>>> = Key {
    name: "version",
    shape: OneOf {
        item: Choice::of(&[
            ("1.0", Version::HTTP_10),
            ("1.1", Version::HTTP_11),
            ("2", Version::HTTP_2),
        ]),
    },
    presence: NOT_LOOKED_AT,
    doc: "The version of HTTP, in quotes.",
};

pub(super) static WEBSOCKET: Key<Bool> = Key {
    name: "websocket",
    shape: Bool,
    presence: NOT_LOOKED_AT,
    doc: "The request asks for a WebSocket, by upgrade or by extended CONNECT; or it does not.",
};

pub(super) fn decode(parts: &mut Parts<'_, '_>) {
    for key in [&PATH, &PATH_PREFIX, &PATH_SUFFIX, &PATH_CONTAINS, &PATH_REGEX] {
        parts.test(key, |list| all(list).map(Test::Path));
    }
    for key in [&HOST, &HOST_SUFFIX, &HOST_WILDCARD, &HOST_REGEX] {
        parts.test(key, |list| all(list).map(Test::Host));
    }
    parts.test(&METHOD, |list| all(list).map(Test::Method));
    for key in [&HEADER, &HEADER_PREFIX, &HEADER_SUFFIX, &HEADER_CONTAINS, &HEADER_REGEX] {
        parts.add(key, |pairs| each(pairs, Test::Header));
    }
    parts.add(&HEADER_PRESENT, |names| present(names, Test::Header));
    for key in [&QUERY, &QUERY_REGEX] {
        parts.add(key, |pairs| each(pairs, Test::Query));
    }
    parts.add(&QUERY_PRESENT, |names| present(names, Test::Query));
    for key in [&COOKIE, &COOKIE_REGEX] {
        parts.add(key, |pairs| each(pairs, Test::Cookie));
    }
    parts.add(&COOKIE_PRESENT, |names| present(names, Test::Cookie));
    for key in [&VARIABLE, &VARIABLE_REGEX] {
        parts.add(key, |pairs| each(pairs, Test::Variable));
    }
    parts.test(&VERSION, |list| all(list).map(Test::Version));
    parts.test(&WEBSOCKET, |wanted| Some(Test::WebSocket(wanted)));
}

/// All of the names with one of their texts.
fn each<N>(
    pairs: Vec<Option<(N, Vec<Option<TextPattern>>)>>,
    test: fn(N, Vec<TextPattern>) -> Test,
) -> RawCondition {
    let one = |pair: Option<(N, Vec<Option<TextPattern>>)>| {
        let (name, patterns) = pair?;
        Some(RawCondition::Test(test(name, all(patterns)?)))
    };
    let read = pairs.into_iter().map(|pair| one(pair).unwrap_or(RawCondition::Broken));
    RawCondition::All(read.collect())
}

/// One of the names.
fn present<N>(names: Vec<Option<N>>, test: fn(N, Vec<TextPattern>) -> Test) -> RawCondition {
    let one = |name: Option<N>| {
        name.map_or(RawCondition::Broken, |name| {
            RawCondition::Test(test(name, vec![TextPattern::Present]))
        })
    };
    RawCondition::Any(names.into_iter().map(one).collect())
}

fn path_refusal(text: &str) -> impl Fn(PathPatternError) -> Refusal + '_ {
    move |error| {
        let refusal = Refusal::new(format!("no request has the path {}: {error}", quoted(text)));
        match error {
            PathPatternError::Start => refusal.hint("such as /api/"),
            PathPatternError::Query => refusal.hint("parameters are looked at with `query`"),
            PathPatternError::Dots => refusal.hint("write the path that it leads to"),
            PathPatternError::Ambiguous(_) | PathPatternError::Empty => refusal,
        }
    }
}

fn path(text: &str) -> Result<PathPattern, Refusal> {
    PathPattern::exact(text).map_err(path_refusal(text))
}

pub(super) fn path_prefix(text: &str) -> Result<PathPattern, Refusal> {
    PathPattern::prefix(text).map_err(path_refusal(text))
}

fn path_suffix(text: &str) -> Result<PathPattern, Refusal> {
    PathPattern::suffix(text).map_err(path_refusal(text))
}

fn path_contains(text: &str) -> Result<PathPattern, Refusal> {
    PathPattern::contains(text).map_err(path_refusal(text))
}

fn host_refusal(text: &str) -> impl Fn(HostPatternError) -> Refusal + '_ {
    move |error| {
        let refusal = Refusal::new(format!("no request has the host {}: {error}", quoted(text)));
        match error {
            HostPatternError::Port => refusal.hint("ports are looked at with `destination_port`"),
            HostPatternError::Star => refusal.hint("`host_wildcard: \"*.example.com\"`"),
            HostPatternError::Character if !text.is_ascii() => {
                refusal.hint("write the name as it travels: xn--...")
            }
            HostPatternError::Character | HostPatternError::Length => {
                refusal.hint("such as www.example.com")
            }
        }
    }
}

pub(super) fn host(text: &str) -> Result<HostPattern, Refusal> {
    HostPattern::exact(text).map_err(host_refusal(text))
}

pub(super) fn host_suffix(text: &str) -> Result<HostPattern, Refusal> {
    HostPattern::suffix(text).map_err(host_refusal(text))
}

pub(super) fn host_wildcard(text: &str) -> Result<HostPattern, Refusal> {
    HostPattern::wildcard(text).map_err(host_refusal(text))
}

pub(super) fn host_regex(text: &str) -> Result<HostPattern, Refusal> {
    regex(text).map(HostPattern::Regex)
}

pub(super) fn regex(text: &str) -> Result<Regex, Refusal> {
    Regex::new(text).map_err(|error| match error {
        RegexError::Syntax(why) => {
            Refusal::new(format!("{} is not a regular expression: {why}", quoted(text)))
        }
        RegexError::Length(_) | RegexError::Compiled => {
            Refusal::new(format!("{} is too large: {error}", quoted(text)))
                .hint("split it over a list")
        }
    })
}

fn method(text: &str) -> Result<Method, Refusal> {
    let lower = text.bytes().any(|byte| byte.is_ascii_lowercase());
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if !lower => Ok(method),
        Ok(_) => Err(Refusal::new(format!("no request has the method {}", quoted(text)))
            .hint(format!("did you mean {}?", quoted(&text.to_ascii_uppercase())))),
        Err(_) => Err(Refusal::new(format!("{} is not a method", quoted(text)))
            .hint("such as GET or [POST, PUT]")),
    }
}

pub(in super::super) fn header_name(text: &str) -> Result<HeaderName, Refusal> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| Refusal::new(format!("{} is not a header name", quoted(text))))
}

/// A name of a parameter; decoded, any text.
fn plain_name(text: &str) -> Result<Box<str>, Refusal> {
    some(text)
}

pub(super) fn cookie_name(text: &str) -> Result<Box<str>, Refusal> {
    // Cookie names are tokens, as header names are (RFC 6265, section 4.1.1).
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.into()),
        Err(_) => Err(Refusal::new(format!("{} is not a cookie name", quoted(text)))),
    }
}

pub(super) fn variable_name(text: &str) -> Result<VariableName, Refusal> {
    VariableName::new(text).ok_or_else(|| {
        Refusal::new(format!("{} is not a name of a variable", quoted(text)))
            .hint("it has 1 to 32 letters, digits and '_'")
    })
}

fn some(text: &str) -> Result<Box<str>, Refusal> {
    if text.is_empty() {
        return Err(Refusal::new("is empty"));
    }
    Ok(text.into())
}
