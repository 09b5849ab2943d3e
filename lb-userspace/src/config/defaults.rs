//! `defaults`: what frontends and backends that do not say otherwise use.

use std::time::Duration;

use super::{
    check::{CHECK_DEFAULTS, CheckDefaults},
    decode::Entries,
    duration::Period,
    schema::{Key, Nested, Presence, Section},
};

pub(super) static SECTION: Section = Section {
    path: "defaults",
    doc: "What frontends and backends that do not say otherwise use.",
    keys: &[&TIMEOUTS, &CHECK],
    unbuilt: &[],
};

static TIMEOUTS: Key<Nested<()>> = Key {
    name: "timeouts",
    shape: Nested { section: &TIMEOUTS_SECTION, decode: decode_timeouts },
    presence: Presence::Optional("each has its own default"),
    doc: "Timeouts of the proxy. They are read and judged, and layer-4 frontends do not use \
          them: `datapath.timeouts` are theirs.",
};

static CHECK: Key<Nested<CheckDefaults>> = Key {
    name: "check",
    shape: CHECK_DEFAULTS,
    presence: Presence::Default("{}"),
    doc: "Times and counts of checks. It turns no check on: a backend without `check` is not \
          checked.",
};

static TIMEOUTS_SECTION: Section = Section {
    path: "defaults.timeouts",
    doc: "Timeouts of the proxy.",
    keys: &[&CONNECT, &CLIENT, &SERVER, &HTTP_REQUEST, &KEEP_ALIVE, &QUEUE, &TUNNEL],
    unbuilt: &[],
};

/// A key of the proxy's timeouts.
const fn timeout(name: &'static str, default: &'static str, doc: &'static str) -> Key<Period> {
    let shape = Period { min: Duration::from_millis(1), max: Duration::from_secs(30 * 86_400) };
    Key { name, shape, presence: Presence::Default(default), doc }
}

static CONNECT: Key<Period> = timeout("connect", "5s", "Connecting to a server.");
static CLIENT: Key<Period> = timeout("client", "30s", "Waiting for the client to send or take.");
static SERVER: Key<Period> = timeout("server", "30s", "Waiting for the server to send or take.");
static HTTP_REQUEST: Key<Period> =
    timeout("http_request", "10s", "Receiving the whole header of a request.");
static KEEP_ALIVE: Key<Period> =
    timeout("keep_alive", "60s", "Waiting for the next request on a connection.");
static QUEUE: Key<Period> = timeout("queue", "30s", "Waiting for a server with room.");
static TUNNEL: Key<Period> =
    timeout("tunnel", "1h", "Silence of both sides of an upgraded or TCP connection.");

/// The section as a shape. Of its values only those of checks are used by this version.
pub(super) const SHAPE: Nested<CheckDefaults> = Nested { section: &SECTION, decode };

fn decode(entries: &Entries<'_>) -> Option<CheckDefaults> {
    entries.get(&TIMEOUTS);
    entries.get(&CHECK)
}

fn decode_timeouts(entries: &Entries<'_>) -> Option<()> {
    for key in [&CONNECT, &CLIENT, &SERVER, &HTTP_REQUEST, &KEEP_ALIVE, &QUEUE, &TUNNEL] {
        entries.get(key);
    }
    Some(())
}
