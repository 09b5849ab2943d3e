//! `frontends.NAME.limits`: what is taken from clients. In the proxy nothing is unlimited; layer
//! 4 limits what it is asked to.

use super::{
    access,
    decode::Entries,
    schema::{Integer, Key, Nested, Presence, Section},
    size::Size,
};
use crate::model::{
    access::{RateLimit, SourceLimits},
    frontend::{ConnectionLimits, HttpLimits},
};

/// The section as a shape.
pub(super) const SHAPE: Nested<RawLimits> = Nested { section: &SECTION, decode };

/// What the section says.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawLimits {
    pub(super) connections: ConnectionLimits,
    pub(super) http: HttpLimits,
    /// Something is said of requests, which `mode: tcp` does not have.
    pub(super) is_about_requests: bool,
    /// Limits of a source in layer 4.
    pub(super) source: SourceLimits,
    /// Something is said that layer 4 alone has.
    pub(super) is_about_packets: bool,
    /// Something is said that layer 4 does not have.
    pub(super) is_about_connections: bool,
}

static SECTION: Section = Section {
    path: "frontends.NAME.limits",
    doc: "What is taken from clients. `mode: tcp` has the first two alone, `mode: l4` \
          `connections_per_source`, `new_flows` and `packets`.",
    keys: &[
        &CONNECTIONS,
        &PER_SOURCE,
        &NEW_FLOWS,
        &PACKETS,
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
    shape: Integer { min: 1, max: SourceLimits::MAX_FLOWS },
    presence: Presence::Default("5000"),
    doc: "Open connections of one IPv4 address or IPv6 /64; further ones are reset. With \
          `accept_proxy` the client counts that was announced; connections of \
          `trusted_proxies` carry many clients and have no such limit. `mode: l4`: established \
          flows, without limit if it is not given; further ones are dropped.",
};

static NEW_FLOWS: Key<Nested<RateLimit>> = Key {
    name: "new_flows",
    shape: access::RATE,
    presence: Presence::Optional("no limit"),
    doc: "`mode: l4`: new flows of one IPv4 address or IPv6 /64; further ones are dropped.",
};

static PACKETS: Key<Nested<RateLimit>> = Key {
    name: "packets",
    shape: access::RATE,
    presence: Presence::Optional("no limit"),
    doc: "`mode: l4`: packets of one IPv4 address or IPv6 /64 to the frontend; further ones are \
          dropped.",
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
    let of_requests = &SECTION.keys[4..];
    let is_about_requests = of_requests.iter().any(|key| entries.has(*key));
    let (total, per_source) = (entries.get(&CONNECTIONS), entries.get(&PER_SOURCE));
    let (header_bytes, header_count) = (entries.get(&HEADER_BYTES), entries.get(&HEADER_COUNT));
    let (uri_bytes, body_bytes) = (entries.get(&URI_BYTES), entries.get(&BODY_BYTES));
    let (body_rate, streams) = (entries.get(&BODY_RATE), entries.get(&STREAMS));
    let (resets, control_frames) = (entries.get(&RESETS), entries.get(&CONTROL_FRAMES));
    let (new_flows, packets) = (entries.optional(&NEW_FLOWS), entries.optional(&PACKETS));
    let source = SourceLimits {
        flows: per_source.filter(|_| entries.has(&PER_SOURCE)),
        flow_rate: new_flows?,
        packet_rate: packets?,
    };
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
    Some(RawLimits {
        connections,
        http,
        is_about_requests,
        source,
        is_about_packets: entries.has(&NEW_FLOWS) || entries.has(&PACKETS),
        is_about_connections: entries.has(&CONNECTIONS),
    })
}
