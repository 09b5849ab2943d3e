//! The VIPs and flows of one worker, over reloads, and the task that serves them.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use lb_common::event::{FlowEnd, cause};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task, time,
};

use super::{
    batch::Batch,
    flow::Flow,
    plan::{Site, UdpPlans},
    room::{Most, Room},
    table::{Id, Key, Queue, TURNS, Table},
};
use crate::{
    balance::Teller,
    clock::Moment,
    model::flow::{Best, Selection},
    proxy::{listen::SocketKey, log::LineSink, traffic::Ledger, worker::Worker},
};

/// Sockets that are looked at in one turn, before others have theirs.
const EVENTS: usize = 64;

/// Time between two looks for flows that are over.
const SWEEP: Duration = Duration::from_millis(500);

/// The VIPs and flows of one worker; none before there is a VIP of UDP.
#[derive(Debug, Default)]
pub(crate) struct Datagrams(RefCell<Option<Engine>>);

/// What a worker has for its flows.
pub(super) struct Host<'a> {
    /// Its number, from 0.
    pub(super) teller: Teller,
    pub(super) ledger: &'a Ledger,
    /// Where lines of the access log go; none if there is no log.
    pub(super) sink: Option<&'a dyn LineSink>,
    /// Nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub(super) now_ns: u64,
}

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) epoll: Epoll,
    /// By number.
    pub(super) vips: Vec<Option<Vip>>,
    numbers: BTreeMap<SocketKey, u32>,
    pub(super) table: Table<Flow>,
    /// Datagrams from clients.
    pub(super) inward: Batch,
    pub(super) replies: Replies,
    pub(super) room: Arc<Room>,
    pub(super) most: Most,
    unreplied: Duration,
    replied: Duration,
}

/// A VIP that datagrams come to.
#[derive(Debug)]
pub(super) struct Vip {
    pub(super) site: Arc<Site>,
    pub(super) socket: OwnedFd,
}

/// Datagrams to clients, that have not gone yet.
#[derive(Debug)]
pub(super) struct Replies {
    pub(super) batch: Batch,
    /// Whose socket they leave by.
    pub(super) vip: u32,
    pub(super) count: usize,
}

/// Whose socket an event is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Of the VIP with this number.
    Vip(u32),
    /// Of this flow.
    Flow(Id),
}

const IS_VIP: u64 = 1 << 63;

impl From<Origin> for u64 {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Vip(number) => IS_VIP | Self::from(number),
            Origin::Flow(Id { place, turn }) => Self::from(turn) << 32 | Self::from(place),
        }
    }
}

impl From<u64> for Origin {
    #[allow(clippy::cast_possible_truncation, reason = "the halves are wanted")]
    fn from(data: u64) -> Self {
        let low = data as u32;
        match data & IS_VIP {
            0 => Self::Flow(Id { place: low, turn: (data >> 32) as u32 & TURNS }),
            _ => Self::Vip(low),
        }
    }
}

impl Datagrams {
    /// Serves the VIPs of the plans, and no others: flows of a VIP that is gone end.
    pub(crate) fn follow(&self, worker: &Rc<Worker>, plans: &UdpPlans) {
        let mut engine = self.0.borrow_mut();
        if engine.is_none() && plans.sites.is_empty() {
            return;
        }
        if engine.is_none() {
            match Engine::new().and_then(|new| Ok((new.poller()?, new))) {
                Ok((poller, new)) => {
                    *engine = Some(new);
                    task::spawn_local(serve(Rc::clone(worker), poller));
                }
                Err(error) => {
                    tracing::error!("a worker of the proxy can not serve UDP: {error}");
                    return;
                }
            }
        }
        if let Some(engine) = engine.as_mut() {
            worker.hosting(|host| engine.follow(worker, plans, host));
        }
    }

    /// Adds the flows that are wanted.
    pub(crate) fn list(&self, selection: &dyn Selection, best: &mut Best) {
        let engine = self.0.borrow();
        let Some(engine) = engine.as_ref() else { return };
        for (id, key, flow) in engine.table.iter() {
            let (last_ns, queue) = engine.table.seen(id).unwrap_or((0, Queue::Unreplied));
            let flow = flow.view(key.client, (last_ns, queue == Queue::Replied));
            if best.judge(selection, &flow) {
                return;
            }
        }
    }

    fn with<T>(&self, worker: &Worker, act: impl FnOnce(&mut Engine, &Host<'_>) -> T) -> Option<T> {
        let mut engine = self.0.borrow_mut();
        let engine = engine.as_mut()?;
        Some(worker.hosting(|host| act(engine, host)))
    }
}

async fn serve(worker: Rc<Worker>, poller: AsyncFd<OwnedFd>) {
    let mut sweep = time::interval(SWEEP);
    sweep.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ready = poller.readable() => match ready {
                Ok(mut ready) => match worker.datagrams.with(&worker, Engine::turn) {
                    // Whoever else has something to do has a turn in between.
                    Some(true) => task::yield_now().await,
                    _ => ready.clear_ready(),
                },
                Err(error) => {
                    tracing::error!("a worker of the proxy serves UDP no longer: {error}");
                    return;
                }
            },
            _ = sweep.tick() => drop(worker.datagrams.with(&worker, Engine::sweep)),
        }
    }
}

impl Worker {
    /// What its flows need of it now.
    fn hosting<T>(&self, act: impl FnOnce(&Host<'_>) -> T) -> T {
        let sink: &dyn LineSink = &*self.shared.sink;
        act(&Host {
            teller: self.teller,
            ledger: &self.shared.ledger,
            sink: self.has_log().then_some(sink),
            now_ns: Moment::now().monotonic_ns,
        })
    }
}

impl Engine {
    fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            vips: Vec::new(),
            numbers: BTreeMap::new(),
            table: Table::default(),
            inward: Batch::new(),
            replies: Replies { batch: Batch::new(), vip: 0, count: 0 },
            room: Arc::default(),
            most: Most::default(),
            unreplied: Duration::ZERO,
            replied: Duration::ZERO,
        })
    }

    /// What is readable when a socket is.
    fn poller(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let own = self.epoll.0.as_fd().try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` is open, and the same descriptor, until it is dropped.
        let poller = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) };
        Ok(poller?)
    }

    fn follow(&mut self, worker: &Worker, plans: &UdpPlans, host: &Host<'_>) {
        self.room = Arc::clone(&plans.room);
        self.most = plans.most;
        (self.unreplied, self.replied) = (plans.unreplied, plans.replied);
        let gone = self.numbers.extract_if(.., |key, _| !plans.sites.contains_key(key));
        for (_, number) in gone.collect::<Vec<_>>() {
            self.leave(number, host);
        }
        for (key, site) in &plans.sites {
            if let Some(number) = self.numbers.get(key) {
                if let Some(Some(vip)) = self.vips.get_mut(*number as usize) {
                    vip.site = Arc::clone(site);
                }
                continue;
            }
            let opened = worker.datagram_socket(key).map_err(anyhow::Error::from);
            let joined = opened.and_then(|socket| Ok(self.join(Arc::clone(site), socket)?));
            match joined {
                Ok(number) => _ = self.numbers.insert(key.clone(), number),
                Err(error) => tracing::error!("{error:#}"),
            }
        }
    }

    /// Serves a VIP from now on; its number.
    fn join(&mut self, site: Arc<Site>, socket: OwnedFd) -> nix::Result<u32> {
        let free = self.vips.iter().position(Option::is_none).unwrap_or(self.vips.len());
        // There are no more VIPs than there are sockets.
        let number = u32::try_from(free).unwrap_or(u32::MAX);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Origin::Vip(number).into());
        self.epoll.add(&socket, event)?;
        if free == self.vips.len() {
            self.vips.push(None);
        }
        if let Some(place) = self.vips.get_mut(free) {
            *place = Some(Vip { site, socket });
        }
        Ok(number)
    }

    /// Serves a VIP no longer.
    fn leave(&mut self, number: u32, host: &Host<'_>) {
        let of_vip = |(id, key, _): (Id, &Key, &Flow)| (key.vip == number).then_some(id);
        for id in self.table.iter().filter_map(of_vip).collect::<Vec<_>>() {
            self.end(id, cause::SERVER_DOWN, host);
        }
        let vip = self.vips.get_mut(number as usize).and_then(Option::take);
        // Others have the same socket: closing this end of it would not do.
        if let Some(Err(error)) = vip.map(|vip| self.epoll.delete(&vip.socket)) {
            tracing::error!("can not leave a VIP of UDP: {error}");
        }
    }

    /// Serves what is ready, some of it; whether there was anything.
    fn turn(&mut self, host: &Host<'_>) -> bool {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in events.iter().take(count) {
            match Origin::from(event.data()) {
                Origin::Vip(number) => self.take_from_clients(number, host),
                Origin::Flow(id) => {
                    if let Some(Key { client, vip }) = self.table.key(id) {
                        self.take_from_server(id, client, vip, host);
                    }
                }
            }
        }
        self.flush();
        count > 0
    }

    /// Ends flows whose time is over, or whose server is dead.
    fn sweep(&mut self, host: &Host<'_>) {
        for (queue, timeout) in [(Queue::Unreplied, self.unreplied), (Queue::Replied, self.replied)]
        {
            let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            while let Some((id, last_ns)) = self.table.oldest(queue)
                && host.now_ns.saturating_sub(last_ns) >= timeout_ns
            {
                self.end(id, cause::TIMEOUT, host);
            }
        }
        let is_dead = |(id, _, flow): (Id, &Key, &Flow)| flow.ending.is_cancelled().then_some(id);
        for id in self.table.iter().filter_map(is_dead).collect::<Vec<_>>() {
            self.end(id, cause::SERVER_DOWN, host);
        }
    }

    /// Ends a flow.
    pub(super) fn end(&mut self, id: Id, cause: u8, host: &Host<'_>) {
        let Some(Key { client, .. }) = self.table.key(id) else { return };
        let Some(flow) = self.table.remove(id) else { return };
        flow.count_end(host.teller);
        if let Some(sink) = host.sink {
            let record: FlowEnd = flow.record(client, host.now_ns, cause);
            sink.flow(record);
        }
    }
}
