//! The workers of the proxy together: told what to serve, and ended in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use lb_common::drop_reason::DropReason;
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    gate::Ruling,
    listen::{Inherited, Keeper, ListenError, SocketKey},
    log::LineSink,
    material::{Material, MaterialError},
    plan::{Plan, configure_pools},
    report::{ProxyReport, report},
    timer::TICK,
    tls::watch::Watched,
    traffic::Ledger,
    worker::{self, Listing, Message, Shared},
};
use crate::{
    balance::Pools,
    model::{
        flow::{Best, Flow, Selection},
        snapshot::Snapshot,
        state::{ServerId, ServerStatuses},
    },
};

/// The proxy: its workers, and what they are told.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    pools: Arc<Pools>,
    plan: Arc<Plan>,
    material: Material,
    watched: watch::Sender<Vec<Watched>>,
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    messages: mpsc::UnboundedSender<Message>,
    thread: JoinHandle<()>,
}

/// Why the proxy can not serve a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Files can not be used.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Files(Vec<MaterialError>),
    /// Sockets can not be opened.
    #[error("{}", list(.0))]
    Listen(Vec<ListenError>),
    /// A thread can not be started.
    #[error("can not start a worker of the proxy")]
    Thread(#[source] io::Error),
}

fn list(errors: &[ListenError]) -> String {
    let error = |error: &ListenError| match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    errors.iter().map(error).collect::<Vec<_>>().join("; ")
}

impl Proxy {
    /// A proxy that serves nothing yet and has no thread. `inherited` are the sockets that
    /// were open at the start, `sink` takes the access log.
    #[must_use]
    pub fn new(inherited: Inherited, sink: Arc<dyn LineSink>) -> Self {
        let keeper = Keeper::new(workers(), inherited);
        Self {
            shared: Arc::new(Shared::new(keeper, sink)),
            pools: Arc::new(Pools::new(fastrand::u64(..))),
            plan: Arc::default(),
            material: Material::default(),
            watched: watch::Sender::new(Vec::new()),
            workers: Vec::new(),
        }
    }

    /// Serves a configuration from now on; `ruling` says who may be a client of layer 4.
    /// Connections, sockets and counters of what is the same stay.
    ///
    /// # Errors
    /// [`ProxyError`]; then nothing has changed.
    pub fn install(
        &mut self,
        snapshot: &Snapshot,
        statuses: &ServerStatuses,
        ruling: Ruling,
    ) -> Result<(), ProxyError> {
        let wanted: BTreeSet<_> = snapshot.listens().iter().map(SocketKey::of).collect();
        let material = Material::load(snapshot, &self.material).map_err(ProxyError::Files)?;
        if self.workers.is_empty() && !wanted.is_empty() {
            self.workers = start_workers(&self.shared)?;
        }
        let mut keeper = self.shared.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.change(&wanted).map_err(ProxyError::Listen)?;
        drop(keeper);
        self.shared.gate.rule(ruling);
        self.shared.ledger.configure(snapshot);
        configure_pools(&self.pools, snapshot, statuses, Instant::now());
        self.plan =
            Arc::new(Plan::new(snapshot, (&self.pools, &self.shared), &material, &self.plan));
        self.plan.tcp.settle(snapshot, statuses);
        self.watched.send_replace(material.watched());
        self.material = material;
        for worker in &self.workers {
            // One that has ended was reported.
            let _ = worker.messages.send(Message::Serve(Arc::clone(&self.plan)));
        }
        Ok(())
    }

    /// Takes over the state of servers.
    pub fn set_servers(&self, snapshot: &Snapshot, statuses: &ServerStatuses) {
        if !self.workers.is_empty() {
            configure_pools(&self.pools, snapshot, statuses, Instant::now());
            self.plan.tcp.settle(snapshot, statuses);
        }
    }

    /// Who may be a client of layer 4 from now on; who is in is judged again.
    pub fn rule(&self, ruling: Ruling) {
        self.shared.gate.rule(ruling);
    }

    /// What was refused or lost of layer 4, every reason.
    #[must_use]
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        self.shared.gate.drops()
    }

    /// What VIPs and servers of layer 4 have carried.
    #[must_use]
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.shared.ledger)
    }

    /// Lists flows of layer 4: the `limit` of highest rank, and whether there are more.
    pub fn list(
        &self,
        selection: &Arc<dyn Selection + Send + Sync>,
        limit: usize,
    ) -> impl Future<Output = (Vec<Flow>, bool)> + Send + use<> {
        let (found, mut answers) = mpsc::unbounded_channel();
        let mut best = Best::new(limit, selection.is_ordered());
        for worker in &self.workers {
            let listing = Listing { selection: Arc::clone(selection), limit, found: found.clone() };
            // One that has ended has no flows.
            let _ = worker.messages.send(Message::List(listing));
        }
        drop(found);
        async move {
            while let Some(more) = answers.recv().await {
                best.merge(more);
            }
            best.into_flows()
        }
    }

    /// How its frontends, and those backends of the snapshot that it uses, are doing.
    #[must_use]
    pub fn report(&self, snapshot: &Snapshot) -> ProxyReport {
        let names: Vec<_> = snapshot.proxy_backends().into_iter().cloned().collect();
        report(&self.plan, &self.pools, &names)
    }

    /// Files to be watched, with what to do when they change.
    #[must_use]
    pub fn watched(&self) -> watch::Receiver<Vec<Watched>> {
        self.watched.subscribe()
    }

    /// The servers as the proxy uses them.
    #[must_use]
    pub fn pools(&self) -> Arc<Pools> {
        Arc::clone(&self.pools)
    }

    /// Takes nothing new, lets requests finish for as long as `grace`, then cuts them off.
    pub async fn stop(self, grace: Duration) {
        for worker in &self.workers {
            let _ = worker.messages.send(Message::Drain);
        }
        let still_runs = || self.workers.iter().any(|worker| !worker.thread.is_finished());
        let mut tick = time::interval(TICK);
        let deadline = Instant::now() + grace;
        while still_runs() && Instant::now() < deadline {
            tick.tick().await;
        }
        let (messages, threads): (Vec<_>, Vec<_>) =
            self.workers.into_iter().map(|worker| (worker.messages, worker.thread)).unzip();
        // A worker that nobody can tell anything ends at once.
        drop(messages);
        let deadline = Instant::now() + worker::FAREWELL;
        while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
            tick.tick().await;
        }
        for thread in threads {
            match thread.is_finished().then(|| thread.join()) {
                Some(Ok(())) => {}
                Some(Err(_)) => tracing::error!("a worker of the proxy panicked"),
                None => tracing::error!("a worker of the proxy does not end"),
            }
        }
    }
}

/// Does what time brings to `pools`, and at once what traffic makes necessary.
pub async fn run_pools(
    pools: Arc<Pools>,
    marked: watch::Sender<BTreeMap<ServerId, String>>,
    cancel: CancellationToken,
) {
    loop {
        let due = pools.tick(Instant::now());
        marked.send_if_modified(|known| {
            let now = pools.marked_down();
            let changed = *known != now;
            *known = now;
            changed
        });
        let timer = async {
            match due {
                Some(due) => time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = pools.changed() => {}
            () = timer => {}
        }
    }
}

/// As many workers as the process may use cores.
fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn start_workers(shared: &Arc<Shared>) -> Result<Vec<Worker>, ProxyError> {
    let count = workers();
    let start = |index| {
        let (messages, told) = mpsc::unbounded_channel();
        let shared = Arc::clone(shared);
        let thread = thread::Builder::new()
            .name(format!("proxy-{index}"))
            .spawn(move || worker::run((index, count), shared, told))
            .map_err(ProxyError::Thread)?;
        Ok(Worker { messages, thread })
    };
    (0..count).map(start).collect()
}
