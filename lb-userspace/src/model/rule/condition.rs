//! Conditions: what a request must be for a rule to apply.

use std::sync::Arc;

use hyper::http::{HeaderName, Method, Version};

use super::{
    super::name::Name,
    host::HostPattern,
    networks::Networks,
    path::PathPattern,
    schedule::Schedule,
    share::Share,
    template::{CertificateField, VariableName},
    text::TextPattern,
};

/// What a request must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// All of these; of none, always.
    All(Vec<Condition>),
    /// At least one of these; of none, never.
    Any(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
    /// One that has a name and may be used by several rules.
    Named(Arc<NamedCondition>),
    /// One property of the request.
    Test(Test),
}

/// An entry of `conditions`.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedCondition {
    /// Its name.
    pub name: Name,
    /// What it stands for.
    pub condition: Condition,
}

/// One property of a request. A list means: one of these; an empty one is never true.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// The path, in its matched form.
    Path(Vec<PathPattern>),
    /// The host, from `Host` or `:authority`.
    Host(Vec<HostPattern>),
    /// The server name of the TLS handshake; false without one.
    Sni(Vec<HostPattern>),
    /// The method.
    Method(Vec<Method>),
    /// A header: one line of it.
    Header(HeaderName, Vec<TextPattern>),
    /// A parameter of the query, by its decoded name: one of its decoded values.
    Query(Box<str>, Vec<TextPattern>),
    /// A cookie: one of its values.
    Cookie(Box<str>, Vec<TextPattern>),
    /// A variable that an earlier rule has set.
    Variable(VariableName, Vec<TextPattern>),
    /// The client's address.
    Source(Arc<Networks>),
    /// The port that the client connected to.
    DestinationPort(Vec<u16>),
    /// Whether the connection is TLS.
    Tls(bool),
    /// Whether the client showed a certificate that was verified.
    HasCertificate(bool),
    /// A field of the client's verified certificate.
    Certificate(CertificateField, Vec<TextPattern>),
    /// The version of HTTP.
    Version(Vec<Version>),
    /// Whether the request asks for a WebSocket.
    WebSocket(bool),
    /// The time.
    Time(Schedule),
    /// A share of the clients.
    Share(Share),
    /// How many servers of a backend could take the request.
    UsableServers {
        /// The backend.
        backend: Name,
        /// At least as many.
        at_least: u32,
        /// At most as many.
        at_most: u32,
    },
}

impl Condition {
    /// True for every request.
    #[must_use]
    pub const fn always() -> Self {
        Self::All(Vec::new())
    }

    /// Whether it is true for every request, as far as its form tells.
    #[must_use]
    pub fn is_always(&self) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(Self::is_always),
            Self::Any(parts) => parts.iter().any(Self::is_always),
            Self::Not(part) => part.is_never(),
            Self::Named(named) => named.condition.is_always(),
            Self::Test(Test::Share(share)) => share.basis_points >= Share::WHOLE,
            Self::Test(_) => false,
        }
    }

    /// Whether it is true for no request, as far as its form tells.
    #[must_use]
    pub fn is_never(&self) -> bool {
        match self {
            Self::All(parts) => parts.iter().any(Self::is_never),
            Self::Any(parts) => parts.iter().all(Self::is_never),
            Self::Not(part) => part.is_always(),
            Self::Named(named) => named.condition.is_never(),
            Self::Test(Test::Share(share)) => share.basis_points == 0,
            Self::Test(_) => false,
        }
    }

    /// Most tests of one condition, named conditions written out.
    pub const MAX_SIZE: usize = 4096;
    /// How deep `all`, `any` and `not` may be nested.
    pub const MAX_DEPTH: usize = 16;
}
