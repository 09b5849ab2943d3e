//! How the proxy chooses a server: `backends.NAME.balance` and its companions.
//! Layer 4 uses none of the companions; it has its rings.

use std::{num::NonZeroU32, time::Duration};

/// Everything about a backend that only a proxy honours.
#[derive(Clone, Debug, PartialEq)]
pub struct Balancing {
    /// Who gets the next request.
    pub algorithm: Balance,
    /// For hashing algorithms: the most requests a server may have at a time, in percent
    /// of its share of all requests of the backend, more than 100. None: no such bound.
    pub load_factor: Option<u16>,
    /// How long the share of a server that comes back grows to its weight; zero: at once.
    pub slow_start: Duration,
    /// Where requests wait while every server is full.
    pub queue: Queue,
    /// Cookies that bring a client back to its server.
    pub persistence: Option<Persistence>,
    /// What may be tried again.
    pub retries: Retries,
    /// What traffic itself says of servers; none: only checks judge.
    pub passive: Option<Passive>,
}

/// What chooses the server of a connection or request. Layer 4 has [`Self::Maglev`] alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Balance {
    /// Consistent hashing of the connection or of its source, as the data plane does it.
    Maglev,
    /// In turn, by weight, smoothly.
    RoundRobin,
    /// The server with the fewest running requests for its weight.
    LeastConnections,
    /// The better of two servers drawn at random.
    Random,
    /// The first server that has room, in the order of names.
    First,
    /// Consistent hashing with bounded loads of a part of the request.
    Hash(HashKey),
}

/// What is hashed to choose a server. A request that lacks it goes in turn.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// The client's address.
    Source,
    /// The path and the query.
    Uri,
    /// The path without the query.
    Path,
    /// A header field; the name in lower case.
    Header(String),
    /// A parameter of the query.
    Query(String),
    /// A cookie.
    Cookie(String),
}

/// Where requests wait while every server is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Most requests that wait at a time; 0: none may.
    pub length: u32,
    /// Longest wait.
    pub timeout: Duration,
    /// What comes first among requests of one priority.
    pub order: QueueOrder,
}

/// What comes first among requests of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueOrder {
    /// The clients in turn: one with a hundred requests does not hold up one with a single.
    Fair,
    /// Strictly the one that came first.
    Arrival,
}

/// Cookies that bring a client back to its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Name of the cookie.
    pub cookie: String,
    /// Who makes the cookie.
    pub mode: CookieMode,
    /// Key of the digests that stand for servers. The same on all nodes; a default that
    /// everybody knows if none is given.
    pub key: Option<Vec<u8>>,
    /// Longest time after its issue that a cookie is followed, checked by signature; none:
    /// cookies are not signed. Needs a key.
    pub signed: Option<Duration>,
    /// Whether a request whose server can not take it goes to another one.
    pub redispatch: bool,
    /// Further attributes of an inserted cookie: `Secure; SameSite=Lax`.
    pub attributes: String,
}

/// Who makes the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieMode {
    /// The balancer, in addition to those of the application, which never sees it.
    Insert,
    /// The application; the balancer puts the server's name in front of the value.
    Prefix,
}

/// What may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Attempts after the first.
    pub attempts: u32,
    /// Retries in percent of requests that a backend may be given, on average.
    pub budget_percent: u32,
    /// Retries a second that are always allowed.
    pub budget_floor: u32,
    /// Statuses of servers after which another one is tried, for requests that may be sent
    /// twice.
    pub statuses: RetryStatuses,
}

/// A set of statuses after which a request may be tried elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryStatuses(u16);

impl RetryStatuses {
    /// Nothing in it.
    pub const NONE: Self = Self(0);
    /// Those that can be in it: what may be another server's success.
    pub const ALL: [u16; 10] = [401, 403, 404, 408, 425, 500, 501, 502, 503, 504];

    /// With one more; none if that can not be in it.
    #[must_use]
    pub fn with(self, status: u16) -> Option<Self> {
        let place = Self::ALL.iter().position(|known| *known == status)?;
        Some(Self(self.0 | 1 << place))
    }

    /// Whether a status is in it.
    #[must_use]
    pub fn contains(self, status: u16) -> bool {
        Self::NONE.with(status).is_some_and(|one| self.0 & one.0 != 0)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What traffic itself says of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passive {
    /// Failures in a row that are too many; none: they do not count.
    pub consecutive: Option<NonZeroU32>,
    /// The share of failures that is too large; none: it does not count.
    pub ratio: Option<ErrorRatio>,
    /// What happens to such a server.
    pub action: PassiveAction,
    /// Most of the servers that are otherwise well that may be out at a time because of
    /// traffic, in percent, rounded down.
    pub max_share: u8,
}

/// The share of failures that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRatio {
    /// In percent of the requests of a window.
    pub percent: u8,
    /// Requests in the window before the share means anything.
    pub requests: u32,
    /// The window.
    pub window: Duration,
}

/// What happens to a server that failed too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassiveAction {
    /// It gets nothing for a while: `first` the first time, twice as long each time again,
    /// up to `longest`; it starts afresh after doing well for `longest`.
    Eject {
        /// The first time.
        first: Duration,
        /// The longest time.
        longest: Duration,
    },
    /// It is DOWN until its checks say otherwise.
    MarkDown,
}
