//! One worker: a thread on a core with a runtime, listeners, and connections of its own.

use std::{
    cell::{Cell, Ref, RefCell},
    collections::BTreeMap,
    os::fd::OwnedFd,
    pin::pin,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use tokio::{
    runtime::{self, LocalOptions},
    sync::mpsc,
    task, time,
};
use tokio_util::sync::CancellationToken;

use super::{
    gate::GateKeeper,
    http::connection,
    listen::{Accepted, Keeper, Listener, SocketKey},
    log::{LineSink, Lines},
    memory,
    plan::{Door, HttpPlan, Plan},
    tcp::accept::Sessions,
    timer::{self, TICK},
    traffic::Ledger,
    udp::worker::Datagrams,
    upstream::Upstreams,
};
use crate::balance::Teller;
use crate::model::{
    access_log::AccessLog,
    flow::{Best, Selection},
    name::Name,
    rule::action::Mirror,
};

/// So many connections that have come to rest leave memory behind that is worth giving back
/// to the kernel, some megabytes.
const CROWD: u32 = 256;

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The sockets.
    pub keeper: Mutex<Keeper>,
    /// Where lines of the access log go.
    pub sink: Arc<dyn LineSink>,
    /// Who may be a client of layer 4.
    pub gate: Arc<GateKeeper>,
    /// What VIPs and servers of layer 4 have carried.
    pub ledger: Arc<Ledger>,
    connections: Arc<AtomicU32>,
}

/// What a worker is told.
#[derive(Debug)]
pub enum Message {
    /// Serve this from now on.
    Serve(Arc<Plan>),
    /// Take nothing new; end once nothing is left.
    Drain,
    /// Say which flows of layer 4 are wanted.
    List(Listing),
}

/// A question for the flows of layer 4.
pub struct Listing {
    /// Which are wanted.
    pub selection: Arc<dyn Selection + Send + Sync>,
    /// How many.
    pub limit: usize,
    /// Takes the answer.
    pub found: mpsc::UnboundedSender<Best>,
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// One worker, as what runs on it sees it.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) upstreams: Rc<Upstreams>,
    pub(crate) sessions: Sessions,
    pub(crate) datagrams: Datagrams,
    /// Its number, from 0.
    index: usize,
    /// It as it counts.
    pub(crate) teller: Teller,
    lines: RefCell<Lines>,
    log: RefCell<Option<Arc<AccessLog>>>,
    slots: RefCell<BTreeMap<Name, Rc<FrontendSlot>>>,
    /// What it accepts on, and how to stop that.
    accepting: RefCell<BTreeMap<(Name, SocketKey), CancellationToken>>,
    connections: Cell<u32>,
    /// Whatever is still under way is cut off.
    has_ended: Cell<bool>,
    /// Connections that gave back what only requests need, since memory was given back.
    rested: Cell<u32>,
    /// Copies on their way, by the backend that they go to.
    mirrored: RefCell<BTreeMap<Name, u32>>,
}

/// A place among the copies that are on their way.
#[derive(Debug)]
pub(crate) struct MirrorPlace {
    worker: Rc<Worker>,
    backend: Name,
}

impl MirrorPlace {
    /// Connections to servers.
    pub(crate) fn upstreams(&self) -> &Rc<Upstreams> {
        &self.worker.upstreams
    }
}

impl Drop for MirrorPlace {
    fn drop(&mut self) {
        if let Some(count) = self.worker.mirrored.borrow_mut().get_mut(&self.backend) {
            *count = count.saturating_sub(1);
        }
    }
}

/// A frontend as its connections see it: a reload changes the plan below them.
#[derive(Debug)]
pub(crate) struct FrontendSlot {
    plan: RefCell<Arc<HttpPlan>>,
    /// The frontend is gone, or the worker ends.
    pub(crate) stop: CancellationToken,
    /// Whether that was said: asking the token takes a lock.
    stopped: Cell<bool>,
}

impl Shared {
    /// Without a connection.
    pub fn new(keeper: Keeper, sink: Arc<dyn LineSink>) -> Self {
        Self {
            keeper: Mutex::new(keeper),
            sink,
            gate: Arc::default(),
            ledger: Arc::default(),
            connections: Arc::default(),
        }
    }

    /// The counter of open connections of clients.
    pub(crate) fn count(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.connections)
    }

    /// Open connections of clients.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl FrontendSlot {
    /// What is in force.
    pub(crate) fn plan(&self) -> Arc<HttpPlan> {
        Arc::clone(&self.plan.borrow())
    }

    /// The same for a look at it: not to be held while anything is waited for.
    pub(crate) fn current(&self) -> Ref<'_, HttpPlan> {
        Ref::map(self.plan.borrow(), Arc::as_ref)
    }

    /// Whether the frontend is gone, or the worker ends.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped.get()
    }

    fn stop(&self) {
        self.stopped.set(true);
        self.stop.cancel();
    }
}

/// The thread of worker `index` of so many. Ends when it was told to and nothing is left, or when nobody can
/// tell it anything any more.
pub fn run(
    (index, workers): (usize, usize),
    shared: Arc<Shared>,
    messages: mpsc::UnboundedReceiver<Message>,
) {
    pin_to_core(index);
    let mut runtime = runtime::Builder::new_current_thread();
    let runtime = match runtime.enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("a worker of the proxy can not start: {error}");
            return;
        }
    };
    let worker = Rc::new(Worker {
        shared,
        upstreams: Rc::default(),
        sessions: Sessions::default(),
        datagrams: Datagrams::default(),
        index,
        teller: Teller::new(index, workers),
        lines: RefCell::default(),
        log: RefCell::default(),
        slots: RefCell::default(),
        accepting: RefCell::default(),
        connections: Cell::new(0),
        has_ended: Cell::new(false),
        rested: Cell::new(0),
        mirrored: RefCell::default(),
    });
    runtime.block_on(worker.serve(messages));
}

/// Keeps the thread on one core of those the process may use. It runs without, too.
fn pin_to_core(index: usize) {
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else { return };
    let cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
    if let Some(core) = cores.clone().nth(index % cores.count().max(1)) {
        let mut own = CpuSet::new();
        if own.set(core).is_ok() {
            // Not being allowed to is no reason not to work.
            let _ = sched_setaffinity(Pid::from_raw(0), &own);
        }
    }
}

impl Drop for Worker {
    /// The last of its tasks is gone.
    fn drop(&mut self) {
        self.flush();
    }
}

impl Worker {
    async fn serve(self: Rc<Self>, mut messages: mpsc::UnboundedReceiver<Message>) {
        task::spawn_local(timer::run());
        task::spawn_local(Rc::clone(&self).keep_house());
        loop {
            match messages.recv().await {
                Some(Message::Serve(plan)) => self.follow(&plan),
                Some(Message::List(listing)) => self.list(&listing),
                Some(Message::Drain) | None => break,
            }
        }
        // Nothing but the log: what still ends is logged.
        let log = self.log.borrow().clone();
        self.follow(&Plan { log, ..Plan::default() });
        // Aborted from outside if it takes too long.
        let mut tick = time::interval(TICK);
        while self.connections.get() > 0 && !messages.is_closed() {
            tick.tick().await;
        }
        self.sessions.abort();
        // Sessions notice; requests are dropped with the runtime. All of them are logged.
        self.has_ended.set(true);
        tick.tick().await;
    }

    /// Answers with the flows of layer 4 that are wanted.
    fn list(&self, listing: &Listing) {
        let mut best = Best::new(listing.limit, listing.selection.is_ordered());
        self.sessions.live.list(&*listing.selection, &mut best);
        self.datagrams.list(&*listing.selection, &mut best);
        // Nobody may wait for it any more.
        let _ = listing.found.send(best);
    }

    /// Whether what is dropped from now on is cut off by the worker's end.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    async fn keep_house(self: Rc<Self>) {
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        for turn in 0_u64.. {
            tick.tick().await;
            self.flush();
            if turn.is_multiple_of(10) {
                self.upstreams.evict();
                if self.rested.get() >= CROWD {
                    self.rested.set(0);
                    memory::give_back();
                }
            }
        }
    }

    /// A connection has given back what only requests need.
    pub(crate) fn rests(&self) {
        self.rested.set(self.rested.get() + 1);
    }

    fn flush(&self) {
        self.lines.borrow_mut().flush(&*self.shared.sink);
    }

    /// A place for one more copy; none if there are as many as there may be.
    pub(crate) fn mirror_place(self: &Rc<Self>, mirror: &Mirror) -> Option<MirrorPlace> {
        let mut mirrored = self.mirrored.borrow_mut();
        if !mirrored.contains_key(&mirror.backend) {
            mirrored.insert(mirror.backend.clone(), 0);
        }
        let count = mirrored.get_mut(&mirror.backend)?;
        if *count >= mirror.max_concurrent {
            return None;
        }
        *count += 1;
        Some(MirrorPlace { worker: Rc::clone(self), backend: mirror.backend.clone() })
    }

    /// Adds a line to the access log, if there is one.
    pub(crate) fn log(&self, write: impl FnOnce(&AccessLog, &mut String)) {
        if let Some(log) = self.log.borrow().as_deref() {
            let mut lines = self.lines.borrow_mut();
            lines.add(&*self.shared.sink, |line| write(log, line));
        }
    }

    /// The access log, if lines of it show headers.
    pub(crate) fn capturing_log(&self) -> Option<Arc<AccessLog>> {
        self.log.borrow().as_ref().filter(|log| !log.capture.is_empty()).map(Arc::clone)
    }

    /// Brings slots and listeners to what the plan says.
    fn follow(self: &Rc<Self>, plan: &Plan) {
        self.log.replace(plan.log.clone());
        self.sessions.follow(self, &plan.tcp);
        self.datagrams.follow(self, &plan.udp);
        let mut slots = self.slots.borrow_mut();
        slots.retain(|name, slot| {
            let stays = plan.http.contains_key(name);
            if !stays {
                slot.stop();
            }
            stays
        });
        let mut accepting = self.accepting.borrow_mut();
        accepting.retain(|(name, key), stop| {
            let frontend = plan.http.get(name);
            let stays = frontend.is_some_and(|frontend| frontend.doors.contains_key(key));
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (name, frontend) in &plan.http {
            let slot = slots.entry(name.clone()).or_insert_with(|| {
                let plan = RefCell::new(Arc::clone(frontend));
                let (stop, stopped) = (CancellationToken::new(), Cell::new(false));
                Rc::new(FrontendSlot { plan, stop, stopped })
            });
            slot.plan.replace(Arc::clone(frontend));
            for (key, door) in &frontend.doors {
                let place = (name.clone(), key.clone());
                if accepting.contains_key(&place) {
                    continue;
                }
                match self.listener(&place.1) {
                    Ok(listener) => {
                        let stop = CancellationToken::new();
                        let entrance = Entrance {
                            slot: Rc::clone(slot),
                            key: key.clone(),
                            door: Arc::clone(door),
                        };
                        let worker = Rc::clone(self);
                        task::spawn_local(worker.accept(listener, entrance, stop.clone()));
                        accepting.insert(place, stop);
                    }
                    Err(error) => tracing::error!("{:#}", anyhow::Error::from(error)),
                }
            }
        }
    }

    pub(crate) fn listener(&self, key: &SocketKey) -> Result<Listener, super::listen::ListenError> {
        let keeper = self.shared.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.listener(key, self.index)
    }

    /// The worker's socket on a VIP of UDP.
    pub(crate) fn datagram_socket(
        &self,
        key: &SocketKey,
    ) -> Result<OwnedFd, super::listen::ListenError> {
        let keeper = self.shared.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.datagrams(key, self.index)
    }

    /// Whether there is an access log.
    pub(crate) fn has_log(&self) -> bool {
        self.log.borrow().is_some()
    }

    async fn accept(
        self: Rc<Self>,
        listener: Listener,
        mut entrance: Entrance,
        stop: CancellationToken,
    ) {
        let mut stopped = pin!(stop.cancelled());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => self.take(accepted, &mut entrance),
                Err(error) => {
                    tracing::error!("can not accept connections any more: {error}");
                    return;
                }
            }
        }
        // Whoever connected before the socket goes is served.
        while let Some(Ok(accepted)) = listener.accept().now_or_never() {
            self.take(accepted, &mut entrance);
        }
    }

    fn take(self: &Rc<Self>, accepted: Accepted, entrance: &mut Entrance) {
        let door = entrance.door();
        let counted = Counted::new(self);
        let (worker, slot) = (Rc::clone(self), Rc::clone(&entrance.slot));
        task::spawn_local(async move {
            connection::run(worker, slot, door, accepted).await;
            drop(counted);
        });
    }
}

/// A frontend as one of its sockets sees it.
struct Entrance {
    slot: Rc<FrontendSlot>,
    key: SocketKey,
    /// The latest: whoever connected before the socket went is not let in without it.
    door: Arc<Door>,
}

impl Entrance {
    fn door(&mut self) -> Arc<Door> {
        if let Some(door) = self.slot.plan().doors.get(&self.key) {
            self.door = Arc::clone(door);
        }
        Arc::clone(&self.door)
    }
}

/// A connection that counts.
pub(crate) struct Counted(Rc<Worker>);

impl Counted {
    pub(crate) fn new(worker: &Rc<Worker>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        worker.shared.connections.fetch_add(1, Ordering::Relaxed);
        Self(Rc::clone(worker))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a worker is given to end once it was told to, before it is left behind.
pub const FAREWELL: Duration = Duration::from_secs(1);
