//! How a request ended: who made it end, how far it had come, and why in a word.

use std::fmt;

/// Who made a request end. The letters are those of HAProxy's termination states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// It was answered in full.
    Answered,
    /// The client broke off, or sent what is no good request.
    Client,
    /// The client kept it waiting for too long.
    ClientTimeout,
    /// The server broke off, refused, or sent what is no good response.
    Server,
    /// The server kept it waiting for too long.
    ServerTimeout,
    /// A rule or a limit of the configuration.
    Policy,
    /// This host has run out of something, or something here is broken.
    Host,
}

/// How far a request had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// It was being received or judged.
    Request,
    /// It waited for a server with room.
    Queue,
    /// A server was being connected to.
    Connect,
    /// It was with the server, whose response had not begun.
    Headers,
    /// The response was on its way, or the tunnel open.
    Data,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Who made it end.
    pub(crate) cause: Cause,
    /// How far it had come.
    pub(crate) phase: Phase,
    /// Why, in a word of a fixed set: `connect_refused`, `header_timeout`.
    pub(crate) reason: &'static str,
}

impl Outcome {
    /// It was answered in full.
    pub(crate) const ANSWERED: Self = Self::new(Cause::Answered, Phase::Data, "done");

    /// An outcome.
    #[must_use]
    pub(crate) const fn new(cause: Cause, phase: Phase, reason: &'static str) -> Self {
        Self { cause, phase, reason }
    }
}

impl Cause {
    /// In a word, for JSON.
    #[must_use]
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Answered => "none",
            Self::Client | Self::ClientTimeout => "client",
            Self::Server | Self::ServerTimeout => "server",
            Self::Policy => "policy",
            Self::Host => "proxy",
        }
    }
}

impl Phase {
    /// In a word, for JSON.
    #[must_use]
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Queue => "queue",
            Self::Connect => "connect",
            Self::Headers => "headers",
            Self::Data => "data",
        }
    }
}

impl fmt::Display for Outcome {
    /// The first two letters of HAProxy's termination state; `--` if all went well.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self.cause {
            Cause::Answered => return f.write_str("--"),
            Cause::Client => "C",
            Cause::ClientTimeout => "c",
            Cause::Server => "S",
            Cause::ServerTimeout => "s",
            Cause::Policy => "P",
            Cause::Host => "R",
        };
        let phase = match self.phase {
            Phase::Request => "R",
            Phase::Queue => "Q",
            Phase::Connect => "C",
            Phase::Headers => "H",
            Phase::Data => "D",
        };
        f.write_str(cause)?;
        f.write_str(phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letters_are_haproxys() {
        let check = |cause, phase, letters| {
            assert_eq!(Outcome::new(cause, phase, "x").to_string(), letters);
        };
        assert_eq!(Outcome::ANSWERED.to_string(), "--");
        check(Cause::ClientTimeout, Phase::Request, "cR");
        check(Cause::Server, Phase::Connect, "SC");
        check(Cause::ServerTimeout, Phase::Headers, "sH");
        check(Cause::Policy, Phase::Request, "PR");
        check(Cause::Client, Phase::Data, "CD");
    }
}
