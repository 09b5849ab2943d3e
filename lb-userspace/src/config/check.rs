//! `check`: health checks, as `backends.NAME.check` gives them and `defaults.check`
//! completes them.

use std::time::Duration;

use super::{
    decode::{Cursor, Entries},
    duration::{HumanDuration, Period},
    fault::{Located, Refusal, Sink},
    http_check::{
        DISABLE_ON_404, EXPECT, HEADERS, HOST, METHOD, PATH, decode_http, refuse_http_keys,
    },
    schema::{Choice, Integer, Key, Nested, Presence, Section, Shape},
};
use crate::model::snapshot::{Check, CheckKind, Via};

/// `backends.NAME.check` as given; [`RawCheck::resolve`] completes it.
#[derive(Debug)]
pub(super) struct RawCheck {
    kind: CheckKind,
    port: Option<u16>,
    /// Which way it goes, if it says so.
    pub(super) via: Option<Located<Via>>,
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
    /// Whether it goes to a port of its own.
    pub(super) fn has_port(&self) -> bool {
        self.port.is_some()
    }

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
            via: self.via.map_or(Via::Server, |via| via.value),
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
        &VIA,
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

static VIA: Key<Choice<Via>> = Key {
    name: "via",
    shape: Choice::of(&[("server", Via::Server), ("vip", Via::Vip)]),
    presence: Presence::Optional("`server`"),
    doc: "`server`: the check goes to the server's own address. `vip`: for frontends of \
          `forward: dsr`, `ipip` or `gue` alone; its packets go to the VIP, the way that those of \
          clients reach the server, so that it also finds a VIP that is missing there, or a tunnel \
          that does not work. With several VIPs it is the first one of the server's family, of the \
          first frontend by name. Needs Linux 6.6; as `server` with `datapath.mode: off`.",
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
    let via = entries.locate(&VIA);
    let interval = entries.locate(&INTERVAL);
    let fast_interval = entries.locate(&FAST_INTERVAL);
    let timeout = entries.locate(&TIMEOUT);
    let fall = entries.get(&FALL);
    let rise = entries.get(&RISE);
    Some(RawCheck { kind: kind?, port, via, interval, fast_interval, timeout, fall, rise })
}
