//! `log`: the agent's own log. The access log is a section of its own, `access`.

use std::sync::Arc;

use super::{
    access_log,
    decode::Entries,
    schema::{Choice, Key, Nested, Presence, Section},
};
use crate::model::{
    access_log::AccessLog,
    snapshot::{Log, LogTarget},
};

pub(super) static SECTION: Section = Section {
    path: "log",
    doc: "The agent's own log and the log of finished flows, sessions and requests.",
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
    shape: access_log::SHAPE,
    presence: Presence::Optional("no access log"),
    doc: "The access log: one line for each finished flow of layer 4, and each session and \
          request of the proxy.",
};

/// The section as a shape.
pub(super) const SHAPE: Nested<Log> = Nested { section: &SECTION, decode };

fn decode(entries: &Entries<'_>) -> Option<Log> {
    let target = entries.get(&TARGET);
    let access = entries.optional(&ACCESS);
    Some(Log { target: target?, access: access?.map(Arc::new) })
}
