//! `admin`: where the agent answers.

use std::{net::SocketAddr, path::PathBuf};

use super::{
    address::socket_address,
    datapath::absolute_path,
    decode::Entries,
    fault::Refusal,
    schema::{Key, Nested, Presence, Section, Text},
};
use crate::model::snapshot::Admin;

/// Longest path of a Unix socket in bytes (`sun_path` of unix(7), without its final zero).
pub(super) const MAX_SOCKET_BYTES: usize = 107;

pub(super) static SECTION: Section = Section {
    path: "admin",
    doc: "Where the agent answers the operator: HTTP with JSON.",
    keys: &[&SOCKET, &LISTEN],
    unbuilt: &[],
};

static SOCKET: Key<Text<PathBuf>> = Key {
    name: "socket",
    shape: Text { what: "an absolute path", parse: socket_path },
    presence: Presence::Default("/run/pointsman/admin.sock"),
    doc: "Unix socket for reading and writing, for its owner only (mode 0600). The command \
          line talks to it.",
};

static LISTEN: Key<Text<SocketAddr>> = Key {
    name: "listen",
    shape: Text { what: "an address and a port", parse: socket_address },
    presence: Presence::Optional("no TCP listener"),
    doc: "TCP address that answers requests that change nothing, `GET /metrics` for Prometheus \
          ([metrics.md](metrics.md)) among them. Whoever reaches it can read all of them.",
};

/// The section as a shape.
pub(super) const SHAPE: Nested<Admin> = Nested { section: &SECTION, decode };

fn decode(entries: &Entries<'_>) -> Option<Admin> {
    let socket = entries.get(&SOCKET);
    let listen = entries.get(&LISTEN);
    Some(Admin { socket: socket?, listen })
}

fn socket_path(text: &str) -> Result<PathBuf, Refusal> {
    if text.len() > MAX_SOCKET_BYTES {
        let message = format!("{} bytes are more than a Unix socket's path may have", text.len());
        return Err(Refusal::new(message).hint(format!("at most {MAX_SOCKET_BYTES} bytes")));
    }
    absolute_path(text)
}
