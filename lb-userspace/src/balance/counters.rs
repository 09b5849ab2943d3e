//! What requests came to, counted: of a frontend, a backend, a server.
//!
//! Workers count in lines of their own ([`Teller`]).

use std::sync::atomic::{AtomicU64, Ordering};

use super::teller::{LINES, Teller};

/// Counters of requests that are over. They outlive reloads.
#[derive(Debug, Default)]
pub struct Counters {
    lines: [Line; LINES],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Line {
    /// By class of the status; those without one first.
    requests: [AtomicU64; 6],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    retries: AtomicU64,
    /// By [`Fault`].
    faults: [AtomicU64; 4],
    connections: AtomicU64,
    /// By [`Refused`].
    refused: [AtomicU64; 2],
}

/// Who is to blame for what did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The client.
    Client,
    /// The server.
    Server,
    /// This host, or the end of the agent.
    Proxy,
    /// A rule or a limit of the configuration.
    Policy,
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Its source is on a list, or not on one, or blocked.
    Source,
    /// There are too many, in all or of its source.
    Limit,
}

/// A request, or a session of `mode: tcp`, that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The status the client was sent; none if it was not, and of sessions.
    pub status: Option<u16>,
    /// Bytes from the client: of the body, or of the session.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// Servers tried after the first.
    pub retries: u32,
    /// Who is to blame; none if all went well.
    pub fault: Option<Fault>,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests by class of the status, 1xx to 5xx from place 1; those without one in place 0.
    pub requests: [u64; 6],
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Servers tried after the first; of a server, how often another try followed one there.
    pub retries: u64,
    /// Those that did not end well, in the order of [`Fault`].
    pub faults: [u64; 4],
    /// Connections of clients, those not let in too.
    pub connections: u64,
    /// Those not let in, in the order of [`Refused`].
    pub refused: [u64; 2],
}

impl Counters {
    /// Counts a request.
    pub fn count(&self, teller: Teller, done: &Done) {
        let line = teller.line(&self.lines);
        let class = done.status.map_or(0, |status| usize::from(status / 100).min(5));
        teller.add(&line.requests[class], 1);
        if done.bytes_in > 0 {
            teller.add(&line.bytes_in, done.bytes_in);
        }
        if done.bytes_out > 0 {
            teller.add(&line.bytes_out, done.bytes_out);
        }
        if done.retries > 0 {
            teller.add(&line.retries, done.retries.into());
        }
        if let Some(fault) = done.fault {
            teller.add(&line.faults[fault as usize], 1);
        }
    }

    /// Counts a try, at the server where it was in vain, that another one follows.
    pub fn count_retry(&self, teller: Teller) {
        teller.add(&teller.line(&self.lines).retries, 1);
    }

    /// Counts a connection of a client.
    pub fn count_connection(&self, teller: Teller) {
        teller.add(&teller.line(&self.lines).connections, 1);
    }

    /// Counts a connection that is not let in; it was counted as one.
    pub fn count_refused(&self, teller: Teller, why: Refused) {
        teller.add(&teller.line(&self.lines).refused[why as usize], 1);
    }

    /// All lines together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for line in &self.lines {
            for (total, count) in totals.requests.iter_mut().zip(&line.requests) {
                *total += count.load(Ordering::Relaxed);
            }
            totals.bytes_in += line.bytes_in.load(Ordering::Relaxed);
            totals.bytes_out += line.bytes_out.load(Ordering::Relaxed);
            totals.retries += line.retries.load(Ordering::Relaxed);
            for (total, count) in totals.faults.iter_mut().zip(&line.faults) {
                *total += count.load(Ordering::Relaxed);
            }
            totals.connections += line.connections.load(Ordering::Relaxed);
            for (total, count) in totals.refused.iter_mut().zip(&line.refused) {
                *total += count.load(Ordering::Relaxed);
            }
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_class_whoever_counts() {
        let counters = Counters::default();
        for (worker, status) in [(0, Some(200)), (1, Some(204)), (9, Some(503)), (2, None)] {
            let fault = (worker == 9).then_some(Fault::Server);
            let teller = Teller::new(worker, 10);
            counters.count(teller, &Done { status, bytes_in: 1, bytes_out: 10, retries: 2, fault });
            counters.count_connection(teller);
            counters.count_retry(teller);
        }
        counters.count_refused(Teller::new(1, 10), Refused::Limit);
        counters.count_refused(Teller::new(9, 10), Refused::Source);
        let totals = counters.totals();
        assert_eq!(totals.requests, [1, 0, 2, 0, 0, 1]);
        assert_eq!((totals.bytes_in, totals.bytes_out, totals.retries), (4, 40, 12));
        assert_eq!((totals.faults, totals.connections), ([0, 1, 0, 0], 4));
        assert_eq!(totals.refused, [1, 1]);
        // One of two lines that processors fetch together.
        assert_eq!(size_of::<Line>(), 128);
    }
}
