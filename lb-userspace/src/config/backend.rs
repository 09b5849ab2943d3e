//! `backends.NAME`: a pool of servers and how a server is selected.

use std::time::Duration;

use super::{
    address::{socket_address, unix_socket},
    check::{CheckShape, RawCheck},
    decode::{Cursor, Entries},
    duration::Period,
    fault::{Located, Place, Refusal, quoted},
    schema::{
        Bool, Choice, Integer, Key, Named, NamedItems, Nested, Presence, Section, Shape, Text,
    },
    spread::{self, HASH, RawHash, RawProxy},
};
use crate::model::{
    address::{ServerAddress, SocketPath},
    balance::PassiveAction,
    snapshot::{OnDown, Server},
};

/// `backends.NAME` as given; `resolve` completes its check and judges its servers together.
#[derive(Debug)]
pub(super) struct RawBackend {
    /// What selects the server; none if at fault.
    pub(super) hash: Option<RawHash>,
    /// Where `hash` stands, or would.
    pub(super) hash_place: Place,
    /// Whether a flow whose server has no room is refused; none if at fault.
    pub(super) refuse_when_full: Option<bool>,
    /// For how long an idle client belongs to its server, if it does; none if at fault.
    pub(super) affinity: Option<Option<Duration>>,
    /// Where `affinity` stands, if it is given.
    pub(super) affinity_place: Option<Place>,
    /// What happens to flows of dead servers; none if at fault.
    pub(super) on_down: Option<OnDown>,
    /// What only the proxy honours; none if at fault.
    pub(super) proxy: Option<RawProxy>,
    /// Its check; none if there is none or it is at fault.
    pub(super) check: Option<RawCheck>,
    /// Its servers; none in place of one of which nothing could be read.
    pub(super) servers: NamedItems<RawServer>,
}

/// `backends.NAME.servers.NAME` as far as it could be read.
#[derive(Debug)]
pub(super) struct RawServer {
    /// Its address; none if at fault.
    pub(super) address: Option<Located<ServerAddress>>,
    /// Its weight; none if at fault.
    pub(super) weight: Option<u16>,
    /// Whether it is a backup; none if at fault.
    pub(super) backup: Option<bool>,
    /// Most requests at a time, if there is a limit.
    pub(super) max_connections: Option<u32>,
    /// Where `max_connections` stands, if it is given.
    pub(super) limit_place: Option<Place>,
}

impl RawBackend {
    /// Where it says that a part of requests is hashed, if it does.
    pub(super) fn hashes_requests(&self) -> Option<&Place> {
        matches!(self.hash, Some(RawHash::Key(_))).then_some(&self.hash_place)
    }
}

impl RawServer {
    /// Its address, unless at fault.
    pub(super) fn address(&self) -> Option<ServerAddress> {
        self.address.as_ref().map(|address| address.value)
    }

    /// The server, if nothing of it is at fault.
    pub(super) fn resolve(&self) -> Option<Server> {
        let address = self.address.as_ref()?.value;
        let (weight, backup) = (self.weight?, self.backup?);
        Some(Server { address, weight, backup, max_connections: self.max_connections })
    }
}

/// `backends` as a shape.
pub(super) const SHAPE: Named<Nested<RawBackend>> =
    Named { item: Nested { section: &SECTION, decode } };

static SECTION: Section = Section {
    path: "backends.NAME",
    doc: "A pool of servers. A name has 1 to 63 letters, digits, `-`, `_` and `.`, and starts \
          with a letter or a digit.",
    keys: &[
        spread::KEYS[0],
        &HASH,
        &AFFINITY,
        &ON_DOWN,
        &ON_FULL,
        &CHECK,
        &SERVERS,
        spread::KEYS[1],
        spread::KEYS[2],
        spread::KEYS[3],
        spread::KEYS[4],
        spread::KEYS[5],
        spread::KEYS[6],
        spread::KEYS[7],
        spread::KEYS[8],
        spread::KEYS[9],
        spread::KEYS[10],
        spread::KEYS[11],
        spread::KEYS[12],
        spread::KEYS[13],
        spread::KEYS[14],
        spread::KEYS[15],
    ],
    unbuilt: &[],
};

static ON_DOWN: Key<Choice<OnDown>> = Key {
    name: "on_down",
    shape: Choice::of(&[
        ("reset", OnDown::Reset),
        ("reroute", OnDown::Reroute),
        ("keep", OnDown::Keep),
    ]),
    presence: Presence::Default("reset"),
    doc: "Flows of a dead server: `reset` sends both ends of a TCP connection a RST, the client's \
          next packet or not, so that it reconnects at once (UDP is rerouted); `reroute` selects \
          a server again; `keep` leaves them. With `nat`, the server's end is reset too; with the \
          other modes only the client's.",
};

static AFFINITY: Key<Period> = Key {
    name: "affinity",
    shape: Period { min: Duration::from_secs(1), max: Duration::from_secs(18 * 3600) },
    presence: Presence::Optional("a client goes where its hash leads"),
    doc: "Layer 4, with `hash: source`: a client stays with its server although other servers \
          come and go, unless that one gets no new flows or has no room. It is free again when \
          none of its flows was established or ended for this long. Each balancer remembers \
          its own (`datapath.max_sources`).",
};

static ON_FULL: Key<Choice<bool>> = Key {
    name: "on_full",
    shape: Choice::of(&[("overflow", false), ("reset", true)]),
    presence: Presence::Default("overflow"),
    doc: "Layer 4: a new flow whose server has its `max_connections`: `overflow` goes to another \
          server that has room, and is refused if none has; `reset` is refused. TCP clients that \
          are refused get a RST, datagrams are dropped. The proxy queues.",
};

static CHECK: Key<CheckShape> = Key {
    name: "check",
    shape: CheckShape,
    presence: Presence::Optional("no check: its servers are always taken to be up"),
    doc: "How its servers are checked.",
};

static SERVERS: Key<Named<ServerShape>> = Key {
    name: "servers",
    shape: Named { item: ServerShape },
    presence: Presence::Required("servers: {db1: \"10.0.1.20:5432\"}, or {} for none yet"),
    doc: "Its servers; in layer 4 all IPv4 or all IPv6. `{}` is allowed: clients are answered with a RST \
          until a server is there.",
};

static SERVER_SECTION: Section = Section {
    path: "backends.NAME.servers.NAME",
    doc: "A server as a mapping. `db1: \"10.0.1.20:5432\"` is short for \
          `db1: {address: \"10.0.1.20:5432\"}`.",
    keys: &[&ADDRESS, &WEIGHT, &BACKUP, &MAX_CONNECTIONS],
    unbuilt: &[],
};

static ADDRESS: Key<Text<ServerAddress>> = Key {
    name: "address",
    shape: Text { what: "an address and a port", parse: server_address },
    presence: Presence::Required("address: \"10.0.1.20:5432\""),
    doc: "Address and port: `10.0.1.20:5432`, `\"[2001:db8:1::20]:5432\"`. For the proxy also a \
          unix socket: `unix@/run/app.sock`.",
};

static WEIGHT: Key<Integer<u16>> = Key {
    name: "weight",
    shape: Integer { min: 0, max: 256 },
    presence: Presence::Default("100"),
    doc: "Share of new flows relative to the other servers; 0 gets none.",
};

static BACKUP: Key<Bool> = Key {
    name: "backup",
    shape: Bool,
    presence: Presence::Default("false"),
    doc: "Used only while no server without this mark is usable.",
};

static MAX_CONNECTIONS: Key<Integer<u32>> = Key {
    name: "max_connections",
    shape: Integer { min: 1, max: 1_000_000 },
    presence: Presence::Optional("no limit"),
    doc: "The proxy: most requests, or TCP connections, at a time; further ones wait in a queue. \
          Layer 4: most established flows, up to 65535; further ones go elsewhere (`on_full`). \
          Each balancer counts its own.",
};

/// A server: a text or a mapping.
struct ServerShape;

impl Shape for ServerShape {
    type Output = RawServer;

    fn describe(&self) -> String {
        "`\"ADDRESS:PORT\"` or a mapping".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<RawServer> {
        let (address, rest) = if cursor.value.is_mapping() {
            let entries = cursor.clone().entries(&SERVER_SECTION)?;
            (entries.locate(&ADDRESS), entries)
        } else {
            let place = cursor.place.clone();
            let address = ADDRESS.shape.decode(cursor);
            (address.map(|value| Located { value, place }), cursor.clone().no_entries())
        };
        Some(RawServer {
            address,
            weight: rest.get(&WEIGHT),
            backup: rest.get(&BACKUP),
            max_connections: rest.get(&MAX_CONNECTIONS),
            limit_place: rest.has(&MAX_CONNECTIONS).then(|| rest.place_of(MAX_CONNECTIONS.name)),
        })
    }

    fn section(&self) -> Option<&'static Section> {
        Some(&SERVER_SECTION)
    }
}

fn decode(entries: &Entries<'_>) -> Option<RawBackend> {
    let proxy = spread::decode(entries);
    let passive = proxy.as_ref().and_then(|proxy| proxy.passive.as_ref());
    if let Some(passive) = passive.filter(|passive| passive.value.action == PassiveAction::MarkDown)
        && !entries.has(&CHECK)
    {
        let refusal = Refusal::new("marks servers down, and no check finds them up again");
        entries.reject_at(&passive.place, refusal.hint("give the backend a `check`"));
    }
    Some(RawBackend {
        proxy,
        hash: entries.get(&HASH),
        hash_place: entries.place_of(HASH.name),
        refuse_when_full: entries.get(&ON_FULL),
        affinity: entries.optional(&AFFINITY),
        affinity_place: entries.has(&AFFINITY).then(|| entries.place_of(AFFINITY.name)),
        on_down: entries.get(&ON_DOWN),
        check: entries.get(&CHECK).flatten(),
        servers: entries.get(&SERVERS).unwrap_or_default(),
    })
}

fn server_address(text: &str) -> Result<ServerAddress, Refusal> {
    if let Some(path) = text.strip_prefix("unix@") {
        return unix_socket(path, text).map(|_| ServerAddress::Unix(SocketPath::new(path)));
    }
    if let Some((address, "tcp" | "udp")) = text.split_once('/') {
        let refusal = Refusal::new("a server has no protocol of its own");
        return Err(refusal.hint(format!("write {}; `bind` says which", quoted(address))));
    }
    socket_address(text).map(ServerAddress::Ip)
}
