//! Actions on where a request goes and how long it may take: `backend`, `set_timeout`,
//! `mirror`.

use std::time::Duration;

use super::{
    super::{
        decode::{Cursor, Entries},
        duration::Period,
        fault::{Located, Refusal},
        schema::{Integer, Key, Nested, Presence, Section, Shape, Text},
        size::Size,
    },
    shape::{ByName, Percent, Placed},
};
use crate::{
    config::frontend::backend_name,
    model::{
        name::Name,
        rule::{action::TimeoutKind, share::Split},
    },
};

/// `backend`.
pub(super) static BACKEND: Key<BackendShape> = Key {
    name: "backend",
    shape: BackendShape,
    presence: Presence::Optional("the next rules decide"),
    doc: "Ends the request: this backend serves it. Of several with weights from 0 to 10000, \
          such as `{blue: 95, green: 5}`, each serves its share of the clients.",
};

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) enum RawBackends {
    One(Located<Name>),
    Weighted(Vec<(Located<Name>, u32)>),
}

const NAME: Placed<Text<Name>> = Placed(Text { what: "a name of a backend", parse: backend_name });

const WEIGHTS: ByName<Name, Placed<Integer<u32>>> = ByName {
    of: "names of backends",
    name: backend_name,
    item: Placed(Integer { min: 0, max: Split::MAX_WEIGHT }),
};

/// A name or a mapping from names to weights.
pub(super) struct BackendShape;

impl Shape for BackendShape {
    type Output = RawBackends;

    fn describe(&self) -> String {
        format!("name of a backend, or {}", WEIGHTS.describe())
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<RawBackends> {
        if !cursor.value.is_mapping() {
            return NAME.decode(cursor).map(RawBackends::One);
        }
        let weight = |pair: Option<(Name, Located<u32>)>| {
            let (backend, weight) = pair?;
            Some((Located { value: backend, place: weight.place }, weight.value))
        };
        let weights: Option<Vec<_>> = WEIGHTS.decode(cursor)?.into_iter().map(weight).collect();
        let weights = weights?;
        if weights.iter().all(|(_, weight)| *weight == 0) {
            return cursor.reject(Refusal::new("every weight is 0: no backend serves anyone"));
        }
        Some(RawBackends::Weighted(weights))
    }
}

/// `set_timeout`.
pub(super) static SET_TIMEOUT: Key<Nested<Vec<(TimeoutKind, Duration)>>> = Key {
    name: "set_timeout",
    shape: Nested { section: &TIMEOUT_SECTION, decode: decode_timeouts },
    presence: Presence::Optional("unchanged"),
    doc: "Other timeouts for the request.",
};

static TIMEOUT_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].set_timeout",
    doc: "Timeouts in place of those of the frontend, the backend and `defaults`.",
    keys: &[&CLIENT, &CONNECT, &SERVER, &QUEUE, &TUNNEL, &TOTAL],
    unbuilt: &[],
};

const fn timeout(name: &'static str, doc: &'static str) -> Key<Period> {
    let shape = Period { min: Duration::from_millis(1), max: Duration::from_secs(30 * 86_400) };
    Key { name, shape, presence: Presence::Optional("unchanged"), doc }
}

static CLIENT: Key<Period> = timeout(
    "client",
    "Waiting for the client to send more of the request's body or, over HTTP/1, to take more of \
     the response.",
);
static TOTAL: Key<Period> =
    timeout("total", "The request as a whole, from the end of its header to that of its response.");
static CONNECT: Key<Period> = timeout("connect", "Connecting to a server.");
static SERVER: Key<Period> = timeout("server", "Waiting for the server to send or take.");
static QUEUE: Key<Period> = timeout("queue", "Waiting for a server with room.");
static TUNNEL: Key<Period> = timeout("tunnel", "Silence of both sides of an upgraded connection.");

fn decode_timeouts(entries: &Entries<'_>) -> Option<Vec<(TimeoutKind, Duration)>> {
    let keys = [
        (&CLIENT, TimeoutKind::Client),
        (&TOTAL, TimeoutKind::Total),
        (&CONNECT, TimeoutKind::Connect),
        (&SERVER, TimeoutKind::Server),
        (&QUEUE, TimeoutKind::Queue),
        (&TUNNEL, TimeoutKind::Tunnel),
    ];
    let given = keys.into_iter().filter(|(key, _)| entries.has(*key));
    let read: Vec<_> = given.map(|(key, kind)| Some((kind, entries.get(key)?))).collect();
    if read.is_empty() {
        entries.reject(&SERVER, Refusal::new("is missing: no timeout is set").hint("server: 5m"));
        return None;
    }
    read.into_iter().collect()
}

/// `queue_priority`.
pub(super) static QUEUE_PRIORITY: Key<Integer<u16>> = Key {
    name: "queue_priority",
    shape: Integer { min: 0, max: 100 },
    presence: Presence::Optional("50"),
    doc: "Where the request stands among those that wait for a server with room: lower comes \
          first, whoever came earlier.",
};

/// The priority of requests that no rule gives one.
const USUAL_PRIORITY: i16 = 50;

/// As the queue has it: 0 is usual.
pub(super) fn priority(given: u16) -> i16 {
    i16::try_from(given).unwrap_or(i16::MAX) - USUAL_PRIORITY
}

/// `mirror`.
pub(super) static MIRROR: Key<MirrorShape> = Key {
    name: "mirror",
    shape: MirrorShape,
    presence: Presence::Optional("no copy"),
    doc: "Sends a copy of the request to another backend, too, whose answers nobody gets. A \
          name stands for `{backend: NAME}`.",
};

/// Where copies go, before it is known whether the backend exists.
#[derive(Clone, Debug)]
pub(super) struct RawMirror {
    pub(super) backend: Located<Name>,
    pub(super) basis_points: u16,
    pub(super) max_concurrent: u32,
    pub(super) body_bytes: u32,
}

static MIRROR_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].mirror",
    doc: "Copies of requests. They are best effort and never delay the client. One with a body is \
          sent once all of that has come, without trailers. Requests for a WebSocket and \
          `CONNECT` are not copied. What became of copies is in \
          `pointsman_frontend_copies_total`.",
    keys: &[&MIRROR_BACKEND, &MIRROR_PERCENTAGE, &MAX_CONCURRENT, &MIRROR_BODY],
    unbuilt: &[],
};

static MIRROR_BACKEND: Key<Placed<Text<Name>>> = Key {
    name: "backend",
    shape: NAME,
    presence: Presence::Required("the name of a backend"),
    doc: "Where copies go.",
};

static MIRROR_PERCENTAGE: Key<Percent> = Key {
    name: "percentage",
    shape: Percent,
    presence: Presence::Default("100"),
    doc: "How many of the requests are copied, in percent.",
};

static MAX_CONCURRENT: Key<Integer<u32>> = Key {
    name: "max_concurrent",
    shape: Integer { min: 1, max: 10_000 },
    presence: Presence::Default("100"),
    doc: "Most copies on their way at once, on each core; requests beyond are not copied.",
};

static MIRROR_BODY: Key<Size> = Key {
    name: "body_bytes",
    shape: Size { min: 0, max: 1 << 20 },
    presence: Presence::Default("64KiB"),
    doc: "Largest body of a request that is copied, beside all others on their way; requests with \
          a larger one are not. 0: only requests without a body.",
};

/// A name or a mapping.
pub(super) struct MirrorShape;

impl Shape for MirrorShape {
    type Output = RawMirror;

    fn describe(&self) -> String {
        "name of a backend, or mapping".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<RawMirror> {
        let (backend, entries) = if cursor.value.is_mapping() {
            let entries = cursor.clone().entries(&MIRROR_SECTION)?;
            (entries.get(&MIRROR_BACKEND), entries)
        } else {
            (Some(NAME.decode(cursor)?), cursor.clone().no_entries())
        };
        let (basis_points, max_concurrent) =
            (entries.get(&MIRROR_PERCENTAGE), entries.get(&MAX_CONCURRENT));
        let body_bytes = entries.get(&MIRROR_BODY);
        Some(RawMirror {
            backend: backend?,
            basis_points: basis_points?,
            max_concurrent: max_concurrent?,
            body_bytes: u32::try_from(body_bytes?).ok()?,
        })
    }

    fn section(&self) -> Option<&'static Section> {
        Some(&MIRROR_SECTION)
    }
}
