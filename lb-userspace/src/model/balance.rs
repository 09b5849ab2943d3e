//! How the proxy chooses a server: `backends.NAME.balance` and its companions.

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
