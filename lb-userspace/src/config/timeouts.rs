//! `timeouts` of the proxy: under `defaults`, of a frontend, of a backend. What one of the
//! latter does not say is as in the first.

use std::time::Duration;

use super::{
    decode::Entries,
    duration::{Period, PeriodOrOff},
    schema::{Key, Nested, Presence, Section},
};
use crate::model::{backend::ServerTimeouts, frontend::ClientTimeouts};

/// What is said of timeouts in one place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawTimeouts {
    connect: Option<Duration>,
    client: Option<Duration>,
    server: Option<Duration>,
    http_request: Option<Duration>,
    keep_alive: Option<Duration>,
    queue: Option<Duration>,
    tunnel: Option<Duration>,
    /// None if nothing is said, and in that none for no limit.
    total: Option<Option<Duration>>,
}

impl RawTimeouts {
    /// The timeouts of a frontend; `None` if a default is at fault.
    pub(super) fn client(self, defaults: &Self) -> Option<ClientTimeouts> {
        Some(ClientTimeouts {
            client: self.client.or(defaults.client)?,
            http_request: self.http_request.or(defaults.http_request)?,
            keep_alive: self.keep_alive.or(defaults.keep_alive)?,
            tunnel: self.tunnel.or(defaults.tunnel)?,
            total: self.total.or(defaults.total)?,
        })
    }

    /// The timeouts of a backend, and that of its queue.
    pub(super) fn server(self, defaults: &Self) -> Option<(ServerTimeouts, Duration)> {
        let timeouts = ServerTimeouts {
            connect: self.connect.or(defaults.connect)?,
            server: self.server.or(defaults.server)?,
        };
        Some((timeouts, self.queue.or(defaults.queue)?))
    }
}

/// Any timeout.
const TIMEOUT: Period =
    Period { min: Duration::from_millis(1), max: Duration::from_secs(30 * 86_400) };

/// A key under `defaults`, and the key of the same name elsewhere.
const fn pair(name: &'static str, default: &'static str, doc: &'static str) -> [Key<Period>; 2] {
    let absent = Presence::Optional("as in `defaults.timeouts`");
    [
        Key { name, shape: TIMEOUT, presence: Presence::Default(default), doc },
        Key { name, shape: TIMEOUT, presence: absent, doc },
    ]
}

static CONNECT: [Key<Period>; 2] = pair("connect", "5s", "Connecting to a server.");
static CLIENT: [Key<Period>; 2] = pair(
    "client",
    "30s",
    "Silence while the client should send (408 if that is a body) or take what is there for it.",
);
static SERVER: [Key<Period>; 2] =
    pair("server", "30s", "Silence while the server should send or take (504).");
static HTTP_REQUEST: [Key<Period>; 2] =
    pair("http_request", "10s", "Receiving the whole header of a request (408).");
static KEEP_ALIVE: [Key<Period>; 2] =
    pair("keep_alive", "60s", "Waiting for the next request on a connection.");
static QUEUE: [Key<Period>; 2] = pair("queue", "30s", "Waiting for a server with room (503).");
static TUNNEL: [Key<Period>; 2] =
    pair("tunnel", "1h", "Silence of both sides of an upgraded or TCP connection.");

const fn total(presence: Presence) -> Key<PeriodOrOff> {
    let doc = "`mode: http`: a whole request, from the end of its header to that of its response; not \
               of upgraded connections. 504, or the response is broken off.";
    Key { name: "total", shape: PeriodOrOff(TIMEOUT), presence, doc }
}

static TOTAL: [Key<PeriodOrOff>; 2] =
    [total(Presence::Default("24h")), total(Presence::Optional("as in `defaults.timeouts`"))];

/// `defaults.timeouts`.
pub(super) const DEFAULTS: Nested<RawTimeouts> =
    Nested { section: &DEFAULTS_SECTION, decode: |entries| Some(read(entries, 0)) };
/// `frontends.NAME.timeouts`.
pub(super) const OF_FRONTEND: Nested<RawTimeouts> =
    Nested { section: &FRONTEND_SECTION, decode: |entries| Some(read(entries, 1)) };
/// `backends.NAME.timeouts`.
pub(super) const OF_BACKEND: Nested<RawTimeouts> =
    Nested { section: &BACKEND_SECTION, decode: |entries| Some(read(entries, 1)) };

static DEFAULTS_SECTION: Section = Section {
    path: "defaults.timeouts",
    doc: "Timeouts of the proxy; those of layer 4 are under `datapath.timeouts`. They fire up to \
          0.2 s late.",
    keys: &[
        &CONNECT[0],
        &CLIENT[0],
        &SERVER[0],
        &HTTP_REQUEST[0],
        &KEEP_ALIVE[0],
        &QUEUE[0],
        &TUNNEL[0],
        &TOTAL[0],
    ],
    unbuilt: &[],
};

static FRONTEND_SECTION: Section = Section {
    path: "frontends.NAME.timeouts",
    doc: "How long clients of this frontend may keep the proxy waiting.",
    keys: &[&CLIENT[1], &HTTP_REQUEST[1], &KEEP_ALIVE[1], &TUNNEL[1], &TOTAL[1]],
    unbuilt: &[],
};

static BACKEND_SECTION: Section = Section {
    path: "backends.NAME.timeouts",
    doc: "How long servers of this backend may keep the proxy waiting.",
    keys: &[&CONNECT[1], &SERVER[1], &QUEUE[1]],
    unbuilt: &[],
};

/// `place` is 0 for `defaults`, where every key has a value unless it is at fault.
fn read(entries: &Entries<'_>, place: usize) -> RawTimeouts {
    // Keys that a section does not have are not there, and have no default elsewhere.
    RawTimeouts {
        connect: entries.get(&CONNECT[place]),
        client: entries.get(&CLIENT[place]),
        server: entries.get(&SERVER[place]),
        http_request: entries.get(&HTTP_REQUEST[place]),
        keep_alive: entries.get(&KEEP_ALIVE[place]),
        queue: entries.get(&QUEUE[place]),
        tunnel: entries.get(&TUNNEL[place]),
        total: entries.get(&TOTAL[place]),
    }
}
