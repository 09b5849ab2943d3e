//! Keys of session tickets: stateless, so every worker opens what another has made.
//!
//! One key makes tickets for as long as the operator says, and opens them for as long again.
//! rustls has a rotation of its own, `TicketRotator`, which is not used here: it goes by the
//! wall clock, so that a clock that is set back stops it, and it turns by one key however long
//! nobody came, so that a key of last week opens tickets once more for the first client after
//! a quiet one.

use std::{
    fmt,
    sync::{Arc, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use rustls::{
    Error,
    crypto::aws_lc_rs::Ticketer,
    server::{NoServerSessionStorage, ProducesTickets, ServerConfig},
};

use crate::model::tls::Tickets;

/// What makes and opens tickets for one bind address. Bind addresses do not share one: a
/// ticket says that its client was let in, and another address may ask for more.
#[derive(Clone)]
pub(super) struct TicketKeys(Option<Arc<Rotation>>);

impl TicketKeys {
    /// New keys; none if tickets are off.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub(super) fn new(tickets: Tickets) -> Result<Self, Error> {
        if !tickets.enabled {
            return Ok(Self(None));
        }
        Ok(Self(Some(Arc::new(Rotation::new(tickets.rotation, Instant::now())?))))
    }

    /// Makes a configuration use them. Without keys nothing is resumed at all: a store of
    /// sessions would be another way to the same end, and `tickets: false` means neither.
    pub(super) fn install(&self, config: &mut ServerConfig) {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match &self.0 {
            Some(keys) => config.ticketer = Arc::<Rotation>::clone(keys),
            None => config.send_tls13_tickets = 0,
        }
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "TicketKeys(on)" } else { "TicketKeys(off)" })
    }
}

/// The keys in force, by the monotonic clock.
#[derive(Debug)]
struct Rotation {
    /// How long a key makes tickets; at most the six hours after which rustls' key changes
    /// itself.
    period: Duration,
    keys: RwLock<Keys>,
}

#[derive(Debug)]
struct Keys {
    /// Makes tickets, and opens them.
    current: Arc<dyn ProducesTickets>,
    /// Opens them.
    previous: Option<Arc<dyn ProducesTickets>>,
    /// When `current` began to.
    since: Instant,
}

impl Rotation {
    fn new(period: Duration, now: Instant) -> Result<Self, Error> {
        let keys = Keys { current: Ticketer::new()?, previous: None, since: now };
        Ok(Self { period, keys: RwLock::new(keys) })
    }

    /// The keys of `now`; none if new ones are due and the system gives no randomness.
    fn keys(&self, now: Instant) -> Option<RwLockReadGuard<'_, Keys>> {
        let keys = self.keys.read().ok()?;
        if now.saturating_duration_since(keys.since) <= self.period {
            return Some(keys);
        }
        drop(keys);
        let next = Ticketer::new().ok()?;
        let mut keys = self.keys.write().ok()?;
        let age = now.saturating_duration_since(keys.since);
        // Another worker may have done it.
        if age > self.period {
            let last = std::mem::replace(&mut keys.current, next);
            // As if it had been done in time, and so that the time of a key is over when it is
            // over, however late somebody comes.
            let is_in_time = age <= 2 * self.period;
            keys.previous = is_in_time.then_some(last);
            keys.since = if is_in_time { keys.since + self.period } else { now };
        }
        drop(keys);
        self.keys.read().ok()
    }

    fn encrypt_at(&self, now: Instant, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys(now)?.current.encrypt(plain)
    }

    fn decrypt_at(&self, now: Instant, cipher: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys(now)?;
        let previous = || keys.previous.as_ref()?.decrypt(cipher);
        keys.current.decrypt(cipher).or_else(previous)
    }
}

impl ProducesTickets for Rotation {
    fn enabled(&self) -> bool {
        true
    }

    /// Seconds that clients are told; the longest a ticket can be good for.
    fn lifetime(&self) -> u32 {
        u32::try_from(self.period.as_secs().saturating_mul(2)).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(Instant::now(), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(Instant::now(), cipher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Whether a ticket made at once is good at each of these times, in minutes, one after
    /// the other.
    fn check(minutes: &[u64], expected: &[bool]) {
        let start = Instant::now();
        let rotation = Rotation::new(HOUR, start).unwrap();
        let ticket = rotation.encrypt_at(start, b"session").unwrap();
        let opens = |minutes: &u64| {
            let now = start + Duration::from_secs(60 * minutes);
            rotation.decrypt_at(now, &ticket).as_deref() == Some(b"session")
        };
        assert_eq!(minutes.iter().map(opens).collect::<Vec<_>>(), expected, "{minutes:?}");
    }

    #[test]
    fn a_key_opens_tickets_for_as_long_again_as_it_makes_them() {
        check(&[0, 59, 61, 119, 123], &[true, true, true, true, false]);
        check(&[119, 125], &[true, false]);
        // Nobody came meanwhile.
        check(&[119], &[true]);
        check(&[121], &[false]);
        check(&[10_000], &[false]);
    }

    #[test]
    fn new_tickets_are_made_with_the_new_key() {
        let start = Instant::now();
        let rotation = Rotation::new(HOUR, start).unwrap();
        rotation.encrypt_at(start, b"x").unwrap();
        let second = rotation.encrypt_at(start + 2 * HOUR - HOUR / 2, b"x").unwrap();
        assert!(rotation.decrypt_at(start + 3 * HOUR, &second).is_some());
        assert_eq!(rotation.lifetime(), 7200);
    }
}
