//! `defaults`: what frontends and backends that do not say otherwise use.

use super::{
    check::{CHECK_DEFAULTS, CheckDefaults},
    decode::Entries,
    schema::{Key, Nested, Presence, Section},
    timeouts::{self, RawTimeouts},
};

pub(super) static SECTION: Section = Section {
    path: "defaults",
    doc: "What frontends and backends that do not say otherwise use.",
    keys: &[&TIMEOUTS, &CHECK],
    unbuilt: &[],
};

static TIMEOUTS: Key<Nested<RawTimeouts>> = Key {
    name: "timeouts",
    shape: timeouts::DEFAULTS,
    presence: Presence::Default("{}"),
    doc: "Timeouts of the proxy. Layer-4 frontends do not use them: `datapath.timeouts` are \
          theirs.",
};

static CHECK: Key<Nested<CheckDefaults>> = Key {
    name: "check",
    shape: CHECK_DEFAULTS,
    presence: Presence::Default("{}"),
    doc: "Times and counts of checks. It turns no check on: a backend without `check` is not \
          checked.",
};

/// What the section says.
#[derive(Debug)]
pub(super) struct Defaults {
    /// Those of the proxy.
    pub(super) timeouts: RawTimeouts,
    /// Times and counts of checks.
    pub(super) check: CheckDefaults,
}

/// The section as a shape.
pub(super) const SHAPE: Nested<Defaults> = Nested { section: &SECTION, decode };

fn decode(entries: &Entries<'_>) -> Option<Defaults> {
    let timeouts = entries.get(&TIMEOUTS);
    let check = entries.get(&CHECK);
    Some(Defaults { timeouts: timeouts?, check: check? })
}
