//! The task that checks every server that has a check, each on its own.
//!
//! Level-triggered: from each snapshot and each set of servers in maintenance follow the
//! targets; servers whose target is unchanged notice nothing. Each server has a worker, a
//! task of its own, so a slow or dead one delays nobody. A worker that panics is started
//! again.

use std::{
    collections::{BTreeMap, BTreeSet},
    future,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    counts::CheckCounts,
    way::{AsTraffic, Way},
    worker,
};
use crate::model::{
    address::ServerAddress,
    snapshot::{Check, Snapshot},
    state::{Health, ServerId},
};

/// What is now known of one server. Sent when `health` or `reason` changes and after each
/// change of the configuration that concerns the server, not for every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthEvent {
    /// Which server.
    pub server: ServerId,
    /// The address that it has in the configuration that this was found under: of a server
    /// that moved meanwhile it says nothing.
    pub address: ServerAddress,
    /// What the checks say of it.
    pub health: Health,
    /// Why, for people: `connected`, `connection refused (failure 1 of 3)`.
    pub reason: String,
    /// How long the last check took; zero if there was none.
    pub duration: Duration,
}

/// Checks all servers of the snapshots it is given.
#[derive(Debug)]
pub struct Checker {
    known: BTreeMap<ServerId, Health>,
    counts: CheckCounts,
    path: Arc<dyn AsTraffic>,
}

impl Checker {
    /// A checker. `known` is what an earlier process had found, as read from its maps: such
    /// a server needs `fall` or `rise` results to change, while of any other server the
    /// first check decides at once. `path` sends those checks that are to go as traffic does.
    #[must_use]
    pub fn new(known: BTreeMap<ServerId, Health>, path: Arc<dyn AsTraffic>) -> Self {
        Self { known, counts: CheckCounts::default(), path }
    }

    /// What its checks come to.
    #[must_use]
    pub fn counts(&self) -> CheckCounts {
        self.counts.clone()
    }

    /// Checks until cancelled, or until a sender of snapshots or maintenance, or the
    /// receiver of events, is gone. Servers in `maintenance` are not checked; afterwards
    /// their first check decides. A server that loses its check is reported to be up. One
    /// that is newly in `marked`, which says why, is down from then on, until `rise` checks
    /// in a row have passed.
    ///
    /// # Cancel safety
    /// Dropping the future stops all checks.
    pub async fn run(
        self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut maintenance: watch::Receiver<BTreeSet<ServerId>>,
        mut marked: watch::Receiver<BTreeMap<ServerId, String>>,
        events: mpsc::Sender<HealthEvent>,
        cancel: CancellationToken,
    ) {
        let Self { known, counts, path } = self;
        let (running, tasks) = (BTreeMap::new(), JoinSet::new());
        let mut workers = Workers { known, counts, running, tasks, events, path };
        let serve = async {
            loop {
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                let paused = maintenance.borrow_and_update().clone();
                let down = marked.borrow_and_update().clone();
                workers.reconcile(&snapshot, &paused, &down).await;
                tokio::select! {
                    () = workers.one_died() => {}
                    changed = snapshots.changed() => if changed.is_err() { return },
                    changed = maintenance.changed() => if changed.is_err() { return },
                    changed = marked.changed() => if changed.is_err() { return },
                }
            }
        };
        cancel.run_until_cancelled(serve).await;
    }
}

/// What one worker checks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    /// The server's address.
    pub(super) server: ServerAddress,
    /// Where the check connects to: that, or another port of it.
    pub(super) probed: ServerAddress,
    /// The way of traffic, if its packets go that.
    pub(super) way: Option<Way>,
    /// What it asks, and how often.
    pub(super) check: Check,
    /// In maintenance: not checked.
    pub(super) paused: bool,
    /// Why traffic holds it for down, if it does.
    pub(super) marked: Option<String>,
}

/// The servers to check, and how.
fn targets(
    snapshot: &Snapshot,
    maintenance: &BTreeSet<ServerId>,
    marked: &BTreeMap<ServerId, String>,
) -> BTreeMap<ServerId, Target> {
    let mut targets = BTreeMap::new();
    for (backend_name, backend) in &snapshot.backends {
        let Some(check) = &backend.check else { continue };
        for (server_name, server) in &backend.servers {
            let id = (backend_name.clone(), server_name.clone());
            let probed = match server.address {
                ServerAddress::Ip(mut address) => {
                    address.set_port(check.port.unwrap_or(address.port()));
                    address.into()
                }
                socket @ ServerAddress::Unix(_) => socket,
            };
            let way = server.address.socket().map(|address| address.ip());
            let way = way.and_then(|address| Way::to(address, backend_name, snapshot));
            let paused = maintenance.contains(&id);
            let marked = marked.get(&id).cloned();
            let (server, check) = (server.address, check.clone());
            targets.insert(id, Target { server, probed, way, check, paused, marked });
        }
    }
    targets
}

struct Workers {
    known: BTreeMap<ServerId, Health>,
    counts: CheckCounts,
    running: BTreeMap<ServerId, Worker>,
    tasks: JoinSet<()>,
    events: mpsc::Sender<HealthEvent>,
    path: Arc<dyn AsTraffic>,
}

struct Worker {
    target: watch::Sender<Target>,
    task: AbortHandle,
}

impl Workers {
    /// Starts, changes and stops what differs from the targets.
    async fn reconcile(
        &mut self,
        snapshot: &Snapshot,
        maintenance: &BTreeSet<ServerId>,
        marked: &BTreeMap<ServerId, String>,
    ) {
        let targets = targets(snapshot, maintenance, marked);
        let gone: Vec<ServerId> =
            self.running.keys().filter(|&id| !targets.contains_key(id)).cloned().collect();
        for server in gone {
            self.stop(&server).await;
            let (backend, name) = &server;
            let servers = snapshot.backends.get(backend).map(|backend| &backend.servers);
            if let Some(left) = servers.and_then(|servers| servers.get(name)) {
                let (address, health) = (left.address, Health::Up);
                let reason = "not checked".to_owned();
                let event =
                    HealthEvent { server, address, health, reason, duration: Duration::ZERO };
                // Without a receiver the agent is stopping.
                let _ = self.events.send(event).await;
            }
        }
        if targets.values().all(|target| target.way.is_none()) {
            self.path.rest();
        }
        for (server, target) in targets {
            match self.running.get(&server) {
                Some(worker) => {
                    worker.target.send_if_modified(|old| {
                        let changed = *old != target;
                        *old = target;
                        changed
                    });
                }
                None => self.start(server, target),
            }
        }
    }

    fn start(&mut self, server: ServerId, target: Target) {
        let known = self.known.remove(&server);
        let (sender, receiver) = watch::channel(target);
        let (events, path) = (self.events.clone(), Arc::clone(&self.path));
        let count = self.counts.of(&server);
        let work = worker::run(server.clone(), receiver, known, events, count, path);
        let task = self.tasks.spawn(work);
        self.running.insert(server, Worker { target: sender, task });
    }

    /// Stops a worker and waits until it has: an event of its may not follow ours.
    async fn stop(&mut self, server: &ServerId) {
        let Some(worker) = self.running.remove(server) else { return };
        worker.task.abort();
        self.counts.forget(server);
        while let Some(ended) = self.tasks.join_next_with_id().await {
            if self.forget(ended) == worker.task.id() {
                return;
            }
        }
    }

    /// Waits until a worker that should run has ended; the next reconcile starts it again.
    async fn one_died(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => {
                self.forget(ended);
            }
            None => future::pending().await,
        }
    }

    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) -> Id {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a health check panicked; it is started again");
                }
                error.id()
            }
        };
        self.running.retain(|_, worker| worker.task.id() != id);
        id
    }
}

#[cfg(test)]
mod tests;
