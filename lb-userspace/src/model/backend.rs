//! What only the proxy honours of a backend: how it speaks to servers, for how long it
//! waits, and which connections it keeps.

use std::time::Duration;

use super::{
    balance::{Balance, Balancing, Queue, QueueOrder, Retries, RetryStatuses},
    tls::ServerTls,
};

/// How the proxy uses a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxySettings {
    /// Who gets the next request.
    pub balancing: Balancing,
    /// How long a server may keep it waiting.
    pub timeouts: ServerTimeouts,
    /// What is spoken with servers in `mode: http`.
    pub protocol: ServerProtocol,
    /// Connections kept for later requests.
    pub idle: IdleConnections,
    /// Connections to servers are encrypted.
    pub tls: Option<ServerTls>,
    /// Servers are told who the client is, by the PROXY protocol.
    pub send_proxy: Option<SendProxy>,
}

/// Which PROXY header servers get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    /// Version 1: a line of text with the addresses.
    V1,
    /// Version 2, with these besides the addresses.
    V2(ProxyTlvs),
}

/// What version 2 of the PROXY protocol says besides the addresses, where it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyTlvs {
    /// The server name the client asked for.
    pub authority: bool,
    /// The protocol agreed on by ALPN.
    pub alpn: bool,
    /// The name of the connection.
    pub unique_id: bool,
    /// Version, cipher and client certificate of TLS.
    pub tls: bool,
    /// A checksum of the whole header.
    pub crc32c: bool,
}

impl Default for ProxySettings {
    /// What the configuration's defaults are.
    fn default() -> Self {
        Self {
            balancing: Balancing {
                algorithm: Balance::RoundRobin,
                load_factor: None,
                slow_start: Duration::ZERO,
                queue: Queue {
                    length: 1000,
                    timeout: Duration::from_secs(30),
                    order: QueueOrder::Fair,
                },
                persistence: None,
                retries: Retries {
                    attempts: 3,
                    budget_percent: 20,
                    budget_floor: 10,
                    statuses: RetryStatuses::default(),
                },
                passive: None,
            },
            timeouts: ServerTimeouts {
                connect: Duration::from_secs(5),
                server: Duration::from_secs(30),
            },
            protocol: ServerProtocol::Http1,
            idle: IdleConnections { most: 100, timeout: Duration::from_secs(4) },
            tls: None,
            send_proxy: None,
        }
    }
}

/// How long a server may keep the proxy waiting. None is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerTimeouts {
    /// Connecting; 5 s by default.
    pub connect: Duration,
    /// Silence while the server should send or take; 30 s by default.
    pub server: Duration,
}

/// What the proxy speaks with servers in `mode: http`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
}

/// Connections without a request that a worker keeps for later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleConnections {
    /// Most of them for each server and worker; 0 keeps none.
    pub most: u32,
    /// How long one is kept; below what servers allow, or they close it just when it is
    /// used again.
    pub timeout: Duration,
}
