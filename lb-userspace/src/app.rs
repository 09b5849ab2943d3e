//! Wires the agent: start, control loop, end.
//!
//! The control loop runs on the main thread, where it may block for the length of a few
//! system calls; checks, neighbours and the admin interface run on two threads of their
//! own. If one of those tasks ends before the agent is told to stop, the agent stops with
//! an error for its supervisor to start it again; the data plane goes on in any case.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use lb_common::event::FlowEnd;
use tokio::{
    net::{TcpListener, UnixListener},
    runtime,
    sync::{mpsc, watch},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    access_log::writer::AccessLogger,
    admin::{
        command,
        server::{AdminServer, Limits, Listener},
        socket::{AdminSocket, SocketFile},
    },
    clock::Moment,
    config::Loaded,
    control::{
        Control, Inputs, Outputs, Start,
        blocks::BlockBook,
        book::ServerBook,
        check_path::ChecksAsTraffic,
        kernel::Kernel,
        log_lines::LogLines,
        memory::{Remembered, StateFile},
        notify,
        overrides::OverrideBook,
        reload::{missing_interfaces, override_interfaces},
        server_addresses,
        signal::{Signals, Wish},
    },
    datapath::{
        self, expiry,
        sweep::{SweepReport, Sweeper},
    },
    descriptors,
    health::Checker,
    logging::{self, LogFormat},
    model::{
        index::NameIndex,
        snapshot::{AttachMode, Snapshot},
    },
    network::NeighbourWatch,
    proxy::{
        listen::Inherited,
        supervisor::{Proxy, run_pools},
        tls,
    },
};

/// Longest wait of a first start for the next hops of all servers; one that is not known
/// by then gets no flows until it is.
const NEXT_HOPS: Duration = Duration::from_secs(2);
/// Time between two looks at the files of certificates.
const LOOK_AT_FILES: Duration = Duration::from_secs(2);
/// Longest time tasks may take to end.
const DRAIN: Duration = Duration::from_secs(5);
/// Results of checks waiting for the control loop at most; checks wait beyond.
const HEALTH_QUEUE: usize = 256;
/// Finished flows between the data plane and the access log at most; the data plane's ring
/// buffer holds more.
const FLOW_END_QUEUE: usize = 1024;

/// How the agent was started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file, for reloads.
    pub configuration: PathBuf,
    /// Interfaces in place of the configuration's, over reloads too; none to take those.
    pub interfaces: Vec<String>,
    /// Remove the data plane at the end.
    pub detach_on_exit: bool,
    /// How lines on standard error look.
    pub log_format: LogFormat,
}

/// Runs the agent with a configuration until it is told to stop.
///
/// # Errors
/// If it can not start, can not go on, or can not end in order. Whatever was forwarding
/// goes on forwarding.
pub fn run(options: Options, loaded: Loaded) -> anyhow::Result<()> {
    logging::start(loaded.snapshot.log.target, options.log_format)?;
    let descriptors = descriptors::raise();
    tracing::debug!(descriptors, "a proxied connection needs two");
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("can not start threads")?;
    let result = runtime.block_on(agent(options, loaded));
    runtime.shutdown_background();
    result
}

async fn agent(options: Options, loaded: Loaded) -> anyhow::Result<()> {
    let signals = Signals::listen().context("can not listen to signals")?;
    let detach = options.detach_on_exit;
    let mut agent = Agent::start(options, loaded, signals).await?;
    notify::ready();
    tracing::info!("ready");
    let failure = tokio::select! {
        () = agent.control.run(&mut agent.inputs) => None,
        error = agent.tasks.failure() => Some(error),
    };
    notify::stopping();
    let stopped = tokio::select! {
        result = agent.control.stop(detach) => result,
        () = second_signal(&mut agent.inputs.signals) => bail!("stopped by a second signal"),
    };
    let drained = tokio::select! {
        result = agent.tasks.stop() => result,
        () = second_signal(&mut agent.inputs.signals) => bail!("stopped by a second signal"),
    };
    tracing::info!("stopped{}", if detach { "" } else { "; the data plane goes on forwarding" });
    match failure {
        Some(error) => Err(error),
        None => stopped.and(drained),
    }
}

async fn second_signal(signals: &mut Signals) {
    while signals.next().await != Wish::Stop {}
}

/// The parts of a running agent.
struct Agent {
    control: Control,
    inputs: Inputs,
    tasks: Tasks,
    _socket: Option<SocketFile>,
}

impl Agent {
    async fn start(options: Options, mut loaded: Loaded, signals: Signals) -> anyhow::Result<Self> {
        // Before the agent has sockets of its own.
        let inherited = Inherited::take();
        override_interfaces(&mut loaded.snapshot, &options.interfaces);
        let snapshot = Arc::new(loaded.snapshot);
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        preflight(&options.configuration, &snapshot)?;
        // Before anything is touched, so that a second agent does not get far.
        let (socket, file) = AdminSocket::claim(&snapshot.admin.socket)?.into_parts();
        let tcp = match snapshot.admin.listen {
            Some(address) => {
                let listener = TcpListener::bind(address).await;
                Some(listener.with_context(|| format!("can not listen on {address}"))?)
            }
            None => None,
        };
        let names = Arc::new(NameIndex::new(&snapshot));
        let access_log = match &snapshot.log.access {
            Some(config) => Some(Arc::new(AccessLogger::start(config, names)?)),
            None => None,
        };
        let (access_log, access_log_seen) = watch::channel(access_log);
        let proxy = Proxy::new(inherited, Arc::new(LogLines(access_log_seen.clone())));
        let kernel = load(&snapshot)?;
        let state_file = StateFile::beside(&snapshot.admin.socket);
        let (book, blocks, overrides) = open_books(&snapshot, &state_file, kernel.as_ref());

        let mut tasks = Tasks::default();
        let (snapshots, snapshots_seen) = watch::channel(Arc::clone(&snapshot));
        let (maintenance, maintenance_seen) = watch::channel(book.maintenance());
        let (addresses, addresses_seen) = watch::channel(server_addresses(&snapshot));

        let (next_hops_known, mut next_hops) = watch::channel(Default::default());
        if kernel.is_some() {
            let watcher = NeighbourWatch::open()?;
            tasks.spawn("the watch on neighbours", |cancel| {
                watcher.run(addresses_seen, next_hops_known, cancel)
            });
        }
        let known = first_next_hops(kernel.as_ref(), &snapshot, &mut next_hops).await;

        let (timeouts, timeouts_seen) =
            watch::channel(expiry::timeouts(&snapshot.datapath.timeouts));
        let (reports, sweeps) = watch::channel(SweepReport::default());
        let (map_changes, map_changes_seen) = watch::channel(());
        if let Some(kernel) = &kernel {
            let (ends, ended) = mpsc::channel(FLOW_END_QUEUE);
            let sweeper = Sweeper {
                tables: kernel.flow_tables()?,
                settler: kernel.settler()?,
                interval: snapshot.datapath.sweep_interval,
                timeouts: timeouts_seen,
                ends: ends.clone(),
                reports,
            };
            let events = kernel.events()?;
            tasks.spawn("the reader of finished flows", |cancel| events.run(ends, cancel));
            tasks.spawn("the sweep of the flow tables", |cancel| sweeper.run(cancel));
            tasks.spawn("the access log", |cancel| log_flows(ended, access_log_seen, cancel));
        }

        let watched = proxy.watched();
        tasks.spawn("the watch on certificates", |cancel| {
            tls::watch::run(watched, LOOK_AT_FILES, cancel)
        });
        let pools = proxy.pools();
        let (marked, marked_seen) = watch::channel(BTreeMap::new());
        tasks.spawn("the balancing of the proxy", |cancel| run_pools(pools, marked, cancel));
        let path = Arc::new(ChecksAsTraffic::new(snapshots_seen.clone()));
        path.prepare()?;
        let checker = Checker::new(book.known_health(), path);
        let resetter = match &kernel {
            Some(kernel) => Some(kernel.resetter(map_changes_seen)?),
            None => None,
        };
        let outputs =
            Outputs { snapshots, maintenance, addresses, timeouts, map_changes, access_log };
        let Options { configuration, interfaces, .. } = options;
        let control = Control::start(Start {
            configuration,
            interfaces,
            snapshot,
            warnings,
            book,
            blocks,
            overrides,
            next_hops: known,
            kernel,
            proxy,
            state_file,
            outputs,
            sweeps,
            checks: checker.counts(),
        })
        .await?;

        // Once the program is attached: it is what ends the flows.
        if let Some(resetter) = resetter {
            tasks.spawn("the reset of idle clients", |cancel| resetter.run(cancel));
        }
        let (events, health) = mpsc::channel(HEALTH_QUEUE);
        tasks.spawn("the health checks", |cancel| {
            checker.run(snapshots_seen, maintenance_seen, marked_seen, events, cancel)
        });
        let (sender, commands) = mpsc::channel(command::QUEUE);
        let admin = AdminServer::new(sender, Limits::default());
        let unix = Listener::Unix(UnixListener::from_std(socket).context("admin.socket")?);
        tasks.spawn_listener(&admin, unix);
        if let Some(tcp) = tcp {
            tasks.spawn_listener(&admin, Listener::Tcp(tcp));
        }
        let inputs = Inputs { signals, commands, health, next_hops };
        Ok(Self { control, inputs, tasks, _socket: Some(file) })
    }
}

/// Hands finished flows to the access log, if there is one.
async fn log_flows(
    mut ended: mpsc::Receiver<FlowEnd>,
    access_log: watch::Receiver<Option<Arc<AccessLogger>>>,
    cancel: CancellationToken,
) {
    let log = |end| {
        if let Some(logger) = access_log.borrow().as_deref() {
            logger.log(end);
        }
    };
    while let Some(Some(end)) = cancel.run_until_cancelled(ended.recv()).await {
        log(end);
    }
    // What came before the end is still logged.
    while let Ok(end) = ended.try_recv() {
        log(end);
    }
}

/// What can be refused before anything is touched: privilege, kernel, interfaces.
fn preflight(configuration: &Path, snapshot: &Snapshot) -> anyhow::Result<()> {
    if snapshot.datapath.mode == AttachMode::Off {
        return Ok(());
    }
    datapath::require_host()?;
    let missing = missing_interfaces(configuration, snapshot);
    match missing.first() {
        // One that is there can serve while the others are waited for.
        Some(fault) if missing.len() == snapshot.datapath.interfaces.len() => bail!("{fault}"),
        _ => Ok(()),
    }
}

/// The data plane; none if the configuration says so.
fn load(snapshot: &Snapshot) -> anyhow::Result<Option<Kernel>> {
    if snapshot.datapath.mode == AttachMode::Off {
        if snapshot.l4_frontends().next().is_some() {
            tracing::info!("datapath.mode is off: frontends of layer 4 are served in user space");
        }
        return Ok(None);
    }
    let kernel = Kernel::load(&snapshot.datapath)?;
    let maps = if kernel.adopted() { "adopted" } else { "made" };
    let programs = if kernel.adopted_programs() { "adopted" } else { "loaded" };
    tracing::info!(
        "the maps in {} were {maps}, the programs were {programs}",
        snapshot.datapath.pin_directory.display()
    );
    for warning in kernel.warnings(snapshot) {
        tracing::warn!("{warning}");
    }
    Ok(Some(kernel))
}

/// What an earlier agent knew of the servers and of what is blocked, from its state file, or
/// from its maps if there is none.
fn open_books(
    snapshot: &Snapshot,
    file: &StateFile,
    kernel: Option<&Kernel>,
) -> (ServerBook, BlockBook, OverrideBook) {
    let now = Moment::now();
    let remembered = file.read(now).unwrap_or_else(|error| {
        tracing::warn!("{:#}", anyhow::Error::from(error));
        Remembered::default()
    });
    let mut memories = remembered.servers;
    if memories.is_empty() {
        memories = kernel.map(|kernel| kernel.memories(snapshot, now.wall)).unwrap_or_default();
    }
    let from_maps = || BlockBook::found(snapshot, kernel.iter().flat_map(|k| k.blocks()), now);
    let mut blocks = remembered.blocks.unwrap_or_else(from_maps);
    blocks.configure(snapshot);
    let mut overrides = remembered.overrides;
    overrides.configure(snapshot);
    (ServerBook::new(snapshot, memories, now.wall), blocks, overrides)
}

/// The way to the servers for the first comparison: what the maps remember and what the
/// watch finds out in time.
async fn first_next_hops(
    kernel: Option<&Kernel>,
    snapshot: &Snapshot,
    found: &mut watch::Receiver<NextHops>,
) -> NextHops {
    let mut known = kernel.map(Kernel::next_hops).unwrap_or_default();
    let wanted: BTreeSet<_> = server_addresses(snapshot);
    if kernel.is_some() {
        let complete = |found: &NextHops| {
            wanted.iter().all(|server| found.contains_key(server) || known.contains_key(server))
        };
        // In time or not: a server without a way gets none, and the log says so.
        let _ = time::timeout(NEXT_HOPS, found.wait_for(complete)).await;
    }
    known.extend(found.borrow_and_update().iter().map(|(server, hop)| (*server, *hop)));
    for server in wanted.iter().filter(|server| kernel.is_some() && !known.contains_key(server)) {
        tracing::warn!("the way to server {server} is not known yet; it gets no flows until it is");
    }
    known
}

type NextHops = std::collections::BTreeMap<std::net::IpAddr, crate::model::next_hop::NextHop>;

/// Everything that runs beside the control loop.
#[derive(Default)]
struct Tasks {
    running: JoinSet<anyhow::Result<&'static str>>,
    cancel: CancellationToken,
}

impl Tasks {
    fn spawn<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = task(self.cancel.child_token());
        self.running.spawn(async move {
            task.await;
            Ok(name)
        });
    }

    fn spawn_listener(&mut self, server: &AdminServer, listener: Listener) {
        let serving = server.clone().run(listener, self.cancel.child_token());
        self.running.spawn(async move {
            serving.await?;
            Ok("an admin listener")
        });
    }

    /// Waits until a task has ended that should not, and says why.
    async fn failure(&mut self) -> anyhow::Error {
        match self.running.join_next().await {
            Some(Ok(Ok(name))) => anyhow::anyhow!("{name} ended early"),
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => anyhow::Error::from(error).context("a task of the agent failed"),
            None => std::future::pending().await,
        }
    }

    /// Ends all tasks.
    async fn stop(mut self) -> anyhow::Result<()> {
        self.cancel.cancel();
        let drain = async { while self.running.join_next().await.is_some() {} };
        time::timeout(DRAIN, drain)
            .await
            .with_context(|| format!("tasks were still running after {} s", DRAIN.as_secs()))
    }
}
