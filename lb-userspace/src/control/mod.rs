//! The control loop: everything that happens to the agent is an event into one loop, which
//! brings the data plane to what follows from configuration, checks and the operator.
//!
//! Level-triggered: events change what is known, and soon after the loop compares what is
//! desired with what the maps hold. What fails is tried again. The loop owns the data
//! plane and may block for the length of a few system calls; nothing else waits for it but
//! the operator.

mod access;
pub mod answer;
pub mod blocks;
pub mod book;
pub mod check_path;
pub mod flows;
mod growth;
mod idle_bits;
pub mod kernel;
pub mod log_lines;
pub mod memory;
mod metrics;
pub mod notify;
pub mod overrides;
mod proxy_view;
mod publish;
pub mod reload;
pub mod restart;
pub mod signal;
mod trace;
pub mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use lb_common::timeouts::Timeouts;
use tokio::{
    sync::{mpsc, watch},
    time,
};

use self::{
    blocks::BlockBook,
    book::ServerBook,
    growth::Growth,
    kernel::{Kernel, KernelError},
    memory::StateFile,
    overrides::OverrideBook,
    signal::{Signals, Wish},
    trace::TraceDesk,
};
use crate::{
    access_log::writer::AccessLogger,
    admin::{api::LastReload, command::Commands},
    datapath::sweep::SweepReport,
    health::{CheckCounts, HealthEvent},
    model::{
        next_hop::NextHop,
        snapshot::{Snapshot, SynCookies},
        state::ServerId,
    },
    network::{self, Announcer, Handle},
    proxy::supervisor::Proxy,
    reconcile::{Access, desired},
};

/// How long events are collected before the maps are changed, so that ten servers that
/// die together cost one new ring.
const COLLECT: Duration = Duration::from_millis(10);
/// Pause after a failure before the next attempt.
const RETRY: Duration = Duration::from_secs(2);
/// Time between two looks at the interfaces.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two comparisons of the maps with what is desired if nothing happens: after
/// so long at most, what somebody else wrote to them is undone.
const COMPARE: Duration = Duration::from_secs(5);

/// How long requests of the proxy may go on once the agent is told to stop.
const PROXY_GRACE: Duration = Duration::from_secs(30);

/// What the loop knows, and its hold on the data plane.
pub struct Control {
    /// Where the configuration is read from.
    configuration: PathBuf,
    /// Interfaces in place of the configuration's; none to take those.
    interfaces: Vec<String>,
    /// When the configuration in force was loaded.
    configured_at: SystemTime,
    snapshot: Arc<Snapshot>,
    /// What is known of the servers.
    book: ServerBook,
    /// What of that the maps have, which is what the operator is told.
    told: ServerBook,
    /// What the operator blocks.
    blocks: BlockBook,
    /// What the operator says of lists and limits.
    overrides: OverrideBook,
    /// Rules for sources, from configuration, overrides and blocks.
    access: Access,
    next_hops: BTreeMap<IpAddr, NextHop>,
    /// None with `datapath.mode: off`.
    kernel: Option<Kernel>,
    /// For VIP addresses; none until they are to be managed.
    network: Option<Handle>,
    /// Tells neighbours of those that were put on.
    announcer: Announcer,
    /// What serves the frontends of other modes than layer 4.
    proxy: Proxy,
    state_file: StateFile,
    /// The state file does not have all that is known.
    unsaved: bool,
    outputs: Outputs,
    /// Packets that somebody is shown.
    trace: TraceDesk,
    /// What the last sweep of the flow tables found.
    sweeps: watch::Receiver<SweepReport>,
    /// Tables that the log says are nearly full.
    nearly_full: BTreeSet<&'static str>,
    /// SYNs are answered with cookies.
    is_flooded: bool,
    started: Instant,
    started_at: SystemTime,
    /// What the checks come to.
    checks: CheckCounts,
    /// Reloads that were taken, and that were refused.
    reloads: [u64; 2],
    /// Lines written and lost by access logs that are not in force any more.
    old_log_lines: [u64; 2],
    /// How far servers that have come back have grown.
    growth: Growth,
    /// The shares of their weights that they have, in thousandths.
    shares: BTreeMap<ServerId, u32>,
    /// When to compare the maps with what is desired.
    due: Instant,
    /// Why the last attempt to do so failed.
    apply_error: Option<String>,
    last_reload: Option<LastReload>,
    /// What the configuration in force makes an operator look at.
    warnings: Vec<String>,
}

/// What happens.
#[derive(Debug)]
pub struct Inputs {
    /// What the operator says by signals.
    pub signals: Signals,
    /// What the operator asks over the admin interface.
    pub commands: Commands,
    /// What the checks find.
    pub health: mpsc::Receiver<HealthEvent>,
    /// The way to each server.
    pub next_hops: watch::Receiver<BTreeMap<IpAddr, NextHop>>,
}

/// What follows for everybody else.
#[derive(Debug)]
pub struct Outputs {
    /// The configuration in force.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// The servers that are not to be checked.
    pub maintenance: watch::Sender<BTreeSet<ServerId>>,
    /// The addresses of all servers.
    pub addresses: watch::Sender<BTreeSet<IpAddr>>,
    /// When flows are idle for too long.
    pub timeouts: watch::Sender<Timeouts>,
    /// Whenever something in the maps has changed.
    pub map_changes: watch::Sender<()>,
    /// Where finished flows are written.
    pub access_log: watch::Sender<Option<Arc<AccessLogger>>>,
}

/// What a start has put together.
pub struct Start {
    /// Where the configuration is read from.
    pub configuration: PathBuf,
    /// Interfaces in place of the configuration's; none to take those.
    pub interfaces: Vec<String>,
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// What is hardly meant in it.
    pub warnings: Vec<String>,
    /// What is known of the servers.
    pub book: ServerBook,
    /// What the operator blocks.
    pub blocks: BlockBook,
    /// What the operator says of lists and limits.
    pub overrides: OverrideBook,
    /// The way to each server as far as it is known.
    pub next_hops: BTreeMap<IpAddr, NextHop>,
    /// The data plane, loaded; none with `datapath.mode: off`.
    pub kernel: Option<Kernel>,
    /// The proxy, which serves nothing yet.
    pub proxy: Proxy,
    /// Where to remember what is known of the servers.
    pub state_file: StateFile,
    /// What follows for everybody else.
    pub outputs: Outputs,
    /// What sweeps of the flow tables find.
    pub sweeps: watch::Receiver<SweepReport>,
    /// What the checks come to.
    pub checks: CheckCounts,
}

impl Control {
    /// Brings the data plane up: maps first, then the program, then the VIP addresses.
    ///
    /// # Errors
    /// If any of that fails; whatever was forwarding goes on forwarding. Interfaces that are not
    /// there yet are waited for while the others serve, unless none is there.
    pub async fn start(start: Start) -> anyhow::Result<Self> {
        let mut control = Self {
            configuration: start.configuration,
            interfaces: start.interfaces,
            configured_at: SystemTime::now(),
            snapshot: start.snapshot,
            book: start.book,
            told: ServerBook::default(),
            blocks: start.blocks,
            overrides: start.overrides,
            access: Access::default(),
            next_hops: start.next_hops,
            kernel: start.kernel,
            network: None,
            announcer: Announcer::default(),
            proxy: start.proxy,
            state_file: start.state_file,
            unsaved: true,
            outputs: start.outputs,
            trace: TraceDesk::default(),
            sweeps: start.sweeps,
            nearly_full: BTreeSet::new(),
            is_flooded: false,
            started: Instant::now(),
            started_at: SystemTime::now(),
            checks: start.checks,
            reloads: [0; 2],
            old_log_lines: [0; 2],
            growth: Growth::default(),
            shares: BTreeMap::new(),
            due: Instant::now() + COMPARE,
            apply_error: None,
            last_reload: None,
            warnings: start.warnings,
        };
        control.rule();
        if let Err(error) = control.bring_up().await {
            control.withdraw();
            return Err(error);
        }
        control.remember();
        control.save();
        Ok(control)
    }

    /// Runs until somebody wants the agent to stop.
    pub async fn run(&mut self, inputs: &mut Inputs) {
        let mut look = time::interval(LOOK);
        look.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                wish = inputs.signals.next() => match wish {
                    Wish::Stop => return,
                    Wish::Reload => {
                        self.reload().await;
                    }
                    Wish::ReopenLog => self.reopen_log(),
                },
                Some(command) = inputs.commands.recv() => self.answer(command).await,
                Some(event) = inputs.health.recv() => self.note_health(event),
                Ok(()) = inputs.next_hops.changed() => {
                    self.next_hops.clone_from(&inputs.next_hops.borrow_and_update());
                    self.wake();
                }
                Some(event) = self.trace.next() => self.note_trace(event),
                Ok(()) = self.sweeps.changed() => self.look_at_tables(),
                _ = look.tick() => {
                    self.look_at_interfaces();
                    self.look_at_cookies();
                }
                () = time::sleep_until(self.due.into()) => self.compare().await,
            }
        }
    }

    /// The end: what is known is written down. With `detach`, the data plane and the
    /// managed VIP addresses are removed and all is forgotten.
    ///
    /// # Errors
    /// If something could not be removed.
    pub async fn stop(mut self, detach: bool) -> anyhow::Result<()> {
        self.remember();
        self.save();
        if self.trace.is_busy() {
            self.end_trace();
        }
        self.proxy.stop(PROXY_GRACE).await;
        if !detach {
            return Ok(());
        }
        if let Some(handle) = &self.network
            && let Some(interface) = self.snapshot.datapath.interfaces.first()
        {
            let link = network::link_by_name(handle, interface).await?;
            network::reconcile_addresses(handle, &link, &BTreeSet::new()).await?;
        }
        if let Some(kernel) = self.kernel.take() {
            kernel.remove()?;
            tracing::info!("the data plane was removed; forwarding has stopped");
        }
        Ok(self.state_file.remove()?)
    }

    /// Maps first: an attached program finds every VIP with its servers.
    async fn bring_up(&mut self) -> anyhow::Result<()> {
        self.fill_maps()?;
        let ruling = self.ruling(&self.snapshot, &self.access);
        self.proxy.install(&self.snapshot, &self.book.statuses(), ruling)?;
        match self.attach() {
            Err(error) if self.can_wait_for(&error) => {
                self.fail(&error.into());
                Ok(())
            }
            attached => {
                attached?;
                self.place_addresses().await
            }
        }
    }

    /// An interface may come later than the agent, as one of a tunnel or a bond does. With none at
    /// all the names are probably wrong.
    fn can_wait_for(&self, error: &KernelError) -> bool {
        error.is_missing() && self.kernel.as_ref().is_some_and(Kernel::is_attached_somewhere)
    }

    /// A start that failed leaves nothing behind that was not there before.
    fn withdraw(&mut self) {
        if let Some(kernel) = self.kernel.take_if(|kernel| !kernel.adopted())
            && let Err(error) = kernel.remove()
        {
            tracing::warn!("{:#}", anyhow::Error::from(error));
        }
    }

    /// Something changed: compare soon.
    fn wake(&mut self) {
        self.due = self.due.min(Instant::now() + COLLECT);
    }

    fn note_health(&mut self, event: HealthEvent) {
        if self.book.note(event, SystemTime::now()) {
            self.wake();
            self.remember();
        }
    }

    /// Compares the maps with what is desired and tries again later if they resist.
    async fn compare(&mut self) {
        self.due = Instant::now() + COMPARE;
        self.end_blocks();
        if let Err(error) = self.apply().await {
            self.fail(&error);
        }
        self.save();
    }

    /// Brings maps, attachments and VIP addresses to what is desired.
    async fn apply(&mut self) -> anyhow::Result<()> {
        self.fill_maps()?;
        let attached = match &mut self.kernel {
            Some(kernel) => kernel.attach_missing(&self.snapshot.datapath),
            None => Ok(()),
        };
        // An interface that is gone is no reason to leave addresses off another one.
        let placed = self.place_addresses().await;
        attached?;
        placed?;
        if self.apply_error.take().is_some() {
            tracing::info!("the data plane is up to date again");
        }
        Ok(())
    }

    /// Brings the maps to what is desired, and tells what they then have.
    fn fill_maps(&mut self) -> anyhow::Result<()> {
        let mut reconciled = Ok(());
        if let Some(kernel) = &mut self.kernel {
            let shares = self.growth.look(&self.snapshot, &self.book, Instant::now());
            self.due = shares.next.map_or(self.due, |next| self.due.min(next));
            self.shares = shares.thousandths;
            let (statuses, shares) = (self.book.statuses(), &self.shares);
            let mut desired =
                desired(&self.snapshot, &self.access, &statuses, shares, &self.next_hops);
            // A pinned table keeps its size, whatever is configured.
            desired.rules = self.access.fitting(kernel.max_rules() as usize);
            desired.settings.half_open_buckets = kernel.half_open_buckets();
            desired.settings.ended_places = kernel.ended_places();
            if !kernel.has_cookies() {
                desired.vips.values_mut().for_each(|vip| vip.syn_cookies = SynCookies::Off);
            }
            let result = kernel.reconcile(&desired);
            // A plan that failed may have gone far.
            if !matches!(result, Ok(0)) {
                self.outputs.map_changes.send_replace(());
            }
            reconciled = result.map(|changes| {
                tracing::debug!(changes, "the maps are up to date");
            });
        }
        // The proxy waits for no map.
        self.proxy.set_servers(&self.snapshot, &self.book.statuses());
        reconciled?;
        self.publish();
        Ok(())
    }

    /// Puts VIP addresses on the first interface if asked to, and takes off what is no VIP
    /// any more.
    async fn place_addresses(&mut self) -> anyhow::Result<()> {
        let datapath = &self.snapshot.datapath;
        let first = datapath.interfaces.first().filter(|_| self.kernel.is_some());
        let Some(interface) = first else { return Ok(()) };
        let handle = match (&self.network, datapath.manage_addresses) {
            (Some(handle), _) => handle,
            (None, true) => self.network.insert(network::open()?),
            (None, false) => return Ok(()),
        };
        let binds = self.snapshot.l4_frontends().flat_map(|(_, frontend)| &frontend.bind);
        let wanted = binds.filter(|_| datapath.manage_addresses).map(|bind| bind.address.ip());
        let link = network::link_by_name(handle, interface).await?;
        let changes = network::reconcile_addresses(handle, &link, &wanted.collect()).await?;
        self.announcer.announce(interface, &changes.added);
        self.announcer.withdraw(&changes.removed);
        for address in &changes.added {
            tracing::info!("VIP address {address} was put on {interface}");
        }
        for address in &changes.removed {
            tracing::info!("VIP address {address} was taken off");
        }
        Ok(())
    }

    fn attach(&mut self) -> Result<(), KernelError> {
        self.kernel.as_mut().map_or(Ok(()), |kernel| kernel.attach(&self.snapshot.datapath))
    }

    /// An interface that was deleted, or made again, needs attention.
    fn look_at_interfaces(&mut self) {
        let attached = |kernel: &Kernel| kernel.is_attached_to_all(&self.snapshot.datapath);
        if !self.kernel.as_ref().is_none_or(attached) {
            self.wake();
        }
    }

    /// Says when SYNs begin to be answered with cookies, and when they no longer are.
    fn look_at_cookies(&mut self) {
        let Some(Ok(is_flooded)) = self.kernel.as_ref().map(Kernel::is_flooded) else { return };
        match (self.is_flooded, is_flooded) {
            (false, true) => tracing::warn!("{}", view::FLOOD_WARNING),
            (true, false) => tracing::info!("SYNs are admitted without cookies again"),
            _ => {}
        }
        self.is_flooded = is_flooded;
    }

    /// Says of each table when it becomes nearly full, and when it no longer is.
    fn look_at_tables(&mut self) {
        let report = self.sweeps.borrow_and_update();
        let fill = report.fill.clone();
        if let Some(kernel) = &mut self.kernel {
            kernel.note_sweep(&report.addresses);
        }
        drop(report);
        let full: BTreeSet<_> = view::nearly_full(&fill).map(|table| table.map).collect();
        for table in view::nearly_full(&fill).filter(|one| !self.nearly_full.contains(one.map)) {
            tracing::warn!("{}", view::table_warning(table));
        }
        for table in self.nearly_full.difference(&full) {
            tracing::info!("{table} has room again");
        }
        self.nearly_full = full;
    }

    /// Notes why the data plane is not as desired; said once.
    fn fail(&mut self, error: &anyhow::Error) {
        self.due = self.due.min(Instant::now() + RETRY);
        let error = format!("{error:#}");
        if self.apply_error.as_ref() != Some(&error) {
            tracing::error!("the data plane is not up to date: {error}{}", self.waiting());
        }
        self.apply_error = Some(error);
    }

    /// Tells the checks what is known of the servers, and the next agent once the maps have been
    /// brought to it, which is soon: a thousand servers that die together are written down once.
    fn remember(&mut self) {
        let maintenance = self.book.maintenance();
        self.outputs.maintenance.send_if_modified(|known| {
            let changed = *known != maintenance;
            *known = maintenance;
            changed
        });
        self.unsaved = true;
    }

    /// Writes down what the next agent has to know, if that has changed.
    fn save(&mut self) {
        if !std::mem::take(&mut self.unsaved) {
            return;
        }
        if let Err(error) = self.state_file.write(&self.book, &self.blocks, &self.overrides) {
            tracing::warn!(error = %format!("{:#}", anyhow::Error::from(error)));
        }
    }

    fn reopen_log(&self) {
        if let Some(logger) = self.outputs.access_log.borrow().as_deref() {
            logger.reopen();
        }
    }
}

/// The addresses of all servers that the data plane forwards to.
#[must_use]
pub fn server_addresses(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let backends = snapshot.l4_backends();
    let backends = backends.into_iter().filter_map(|name| snapshot.backends.get(name));
    let servers = backends.flat_map(|backend| backend.servers.values());
    servers.filter_map(|server| server.address.ip()).collect()
}
