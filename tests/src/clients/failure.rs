//! Why one exchange failed.

use std::{fmt, io};

/// Why one exchange failed.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct Failure {
    /// The kind, for counting.
    pub kind: FailureKind,
    /// The details, for people.
    pub detail: String,
}

/// Kinds of failures a client can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// A RST (or an ICMP port unreachable) answered the first packet.
    Refused,
    /// A RST ended an established connection.
    Reset,
    /// No answer in time.
    TimedOut,
    /// The connection ended in order before the answer was complete.
    Closed,
    /// An answer came, but not the right one.
    WrongAnswer,
    /// Anything else, such as no route or no free local port.
    Other,
}

impl Failure {
    /// An answer that is not the expected one.
    #[must_use]
    pub fn wrong(expected: &str, got: &str) -> Self {
        Self {
            kind: FailureKind::WrongAnswer,
            detail: format!("expected {expected:?}, got {got:?}"),
        }
    }

    /// The end of the connection in place of an answer.
    #[must_use]
    pub fn closed(during: &str) -> Self {
        Self { kind: FailureKind::Closed, detail: format!("end of stream during {during}") }
    }

    /// What the kernel said during a step.
    #[must_use]
    pub fn io(during: &str, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => FailureKind::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => FailureKind::Reset,
            // A timeout of connect, and one of a read or write.
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => FailureKind::TimedOut,
            // A connect that ran into the send timeout of its socket.
            _ if error.raw_os_error() == Some(libc::EINPROGRESS) => FailureKind::TimedOut,
            io::ErrorKind::UnexpectedEof => FailureKind::Closed,
            _ => FailureKind::Other,
        };
        Self { kind, detail: format!("{error} during {during}") }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::TimedOut => "timed out",
            Self::Closed => "closed",
            Self::WrongAnswer => "wrong answer",
            Self::Other => "other failure",
        })
    }
}
