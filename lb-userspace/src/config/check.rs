//! `check`: health checks, as `backends.NAME.check` gives them and `defaults.check`
//! completes them.

use std::time::Duration;

use hyper::http::{HeaderName, HeaderValue, Method, uri};

use super::{
    decode::{Cursor, Entries},
    duration::{HumanDuration, Period},
    fault::{Located, Refusal, Sink, quoted},
    schema::{Bool, Choice, Integer, Key, KeyInfo, Nested, Presence, Section, Shape, Text},
};
use crate::model::snapshot::{BodyExpectation, Check, CheckKind, HttpCheck};

/// `backends.NAME.check` as given; [`RawCheck::resolve`] completes it.
#[derive(Debug)]
pub(super) struct RawCheck {
    kind: CheckKind,
    port: Option<u16>,
    interval: Option<Located<Duration>>,
    fast_interval: Option<Located<Duration>>,
    timeout: Option<Located<Duration>>,
    fall: Option<u32>,
    rise: Option<u32>,
}

/// `defaults.check`.
#[derive(Debug)]
pub(super) struct CheckDefaults {
    interval: Duration,
    fast_interval: Option<Duration>,
    timeout: Duration,
    fall: u32,
    rise: u32,
}

impl RawCheck {
    /// The check with every time and count settled. An inherited time gives way to a
    /// given one; two given ones that contradict each other are a fault.
    pub(super) fn resolve(self, defaults: &CheckDefaults, sink: &Sink) -> Check {
        let given_interval = self.interval.map(|interval| interval.value);
        let interval = given_interval.unwrap_or(defaults.interval);
        let judge = |given: &Located<Duration>| {
            if given.value > interval {
                sink.fault(&given.place, longer_than_interval(given.value, interval));
            }
        };
        self.timeout.iter().chain(&self.fast_interval).for_each(judge);
        let timeout = self.timeout.map_or(defaults.timeout.min(interval), |given| given.value);
        let inherited_fast = defaults.fast_interval.unwrap_or(interval).min(interval);
        Check {
            kind: self.kind,
            interval,
            fast_interval: self.fast_interval.map_or(inherited_fast, |given| given.value),
            timeout,
            fall: self.fall.unwrap_or(defaults.fall),
            rise: self.rise.unwrap_or(defaults.rise),
            port: self.port,
        }
    }
}

fn longer_than_interval(given: Duration, interval: Duration) -> Refusal {
    let (given, interval) = (HumanDuration(given), HumanDuration(interval));
    Refusal::new(format!("{given} is longer than the check's interval, {interval}"))
        .hint(format!("at most {interval}, or raise interval"))
}

/// `defaults.check` as a shape.
pub(super) const CHECK_DEFAULTS: Nested<CheckDefaults> =
    Nested { section: &DEFAULTS_SECTION, decode: decode_defaults };

static DEFAULTS_SECTION: Section = Section {
    path: "defaults.check",
    doc: "Times and counts of checks that do not give their own.",
    keys: &[
        &DEFAULT_INTERVAL,
        &DEFAULT_FAST_INTERVAL,
        &DEFAULT_TIMEOUT,
        &DEFAULT_FALL,
        &DEFAULT_RISE,
    ],
    unbuilt: &[],
};

static SECTION: Section = Section {
    path: "backends.NAME.check",
    doc: "How the servers of a backend are checked. Checks start jittered by a tenth of the \
          interval, so that they spread out.",
    keys: &[
        &TYPE,
        &INTERVAL,
        &FAST_INTERVAL,
        &TIMEOUT,
        &FALL,
        &RISE,
        &PORT,
        &METHOD,
        &PATH,
        &HOST,
        &HEADERS,
        &EXPECT,
        &DISABLE_ON_404,
    ],
    unbuilt: &[],
};

const INHERITED: Presence = Presence::Optional("that of `defaults.check`");

const fn interval(presence: Presence) -> Key<Period> {
    let shape = Period { min: Duration::from_millis(10), max: Duration::from_secs(86_400) };
    let doc = "Time between the starts of two checks of one server.";
    Key { name: "interval", shape, presence, doc }
}

const fn fast_interval(presence: Presence) -> Key<Period> {
    let shape = Period { min: Duration::from_millis(10), max: Duration::from_secs(86_400) };
    let doc = "The same while a server is between UP and DOWN; never longer than `interval`.";
    Key { name: "fast_interval", shape, presence, doc }
}

const fn timeout(presence: Presence) -> Key<Period> {
    let shape = Period { min: Duration::from_millis(1), max: Duration::from_secs(86_400) };
    let doc = "Longest time one check may take; never longer than `interval`, and an inherited \
               one is cut to it.";
    Key { name: "timeout", shape, presence, doc }
}

const fn fall(presence: Presence) -> Key<Integer<u32>> {
    let doc = "Failures in a row that make an UP server DOWN.";
    Key { name: "fall", shape: Integer { min: 1, max: 1000 }, presence, doc }
}

const fn rise(presence: Presence) -> Key<Integer<u32>> {
    let doc = "Successes in a row that make a DOWN server UP.";
    Key { name: "rise", shape: Integer { min: 1, max: 1000 }, presence, doc }
}

static DEFAULT_INTERVAL: Key<Period> = interval(Presence::Default("2s"));
static DEFAULT_FAST_INTERVAL: Key<Period> = fast_interval(Presence::Optional("`interval`"));
static DEFAULT_TIMEOUT: Key<Period> = timeout(Presence::Default("1s"));
static DEFAULT_FALL: Key<Integer<u32>> = fall(Presence::Default("3"));
static DEFAULT_RISE: Key<Integer<u32>> = rise(Presence::Default("2"));

static INTERVAL: Key<Period> = interval(INHERITED);
static FAST_INTERVAL: Key<Period> = fast_interval(INHERITED);
static TIMEOUT: Key<Period> = timeout(INHERITED);
static FALL: Key<Integer<u32>> = fall(INHERITED);
static RISE: Key<Integer<u32>> = rise(INHERITED);

/// What `type` can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Tcp,
    Http,
}

static TYPE: Key<Choice<Type>> = Key {
    name: "type",
    shape: Choice::of(&[("tcp", Type::Tcp), ("http", Type::Http)]),
    presence: Presence::Default("tcp"),
    doc: "`tcp`: the handshake completes. `http`: an HTTP/1.1 request gets the expected answer.",
};

static PORT: Key<Integer<u16>> = Key {
    name: "port",
    shape: Integer { min: 1, max: 65_535 },
    presence: Presence::Optional("the server's own"),
    doc: "Port to check in place of the server's own.",
};

static METHOD: Key<Text<String>> = Key {
    name: "method",
    shape: Text { what: "an HTTP method", parse: method },
    presence: Presence::Default("GET"),
    doc: "Only for `http`: the request's method.",
};

static PATH: Key<Text<String>> = Key {
    name: "path",
    shape: Text { what: "a path that starts with /", parse: path },
    presence: Presence::Default("/"),
    doc: "Only for `http`: the request's path, with a query if need be.",
};

static HOST: Key<Text<String>> = Key {
    name: "host",
    shape: Text { what: "a host name", parse: host },
    presence: Presence::Optional("the server's address"),
    doc: "Only for `http`: the `Host` header.",
};

static HEADERS: Key<Headers> = Key {
    name: "headers",
    shape: Headers,
    presence: Presence::Default("{}"),
    doc: "Only for `http`: further headers of the request.",
};

static EXPECT: Key<Nested<Expectation>> = Key {
    name: "expect",
    shape: Nested { section: &EXPECT_SECTION, decode: decode_expect },
    presence: Presence::Default("{}"),
    doc: "Only for `http`: what the answer must be.",
};

static DISABLE_ON_404: Key<Bool> = Key {
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

/// `backends.NAME.check`: a mapping, or `false` for none.
pub(super) struct CheckShape;

impl Shape for CheckShape {
    type Output = Option<RawCheck>;

    fn describe(&self) -> String {
        "mapping, or `false`".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Self::Output> {
        match cursor.value {
            serde_yaml::Value::Bool(false) => Some(None),
            serde_yaml::Value::Mapping(_) => decode(&cursor.clone().entries(&SECTION)?).map(Some),
            _ => cursor.wrong_type("a mapping or false", Some("write {type: tcp}".into())),
        }
    }

    fn section(&self) -> Option<&'static Section> {
        Some(&SECTION)
    }
}

fn decode_defaults(entries: &Entries<'_>) -> Option<CheckDefaults> {
    let interval = entries.get(&DEFAULT_INTERVAL);
    let fast_interval = entries.get(&DEFAULT_FAST_INTERVAL);
    let timeout = entries.get(&DEFAULT_TIMEOUT);
    let fall = entries.get(&DEFAULT_FALL);
    let rise = entries.get(&DEFAULT_RISE);
    if let Some(interval) = interval {
        if let Some(given) = fast_interval
            && given > interval
        {
            entries.reject(&DEFAULT_FAST_INTERVAL, longer_than_interval(given, interval));
        }
        if let Some(given) = timeout
            && given > interval
            && entries.has(&DEFAULT_TIMEOUT)
        {
            entries.reject(&DEFAULT_TIMEOUT, longer_than_interval(given, interval));
        }
    }
    Some(CheckDefaults {
        interval: interval?,
        fast_interval,
        timeout: timeout?,
        fall: fall?,
        rise: rise?,
    })
}

fn decode(entries: &Entries<'_>) -> Option<RawCheck> {
    let kind = match entries.get(&TYPE) {
        Some(Type::Tcp) => {
            refuse_http_keys(entries);
            Some(CheckKind::Tcp)
        }
        Some(Type::Http) => decode_http(entries).map(|http| CheckKind::Http(Box::new(http))),
        None => None,
    };
    let port = entries.get(&PORT);
    let interval = entries.locate(&INTERVAL);
    let fast_interval = entries.locate(&FAST_INTERVAL);
    let timeout = entries.locate(&TIMEOUT);
    let fall = entries.get(&FALL);
    let rise = entries.get(&RISE);
    Some(RawCheck { kind: kind?, port, interval, fast_interval, timeout, fall, rise })
}

fn refuse_http_keys(entries: &Entries<'_>) {
    let http_keys: [&dyn KeyInfo; 6] = [&METHOD, &PATH, &HOST, &HEADERS, &EXPECT, &DISABLE_ON_404];
    for key in http_keys {
        if entries.has(key) {
            let refusal = Refusal::new("is a key of http checks, and this one is tcp");
            entries.reject(key, refusal.hint("add `type: http`, or remove it"));
        }
    }
}

fn decode_http(entries: &Entries<'_>) -> Option<HttpCheck> {
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
struct Expectation {
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
struct Headers;

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
