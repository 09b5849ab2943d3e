//! Keys of session tickets: stateless, so every worker opens what another has made.

use std::{fmt, sync::Arc};

use rustls::{
    Error, TicketRotator,
    crypto::{GetRandomFailed, aws_lc_rs::Ticketer},
    server::{NoServerSessionStorage, ProducesTickets, ServerConfig},
};

use crate::model::tls::Tickets;

/// What makes and opens tickets for one bind address. Bind addresses do not share one: a
/// ticket says that its client was let in, and another address may ask for more.
#[derive(Clone)]
pub(super) struct TicketKeys(Option<Arc<TicketRotator>>);

impl TicketKeys {
    /// New keys; none if tickets are off.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub(super) fn new(tickets: Tickets) -> Result<Self, Error> {
        if !tickets.enabled {
            return Ok(Self(None));
        }
        let seconds = u32::try_from(tickets.rotation.as_secs()).unwrap_or(u32::MAX);
        Ok(Self(Some(Arc::new(TicketRotator::new(seconds, key)?))))
    }

    /// Makes a configuration use them. Without keys nothing is resumed at all: a store of
    /// sessions would be another way to the same end, and `tickets: false` means neither.
    pub(super) fn install(&self, config: &mut ServerConfig) {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match &self.0 {
            Some(keys) => config.ticketer = Arc::clone(keys) as Arc<dyn ProducesTickets>,
            None => config.send_tls13_tickets = 0,
        }
    }
}

/// One key. rustls' own rotates itself every six hours besides; the outer rotation is the
/// one that the operator sets and that drops it.
fn key() -> Result<Box<dyn ProducesTickets>, GetRandomFailed> {
    match Ticketer::new() {
        Ok(key) => Ok(Box::new(Key(key))),
        Err(_no_randomness) => Err(GetRandomFailed),
    }
}

#[derive(Debug)]
struct Key(Arc<dyn ProducesTickets>);

impl ProducesTickets for Key {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "TicketKeys(on)" } else { "TicketKeys(off)" })
    }
}
