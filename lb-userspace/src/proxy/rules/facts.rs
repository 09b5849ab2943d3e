//! What is known of a request when its rules are evaluated: borrowed, nothing computed.

use std::net::SocketAddr;

use hyper::http::{HeaderMap, Method, Version};

use super::super::tls::facts::{ClientCertificate, TlsFacts};
use crate::model::name::Name;

/// A request, and the connection that it came by.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The method.
    pub method: &'a Method,
    /// The version of HTTP.
    pub version: Version,
    /// The path of the request target as it was sent, without the query.
    pub path: &'a str,
    /// The query as it was sent, without the question mark.
    pub query: Option<&'a str>,
    /// `Host`, or `:authority`, as it was sent, or nothing.
    pub authority: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Whether it asks for a WebSocket, by upgrade (RFC 6455) or extended CONNECT (RFC 8441).
    pub is_websocket: bool,
    /// The client's address, that of the PROXY protocol included; none on a unix socket.
    pub client: Option<SocketAddr>,
    /// The address the client connected to; none on a unix socket.
    pub local: Option<SocketAddr>,
    /// The TLS connection; none without TLS.
    pub tls: Option<ConnectionTls<'a>>,
    /// The request's id, shown in 32 hexadecimal digits.
    pub id: u128,
    /// The time, seconds of the Unix clock.
    pub now: i64,
    /// A number that is different for each request.
    pub random: u64,
    /// How many servers of a backend could take a request.
    pub usable_servers: &'a dyn Fn(&Name) -> usize,
}

/// What was agreed with the client in its TLS handshake.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionTls<'a> {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'a str,
    /// The cipher suite.
    pub cipher: &'a str,
    /// The server name the client asked for.
    pub sni: Option<&'a str>,
    /// The protocol of ALPN.
    pub alpn: Option<&'a [u8]>,
    /// The client's certificate, if it showed one that was verified.
    pub client: Option<CertificateFacts<'a>>,
}

/// A client's verified certificate.
#[derive(Clone, Copy, Debug)]
pub struct CertificateFacts<'a> {
    /// The whole subject.
    pub subject: &'a str,
    /// The subject's common name.
    pub common_name: Option<&'a str>,
    /// The whole issuer.
    pub issuer: &'a str,
    /// The serial number, lower-case hexadecimal.
    pub serial: &'a str,
    /// SHA-256, lower-case hexadecimal.
    pub fingerprint: &'a str,
    /// Alternative names with their kind: `DNS:a.example.com`.
    pub alternative_names: &'a [String],
}

impl<'a> From<&'a TlsFacts> for ConnectionTls<'a> {
    fn from(facts: &'a TlsFacts) -> Self {
        Self {
            version: facts.version,
            cipher: facts.cipher,
            sni: facts.sni.as_deref(),
            alpn: facts.alpn.as_deref(),
            client: facts.client.as_deref().map(CertificateFacts::from),
        }
    }
}

impl<'a> From<&'a ClientCertificate> for CertificateFacts<'a> {
    fn from(certificate: &'a ClientCertificate) -> Self {
        Self {
            subject: &certificate.subject,
            common_name: certificate.common_name.as_deref(),
            issuer: &certificate.issuer,
            serial: &certificate.serial,
            fingerprint: &certificate.fingerprint,
            alternative_names: &certificate.alternative_names,
        }
    }
}
