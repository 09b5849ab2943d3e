//! Why a check failed, as a short reason for people.

use std::{fmt, io, time::Duration};

use crate::dial::is_shortage;

/// Why a check failed. The text is shown by `pointsman status`.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Nothing listens on the port.
    #[error("connection refused")]
    Refused,
    /// The connection could not be made for another reason.
    #[error("connect: {0}")]
    Connect(io::Error),
    /// Packets of the check could not be sent the way of traffic.
    #[error("no way for checks `via: vip`: {0}")]
    Way(Box<dyn std::error::Error + Send + Sync>),
    /// The whole check took longer than its timeout.
    #[error("timeout in {phase} after {after:?}")]
    Timeout {
        /// What the check was doing.
        phase: Phase,
        /// The timeout of the whole check.
        after: Duration,
    },
    /// The configured request can not be sent.
    #[error("request can not be built: {0}")]
    Request(hyper::http::Error),
    /// The server closed the connection before its answer was complete.
    #[error("connection closed before the {0} was complete")]
    Closed(Phase),
    /// The server's answer is not HTTP/1, or too large.
    #[error("invalid answer: {0}")]
    Invalid(hyper::Error),
    /// The status is none of the accepted ones.
    #[error("status {got}, expected {}", Ranges(.expected))]
    Status {
        /// The status code of the answer.
        got: u16,
        /// Accepted codes, as inclusive ranges.
        expected: Vec<(u16, u16)>,
    },
    /// The body holds not what it must.
    #[error("body {expectation}{}", Limit(*.truncated))]
    Body {
        /// What was looked for: `does not hold "ready"`, `does not match ok|ready`.
        expectation: String,
        /// The body was longer than the part that was looked at, in bytes.
        truncated: Option<usize>,
    },
}

/// What a check was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The TCP handshake.
    Connect,
    /// Sending the request and waiting for the end of the answer's head.
    Answer,
    /// Reading the answer's body.
    Body,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Answer => "answer",
            Self::Body => "body",
        })
    }
}

impl CheckError {
    /// Whether it says nothing of the server.
    #[must_use]
    pub fn is_of_host(&self) -> bool {
        matches!(self, Self::Connect(error) if is_shortage(error))
    }

    /// From the error of a `connect`.
    #[must_use]
    pub fn from_connect(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Connect(error),
        }
    }
}

struct Ranges<'a>(&'a [(u16, u16)]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

struct Limit(Option<usize>);

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, " in its first {bytes} bytes"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_read_well() {
        let timeout = CheckError::Timeout { phase: Phase::Connect, after: Duration::from_secs(1) };
        assert_eq!(timeout.to_string(), "timeout in connect after 1s");
        let status = CheckError::Status { got: 503, expected: vec![(200, 399)] };
        assert_eq!(status.to_string(), "status 503, expected 200-399");
        let status = CheckError::Status { got: 503, expected: vec![(200, 200), (204, 206)] };
        assert_eq!(status.to_string(), "status 503, expected 200,204-206");
        let body =
            CheckError::Body { expectation: "does not match a|b".into(), truncated: Some(1 << 20) };
        assert_eq!(body.to_string(), "body does not match a|b in its first 1048576 bytes");
    }

    #[test]
    fn a_shortage_is_the_host_s_own() {
        let of = |code| CheckError::from_connect(io::Error::from_raw_os_error(code)).is_of_host();
        assert!(
            [libc::EADDRNOTAVAIL, libc::EMFILE, libc::ENFILE, libc::ENOMEM].iter().all(|c| of(*c))
        );
        assert!(!of(libc::ECONNREFUSED) && !of(libc::EHOSTUNREACH) && !of(libc::ETIMEDOUT));
    }

    #[test]
    fn a_refused_connection_is_named() {
        let refused = CheckError::from_connect(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(refused.to_string(), "connection refused");
        let unreachable =
            CheckError::from_connect(io::Error::from_raw_os_error(libc::EHOSTUNREACH));
        assert!(unreachable.to_string().starts_with("connect: No route to host"), "{unreachable}");
    }
}
