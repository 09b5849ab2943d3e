//! What the operator says by signals (signal(7)).

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals the agent listens to.
#[derive(Debug)]
pub struct Signals {
    hang_up: Signal,
    user1: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// SIGHUP: load the configuration again.
    Reload,
    /// SIGUSR1: open the access log again, after a rotation.
    ReopenLog,
    /// SIGTERM, SIGINT: stop; the data plane goes on.
    Stop,
}

impl Signals {
    /// Starts listening; from now on none of these signals ends the process.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next wish.
    ///
    /// # Cancel safety
    /// No signal is lost.
    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hang_up.recv() => Wish::Reload,
            _ = self.user1.recv() => Wish::ReopenLog,
        }
    }
}
