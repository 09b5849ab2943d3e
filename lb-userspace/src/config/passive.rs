//! `backends.NAME.passive`: what traffic itself says of servers.

use std::{num::NonZeroU32, time::Duration};

use super::{
    decode::Entries,
    duration::Period,
    fault::Refusal,
    schema::{Choice, Integer, Key, Nested, Presence, Section},
};
use crate::model::balance::{ErrorRatio, Passive, PassiveAction};

/// `passive` as a shape.
pub(super) const SHAPE: Nested<Passive> = Nested { section: &SECTION, decode };

static SECTION: Section = Section {
    path: "backends.NAME.passive",
    doc: "The proxy takes a server out when requests to it fail: it can not be connected to, is \
          too slow, breaks off, or answers 5xx. In `mode: tcp` only connecting counts.",
    keys: &[&FAILURES, &PERCENT, &REQUESTS, &WINDOW, &ACTION, &EJECT_TIME, &LONGEST, &MAX_SHARE],
    unbuilt: &[],
};

static FAILURES: Key<Integer<u32>> = Key {
    name: "failures",
    shape: Integer { min: 0, max: 100_000 },
    presence: Presence::Default("5"),
    doc: "So many in a row are too many; 0: they do not count.",
};

static PERCENT: Key<Integer<u8>> = Key {
    name: "error_percent",
    shape: Integer { min: 0, max: 100 },
    presence: Presence::Default("0"),
    doc: "So many percent of the requests of an `error_window` are too many; 0: they do not count.",
};

static REQUESTS: Key<Integer<u32>> = Key {
    name: "error_requests",
    shape: Integer { min: 1, max: 1_000_000 },
    presence: Presence::Default("20"),
    doc: "Requests in the window before `error_percent` means anything.",
};

static WINDOW: Key<Period> = Key {
    name: "error_window",
    shape: Period { min: Duration::from_millis(100), max: Duration::from_secs(3600) },
    presence: Presence::Default("10s"),
    doc: "The window of `error_percent`.",
};

static ACTION: Key<Choice<Word>> = Key {
    name: "action",
    shape: Choice::of(&[("eject", Word::Eject), ("mark-down", Word::MarkDown)]),
    presence: Presence::Default("eject"),
    doc: "`eject`: the server gets nothing for `eject_time`, twice as long each time again, up \
          to `longest_eject_time`; the first failure after it came back ejects it again. \
          `mark-down`: it is DOWN, in layer 4 too, until `rise` checks in a row have passed.",
};

static EJECT_TIME: Key<Period> = Key {
    name: "eject_time",
    shape: Period { min: Duration::from_millis(10), max: Duration::from_secs(86_400) },
    presence: Presence::Default("10s"),
    doc: "How long a server is ejected the first time.",
};

static LONGEST: Key<Period> = Key {
    name: "longest_eject_time",
    shape: Period { min: Duration::from_millis(10), max: Duration::from_secs(86_400) },
    presence: Presence::Default("5m"),
    doc: "How long at most. A server that did well for as long starts afresh.",
};

static MAX_SHARE: Key<Integer<u8>> = Key {
    name: "max_share",
    shape: Integer { min: 0, max: 100 },
    presence: Presence::Default("50"),
    doc: "Most servers out at a time because of traffic, in percent of those that are otherwise \
          up, rounded down: a single server is never taken out unless this is 100.",
};

#[derive(Clone, Copy)]
enum Word {
    Eject,
    MarkDown,
}

fn decode(entries: &Entries<'_>) -> Option<Passive> {
    let (failures, percent) = (entries.get(&FAILURES), entries.get(&PERCENT));
    let (requests, window) = (entries.get(&REQUESTS), entries.get(&WINDOW));
    let (first, longest) = (entries.get(&EJECT_TIME), entries.get(&LONGEST));
    let (action, max_share) = (entries.get(&ACTION), entries.get(&MAX_SHARE));
    if let (Some(first), Some(longest)) = (first, longest)
        && first > longest
    {
        entries.reject(&LONGEST, Refusal::new("is shorter than `eject_time`"));
        return None;
    }
    if failures == Some(0) && percent == Some(0) {
        let refusal = Refusal::new("is 0, and so is `error_percent`: nothing counts");
        entries.reject(&FAILURES, refusal.hint("leave `passive` out"));
        return None;
    }
    let ratio = ErrorRatio { percent: percent?, requests: requests?, window: window? };
    let action = match action? {
        Word::Eject => PassiveAction::Eject { first: first?, longest: longest? },
        Word::MarkDown => PassiveAction::MarkDown,
    };
    Some(Passive {
        consecutive: NonZeroU32::new(failures?),
        ratio: Some(ratio).filter(|ratio| ratio.percent > 0),
        action,
        max_share: max_share?,
    })
}
