//! How many connections a frontend may have at a time, in all and of one source; over all
//! workers. A connection counts until its [`Admission`] is dropped.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::model::frontend::ConnectionLimits;

/// Parts of the table of sources, each with a lock of its own, so that workers seldom meet.
const PARTS: usize = 32;

/// The connections of one frontend.
#[derive(Debug)]
pub struct Connections {
    total: AtomicU32,
    sources: [Mutex<HashMap<IpAddr, u32>>; PARTS],
}

/// A connection that counts.
#[derive(Debug)]
pub struct Admission {
    connections: Arc<Connections>,
    /// None if it counts in all only.
    source: Option<IpAddr>,
}

/// Why a connection is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// The frontend has as many as it may.
    #[error("the frontend has {0} connections already")]
    InAll(u32),
    /// Its source has as many as one may.
    #[error("{0} connections of this source are open already")]
    OfSource(u32),
}

impl TooMany {
    /// A short word for logs and counters, stable.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::InAll(_) => "too_many_connections",
            Self::OfSource(_) => "too_many_of_source",
        }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self { total: AtomicU32::new(0), sources: [(); PARTS].map(|()| Mutex::default()) }
    }
}

impl Connections {
    /// How many there are.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.total.load(Ordering::Relaxed)
    }

    /// Counts a connection that was accepted, if the frontend has not as many as it may. Whom
    /// it comes from may not be known yet: [`Admission::attribute`] follows.
    ///
    /// # Errors
    /// [`TooMany::InAll`].
    pub fn admit(self: &Arc<Self>, limits: &ConnectionLimits) -> Result<Admission, TooMany> {
        let before = self.total.fetch_add(1, Ordering::Relaxed);
        // From here on dropping it takes it back.
        let admission = Admission { connections: Arc::clone(self), source: None };
        if before >= limits.total {
            return Err(TooMany::InAll(limits.total));
        }
        Ok(admission)
    }

    fn part(&self, source: IpAddr) -> std::sync::MutexGuard<'_, HashMap<IpAddr, u32>> {
        let sum = match source {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments().map(u64::from);
                a << 48 | b << 32 | c << 16 | d
            }
        };
        let index = (sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as usize;
        self.sources[index % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

impl Admission {
    /// Counts the connection for its source, if that has not as many as one may. Sources are
    /// IPv4 addresses and IPv6 networks of 64 bits, which is what one customer gets at least; a
    /// connection that has none, of a unix socket, counts in all only.
    ///
    /// # Errors
    /// [`TooMany::OfSource`].
    pub fn attribute(
        &mut self,
        source: Option<IpAddr>,
        limits: &ConnectionLimits,
    ) -> Result<(), TooMany> {
        let Some(source) = source.filter(|_| self.source.is_none()).map(network) else {
            return Ok(());
        };
        let mut part = self.connections.part(source);
        let count = part.entry(source).or_insert(0);
        if *count >= limits.per_source {
            return Err(TooMany::OfSource(limits.per_source));
        }
        *count += 1;
        self.source = Some(source);
        Ok(())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.connections.total.fetch_sub(1, Ordering::Relaxed);
        let Some(source) = self.source else { return };
        let mut part = self.connections.part(source);
        if let Some(count) = part.get_mut(&source) {
            *count -= 1;
            // The table has no more entries than there are connections.
            if *count == 0 {
                part.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(
        connections: &Arc<Connections>,
        source: &str,
        (total, per_source): (u32, u32),
    ) -> Result<Admission, TooMany> {
        let limits = ConnectionLimits { total, per_source };
        let mut admission = connections.admit(&limits)?;
        admission.attribute(source.parse().ok(), &limits).map(|()| admission)
    }

    #[test]
    fn one_too_many_is_refused_until_another_has_gone() {
        let connections = Arc::default();
        let first = admit(&connections, "192.0.2.1", (2, 2)).unwrap();
        let _second = admit(&connections, "192.0.2.2", (2, 2)).unwrap();
        assert_eq!(admit(&connections, "192.0.2.3", (2, 2)).unwrap_err(), TooMany::InAll(2));
        assert_eq!(connections.total(), 2);
        drop(first);
        admit(&connections, "192.0.2.3", (2, 2)).unwrap();
    }

    #[test]
    fn a_connection_counts_before_its_source_is_known() {
        let connections = Arc::default();
        let limits = ConnectionLimits { total: 2, per_source: 1 };
        let mut first = Connections::admit(&connections, &limits).unwrap();
        let mut second = Connections::admit(&connections, &limits).unwrap();
        assert_eq!(Connections::admit(&connections, &limits).unwrap_err(), TooMany::InAll(2));
        let source = "192.0.2.1".parse().unwrap();
        first.attribute(Some(source), &limits).unwrap();
        assert_eq!(second.attribute(Some(source), &limits).unwrap_err(), TooMany::OfSource(1));
        drop((first, second));
        assert_eq!(connections.total(), 0);
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        let connections = Arc::default();
        let limits = (100, 1);
        let held: Vec<_> = ["192.0.2.1", "192.0.2.2", "2001:db8:0:1::1", "2001:db8:0:2::1"]
            .map(|source| admit(&connections, source, limits).unwrap())
            .into();
        for source in ["192.0.2.1", "::ffff:192.0.2.2", "2001:db8:0:1::2"] {
            let refused = admit(&connections, source, limits).unwrap_err();
            assert_eq!(refused, TooMany::OfSource(1), "{source}");
        }
        // Clients of unix sockets are not one source.
        let _unix = [(); 2].map(|()| admit(&connections, "unix", limits).unwrap());
        drop(held);
        admit(&connections, "192.0.2.1", limits).unwrap();
        assert!(connections.sources.iter().all(|part| part.lock().unwrap().is_empty()));
    }
}
