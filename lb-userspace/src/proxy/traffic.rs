//! What VIPs and servers of layer 4 in user space have carried, in the data plane's terms.
//!
//! Workers count in lines of their own ([`Teller`]). Bytes are those of payload: user space does not see
//! headers. Of TCP, which is a stream here, packets are not known.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lb_common::counters::TrafficCounters;

use crate::balance::{LINES, Teller};
use crate::model::{
    address::ServerAddress,
    name::Name,
    snapshot::{Bind, Snapshot},
};

/// What one VIP or one server has carried.
#[derive(Debug, Default)]
pub struct Traffic {
    lines: [Line; LINES],
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    flows: AtomicU64,
    forward_packets: AtomicU64,
    forward_bytes: AtomicU64,
    reply_packets: AtomicU64,
    reply_bytes: AtomicU64,
    resets: AtomicU64,
}

impl Traffic {
    /// Counts what has come since the last time.
    pub fn add(&self, teller: Teller, more: &TrafficCounters) {
        let line = teller.line(&self.lines);
        let add = |counter: &AtomicU64, more: u64| {
            if more > 0 {
                teller.add(counter, more);
            }
        };
        add(&line.flows, more.flows);
        add(&line.forward_packets, more.forward_packets);
        add(&line.forward_bytes, more.forward_bytes);
        add(&line.reply_packets, more.reply_packets);
        add(&line.reply_bytes, more.reply_bytes);
        add(&line.resets, more.resets);
    }

    /// All lines together.
    #[must_use]
    pub fn totals(&self) -> TrafficCounters {
        let sum = |counter: fn(&Line) -> &AtomicU64| {
            self.lines.iter().map(|line| counter(line).load(Ordering::Relaxed)).sum()
        };
        TrafficCounters {
            generation: 0,
            flows: sum(|line| &line.flows),
            forward_packets: sum(|line| &line.forward_packets),
            forward_bytes: sum(|line| &line.forward_bytes),
            reply_packets: sum(|line| &line.reply_packets),
            reply_bytes: sum(|line| &line.reply_bytes),
            resets: sum(|line| &line.resets),
        }
    }
}

/// The traffic of everything that is configured; kept over reloads.
#[derive(Debug, Default)]
pub struct Ledger {
    vips: Accounts<Bind>,
    servers: Accounts<ServerPlace>,
}

/// A server: its backend and where it listens.
pub type ServerPlace = (Name, ServerAddress);

type Accounts<K> = Mutex<HashMap<K, Arc<Traffic>>>;

impl Ledger {
    /// That of a VIP.
    #[must_use]
    pub fn vip(&self, vip: Bind) -> Arc<Traffic> {
        account(&self.vips, vip)
    }

    /// That of a server.
    #[must_use]
    pub fn server(&self, place: ServerPlace) -> Arc<Traffic> {
        account(&self.servers, place)
    }

    /// Forgets what is not configured any more: it begins at zero if it comes back.
    pub fn configure(&self, snapshot: &Snapshot) {
        let vips = || snapshot.l4_frontends().flat_map(|(_, frontend)| &frontend.bind);
        let mut known = self.vips.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|vip, _| vips().any(|bind| bind == vip));
        let mut known = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(backend, address), _| {
            let backend = snapshot.backends.get(backend);
            backend.is_some_and(|backend| {
                backend.servers.values().any(|server| server.address == *address)
            })
        });
    }

    /// What every VIP has carried.
    #[must_use]
    pub fn vips(&self) -> HashMap<Bind, TrafficCounters> {
        totals(&self.vips)
    }

    /// What every server has carried.
    #[must_use]
    pub fn servers(&self) -> HashMap<ServerPlace, TrafficCounters> {
        totals(&self.servers)
    }
}

fn account<K: Eq + Hash>(accounts: &Accounts<K>, key: K) -> Arc<Traffic> {
    let mut accounts = accounts.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(accounts.entry(key).or_default())
}

fn totals<K: Clone + Eq + Hash>(accounts: &Accounts<K>) -> HashMap<K, TrafficCounters> {
    let accounts = accounts.lock().unwrap_or_else(PoisonError::into_inner);
    accounts.iter().map(|(key, traffic)| (key.clone(), traffic.totals())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{fixture, snapshot::Protocol};

    #[test]
    fn accounts_outlive_reloads_and_go_with_what_they_are_of() {
        let snapshot = fixture::snapshot(&[("pg1", "10.0.1.20:5432")]);
        let (_, frontend) = snapshot.l4_frontends().next().unwrap();
        let vip = frontend.bind[0];
        let ledger = Ledger::default();
        let one = TrafficCounters { flows: 1, reply_bytes: 7, ..TrafficCounters::default() };
        let teller = |worker| Teller::new(worker, LINES + 1);
        for worker in [0, 1, LINES] {
            ledger.vip(vip).add(teller(worker), &one);
        }
        let gone = Bind { protocol: Protocol::Udp, ..vip };
        ledger.vip(gone).add(teller(0), &one);
        let server = (fixture::name("pg"), "10.0.1.20:5432".parse().unwrap());
        ledger.server(server.clone()).add(teller(0), &one);
        ledger
            .server((fixture::name("pg"), "10.0.1.21:5432".parse().unwrap()))
            .add(teller(0), &one);
        ledger.configure(&snapshot);
        let three = TrafficCounters { flows: 3, reply_bytes: 21, ..TrafficCounters::default() };
        assert_eq!(ledger.vips(), [(vip, three)].into());
        assert_eq!(ledger.servers(), [(server, one)].into());
    }
}
