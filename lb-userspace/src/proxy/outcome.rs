//! How a request or a session ended: who made it end, how far it had come, and why in a word.

use std::{fmt, io};

use crate::{balance::Fault, dial::is_shortage};

/// Who made it end. The letters are those of HAProxy's termination states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Nobody: the request was answered in full, both sides of the session had finished.
    Done,
    /// The client broke off, or sent what is not taken here.
    Client,
    /// The client kept it waiting for too long.
    ClientTimeout,
    /// The server broke off, refused, or sent what is no good response.
    Server,
    /// The server kept it waiting for too long.
    ServerTimeout,
    /// The time for the request as a whole was over (`timeouts.total`). Whoever was waited for
    /// in the end has the letter; a server is not marked down for it.
    TotalTimeout(Side),
    /// A rule or a limit of the configuration.
    Policy,
    /// The server went DOWN or MAINT.
    ServerDown,
    /// The agent stopped, or the frontend is gone.
    Stopped,
    /// This host has run out of something, or something here is broken.
    Host,
}

/// One side of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client.
    Client,
    /// The server, or a free one.
    Server,
}

/// How far it had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// What the client has to say first was waited for: PROXY header, TLS, a request; or that
    /// was judged.
    Request,
    /// A server with room was waited for.
    Queue,
    /// A server was being connected to.
    Connect,
    /// The request was with the server, whose response had not begun.
    Headers,
    /// The response was on its way, or both sides were joined.
    Data,
}

/// How a request or a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Who made it end.
    pub cause: Cause,
    /// How far it had come.
    pub phase: Phase,
    /// Why, in a word of a fixed set: `connect_refused`, `header_timeout`.
    pub reason: &'static str,
}

impl Outcome {
    /// All went well.
    pub const DONE: Self = Self::new(Cause::Done, Phase::Data, "done");

    /// An outcome.
    #[must_use]
    pub const fn new(cause: Cause, phase: Phase, reason: &'static str) -> Self {
        Self { cause, phase, reason }
    }

    /// There is no connection to a server: its fault, or that of this host, which may be short
    /// of something or not allowed to connect.
    #[must_use]
    pub fn not_connected(error: &io::Error) -> Self {
        let code = error.raw_os_error();
        let is_ours = is_shortage(error) || matches!(code, Some(libc::EACCES | libc::EPERM));
        let cause = if is_ours { Cause::Host } else { Cause::Server };
        let reason = match code {
            Some(libc::ECONNREFUSED) => "connect_refused",
            Some(libc::ECONNRESET | libc::EPIPE) => "connect_reset",
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => "connect_unreachable",
            Some(libc::ETIMEDOUT) => "connect_timeout",
            Some(libc::EADDRNOTAVAIL) => "no_local_port",
            Some(libc::EMFILE | libc::ENFILE) => "no_descriptor",
            Some(libc::ENOBUFS | libc::ENOMEM) => "no_memory",
            _ => "connect_failed",
        };
        Self::new(cause, Phase::Connect, reason)
    }

    /// The time for the request as a whole was over while this side was waited for.
    #[must_use]
    pub const fn total_timeout(waited_for: Side, phase: Phase) -> Self {
        Self::new(Cause::TotalTimeout(waited_for), phase, "total_timeout")
    }
}

impl Cause {
    /// In a word, for JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self.fault() {
            None => "none",
            Some(Fault::Client) => "client",
            Some(Fault::Server) => "server",
            Some(Fault::Proxy) => "proxy",
            Some(Fault::Policy) => "policy",
        }
    }

    /// As it is counted; none if all went well.
    #[must_use]
    pub const fn fault(self) -> Option<Fault> {
        Some(match self {
            Self::Done => return None,
            Self::Client | Self::ClientTimeout | Self::TotalTimeout(Side::Client) => Fault::Client,
            Self::Server
            | Self::ServerTimeout
            | Self::ServerDown
            | Self::TotalTimeout(Side::Server) => Fault::Server,
            Self::Policy => Fault::Policy,
            Self::Stopped | Self::Host => Fault::Proxy,
        })
    }
}

impl Phase {
    /// In a word, for JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Queue => "queue",
            Self::Connect => "connect",
            Self::Headers => "headers",
            Self::Data => "data",
        }
    }
}

impl Outcome {
    /// The first two letters of HAProxy's termination state; `--` if all went well.
    #[must_use]
    pub const fn letters(self) -> &'static str {
        let of_cause = match self.cause {
            Cause::Done => return "--",
            Cause::Client => ["CR", "CQ", "CC", "CH", "CD"],
            Cause::ClientTimeout | Cause::TotalTimeout(Side::Client) => {
                ["cR", "cQ", "cC", "cH", "cD"]
            }
            Cause::Server => ["SR", "SQ", "SC", "SH", "SD"],
            Cause::ServerTimeout | Cause::TotalTimeout(Side::Server) => {
                ["sR", "sQ", "sC", "sH", "sD"]
            }
            Cause::Policy => ["PR", "PQ", "PC", "PH", "PD"],
            Cause::ServerDown => ["DR", "DQ", "DC", "DH", "DD"],
            Cause::Stopped => ["KR", "KQ", "KC", "KH", "KD"],
            Cause::Host => ["RR", "RQ", "RC", "RH", "RD"],
        };
        match self.phase {
            Phase::Request => of_cause[0],
            Phase::Queue => of_cause[1],
            Phase::Connect => of_cause[2],
            Phase::Headers => of_cause[3],
            Phase::Data => of_cause[4],
        }
    }
}

impl fmt::Display for Outcome {
    /// [`Outcome::letters`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.letters())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_short_of_something_is_to_blame_itself() {
        let check = |code, letters: &str, reason| {
            let outcome = Outcome::not_connected(&io::Error::from_raw_os_error(code));
            assert_eq!((outcome.letters(), outcome.reason), (letters, reason));
        };
        check(libc::EADDRNOTAVAIL, "RC", "no_local_port");
        check(libc::EMFILE, "RC", "no_descriptor");
        check(libc::ENFILE, "RC", "no_descriptor");
        check(libc::ENOMEM, "RC", "no_memory");
        check(libc::EPERM, "RC", "connect_failed");
        check(libc::ECONNREFUSED, "SC", "connect_refused");
        check(libc::ENETUNREACH, "SC", "connect_unreachable");
    }

    #[test]
    fn the_letters_are_haproxys() {
        let check = |cause, phase, letters| {
            assert_eq!(Outcome::new(cause, phase, "x").to_string(), letters);
        };
        assert_eq!(Outcome::DONE.to_string(), "--");
        check(Cause::ClientTimeout, Phase::Request, "cR");
        check(Cause::Server, Phase::Connect, "SC");
        check(Cause::ServerTimeout, Phase::Headers, "sH");
        check(Cause::ServerTimeout, Phase::Queue, "sQ");
        check(Cause::TotalTimeout(Side::Client), Phase::Data, "cD");
        check(Cause::TotalTimeout(Side::Server), Phase::Connect, "sC");
        check(Cause::Policy, Phase::Request, "PR");
        check(Cause::Client, Phase::Data, "CD");
        check(Cause::ServerDown, Phase::Data, "DD");
    }
}
