//! `log`: the agent's own log and the access log of finished flows.

use super::{
    datapath::absolute_path,
    decode::Entries,
    fault::{Refusal, quoted},
    schema::{Choice, Key, Nested, Presence, Section, Text},
};
use crate::model::snapshot::{AccessFormat, AccessLog, AccessTarget, Log, LogTarget};

pub(super) static SECTION: Section = Section {
    path: "log",
    doc: "The agent's own log and the log of finished flows.",
    keys: &[&TARGET, &ACCESS],
    unbuilt: &[],
};

static TARGET: Key<Choice<LogTarget>> = Key {
    name: "target",
    shape: Choice::of(&[("stderr", LogTarget::Stderr), ("journald", LogTarget::Journald)]),
    presence: Presence::Default("stderr"),
    doc: "Where the agent's own log goes: standard error, or systemd's journal with structured \
          fields.",
};

static ACCESS: Key<Nested<AccessLog>> = Key {
    name: "access",
    shape: Nested { section: &ACCESS_SECTION, decode: decode_access },
    presence: Presence::Optional("no access log"),
    doc: "The access log: one line for each finished flow of layer 4 and each request of the \
          proxy.",
};

static ACCESS_SECTION: Section = Section {
    path: "log.access",
    doc: "One line for each finished flow: client, VIP, server, packets and bytes both ways, \
          duration, how it ended.",
    keys: &[&ACCESS_TARGET, &ACCESS_FORMAT],
    unbuilt: &[],
};

static ACCESS_TARGET: Key<Text<AccessTarget>> = Key {
    name: "target",
    shape: Text { what: "`stdout` or an absolute path", parse: access_target },
    presence: Presence::Default("stdout"),
    doc: "Standard output, or a file that is appended to.",
};

static ACCESS_FORMAT: Key<Choice<AccessFormat>> = Key {
    name: "format",
    shape: Choice::of(&[("text", AccessFormat::Text), ("json", AccessFormat::Json)]),
    presence: Presence::Default("text"),
    doc: "`text`: `key=value` fields for flows, the field order of HAProxy's `httplog` for requests \
          (times in UTC; why a request did not end well stands in braces where captured headers \
          would). `json`: one object a line.",
};

/// The section as a shape.
pub(super) const SHAPE: Nested<Log> = Nested { section: &SECTION, decode };

fn decode(entries: &Entries<'_>) -> Option<Log> {
    let target = entries.get(&TARGET);
    let access = entries.get(&ACCESS);
    Some(Log { target: target?, access })
}

fn decode_access(entries: &Entries<'_>) -> Option<AccessLog> {
    let target = entries.get(&ACCESS_TARGET);
    let format = entries.get(&ACCESS_FORMAT);
    Some(AccessLog { target: target?, format: format? })
}

fn access_target(text: &str) -> Result<AccessTarget, Refusal> {
    match absolute_path(text) {
        _ if text == "stdout" => Ok(AccessTarget::Stdout),
        Ok(path) => Ok(AccessTarget::File(path)),
        Err(_) => Err(Refusal::new(format!("{} is not a target", quoted(text)))
            .hint("stdout, or a file by its absolute path")),
    }
}
