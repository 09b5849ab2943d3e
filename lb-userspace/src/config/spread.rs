//! `backends.NAME`, what only the proxy honours: how requests are spread, how long servers
//! may take, what is tried again, which connections are kept.

use std::time::Duration;

use super::{
    decode::{Cursor, Entries},
    defaults::Defaults,
    duration::Period,
    fault::{Located, Place, Refusal, quoted},
    passive, persistence,
    proxy::SEND_PROXY,
    schema::{Choice, Integer, Key, KeyInfo, List, ListItems, Nested, Presence, Section, Shape},
    timeouts::{self, RawTimeouts},
    tls::SERVER_TLS,
};
use crate::model::{
    backend::{IdleConnections, ProxySettings, SendProxy, ServerProtocol},
    balance::{
        Balance, Balancing, HashKey, Passive, Persistence, Queue, QueueOrder, Retries,
        RetryStatuses,
    },
    snapshot::{HashBy, Spread},
    tls::{ServerTls, Verify},
};

/// What only the proxy honours, as given.
#[derive(Debug)]
pub(super) struct RawProxy {
    /// None if it is not given or at fault.
    pub(super) balance: Option<Located<Word>>,
    /// The keys given besides `balance`, each with its place.
    pub(super) given: Vec<(&'static str, Place)>,
    load_factor: Option<u16>,
    slow_start: Duration,
    queue_length: u32,
    queue_order: QueueOrder,
    retries: Retries,
    persistence: Option<Persistence>,
    /// What traffic says of servers.
    pub(super) passive: Option<Located<Passive>>,
    protocol: ServerProtocol,
    idle: IdleConnections,
    timeouts: RawTimeouts,
    tls: Option<ServerTls>,
    send_proxy: Option<SendProxy>,
}

/// The words of `balance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// By a hash.
    Maglev,
    /// In turn.
    RoundRobin,
    /// Who has least.
    LeastConnections,
    /// The better of two.
    Random,
    /// The first with room.
    First,
}

/// What `hash` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RawHash {
    /// What layer 4 has too.
    By(HashBy),
    /// What only requests have.
    Key(HashKey),
}

impl RawHash {
    /// What layer 4 makes of it.
    pub(super) fn of_layer_4(&self) -> HashBy {
        match self {
            Self::By(by) => *by,
            Self::Key(_) => HashBy::Tuple,
        }
    }
}

impl RawProxy {
    /// Whether the certificates of servers must have their addresses.
    pub(super) fn verifies_addresses(&self) -> bool {
        let tls = self.tls.as_ref();
        tls.is_some_and(|tls| tls.sni.is_none() && tls.verify != Verify::Off)
    }

    /// How layer 4 spreads flows; words that it does not have are faults.
    pub(super) fn of_layer_4(&self) -> Spread {
        match self.balance.as_ref().map(|word| word.value) {
            Some(Word::LeastConnections) => Spread::LeastConnections,
            Some(Word::RoundRobin) => Spread::InTurn,
            _ => Spread::Hashed,
        }
    }

    /// The keys given that layer 4 does not have, each with its place.
    pub(super) fn not_in_layer_4(&self) -> impl Iterator<Item = &(&'static str, Place)> {
        self.given.iter().filter(|(name, _)| *name != SLOW_START.name)
    }

    /// `None` if a default is at fault.
    pub(super) fn resolve(&self, hash: &RawHash, defaults: &Defaults) -> Option<ProxySettings> {
        let (timeouts, queue_timeout) = self.timeouts.server(&defaults.timeouts)?;
        let algorithm = match (self.balance.as_ref().map(|word| word.value), hash) {
            (Some(Word::Maglev), RawHash::By(_)) => Balance::Maglev,
            (Some(Word::Maglev), RawHash::Key(key)) => Balance::Hash(key.clone()),
            (None | Some(Word::RoundRobin), _) => Balance::RoundRobin,
            (Some(Word::LeastConnections), _) => Balance::LeastConnections,
            (Some(Word::Random), _) => Balance::Random,
            (Some(Word::First), _) => Balance::First,
        };
        let default_factor = matches!(algorithm, Balance::Hash(_)).then_some(LOAD_FACTOR_OF_KEYS);
        let balancing = Balancing {
            algorithm,
            load_factor: self.load_factor.or(default_factor),
            slow_start: self.slow_start,
            queue: Queue {
                length: self.queue_length,
                timeout: queue_timeout,
                order: self.queue_order,
            },
            persistence: self.persistence.clone(),
            retries: self.retries,
            passive: self.passive.as_ref().map(|passive| passive.value),
        };
        let (protocol, idle) = (self.protocol, self.idle);
        let (tls, send_proxy) = (self.tls.clone(), self.send_proxy);
        Some(ProxySettings { balancing, timeouts, protocol, idle, tls, send_proxy })
    }
}

/// The keys of `backends.NAME` that are read here.
pub(super) const KEYS: [&dyn KeyInfo; 16] = [
    &BALANCE,
    &LOAD_FACTOR,
    &SLOW_START,
    &QUEUE_LENGTH,
    &QUEUE_ORDER,
    &RETRIES,
    &RETRY_BUDGET,
    &RETRY_FLOOR,
    &RETRY_STATUSES,
    &PERSISTENCE,
    &PASSIVE,
    &PROTOCOL,
    &IDLE,
    &TIMEOUTS,
    &SERVER_TLS,
    &SEND_PROXY,
];

/// Reads them.
pub(super) fn decode(entries: &Entries<'_>) -> Option<RawProxy> {
    let balance = entries.locate(&BALANCE);
    let load_factor = entries.get(&LOAD_FACTOR);
    let slow_start = entries.get(&SLOW_START);
    let (queue_length, queue_order) = (entries.get(&QUEUE_LENGTH), entries.get(&QUEUE_ORDER));
    let (attempts, protocol) = (entries.get(&RETRIES), entries.get(&PROTOCOL));
    let (percent, floor) = (entries.get(&RETRY_BUDGET), entries.get(&RETRY_FLOOR));
    let (persistence, passive) = (entries.get(&PERSISTENCE), entries.locate(&PASSIVE));
    let (idle, timeouts) = (entries.get(&IDLE), entries.get(&TIMEOUTS));
    let statuses = entries.get(&RETRY_STATUSES).map(|items| retry_statuses(entries, items));
    let retries = Retries {
        attempts: attempts?,
        budget_percent: percent?,
        budget_floor: floor?,
        statuses: statuses??,
    };
    // Of a key that is given and at fault there is nothing to go on with.
    let is_whole = |key: &dyn KeyInfo, is_read: bool| is_read || !entries.has(key);
    let optional = is_whole(&LOAD_FACTOR, load_factor.is_some())
        && is_whole(&PERSISTENCE, persistence.is_some())
        && is_whole(&PASSIVE, passive.is_some());
    let given = KEYS.into_iter().skip(1).filter(|key| entries.has(*key));
    let given = given.map(|key| (key.name(), entries.place_of(key.name()))).collect();
    optional.then_some(())?;
    let (tls, send_proxy) = (entries.optional(&SERVER_TLS), entries.optional(&SEND_PROXY));
    Some(RawProxy {
        tls: tls?.flatten(),
        send_proxy: send_proxy?,
        balance,
        given,
        load_factor,
        slow_start: slow_start?,
        queue_length: queue_length?,
        queue_order: queue_order?,
        retries,
        persistence,
        passive,
        protocol: protocol?,
        idle: idle?,
        timeouts: timeouts?,
    })
}

/// Layer 4 has three ways to spread flows.
pub(super) fn judge_layer_4(word: Word) -> Result<(), Refusal> {
    let (name, hint) = match word {
        Word::Maglev | Word::LeastConnections | Word::RoundRobin => return Ok(()),
        Word::Random => ("random", USE_MAGLEV),
        Word::First => ("first", "mark the other servers with `backup: true`"),
    };
    let message = format!(
        "{} is a balancing algorithm that is not built for layer 4 in this version",
        quoted(name)
    );
    Err(Refusal::new(message).hint(hint))
}

const USE_MAGLEV: &str = "use `balance: maglev`, which spreads flows evenly by weight";

static BALANCE: Key<Choice<Word>> = Key {
    name: "balance",
    shape: Choice {
        words: &[
            ("maglev", Word::Maglev),
            ("round-robin", Word::RoundRobin),
            ("least-connections", Word::LeastConnections),
            ("random", Word::Random),
            ("first", Word::First),
        ],
        unbuilt: &[super::schema::Unbuilt {
            name: "source",
            hint: "use `balance: maglev` with `hash: source`",
        }],
        unbuilt_message: "is a balancing algorithm that is not built for layer 4 in this version",
    },
    presence: Presence::Optional("`maglev` in layer 4, `round-robin` in the proxy"),
    doc: "`maglev`: consistent hashing. The same servers give the same choice on every node, and \
          a change of one server moves few flows of the others. `least-connections`: for their \
          weight; in layer 4 a new flow goes to that of two servers which has fewer, and before \
          that to one which is known to have far fewer than both, so that long connections end \
          evenly spread and a server that comes back fills up first. `round-robin`: in turn, by \
          weight. Only the proxy has `random`, the less loaded of two, and `first`, the first by \
          name that has room.",
};

pub(super) static HASH: Key<HashShape> = Key {
    name: "hash",
    shape: HashShape,
    presence: Presence::Default("tuple"),
    doc: "What `maglev` hashes: `tuple`, every connection on its own; `source`, all connections \
          of one client address go to one server. Only the proxy has `uri` (path and query), \
          `path`, `{header: NAME}`, `{query: NAME}` and `{cookie: NAME}`; requests without it \
          go in turn. Of `{header: Host}` case and port do not matter.",
};

/// Of caches, where one server for one key matters less than that none is drowned.
const LOAD_FACTOR_OF_KEYS: u16 = 150;

static LOAD_FACTOR: Key<Integer<u16>> = Key {
    name: "load_factor",
    shape: Integer { min: 101, max: 10_000 },
    presence: Presence::Optional(
        "150 where `hash` names something of requests, no bound for `tuple` and `source`",
    ),
    doc: "The proxy, `maglev`: a server gets at most so many percent of its share of the \
          requests at a time; what is beyond goes on to the next on the ring.",
};

static QUEUE_ORDER: Key<Choice<QueueOrder>> = Key {
    name: "queue_order",
    shape: Choice::of(&[("fair", QueueOrder::Fair), ("arrival", QueueOrder::Arrival)]),
    presence: Presence::Default("fair"),
    doc: "The proxy, requests that wait: `fair`, client addresses take turns, so that one with a \
          hundred requests does not hold up one with a single; `arrival`, who came first.",
};

static RETRY_BUDGET: Key<Integer<u32>> = Key {
    name: "retry_budget",
    shape: Integer { min: 0, max: 100 },
    presence: Presence::Default("20"),
    doc: "The proxy: most retries of a backend in percent of its requests, so that a backend in trouble does not \
          get several times its load.",
};

static RETRY_FLOOR: Key<Integer<u32>> = Key {
    name: "retry_floor",
    shape: Integer { min: 0, max: 10_000 },
    presence: Presence::Default("10"),
    doc: "The proxy: retries a second that are allowed whatever the budget says.",
};

static RETRY_STATUSES: Key<List<Integer<u16>>> = Key {
    name: "retry_statuses",
    shape: List { item: Integer { min: 401, max: 504 } },
    presence: Presence::Default("[]"),
    doc: "The proxy, `mode: http`: statuses of servers after which another one is tried, as after \
          a server that was not reached: of 401, 403, 404, 408, 425, 500, 501, 502, 503 and 504. \
          Only for requests without a body whose method may be repeated (GET, HEAD, OPTIONS, \
          TRACE, PUT, DELETE).",
};

/// None if one of them is at fault.
fn retry_statuses(entries: &Entries<'_>, items: ListItems<u16>) -> Option<RetryStatuses> {
    let mut statuses = Some(RetryStatuses::NONE);
    for Located { value, place } in items {
        statuses = match (statuses, value) {
            (Some(known), Some(status)) => known.with(status).or_else(|| {
                let all = RetryStatuses::ALL.map(|status| status.to_string()).join(", ");
                let refusal = Refusal::new(format!("{status} is never tried again"));
                entries.reject_at(&place, refusal.hint(format!("one of {all}")));
                None
            }),
            _ => None,
        };
    }
    statuses
}

static PERSISTENCE: Key<Nested<Persistence>> = Key {
    name: "persistence",
    shape: persistence::SHAPE,
    presence: Presence::Optional("clients belong to no server"),
    doc: "The proxy: a cookie that brings a client back to its server.",
};

static PASSIVE: Key<Nested<Passive>> = Key {
    name: "passive",
    shape: passive::SHAPE,
    presence: Presence::Optional("only checks judge servers"),
    doc: "The proxy: requests that fail take a server out. `{}` turns it on as it is.",
};

static SLOW_START: Key<Period> = Key {
    name: "slow_start",
    shape: Period { min: Duration::ZERO, max: Duration::from_secs(3600) },
    presence: Presence::Default("0s"),
    doc: "How long the share of a server that comes back grows to its weight, in 20 steps.",
};

static QUEUE_LENGTH: Key<Integer<u32>> = Key {
    name: "queue_length",
    shape: Integer { min: 0, max: 1_000_000 },
    presence: Presence::Default("1000"),
    doc: "The proxy: requests that wait while every server has its `max_connections`; further \
          ones are answered 503.",
};

static RETRIES: Key<Integer<u32>> = Key {
    name: "retries",
    shape: Integer { min: 0, max: 10 },
    presence: Presence::Default("3"),
    doc: "The proxy: how often a request that reached no server is tried again, within \
          `retry_budget`: at another server at once, at the same one, if there is no other, after \
          a second or `timeouts.connect`.",
};

static PROTOCOL: Key<Choice<ServerProtocol>> = Key {
    name: "protocol",
    shape: Choice::of(&[("http1", ServerProtocol::Http1), ("http2", ServerProtocol::Http2)]),
    presence: Presence::Default("http1"),
    doc: "What a frontend of `mode: http` speaks with the servers: HTTP/1.1, or HTTP/2 (gRPC), \
          by ALPN where there is `tls`, else with prior knowledge.",
};

static IDLE: Key<Nested<IdleConnections>> = Key {
    name: "idle_connections",
    shape: Nested { section: &IDLE_SECTION, decode: decode_idle },
    presence: Presence::Default("{}"),
    doc: "The proxy: connections kept for later requests.",
};

static TIMEOUTS: Key<Nested<RawTimeouts>> = Key {
    name: "timeouts",
    shape: timeouts::OF_BACKEND,
    presence: Presence::Default("{}"),
    doc: "The proxy: how long servers may keep it waiting.",
};

static IDLE_SECTION: Section = Section {
    path: "backends.NAME.idle_connections",
    doc: "Connections of the proxy to servers that no request has.",
    keys: &[&IDLE_MOST, &IDLE_TIMEOUT],
    unbuilt: &[],
};

static IDLE_MOST: Key<Integer<u32>> = Key {
    name: "most",
    shape: Integer { min: 0, max: 10_000 },
    presence: Presence::Default("100"),
    doc: "Of each server and core; 0 keeps none.",
};

static IDLE_TIMEOUT: Key<Period> = Key {
    name: "timeout",
    shape: Period { min: Duration::from_millis(100), max: Duration::from_secs(3600) },
    presence: Presence::Default("4s"),
    doc: "How long one is kept. Shorter than the server's own keep-alive timeout (Node.js: 5 s), \
          or requests meet connections that are just being closed.",
};

fn decode_idle(entries: &Entries<'_>) -> Option<IdleConnections> {
    let (most, timeout) = (entries.get(&IDLE_MOST), entries.get(&IDLE_TIMEOUT));
    Some(IdleConnections { most: most?, timeout: timeout? })
}

/// A word or a mapping with one key.
pub(super) struct HashShape;

const WORDS: Choice<HashWord> = Choice::of(&[
    ("tuple", HashWord::Tuple),
    ("source", HashWord::Source),
    ("uri", HashWord::Uri),
    ("path", HashWord::Path),
]);

#[derive(Clone, Copy)]
enum HashWord {
    Tuple,
    Source,
    Uri,
    Path,
}

impl Shape for HashShape {
    type Output = RawHash;

    fn describe(&self) -> String {
        format!("{}, or a mapping with one key", WORDS.describe())
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<RawHash> {
        if !cursor.value.is_mapping() {
            return Some(match WORDS.decode(cursor)? {
                HashWord::Tuple => RawHash::By(HashBy::Tuple),
                HashWord::Source => RawHash::By(HashBy::Source),
                HashWord::Uri => RawHash::Key(HashKey::Uri),
                HashWord::Path => RawHash::Key(HashKey::Path),
            });
        }
        let pairs = cursor.pairs()?;
        let pair = match pairs.as_slice() {
            [(key, value)] => value.text(false).filter(|name| is_token(name)).map(|n| (*key, n)),
            _ => None,
        };
        match pair {
            Some(("header", name)) => {
                Some(RawHash::Key(HashKey::Header(name.to_ascii_lowercase())))
            }
            Some(("query", name)) => Some(RawHash::Key(HashKey::Query(name))),
            Some(("cookie", name)) => Some(RawHash::Key(HashKey::Cookie(name))),
            _ => cursor
                .reject(Refusal::new("names nothing to hash").hint("such as {header: X-User}")),
        }
    }
}

/// A name of fields and cookies (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= 256 && text.bytes().all(is_good)
}
