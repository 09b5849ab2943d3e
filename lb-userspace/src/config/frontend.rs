//! `frontends.NAME`: what clients connect to.

use super::{
    address::address_and_protocol,
    decode::{Cursor, Entries},
    fault::{Located, Refusal, quoted},
    rules::{RULES, RawRules},
    schema::{
        Choice, Key, List, ListItems, Named, Nested, Presence, Section, Shape, Text, Unbuilt,
    },
};
use crate::model::{
    name::Name,
    snapshot::{Bind, Protocol},
};

/// `frontends.NAME` as given; `resolve` judges it together with its backend.
#[derive(Debug)]
pub(super) struct RawFrontend {
    /// Its mode and way of forwarding are ones this version has.
    pub(super) is_built: bool,
    /// Its VIPs; none in place of one that is at fault.
    pub(super) bind: ListItems<Bind>,
    /// The name of its backend.
    pub(super) backend: Option<Located<Name>>,
    /// Its rules.
    pub(super) rules: Option<RawRules>,
}

/// `frontends` as a shape.
pub(super) const SHAPE: Named<Nested<RawFrontend>> =
    Named { item: Nested { section: &SECTION, decode } };

static SECTION: Section = Section {
    path: "frontends.NAME",
    doc: "What clients connect to. A name has 1 to 63 letters, digits, `-`, `_` and `.`, and \
          starts with a letter or a digit.",
    keys: &[&MODE, &BIND, &FORWARD, &RULES, &BACKEND],
    unbuilt: &[Unbuilt {
        name: "tls",
        hint: "a layer-4 frontend passes TLS through to its servers",
    }],
};

static MODE: Key<Choice<()>> = Key {
    name: "mode",
    shape: Choice {
        words: &[("l4", ())],
        unbuilt: &[
            Unbuilt { name: "tcp", hint: "`mode: l4` forwards TCP" },
            Unbuilt { name: "http", hint: "`mode: l4` forwards the TCP connections of HTTP" },
        ],
        unbuilt_message: "is a mode that is not built in this version",
    },
    presence: Presence::Required("mode: l4"),
    doc: "`l4`: packets are forwarded in the kernel.",
};

static BIND: Key<List<BindShape>> = Key {
    name: "bind",
    shape: List { item: BindShape },
    presence: Presence::Required("bind: [\"10.0.0.100:5432\"]"),
    doc: "Its VIPs: at least one, all IPv4 or all IPv6, none of them given anywhere else.",
};

static FORWARD: Key<Choice<()>> = Key {
    name: "forward",
    shape: Choice {
        words: &[("nat", ())],
        unbuilt: &[
            Unbuilt { name: "dsr", hint: USE_NAT },
            Unbuilt { name: "ipip", hint: USE_NAT },
            Unbuilt { name: "gue", hint: USE_NAT },
        ],
        unbuilt_message: "is a way of forwarding that is not built in this version",
    },
    presence: Presence::Default("nat"),
    doc: "`nat`: source and destination are translated; servers need no set-up and see the \
          balancer's address.",
};

const USE_NAT: &str = "use `forward: nat`, which needs no set-up of the servers";

static BACKEND: Key<Text<Name>> = Key {
    name: "backend",
    shape: Text { what: "a name of a backend", parse: backend_name },
    presence: Presence::Required("the name of a backend under `backends`"),
    doc: "The backend. Its servers are of the same family as the VIPs.",
};

static BIND_SECTION: Section = Section {
    path: "frontends.NAME.bind[N]",
    doc: "A VIP as a mapping: `{address: \"10.0.0.53:53\", protocol: udp}` is \
          `\"10.0.0.53:53/udp\"`.",
    keys: &[&ADDRESS, &PROTOCOL],
    unbuilt: &[Unbuilt { name: "tls", hint: "a layer-4 frontend passes TLS through" }],
};

static ADDRESS: Key<Text<(std::net::SocketAddr, Option<Protocol>)>> = Key {
    name: "address",
    shape: Text { what: "an address and a port", parse: address_and_protocol },
    presence: Presence::Required("address: \"10.0.0.100:5432\""),
    doc: "Address and port: `10.0.0.100:5432`, `\"[2001:db8::1]:5432\"`.",
};

static PROTOCOL: Key<Choice<Protocol>> = Key {
    name: "protocol",
    shape: Choice::of(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]),
    presence: Presence::Default("tcp"),
    doc: "Transport protocol.",
};

/// An entry of `bind`: a text or a mapping.
struct BindShape;

impl Shape for BindShape {
    type Output = Bind;

    fn describe(&self) -> String {
        "`\"ADDRESS:PORT\"`, `\"ADDRESS:PORT/udp\"` or a mapping".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Bind> {
        if cursor.value.is_mapping() {
            return decode_bind(&cursor.clone().entries(&BIND_SECTION)?);
        }
        let (address, protocol) = ADDRESS.shape.decode(cursor)?;
        let protocol = protocol.or_else(|| cursor.clone().no_entries().get(&PROTOCOL));
        Some(Bind { address, protocol: protocol? })
    }

    fn section(&self) -> Option<&'static Section> {
        Some(&BIND_SECTION)
    }
}

fn decode_bind(entries: &Entries<'_>) -> Option<Bind> {
    let address = entries.get(&ADDRESS);
    let protocol = entries.get(&PROTOCOL);
    let ((address, suffix), protocol) = (address?, protocol?);
    if entries.has(&PROTOCOL) && suffix.is_some_and(|suffix| suffix != protocol) {
        let refusal = Refusal::new("contradicts the protocol behind the address");
        entries.reject(&PROTOCOL, refusal.hint("keep one of the two"));
    }
    Some(Bind { address, protocol: suffix.unwrap_or(protocol) })
}

fn decode(entries: &Entries<'_>) -> Option<RawFrontend> {
    let mode = entries.get(&MODE);
    let forward = entries.get(&FORWARD);
    let bind = entries.get(&BIND);
    if bind.as_ref().is_some_and(Vec::is_empty) {
        let refusal = Refusal::new("names no address").hint("bind: [\"10.0.0.100:5432\"]");
        entries.reject(&BIND, refusal);
    }
    let backend = entries.locate(&BACKEND);
    let rules = entries.get(&RULES);
    if entries.has(&RULES) {
        let refusal = Refusal::new("\"rules\" is not built in this version");
        entries.reject(&RULES, refusal.hint("rules need `mode: http`; give one `backend`"));
    }
    let is_built = mode.is_some() && forward.is_some();
    Some(RawFrontend { is_built, bind: bind.unwrap_or_default(), backend, rules })
}

pub(super) fn backend_name(text: &str) -> Result<Name, Refusal> {
    Name::new(text).map_err(|error| Refusal::new(format!("{}: {error}", quoted(text))))
}
