//! What lines of the access log can show, by kind of line.

use hyper::http::HeaderName;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// A request of `mode: http`.
    Http,
    /// A session of `mode: tcp`.
    Tcp,
    /// A flow of `mode: l4`.
    L4,
}

impl LineKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Http, Self::Tcp, Self::L4];
}

/// A field of a line. Times in names are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogField {
    /// When it began, a flow when it ended; RFC 3339, UTC.
    Time,
    /// The same as Apache and nginx have it: `10/Oct/2000:13:55:36 +0000`.
    TimeClf,
    /// The same, milliseconds since 1970.
    TimeUnix,
    /// The client's address.
    ClientAddress,
    /// The client's port.
    ClientPort,
    /// The address the client connected to.
    LocalAddress,
    /// The port the client connected to.
    LocalPort,
    /// Name of the frontend.
    Frontend,
    /// Name of the backend.
    Backend,
    /// Name of the server.
    Server,
    /// Address and port of the server.
    ServerAddress,
    /// Bytes from the client: of the body, of the session, of packets.
    BytesIn,
    /// Bytes to the client.
    BytesOut,
    /// From beginning to end.
    TotalTime,
    /// Waiting for a server with room.
    QueueTime,
    /// Connecting to the server.
    ConnectTime,
    /// Receiving the request's header.
    RequestTime,
    /// From sending the request to the response's header.
    ResponseTime,
    /// HAProxy's two letters of how it ended; `--` if all went well.
    State,
    /// Who made it end: `none`, `client`, `server`, `policy`, `proxy`.
    Cause,
    /// How far it had come.
    Phase,
    /// Why it ended, in a word.
    Reason,
    /// Servers tried after the first.
    Retries,
    /// Connections of the process.
    ProcessConnections,
    /// Connections of the frontend.
    FrontendConnections,
    /// Connections of the backend.
    BackendConnections,
    /// Connections of the server.
    ServerConnections,
    /// Requests or sessions that waited for the backend.
    Queued,
    /// `1` if TLS ended here, `0` if not.
    Tls,
    /// The server name the client asked for.
    Sni,
    /// Version of TLS.
    TlsVersion,
    /// Cipher suite.
    TlsCipher,
    /// `1` if the request went over a connection that was there already, else `0`.
    Reused,
    /// Name or number of the rule that answered.
    Rule,
    /// Method of the request.
    Method,
    /// Target of the request as it was sent.
    Uri,
    /// Its path.
    Path,
    /// Its query.
    Query,
    /// `HTTP/1.1`, `HTTP/2.0`.
    Version,
    /// Status of the response.
    Status,
    /// A header of the request; the last if there are several.
    RequestHeader(HeaderName),
    /// A header of the server's response.
    ResponseHeader(HeaderName),
    /// The session's name, if the server was told one by the PROXY protocol.
    ConnectionId,
    /// `tcp` or `udp`.
    Protocol,
    /// The source port the server saw.
    SnatPort,
    /// Packets from the client.
    PacketsIn,
    /// Packets to the client.
    PacketsOut,
    /// How the flow ended.
    End,
    /// The TCP state it ended in.
    TcpState,
}

type Table = &'static [(&'static str, LogField)];

/// Of every kind of line.
const COMMON: Table = &[
    ("time", LogField::Time),
    ("time.clf", LogField::TimeClf),
    ("time.unix_ms", LogField::TimeUnix),
    ("client.address", LogField::ClientAddress),
    ("client.port", LogField::ClientPort),
    ("local.address", LogField::LocalAddress),
    ("local.port", LogField::LocalPort),
    ("frontend", LogField::Frontend),
    ("backend", LogField::Backend),
    ("server", LogField::Server),
    ("server.address", LogField::ServerAddress),
    ("bytes.in", LogField::BytesIn),
    ("bytes.out", LogField::BytesOut),
    ("timer.total", LogField::TotalTime),
];

/// Of requests and sessions.
const PROXY: Table = &[
    ("timer.queue", LogField::QueueTime),
    ("timer.connect", LogField::ConnectTime),
    ("state", LogField::State),
    ("cause", LogField::Cause),
    ("phase", LogField::Phase),
    ("reason", LogField::Reason),
    ("retries", LogField::Retries),
    ("connections.process", LogField::ProcessConnections),
    ("connections.frontend", LogField::FrontendConnections),
    ("connections.backend", LogField::BackendConnections),
    ("connections.server", LogField::ServerConnections),
    ("queued", LogField::Queued),
    ("tls", LogField::Tls),
    ("tls.sni", LogField::Sni),
    ("tls.version", LogField::TlsVersion),
    ("tls.cipher", LogField::TlsCipher),
];

const HTTP: Table = &[
    ("timer.request", LogField::RequestTime),
    ("timer.response", LogField::ResponseTime),
    ("reused", LogField::Reused),
    ("rule", LogField::Rule),
    ("request.method", LogField::Method),
    ("request.uri", LogField::Uri),
    ("request.path", LogField::Path),
    ("request.query", LogField::Query),
    ("request.version", LogField::Version),
    ("response.status", LogField::Status),
];

const TCP: Table = &[("connection.id", LogField::ConnectionId)];

const L4: Table = &[
    ("protocol", LogField::Protocol),
    ("snat.port", LogField::SnatPort),
    ("packets.in", LogField::PacketsIn),
    ("packets.out", LogField::PacketsOut),
    ("end", LogField::End),
    ("tcp.state", LogField::TcpState),
];

const REQUEST_HEADER: &str = "request.header.";
const RESPONSE_HEADER: &str = "response.header.";

impl LogField {
    /// The field of this name, if such lines have it.
    #[must_use]
    pub fn parse(kind: LineKind, name: &str) -> Option<Self> {
        let header = |text: &str| HeaderName::from_bytes(text.as_bytes()).ok();
        if kind == LineKind::Http {
            if let Some(name) = name.strip_prefix(REQUEST_HEADER) {
                return header(name).map(Self::RequestHeader);
            }
            if let Some(name) = name.strip_prefix(RESPONSE_HEADER) {
                return header(name).map(Self::ResponseHeader);
            }
        }
        let mut known = tables(kind).iter().copied().flatten();
        known.find(|(known, _)| *known == name).map(|(_, field)| field.clone())
    }

    /// The names such lines have; `NAME` stands for a header's.
    pub fn names(kind: LineKind) -> impl Iterator<Item = String> {
        let plain = tables(kind).iter().copied().flatten().map(|(name, _)| (*name).to_owned());
        let headers = [REQUEST_HEADER, RESPONSE_HEADER].map(|start| format!("{start}NAME"));
        plain.chain(headers.into_iter().filter(move |_| kind == LineKind::Http))
    }
}

const fn tables(kind: LineKind) -> &'static [Table] {
    match kind {
        LineKind::Http => &[COMMON, PROXY, HTTP],
        LineKind::Tcp => &[COMMON, PROXY, TCP],
        LineKind::L4 => &[COMMON, L4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_is_read() {
        for kind in LineKind::ALL {
            for name in LogField::names(kind) {
                assert!(LogField::parse(kind, &name).is_some(), "{name}");
            }
        }
    }
}
