//! The keys of `backends.NAME.check` that only HTTP checks have: what is asked and what is
//! expected. Syntax of requests: RFC 9110 and RFC 9112, judged by hyper's types.

use hyper::http::{HeaderName, HeaderValue, Method, uri};

use super::{
    decode::{Cursor, Entries},
    fault::{Refusal, quoted},
    schema::{Bool, Key, KeyInfo, Nested, Presence, Section, Shape, Text},
};
use crate::model::snapshot::{BodyExpectation, HttpCheck};

pub(super) static METHOD: Key<Text<String>> = Key {
    name: "method",
    shape: Text { what: "an HTTP method", parse: method },
    presence: Presence::Default("GET"),
    doc: "Only for `http`: the request's method.",
};

pub(super) static PATH: Key<Text<String>> = Key {
    name: "path",
    shape: Text { what: "a path that starts with /", parse: path },
    presence: Presence::Default("/"),
    doc: "Only for `http`: the request's path, with a query if need be.",
};

pub(super) static HOST: Key<Text<String>> = Key {
    name: "host",
    shape: Text { what: "a host name", parse: host },
    presence: Presence::Optional("the server's address"),
    doc: "Only for `http`: the `Host` header.",
};

pub(super) static HEADERS: Key<Headers> = Key {
    name: "headers",
    shape: Headers,
    presence: Presence::Default("{}"),
    doc: "Only for `http`: further headers of the request.",
};

pub(super) static EXPECT: Key<Nested<Expectation>> = Key {
    name: "expect",
    shape: Nested { section: &EXPECT_SECTION, decode: decode_expect },
    presence: Presence::Default("{}"),
    doc: "Only for `http`: what the answer must be.",
};

pub(super) static DISABLE_ON_404: Key<Bool> = Key {
    name: "disable_on_404",
    shape: Bool,
    presence: Presence::Default("false"),
    doc: "Only for `http`: status 404 is no failure but takes the server out of balancing \
          (NOLB): existing flows finish, new ones go elsewhere.",
};

static EXPECT_SECTION: Section = Section {
    path: "backends.NAME.check.expect",
    doc: "What the answer to an HTTP check must be: everything given here at once.",
    keys: &[&STATUS, &BODY, &BODY_REGEX],
    unbuilt: &[],
};

static STATUS: Key<Statuses> = Key {
    name: "status",
    shape: Statuses,
    presence: Presence::Default("200-399"),
    doc: "Accepted status codes.",
};

static BODY: Key<Text<String>> = Key {
    name: "body",
    shape: Text { what: "a text", parse: |text| Ok(text.to_owned()) },
    presence: Presence::Optional("any body"),
    doc: "Text that the body must hold somewhere.",
};

static BODY_REGEX: Key<Text<regex::Regex>> = Key {
    name: "body_regex",
    shape: Text { what: "a regular expression", parse: body_regex },
    presence: Presence::Optional("any body"),
    doc: "Regular expression that must match the body somewhere \
          ([syntax](https://docs.rs/regex/latest/regex/#syntax)). Not together with `body`.",
};

/// Notes every key of HTTP checks in a check that is not one.
pub(super) fn refuse_http_keys(entries: &Entries<'_>) {
    let http_keys: [&dyn KeyInfo; 6] = [&METHOD, &PATH, &HOST, &HEADERS, &EXPECT, &DISABLE_ON_404];
    for key in http_keys {
        if entries.has(key) {
            let refusal = Refusal::new("is a key of http checks, and this one is tcp");
            entries.reject(key, refusal.hint("add `type: http`, or remove it"));
        }
    }
}

/// Reads the keys of an HTTP check.
pub(super) fn decode_http(entries: &Entries<'_>) -> Option<HttpCheck> {
    let method = entries.get(&METHOD);
    let path = entries.get(&PATH);
    let host = entries.get(&HOST);
    let headers = entries.get(&HEADERS);
    let expect = entries.get(&EXPECT);
    let disable_on_404 = entries.get(&DISABLE_ON_404);
    let expect = expect?;
    Some(HttpCheck {
        method: method?,
        path: path?,
        host,
        headers: headers?,
        status: expect.status,
        body: expect.body,
        disable_on_404: disable_on_404?,
    })
}

/// `expect`.
pub(super) struct Expectation {
    status: Vec<(u16, u16)>,
    body: Option<BodyExpectation>,
}

fn decode_expect(entries: &Entries<'_>) -> Option<Expectation> {
    let status = entries.get(&STATUS);
    let contains = entries.get(&BODY).map(BodyExpectation::Contains);
    let matches = entries.get(&BODY_REGEX).map(BodyExpectation::Matches);
    if contains.is_some() && matches.is_some() {
        let refusal = Refusal::new("is given together with body");
        entries.reject(&BODY_REGEX, refusal.hint("keep one of the two"));
    }
    Some(Expectation { status: status?, body: contains.or(matches) })
}

/// Headers of a request: a mapping from names to values.
pub(super) struct Headers;

/// Headers the agent writes itself (RFC 9112 sections 3.2 and 6).
const OWN_HEADERS: [&str; 4] = ["host", "connection", "content-length", "transfer-encoding"];

impl Shape for Headers {
    type Output = Vec<(String, String)>;

    fn describe(&self) -> String {
        "mapping from header names to texts".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Self::Output> {
        if cursor.value.is_null() {
            return Some(Vec::new());
        }
        let headers = cursor.pairs()?.into_iter().filter_map(|(name, value)| {
            if let Err(refusal) = header_name(name) {
                return value.reject(refusal);
            }
            let text = Text { what: "a text", parse: header_value }.decode(&value)?;
            Some((name.to_owned(), text))
        });
        Some(headers.collect())
    }
}

fn header_name(name: &str) -> Result<(), Refusal> {
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(Refusal::new(format!("{} is not a header name", quoted(name))));
    }
    match OWN_HEADERS.iter().find(|own| name.eq_ignore_ascii_case(own)) {
        Some(&"host") => Err(Refusal::new("the Host header has a key of its own")
            .hint("write it as `host` next to `headers`")),
        Some(_) => {
            Err(Refusal::new(format!("{} is written by the agent", quoted(name))).hint("remove it"))
        }
        None => Ok(()),
    }
}

fn header_value(text: &str) -> Result<String, Refusal> {
    match HeaderValue::from_str(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(Refusal::new(format!("{} is not a header value", quoted(text)))
            .hint("it has no line breaks and no control characters")),
    }
}

fn method(text: &str) -> Result<String, Refusal> {
    match Method::from_bytes(text.as_bytes()) {
        Ok(Method::CONNECT) | Err(_) => {
            Err(Refusal::new(format!("{} is not a method for checks", quoted(text)))
                .hint("such as GET, HEAD, OPTIONS"))
        }
        Ok(_) => Ok(text.to_owned()),
    }
}

fn path(text: &str) -> Result<String, Refusal> {
    let good = uri::PathAndQuery::try_from(text).is_ok();
    if good && text.starts_with('/') && !text.contains('#') {
        return Ok(text.to_owned());
    }
    let message = format!("{} is not a path", quoted(text));
    Err(Refusal::new(message).hint("it starts with '/' and has no spaces: /health?full=1"))
}

fn host(text: &str) -> Result<String, Refusal> {
    match uri::Authority::try_from(text) {
        Ok(authority) if !authority.as_str().contains('@') => Ok(text.to_owned()),
        _ => {
            Err(Refusal::new(format!("{} is not a host", quoted(text)))
                .hint("such as www.example.com"))
        }
    }
}

fn body_regex(text: &str) -> Result<regex::Regex, Refusal> {
    regex::Regex::new(text).map_err(|error| {
        let shown = error.to_string();
        let why = shown.lines().last().unwrap_or_default();
        let why = why.trim_start_matches("error: ");
        Refusal::new(format!("{} is not a regular expression: {why}", quoted(text)))
    })
}

/// A status code, a range of them, or a list of both.
struct Statuses;

impl Shape for Statuses {
    type Output = Vec<(u16, u16)>;

    fn describe(&self) -> String {
        "status code, range `\"200-299\"`, or list of both".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Self::Output> {
        let Some(items) = cursor.items() else { return decode_status(cursor).map(|one| vec![one]) };
        if items.is_empty() {
            return cursor.reject(Refusal::new("no status is accepted").hint("such as [200]"));
        }
        Some(items.iter().filter_map(decode_status).collect())
    }
}

fn decode_status(cursor: &Cursor<'_>) -> Option<(u16, u16)> {
    let Some(text) = cursor.text(true) else {
        return cursor.wrong_type("a status code", Some("such as 200 or \"200-299\"".into()));
    };
    let (low, high) = text.split_once('-').unwrap_or((&text, &text));
    let code = |text: &str| text.parse().ok().filter(|code| (100..=599).contains(code));
    match (code(low), code(high)) {
        (Some(low), Some(high)) if low <= high => Some((low, high)),
        _ => cursor.reject(
            Refusal::new(format!("{} is not a status code nor a range of them", quoted(&text)))
                .hint("codes are 100 to 599: 200 or \"200-299\""),
        ),
    }
}
