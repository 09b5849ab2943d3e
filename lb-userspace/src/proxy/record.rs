//! What lines of the access log for requests and for sessions have in common.

use std::{fmt, net::SocketAddr, time::SystemTime};

use super::outcome::Outcome;
use crate::{
    clock,
    model::{
        access_log::{Escaped, LogField, show},
        address::ServerAddress,
    },
};

/// The fields that both kinds of lines have.
#[derive(Debug)]
pub(super) struct Common<'a> {
    pub(super) client: SocketAddr,
    pub(super) destination: SocketAddr,
    /// When it began.
    pub(super) time: SystemTime,
    pub(super) frontend: &'a str,
    pub(super) backend: Option<&'a str>,
    pub(super) server: Option<(&'a str, ServerAddress)>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) queue_ms: Option<u128>,
    pub(super) connect_ms: Option<u128>,
    pub(super) total_ms: u128,
    pub(super) outcome: Outcome,
    /// Of the process, the frontend, the backend, the server.
    pub(super) connections: [u32; 4],
    pub(super) retries: u32,
    /// Waiting for the backend.
    pub(super) queued: u32,
    pub(super) is_tls: bool,
    /// Version and cipher suite.
    pub(super) tls: Option<(&'static str, &'static str)>,
    pub(super) sni: Option<&'a str>,
}

impl Common<'_> {
    /// Appends a field, if it is one of these.
    pub(super) fn append(&self, field: &LogField, line: &mut String) {
        let [process, frontend, backend, server] = self.connections;
        match field {
            LogField::Time => show(line, Some(clock::rfc3339(self.time))),
            LogField::TimeClf => show(line, Some(clock::clf_date(self.time))),
            LogField::TimeUnix => show(line, Some(clock::unix_ms(self.time))),
            LogField::ClientAddress => End(self.client).show_address(line),
            LogField::ClientPort => show(line, Some(self.client.port())),
            LogField::LocalAddress => End(self.destination).show_address(line),
            LogField::LocalPort => show(line, Some(self.destination.port())),
            LogField::Frontend => show(line, Some(self.frontend)),
            LogField::Backend => show(line, self.backend),
            LogField::Server => show(line, self.server.map(|(name, _)| name)),
            LogField::ServerAddress => show(line, self.server.map(|(_, address)| address)),
            LogField::BytesIn => show(line, Some(self.bytes_in)),
            LogField::BytesOut => show(line, Some(self.bytes_out)),
            LogField::TotalTime => show(line, Some(self.total_ms)),
            LogField::QueueTime => show(line, self.queue_ms),
            LogField::ConnectTime => show(line, self.connect_ms),
            LogField::State => show(line, Some(self.outcome)),
            LogField::Cause => show(line, Some(self.outcome.cause.word())),
            LogField::Phase => show(line, Some(self.outcome.phase.word())),
            LogField::Reason => show(line, Some(self.outcome.reason)),
            LogField::Retries => show(line, Some(self.retries)),
            LogField::ProcessConnections => show(line, Some(process)),
            LogField::FrontendConnections => show(line, Some(frontend)),
            LogField::BackendConnections => show(line, Some(backend)),
            LogField::ServerConnections => show(line, Some(server)),
            LogField::Queued => show(line, Some(self.queued)),
            LogField::Tls => show(line, Some(u8::from(self.is_tls))),
            LogField::Sni => show(line, self.sni.map(|name| Escaped(name.as_bytes()))),
            LogField::TlsVersion => show(line, self.tls.map(|(version, _)| version)),
            LogField::TlsCipher => show(line, self.tls.map(|(_, cipher)| cipher)),
            // Named one by one, so that a new field is not forgotten.
            LogField::RequestTime
            | LogField::ResponseTime
            | LogField::Reused
            | LogField::Rule
            | LogField::Method
            | LogField::Uri
            | LogField::Path
            | LogField::Query
            | LogField::Version
            | LogField::Status
            | LogField::RequestHeader(_)
            | LogField::ResponseHeader(_)
            | LogField::ConnectionId
            | LogField::Protocol
            | LogField::SnatPort
            | LogField::PacketsIn
            | LogField::PacketsOut
            | LogField::End
            | LogField::TcpState => {}
        }
    }
}

/// What stands for an end that is a unix socket, in the form of HAProxy, which has the number of
/// its listener there.
const UNIX: &str = "unix:0";

/// One end of a client's connection, as lines have it.
pub(super) struct End(pub(super) SocketAddr);

impl End {
    /// The address without its port.
    fn show_address(&self, line: &mut String) {
        match self.0.ip().to_canonical() {
            address if address.is_unspecified() => line.push_str("unix"),
            address => show(line, Some(address)),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.ip().is_unspecified() { f.write_str(UNIX) } else { self.0.fmt(f) }
    }
}

/// Milliseconds, or -1 if that phase was not reached.
pub(super) struct Timer(pub(super) Option<u128>);

impl fmt::Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ms) => ms.fmt(f),
            None => f.write_str("-1"),
        }
    }
}
