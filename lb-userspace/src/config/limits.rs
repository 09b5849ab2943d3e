//! `frontends.NAME.limits`: what the proxy takes from clients. Nothing is unlimited.

use super::{
    decode::Entries,
    schema::{Integer, Key, Nested, Presence, Section},
    size::Size,
};
use crate::model::frontend::{ConnectionLimits, HttpLimits};

/// The section as a shape.
pub(super) const SHAPE: Nested<RawLimits> = Nested { section: &SECTION, decode };

/// What the section says.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawLimits {
    pub(super) connections: ConnectionLimits,
    pub(super) http: HttpLimits,
    /// Something is said of requests, which `mode: tcp` does not have.
    pub(super) is_about_requests: bool,
}

static SECTION: Section = Section {
    path: "frontends.NAME.limits",
    doc: "What the proxy takes from clients. `mode: tcp` has the first two alone.",
    keys: &[
        &CONNECTIONS,
        &PER_SOURCE,
        &HEADER_BYTES,
        &HEADER_COUNT,
        &URI_BYTES,
        &BODY_BYTES,
        &BODY_RATE,
        &STREAMS,
        &RESETS,
        &CONTROL_FRAMES,
    ],
    unbuilt: &[],
};

static CONNECTIONS: Key<Integer<u32>> = Key {
    name: "connections",
    shape: Integer { min: 1, max: 1_000_000 },
    presence: Presence::Default("20000"),
    doc: "Open connections; further ones are reset.",
};

static PER_SOURCE: Key<Integer<u32>> = Key {
    name: "connections_per_source",
    shape: Integer { min: 1, max: 1_000_000 },
    presence: Presence::Default("5000"),
    doc: "Open connections of one IPv4 address or IPv6 /64; further ones are reset.",
};

static HEADER_BYTES: Key<Size> = Key {
    name: "header_bytes",
    shape: Size { min: 1024, max: 1 << 20 },
    presence: Presence::Default("16KiB"),
    doc: "A request's line and fields together (431).",
};

static HEADER_COUNT: Key<Integer<u32>> = Key {
    name: "header_count",
    shape: Integer { min: 8, max: 1000 },
    presence: Presence::Default("100"),
    doc: "Fields of a request (431).",
};

static URI_BYTES: Key<Size> = Key {
    name: "uri_bytes",
    shape: Size { min: 64, max: 65_534 },
    presence: Presence::Default("8KiB"),
    doc: "A request's path and query (414).",
};

static BODY_BYTES: Key<Size> = Key {
    name: "body_bytes",
    shape: Size { min: 0, max: 1 << 50 },
    presence: Presence::Default("10GiB"),
    doc: "A request's body (413).",
};

static BODY_RATE: Key<Size> = Key {
    name: "body_rate",
    shape: Size { min: 0, max: 1 << 30 },
    presence: Presence::Default("100B"),
    doc: "Least bytes of a body a second, on average over the time the client was waited for, \
          once that is longer than `timeouts.client` (408).",
};

static STREAMS: Key<Integer<u32>> = Key {
    name: "streams",
    shape: Integer { min: 1, max: 10_000 },
    presence: Presence::Default("100"),
    doc: "Open streams of an HTTP/2 connection.",
};

static RESETS: Key<Integer<u32>> = Key {
    name: "resets",
    shape: Integer { min: 1, max: 10_000 },
    presence: Presence::Default("50"),
    doc: "Streams of an HTTP/2 connection that the client resets within 10 s, beyond as many as \
          it does not reset, or that are reset because of its faults, before the connection is \
          closed.",
};

static CONTROL_FRAMES: Key<Integer<u32>> = Key {
    name: "control_frames",
    shape: Integer { min: 10, max: 1_000_000 },
    presence: Presence::Default("1000"),
    doc: "Frames of an HTTP/2 connection that carry nothing of a request (PING, SETTINGS, \
          PRIORITY, WINDOW_UPDATE, empty DATA and the like) within 10 s, beyond one for every \
          32 bytes of content, before the connection is closed.",
};

fn decode(entries: &Entries<'_>) -> Option<RawLimits> {
    let of_requests = &SECTION.keys[2..];
    let is_about_requests = of_requests.iter().any(|key| entries.has(*key));
    let (total, per_source) = (entries.get(&CONNECTIONS), entries.get(&PER_SOURCE));
    let (header_bytes, header_count) = (entries.get(&HEADER_BYTES), entries.get(&HEADER_COUNT));
    let (uri_bytes, body_bytes) = (entries.get(&URI_BYTES), entries.get(&BODY_BYTES));
    let (body_rate, streams) = (entries.get(&BODY_RATE), entries.get(&STREAMS));
    let (resets, control_frames) = (entries.get(&RESETS), entries.get(&CONTROL_FRAMES));
    let connections = ConnectionLimits { total: total?, per_source: per_source? };
    let http = HttpLimits {
        header_bytes: u32::try_from(header_bytes?).ok()?,
        header_count: header_count?,
        uri_bytes: u32::try_from(uri_bytes?).ok()?,
        body_bytes: body_bytes?,
        body_rate: body_rate?,
        streams: streams?,
        resets: resets?,
        control_frames: control_frames?,
    };
    Some(RawLimits { connections, http, is_about_requests })
}
