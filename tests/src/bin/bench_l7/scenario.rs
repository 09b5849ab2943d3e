//! What is asked of a proxy.

use std::fmt;

use clap::ValueEnum;

/// What is asked of a proxy. The names are those of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Scenario {
    /// Five bytes, 64 connections that stay open.
    H1Small,
    /// A kilobyte, 512 connections.
    #[value(name = "h1_1k_512c")]
    H1Kilobyte,
    /// A new connection for each request.
    H1Close,
    /// A mebibyte, 16 connections.
    #[value(name = "h1_1m")]
    H1Large,
    /// As `h1_small`, over TLS.
    TlsSmall,
    /// A new connection with a full handshake (P-256) for each request.
    TlsClose,
    /// A new connection with a resumed session for each request.
    TlsResume,
    /// As `h1_1m`, over TLS.
    #[value(name = "tls_1m")]
    TlsLarge,
    /// HTTP/2 over TLS: 32 connections with 16 streams each.
    H2Small,
    /// A mebibyte through a frontend that only joins TCP connections.
    #[value(name = "tcp_1m")]
    TcpLarge,
    /// Memory of each of 10,000 idle connections.
    #[value(name = "idle_10k")]
    Idle,
    /// The same, over TLS.
    #[value(name = "idle_10k_tls")]
    IdleTls,
}

impl Scenario {
    /// All, in the order they are measured.
    pub(crate) const ALL: [Self; 12] = [
        Self::H1Small,
        Self::H1Kilobyte,
        Self::H1Close,
        Self::H1Large,
        Self::TlsSmall,
        Self::TlsClose,
        Self::TlsResume,
        Self::TlsLarge,
        Self::H2Small,
        Self::TcpLarge,
        Self::Idle,
        Self::IdleTls,
    ];

    /// The name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::H1Small => "h1_small",
            Self::H1Kilobyte => "h1_1k_512c",
            Self::H1Close => "h1_close",
            Self::H1Large => "h1_1m",
            Self::TlsSmall => "tls_small",
            Self::TlsClose => "tls_close",
            Self::TlsResume => "tls_resume",
            Self::TlsLarge => "tls_1m",
            Self::H2Small => "h2_small",
            Self::TcpLarge => "tcp_1m",
            Self::Idle => "idle_10k",
            Self::IdleTls => "idle_10k_tls",
        }
    }

    /// Whether it is about idle connections, and then whether those are encrypted.
    pub(crate) const fn idle_connections(self) -> Option<bool> {
        match self {
            Self::Idle => Some(false),
            Self::IdleTls => Some(true),
            _ => None,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_command_line_are_those_of_reports() {
        for scenario in Scenario::ALL {
            let value = scenario.to_possible_value().unwrap();
            assert_eq!(value.get_name(), scenario.name());
        }
    }
}
