//! How a session ended: who made it end, in which phase, and why in a word.

use std::fmt;

/// Who made a session end. The letters are those of HAProxy's termination states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Both sides had finished.
    Finished,
    /// The client broke off, or is not what the frontend takes.
    Client,
    /// The client kept it waiting for too long.
    ClientTimeout,
    /// The server broke off, or refused.
    Server,
    /// The server kept it waiting for too long.
    ServerTimeout,
    /// A rule or a limit of the configuration.
    Policy,
    /// The server went DOWN or MAINT.
    ServerDown,
    /// The agent stopped, or the frontend is gone.
    Stopped,
    /// This host has run out of something, or something here is broken.
    Host,
}

/// How far a session had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waiting for what the client has to say first: PROXY header, TLS.
    Request,
    /// Waiting for a server with room.
    Queue,
    /// Connecting to a server.
    Connect,
    /// Both sides were joined.
    Data,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Who made it end.
    pub cause: Cause,
    /// How far it had come.
    pub phase: Phase,
    /// Why, in a word of a fixed set: `tls_alert`, `connect_refused`.
    pub reason: &'static str,
}

impl Outcome {
    /// Both sides had finished.
    pub const FINISHED: Self = Self { cause: Cause::Finished, phase: Phase::Data, reason: "done" };

    /// An outcome.
    #[must_use]
    pub const fn new(cause: Cause, phase: Phase, reason: &'static str) -> Self {
        Self { cause, phase, reason }
    }
}

impl Cause {
    /// In a word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Finished => "none",
            Self::Client | Self::ClientTimeout => "client",
            Self::Server | Self::ServerTimeout | Self::ServerDown => "server",
            Self::Policy => "policy",
            Self::Stopped | Self::Host => "proxy",
        }
    }
}

impl Phase {
    /// In a word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Queue => "queue",
            Self::Connect => "connect",
            Self::Data => "data",
        }
    }
}

impl fmt::Display for Outcome {
    /// The termination state: two letters, `--` if all went well.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self.cause {
            Cause::Finished => return f.write_str("--"),
            Cause::Client => 'C',
            Cause::ClientTimeout => 'c',
            Cause::Server => 'S',
            Cause::ServerTimeout => 's',
            Cause::Policy => 'P',
            Cause::ServerDown => 'D',
            Cause::Stopped => 'K',
            Cause::Host => 'R',
        };
        let phase = match self.phase {
            Phase::Request => 'R',
            Phase::Queue => 'Q',
            Phase::Connect => 'C',
            Phase::Data => 'D',
        };
        write!(f, "{cause}{phase}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_termination_state_is_haproxys() {
        assert_eq!(Outcome::FINISHED.to_string(), "--");
        let check = |cause, phase, expected: &str| {
            assert_eq!(Outcome::new(cause, phase, "x").to_string(), expected);
        };
        check(Cause::Server, Phase::Connect, "SC");
        check(Cause::ServerTimeout, Phase::Queue, "sQ");
        check(Cause::ClientTimeout, Phase::Data, "cD");
        check(Cause::ServerDown, Phase::Data, "DD");
    }
}
