//! The keys of `if` that look at the time, at shares of the clients and at backends.

use hyper::http::HeaderName;
use jiff::tz::TimeZone;

use super::{
    super::{
        decode::{Cursor, Entries},
        fault::{Refusal, did_you_mean, quoted},
        schema::{Integer, Key, Nested, Presence, Section, Shape, Text},
    },
    condition::{Parts, RawCondition},
    request::{cookie_name, header_name},
    shape::{OneOf, Percent, Placed, all},
};
use crate::{
    config::frontend::backend_name,
    model::{
        name::Name,
        rule::{
            condition::Test,
            schedule::{DAY, Schedule},
            share::{Share, ShareBy},
        },
    },
};

const NOT_LOOKED_AT: Presence = Presence::Optional("any");

pub(super) static TIME: Key<Nested<Schedule>> = Key {
    name: "time",
    shape: Nested { section: &TIME_SECTION, decode: decode_time },
    presence: NOT_LOOKED_AT,
    doc: "The time of the request.",
};

static TIME_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].if.time",
    doc: "A time of day on some days of the week: `{from: \"08:00\", to: \"18:00\", days: \
          mon-fri, timezone: Europe/Berlin}`.",
    keys: &[&FROM, &TO, &DAYS, &TIMEZONE],
    unbuilt: &[],
};

static FROM: Key<Text<u32>> = Key {
    name: "from",
    shape: Text { what: "a time of day", parse: time_of_day },
    presence: Presence::Default("\"00:00\""),
    doc: "From then on.",
};

static TO: Key<Text<u32>> = Key {
    name: "to",
    shape: Text { what: "a time of day", parse: time_of_day },
    presence: Presence::Default("\"24:00\""),
    doc: "Until just before then. If it is not later than `from`, it is on the next day, and \
          `days` are those on which it starts.",
};

static DAYS: Key<OneOf<Text<[bool; 7]>>> = Key {
    name: "days",
    shape: OneOf { item: Text { what: "a day or a range of days", parse: days } },
    presence: Presence::Default("mon-sun"),
    doc: "The days of the week: `mon-fri`, `[sat, sun]`.",
};

static TIMEZONE: Key<Text<TimeZone>> = Key {
    name: "timezone",
    shape: Text { what: "a time zone", parse: timezone },
    presence: Presence::Required("timezone: Europe/Berlin, or UTC"),
    doc: "The time zone, by its name in the IANA database; it knows about daylight saving.",
};

pub(super) static PERCENTAGE: Key<ShareShape> = Key {
    name: "percentage",
    shape: ShareShape,
    presence: NOT_LOOKED_AT,
    doc: "This share of the clients: a client is in it or not, on every node, and stays in it \
          when the share grows. A number stands for `{of: NUMBER}`.",
};

static SHARE_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].if.percentage",
    doc: "A share of the clients.",
    keys: &[&OF, &BY, &SEED],
    unbuilt: &[],
};

static OF: Key<Percent> = Key {
    name: "of",
    shape: Percent,
    presence: Presence::Required("of: 10"),
    doc: "How large it is, in percent.",
};

static BY: Key<ByShape> = Key {
    name: "by",
    shape: ByShape,
    presence: Presence::Default("client"),
    doc: "What stands for the client: `client`, its address (of IPv6 the /64 network); \
          `{cookie: NAME}` or `{header: NAME}`, with the address where it is missing; \
          `request`, each request on its own.",
};

pub(super) const SEED_DOC: &str = "Shares with different seeds take different clients.";

static SEED: Key<Text<Box<str>>> = Key {
    name: "seed",
    shape: Text { what: "a text", parse: |text| Ok(text.into()) },
    presence: Presence::Default("\"\""),
    doc: SEED_DOC,
};

static BY_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].if.percentage.by",
    doc: "What stands for the client.",
    keys: &[&BY_HEADER, &BY_COOKIE],
    unbuilt: &[],
};

static BY_HEADER: Key<Text<HeaderName>> = Key {
    name: "header",
    shape: Text { what: "a header name", parse: header_name },
    presence: Presence::Optional("not by a header"),
    doc: "The value of this header.",
};

static BY_COOKIE: Key<Text<Box<str>>> = Key {
    name: "cookie",
    shape: Text { what: "a cookie name", parse: cookie_name },
    presence: Presence::Optional("not by a cookie"),
    doc: "The value of this cookie.",
};

pub(super) static USABLE_SERVERS: Key<Nested<RawCondition>> = Key {
    name: "usable_servers",
    shape: Nested { section: &SERVERS_SECTION, decode: decode_servers },
    presence: NOT_LOOKED_AT,
    doc: "How many servers of a backend could take the request.",
};

static SERVERS_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].if.usable_servers",
    doc: "How many servers of a backend could take the request: `{backend: api, at_most: 0}` \
          while it is gone.",
    keys: &[&SERVERS_BACKEND, &AT_LEAST, &AT_MOST],
    unbuilt: &[],
};

static SERVERS_BACKEND: Key<Placed<Text<Name>>> = Key {
    name: "backend",
    shape: Placed(Text { what: "a name of a backend", parse: backend_name }),
    presence: Presence::Required("the name of a backend"),
    doc: "The backend.",
};

static AT_LEAST: Key<Integer<u32>> = Key {
    name: "at_least",
    shape: Integer { min: 0, max: 1_000_000 },
    presence: Presence::Default("0"),
    doc: "As many or more.",
};

static AT_MOST: Key<Integer<u32>> = Key {
    name: "at_most",
    shape: Integer { min: 0, max: 1_000_000 },
    presence: Presence::Default("1000000"),
    doc: "As many or fewer.",
};

pub(super) fn decode(parts: &mut Parts<'_, '_>) {
    parts.test(&TIME, |schedule| Some(Test::Time(schedule)));
    parts.test(&PERCENTAGE, |share| Some(Test::Share(share)));
    parts.add(&USABLE_SERVERS, |condition| condition);
}

fn decode_time(entries: &Entries<'_>) -> Option<Schedule> {
    let (from, to) = (entries.get(&FROM), entries.get(&TO));
    let days = entries.get(&DAYS).and_then(all);
    let zone = entries.get(&TIMEZONE);
    let (from, to, zone) = (from?, to?, zone?);
    if from == DAY {
        entries.reject(&FROM, Refusal::new("no day reaches 24:00").hint("write 00:00"));
        return None;
    }
    let mut union = [false; 7];
    for list in days? {
        for (day, is_on) in union.iter_mut().zip(list) {
            *day |= is_on;
        }
    }
    Some(Schedule { days: union, from, to, zone })
}

fn decode_servers(entries: &Entries<'_>) -> Option<RawCondition> {
    let backend = entries.get(&SERVERS_BACKEND);
    let (at_least, at_most) = (entries.get(&AT_LEAST), entries.get(&AT_MOST));
    let (at_least, at_most) = (at_least?, at_most?);
    if !entries.has(&AT_LEAST) && !entries.has(&AT_MOST) {
        let refusal = Refusal::new("says neither at_least nor at_most");
        entries.reject(&AT_LEAST, refusal.hint("at_least: 1"));
        return None;
    }
    if at_least > at_most {
        let refusal =
            Refusal::new(format!("no number is {at_least} or more and {at_most} or less"));
        entries.reject(&AT_LEAST, refusal);
        return None;
    }
    Some(RawCondition::Servers(backend?, at_least, at_most))
}

/// `percentage`: a number or a mapping.
pub(super) struct ShareShape;

impl Shape for ShareShape {
    type Output = Share;

    fn describe(&self) -> String {
        format!("{}, or mapping", Percent.describe())
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Share> {
        if !cursor.value.is_mapping() {
            let basis_points = Percent.decode(cursor)?;
            return Some(Share { basis_points, by: ShareBy::Client, seed: "".into() });
        }
        let entries = cursor.clone().entries(&SHARE_SECTION)?;
        let (of, by, seed) = (entries.get(&OF), entries.get(&BY), entries.get(&SEED));
        Some(Share { basis_points: of?, by: by?, seed: seed? })
    }

    fn section(&self) -> Option<&'static Section> {
        Some(&SHARE_SECTION)
    }
}

/// `by`: a word or a mapping with one key.
pub(super) struct ByShape;

impl Shape for ByShape {
    type Output = ShareBy;

    fn describe(&self) -> String {
        "`client`, `request`, `{header: NAME}` or `{cookie: NAME}`".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<ShareBy> {
        match cursor.text(false).as_deref() {
            Some("client") => return Some(ShareBy::Client),
            Some("request") => return Some(ShareBy::Request),
            _ if cursor.value.is_mapping() => {}
            _ => return cursor.wrong_type(&self.describe(), None),
        }
        let entries = cursor.clone().entries(&BY_SECTION)?;
        match (entries.get(&BY_HEADER), entries.get(&BY_COOKIE)) {
            (Some(header), None) => Some(ShareBy::Header(header)),
            (None, Some(cookie)) => Some(ShareBy::Cookie(cookie)),
            (Some(_), Some(_)) => cursor
                .reject(Refusal::new("names a header and a cookie").hint("keep one of the two")),
            (None, None) if entries.has(&BY_HEADER) || entries.has(&BY_COOKIE) => None,
            (None, None) => {
                cursor.reject(Refusal::new("is empty").hint("such as {cookie: session}"))
            }
        }
    }
}

/// `HH:MM`, 00:00 to 24:00, in seconds.
fn time_of_day(text: &str) -> Result<u32, Refusal> {
    let parse = || {
        let (hours, minutes) = text.split_once(':')?;
        let two = |text: &str| {
            let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u32>().ok()).flatten()
        };
        let (hours, minutes) = (two(hours)?, two(minutes)?);
        let seconds = hours * 3600 + minutes * 60;
        (minutes < 60 && seconds <= DAY).then_some(seconds)
    };
    parse().ok_or_else(|| {
        Refusal::new(format!("{} is not a time of day", quoted(text)))
            .hint("write \"08:00\", from 00:00 to 24:00")
    })
}

const DAY_NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A day or a range of days, which may go over the end of the week.
fn days(text: &str) -> Result<[bool; 7], Refusal> {
    let place = |name: &str| DAY_NAMES.iter().position(|day| *day == name);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Some(first), Some(last)) = (place(first), place(last)) else {
        return Err(Refusal::new(format!("{} is not a day of the week", quoted(text)))
            .hint(format!("one of {}, or a range such as mon-fri", DAY_NAMES.join(", "))));
    };
    let mut days = [false; 7];
    let count = (last + 7 - first) % 7 + 1;
    (first..first + count).for_each(|day| days[day % 7] = true);
    Ok(days)
}

fn timezone(text: &str) -> Result<TimeZone, Refusal> {
    TimeZone::get(text).map_err(|_| {
        let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
        let refusal = Refusal::new(format!("{} is not a time zone", quoted(text)));
        match did_you_mean(text, known.iter().map(String::as_str)) {
            Some(meant) => refusal.hint(format!("did you mean {}?", quoted(meant))),
            None => refusal.hint("a name such as Europe/Berlin, or UTC"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_names_and_ranges() {
        let on = |text| days(text).map(|days| days.iter().filter(|day| **day).count());
        assert_eq!((on("mon"), on("mon-fri"), on("sat-mon")), (Ok(1), Ok(5), Ok(3)));
        assert_eq!((on("mon-sun"), on("sun-sat")), (Ok(7), Ok(7)));
        for bad in ["", "monday", "mon-", "-", "mon-fri-sun", "Mon"] {
            assert!(days(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_of_day_have_hours_and_minutes() {
        assert_eq!(time_of_day("08:30"), Ok(30_600));
        assert_eq!((time_of_day("00:00"), time_of_day("24:00")), (Ok(0), Ok(DAY)));
        for bad in ["", "8:30", "24:01", "12:60", "12", "12:3a", "+1:00", "12:00:00"] {
            assert!(time_of_day(bad).is_err(), "{bad}");
        }
    }
}
