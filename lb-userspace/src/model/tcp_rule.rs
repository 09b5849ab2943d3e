//! The rules of a `tcp` frontend: which connections go to another backend, or nowhere.
//!
//! The first rule that a connection meets decides; without one it goes to the frontend's
//! backend. What is looked at is known before a server is chosen: where the connection
//! comes from and the server name in its ClientHello.

use ipnet::IpNet;

use super::name::Name;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRule {
    /// Server names, of which one must be the connection's; none to take any, and none.
    pub sni: Option<Vec<SniPattern>>,
    /// Networks, of which one must hold the client; none to take any client.
    pub source: Option<Vec<IpNet>>,
    /// What happens then.
    pub action: TcpAction,
}

/// A server name, or the names below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SniPattern {
    /// This name, lower case.
    Exact(String),
    /// Names of one label more, as a certificate's wildcard: of `*.example.com` what follows
    /// the star, `.example.com`, lower case.
    Wildcard(String),
}

/// What happens to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpAction {
    /// It goes to this backend.
    Backend(Name),
    /// It is closed.
    Deny,
}
