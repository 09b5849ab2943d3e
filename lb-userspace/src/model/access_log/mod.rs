//! The access log as it is configured: where lines go and what they look like.

mod escape;
mod field;
mod template;

use std::{net::SocketAddr, path::PathBuf};

use hyper::http::HeaderName;

pub use self::{
    escape::Escaped,
    field::{LineKind, LogField},
    template::{LogTemplate, Values, show},
};

/// The access log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessLog {
    /// Where lines go.
    pub target: AccessTarget,
    /// What lines look like that have no template.
    pub format: AccessFormat,
    /// Templates of lines.
    pub templates: LogTemplates,
    /// Headers of requests and responses that lines show.
    pub capture: Capture,
}

/// Where lines of the access log go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessTarget {
    /// Standard output.
    #[default]
    Stdout,
    /// Appended to a file.
    File(PathBuf),
    /// Sent to a syslog daemon.
    Syslog(Syslog),
}

/// A syslog daemon, and what it is told in each message's header (RFC 5424, section 6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syslog {
    /// Where it listens.
    pub peer: SyslogPeer,
    /// Facility, 0 to 23; 16 (`local0`) by default.
    pub facility: u8,
    /// Severity, 0 to 7; 6 (`info`) by default.
    pub severity: u8,
    /// Name of the sender: 1 to 48 printable ASCII characters.
    pub app_name: String,
    /// Name of this host; none for the kernel's.
    pub hostname: Option<String>,
}

/// Where a syslog daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogPeer {
    /// One message a datagram (RFC 5426).
    Udp(SocketAddr),
    /// Messages with their length before them (RFC 6587, section 3.4.1).
    Tcp(SocketAddr),
    /// One message a datagram on a unix socket, such as `/dev/log`.
    Unix(PathBuf),
}

/// What lines look like that have no template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessFormat {
    /// Flows: `key=value` fields. Sessions and requests: HAProxy's field order.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Templates of lines; the format is used where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTemplates {
    /// Of requests of `mode: http`.
    pub http: Option<LogTemplate>,
    /// Of sessions of `mode: tcp`.
    pub tcp: Option<LogTemplate>,
    /// Of flows of `mode: l4`.
    pub l4: Option<LogTemplate>,
}

/// Headers that are kept until a request is logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// Of requests, as clients sent them.
    pub request: CapturedNames,
    /// Of responses, as servers sent them.
    pub response: CapturedNames,
    /// Most bytes of a value that are shown.
    pub max_bytes: usize,
}

/// Names of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapturedNames {
    /// Those that every format shows, then those that only the template does.
    pub names: Vec<HeaderName>,
    /// How many of them every format shows.
    pub shown: usize,
}

impl Capture {
    /// Whether no header is looked for.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.request.names.is_empty() && self.response.names.is_empty()
    }
}

impl CapturedNames {
    /// Adds a name that only a template shows.
    pub fn add(&mut self, name: &HeaderName) {
        if !self.names.contains(name) {
            self.names.push(name.clone());
        }
    }
}
