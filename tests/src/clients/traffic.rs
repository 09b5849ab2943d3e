//! Traffic in the background, so that something can be done to the system meanwhile.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{Conversation, Failure, Tally, ask, ask_udp};
use crate::namespace::Namespace;

/// Pause of a worker between two exchanges: hundreds of exchanges a second each, and
/// enough of the processor left for what is being done meanwhile.
const PAUSE: Duration = Duration::from_millis(1);

/// What kind of exchange is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A new TCP connection for each exchange.
    ShortTcp,
    /// One TCP connection a worker, reopened after a failure.
    LongTcp,
    /// A new UDP socket for each exchange.
    Udp,
}

/// One exchange of the past.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it ended.
    pub at: Instant,
    /// Who answered, or why nobody did.
    pub outcome: Result<String, Arc<Failure>>,
}

/// Running traffic. Dropping it stops it.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Result<()>>>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    records: Mutex<Vec<Record>>,
}

impl Traffic {
    /// Starts `workers` clients in a namespace.
    ///
    /// # Errors
    /// When a thread can not be started.
    pub fn start(
        namespace: &Namespace,
        kind: Kind,
        target: SocketAddr,
        workers: usize,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut traffic = Self { shared, workers: Vec::new(), start: Instant::now() };
        for number in 0..workers {
            let shared = Arc::clone(&traffic.shared);
            let name = format!("traffic{number}");
            traffic.workers.push(namespace.spawn(&name, move || {
                shared.work(kind, target);
                Ok(())
            })?);
        }
        Ok(traffic)
    }

    /// Everything so far.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.shared.records().clone()
    }

    /// Exchanges so far.
    #[must_use]
    pub fn exchanges(&self) -> usize {
        self.shared.records().len()
    }

    /// What happened since an instant, so far.
    #[must_use]
    pub fn since(&self, instant: Instant) -> Tally {
        let mut tally = Tally { elapsed: instant.elapsed(), ..Tally::default() };
        for record in self.shared.records().iter().filter(|record| record.at >= instant) {
            tally.count(
                record.outcome.clone().map_err(|failure| Failure {
                    kind: failure.kind,
                    detail: failure.detail.clone(),
                }),
            );
        }
        tally
    }

    /// Ends it and says what happened in all.
    #[must_use]
    pub fn stop(mut self) -> Tally {
        self.end();
        self.since(self.start)
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            // A worker that panicked has printed why; its missing records tell.
            let _ = worker.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, kind: Kind, target: SocketAddr) {
        let mut open = None;
        while !self.stopping.load(Ordering::Relaxed) {
            let outcome = match kind {
                Kind::ShortTcp => ask(target),
                Kind::LongTcp => go_on(&mut open, target),
                Kind::Udp => ask_udp(target),
            };
            let record = Record { at: Instant::now(), outcome: outcome.map_err(Arc::new) };
            self.records().push(record);
            thread::sleep(PAUSE);
        }
    }
}

/// The next exchange on the open connection, or on a new one.
fn go_on(open: &mut Option<Conversation>, target: SocketAddr) -> Result<String, Failure> {
    let conversation = match open.take() {
        None => Conversation::open(target)?,
        Some(mut conversation) => {
            conversation.say()?;
            conversation
        }
    };
    let server = conversation.server().to_owned();
    *open = Some(conversation);
    Ok(server)
}
