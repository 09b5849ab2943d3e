//! Keys about who is at the other end: PROXY protocol, server names.

use std::time::Duration;

use ipnet::IpNet;

use super::{
    decode::{Cursor, Entries},
    duration::Period,
    fault::{Located, Refusal, quoted},
    frontend::backend_name,
    schema::{Bool, Choice, Key, List, Nested, Presence, Section, Shape, Text},
    tls::{server_name, whole},
};
use crate::model::{
    backend::{ProxyTlvs, SendProxy},
    frontend::{AcceptProxy, SniPattern},
    name::Name,
};

/// `bind[N].accept_proxy`.
pub(super) static ACCEPT_PROXY: Key<Nested<AcceptProxy>> = Key {
    name: "accept_proxy",
    shape: Nested { section: &ACCEPT_SECTION, decode: decode_accept },
    presence: Presence::Optional("clients are who they connect as"),
    doc: "Who introduces clients by the PROXY protocol, version 1 or 2. Not with `mode: l4`.",
};

static ACCEPT_SECTION: Section = Section {
    path: "frontends.NAME.bind[N].accept_proxy",
    doc: "Connections from these networks begin with a PROXY header or are refused; those from \
          elsewhere are clients' own, and a header from there is nothing but their bytes.",
    keys: &[&FROM, &HEADER_TIMEOUT],
    unbuilt: &[],
};

static FROM: Key<List<Text<IpNet>>> = Key {
    name: "from",
    shape: List { item: Text { what: "a network", parse: network } },
    presence: Presence::Required("from: [10.0.0.0/8]"),
    doc: "Networks or addresses.",
};

static HEADER_TIMEOUT: Key<Period> = Key {
    name: "timeout",
    shape: Period { min: Duration::from_millis(10), max: Duration::from_secs(60) },
    presence: Presence::Default("5s"),
    doc: "Longest wait for the header.",
};

fn decode_accept(entries: &Entries<'_>) -> Option<AcceptProxy> {
    let sources = entries.get(&FROM).and_then(whole);
    let timeout = entries.get(&HEADER_TIMEOUT);
    if sources.as_ref().is_some_and(Vec::is_empty) {
        entries.reject(&FROM, Refusal::new("names no network").hint("from: [10.0.0.0/8]"));
    }
    Some(AcceptProxy { sources: sources?, timeout: timeout? })
}

/// `frontends.NAME.trusted_proxies`.
pub(super) static TRUSTED_PROXIES: Key<List<Text<IpNet>>> = Key {
    name: "trusted_proxies",
    shape: List { item: Text { what: "a network", parse: network } },
    presence: Presence::Default("[]"),
    doc: "`mode: http`: networks of proxies in front of this one. What they say in \
          `X-Forwarded-For` and `Forwarded` is kept and their own address appended; of \
          `X-Forwarded-Proto`, `-Host`, `-Port` and `X-Real-IP` what they say stays. The client of \
          a request of theirs is the last address in `X-Forwarded-For` that is no trusted proxy's: \
          for rules, balancing, queues, the access log (with port 0) and the PROXY header to \
          servers. Their connections have no limit by source (`connections_per_source`). From \
          everybody else \
          these fields are replaced, or taken off, before rules see them.",
};

/// `frontends.NAME.connect`.
pub(super) static CONNECT: Key<Bool> = Key {
    name: "connect",
    shape: Bool,
    presence: Presence::Default("false"),
    doc: "`mode: http`: take `CONNECT HOST:PORT` and send it on to a server, a forward proxy, whose \
          success makes a tunnel of the connection. The target is the client's to choose: what may \
          be reached is for rules and for those servers to say. Without it the answer is 405.",
};

/// `backends.NAME.send_proxy`.
pub(super) static SEND_PROXY: Key<Choice<SendProxy>> = Key {
    name: "send_proxy",
    shape: Choice::of(&[
        ("v1", SendProxy::V1),
        ("v2", SendProxy::V2(PLAIN)),
        ("v2-tls", SendProxy::V2(ProxyTlvs { authority: true, alpn: true, tls: true, ..PLAIN })),
        ("v2-full", SendProxy::V2(FULL)),
    ]),
    presence: Presence::Optional("servers see the proxy's address"),
    doc: "The proxy tells servers who the client is, by the PROXY protocol: version 1; version \
          2; with the server name, ALPN and facts of the client's TLS; with a unique id and a \
          checksum besides. Layer-4 frontends do not use it. In `mode: http` such a connection \
          carries one request: it is the client's and goes to nobody else.",
};

const PLAIN: ProxyTlvs =
    ProxyTlvs { authority: false, alpn: false, unique_id: false, tls: false, crc32c: false };
const FULL: ProxyTlvs =
    ProxyTlvs { authority: true, alpn: true, unique_id: true, tls: true, crc32c: true };

/// `frontends.NAME.sni`.
pub(super) static SNI: Key<ByServerName> = Key {
    name: "sni",
    shape: ByServerName,
    presence: Presence::Optional("every connection goes to `backend`"),
    doc: "Only with `mode: tcp`: backends by the server name clients ask for, exact \
          (`www.example.com`) or of one label more (`*.example.com`). Where no `tls` ends here, \
          the ClientHello is looked at and passed on untouched, and connections that do not \
          begin with one are refused.",
};

/// A mapping from server names to names of backends.
pub(super) struct ByServerName;

impl Shape for ByServerName {
    type Output = Vec<(SniPattern, Located<Name>)>;

    fn describe(&self) -> String {
        "mapping from server names to names of backends".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Self::Output> {
        let mut read: Self::Output = Vec::new();
        let mut is_good = true;
        for (text, value) in cursor.pairs()? {
            let backend = BACKEND_NAME.decode(&value);
            let place = value.place.clone();
            match (pattern(text), backend) {
                (Ok(pattern), _) if read.iter().any(|(known, _)| *known == pattern) => {
                    let message = format!("{} is given twice", quoted(text));
                    is_good = value.reject::<()>(Refusal::new(message)).is_some();
                }
                (Ok(pattern), Some(backend)) => {
                    read.push((pattern, Located { value: backend, place }));
                }
                (Ok(_), None) => is_good = false,
                (Err(refusal), _) => is_good = value.reject::<()>(refusal).is_some(),
            }
        }
        is_good.then_some(read)
    }
}

const BACKEND_NAME: Text<Name> = Text { what: "a name of a backend", parse: backend_name };

fn pattern(text: &str) -> Result<SniPattern, Refusal> {
    match text.strip_prefix("*.") {
        Some(parent) => Ok(SniPattern::Wildcard(format!(".{}", server_name(parent)?))),
        None => Ok(SniPattern::Exact(server_name(text)?)),
    }
}

fn network(text: &str) -> Result<IpNet, Refusal> {
    let parsed =
        text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()));
    parsed.map_err(|_| {
        let message = format!("{} is not a network", quoted(text));
        Refusal::new(message).hint("such as 10.0.0.0/8 or 2001:db8::/32")
    })
}
