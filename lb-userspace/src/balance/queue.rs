//! Where requests wait for a slot: bounded, by priority, fair among clients, safe to leave
//! at any time.
//!
//! There is one queue for each pool. Most requests wait for any server; a request of a
//! client that belongs to one server waits for that one. Whoever gives a slot back takes
//! it again on behalf of the best of those who wait, and sends it.
//!
//! Requests that find room take no lock: they look at counts of waiting requests, which
//! are 0 then. A request that finds no room *first* enters the queue, which raises the
//! count, and *then* looks for room again; whoever gives a slot back *first* does that and
//! *then* looks at the count. All of it is sequentially consistent, so one of the two sees
//! the other, and no slot stays free while somebody waits for it.
//!
//! Fairness is start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996) with requests of
//! equal cost: a client's requests are in rounds, one in each, and rounds are served in
//! order. A client alone in the queue notices nothing of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::oneshot;

use super::{lease::Ticket, member::Member, shared::Shared};

/// Who waits for a slot in one pool.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Requests that wait for any server.
    waiting: AtomicU32,
    /// All that wait. Changed under the lock, read without it: every request is logged with it.
    length: AtomicU32,
    lines: Mutex<Lines>,
}

/// What a request says of itself when it enters the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entrant {
    /// Lower comes first.
    pub(super) priority: i16,
    /// Whose request it is, if clients take turns.
    pub(super) client: Option<u64>,
}

/// The queue holds as many requests as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug, Default)]
struct Lines {
    any: Line,
    /// By the id of the server.
    own: HashMap<u64, Line>,
    next: u64,
    /// The round of the request served last.
    round: u64,
    clients: HashMap<u64, Rounds>,
}

type Line = BTreeMap<Order, Waiter>;

/// What comes first: the lowest priority, then the earliest round, then who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    priority: i16,
    round: u64,
    number: u64,
}

#[derive(Debug)]
struct Waiter {
    sender: oneshot::Sender<Grant>,
    client: Option<u64>,
}

/// The requests of one client in the queue.
#[derive(Debug)]
struct Rounds {
    last: u64,
    waiting: u32,
}

/// A slot on its way to who waited for it. Dropped on the way, it goes to the next.
#[derive(Debug)]
pub(super) struct Grant {
    member: Option<Arc<Member>>,
}

/// Where a request stands, so that it can leave.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    /// The server it waits for; none if for any.
    own: Option<Arc<Member>>,
    order: Order,
}

impl Queue {
    /// Requests that wait, for any server or for one.
    pub(super) fn length(&self) -> u32 {
        self.length.load(Ordering::Relaxed)
    }

    /// Whether any request waits for just any server.
    pub(super) fn has_any(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Whether a slot of this server has somebody to go to.
    fn wants(&self, member: &Member) -> bool {
        let own = member.waiting.load(Ordering::SeqCst) > 0 && member.takes_its_own();
        own || (self.has_any() && member.is_open())
    }

    /// The best of those who wait for a slot of this server; it is in the queue no more.
    fn pop(&self, member: &Member) -> Option<oneshot::Sender<Grant>> {
        let mut lines = self.lines();
        let own = lines.own.get(&member.id()).and_then(|line| line.keys().next().copied());
        let any = lines.any.keys().next().copied().filter(|_| member.is_open());
        let waiter = match (own, any) {
            (Some(own), Some(any)) if any < own => self.remove(&mut lines, None, any),
            (Some(own), _) => self.remove(&mut lines, Some(member), own),
            (None, Some(any)) => self.remove(&mut lines, None, any),
            (None, None) => None,
        };
        waiter.map(|(order, waiter)| {
            lines.round = lines.round.max(order.round);
            waiter.sender
        })
    }

    /// Takes a request out, if it is still in.
    fn remove(
        &self,
        lines: &mut Lines,
        own: Option<&Member>,
        order: Order,
    ) -> Option<(Order, Waiter)> {
        let waiter = match own {
            Some(member) => {
                let line = lines.own.get_mut(&member.id())?;
                let waiter = line.remove(&order)?;
                if line.is_empty() {
                    lines.own.remove(&member.id());
                }
                member.waiting.fetch_sub(1, Ordering::SeqCst);
                waiter
            }
            None => {
                let waiter = lines.any.remove(&order)?;
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                waiter
            }
        };
        self.forget(lines, waiter.client);
        Some((order, waiter))
    }

    /// Moves those who wait for a server that takes nobody to the line for any server.
    pub(super) fn reassign(&self, member: &Member) {
        let mut lines = self.lines();
        let Some(line) = lines.own.remove(&member.id()) else { return };
        let moved = u32::try_from(line.len()).unwrap_or(u32::MAX);
        lines.any.extend(line);
        member.waiting.fetch_sub(moved, Ordering::SeqCst);
        self.waiting.fetch_add(moved, Ordering::SeqCst);
    }

    /// Sends away those who wait for a server that takes nobody.
    pub(super) fn abandon(&self, member: &Member) {
        let mut lines = self.lines();
        let Some(line) = lines.own.remove(&member.id()) else { return };
        for waiter in line.into_values() {
            member.waiting.fetch_sub(1, Ordering::SeqCst);
            self.forget(&mut lines, waiter.client);
        }
    }

    /// Sends away those who wait for any server: there is none.
    pub(super) fn abandon_any(&self) {
        let mut lines = self.lines();
        for waiter in std::mem::take(&mut lines.any).into_values() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            self.forget(&mut lines, waiter.client);
        }
    }

    /// One request less, of this client.
    fn forget(&self, lines: &mut Lines, client: Option<u64>) {
        self.length.fetch_sub(1, Ordering::Relaxed);
        lines.forget(client);
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        // No code that could panic half-way runs under this lock.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn order(&mut self, entrant: Entrant) -> Order {
        self.next += 1;
        let round = match entrant.client {
            None => self.round,
            Some(client) => {
                let start = self.round;
                let rounds =
                    self.clients.entry(client).or_insert(Rounds { last: start, waiting: 0 });
                if rounds.waiting > 0 {
                    rounds.last = rounds.last.max(start) + 1;
                }
                rounds.waiting += 1;
                rounds.last
            }
        };
        Order { priority: entrant.priority, round, number: self.next }
    }

    /// One request of this client less.
    fn forget(&mut self, client: Option<u64>) {
        let Some(client) = client else { return };
        if let Some(rounds) = self.clients.get_mut(&client) {
            rounds.waiting -= 1;
            if rounds.waiting == 0 {
                self.clients.remove(&client);
            }
        }
    }
}

/// Enters the queue. The caller must then look for room once more: see the module.
///
/// # Errors
/// [`Full`] if `most` wait already.
pub(super) fn enter(
    shared: &Arc<Shared>,
    own: Option<&Arc<Member>>,
    entrant: Entrant,
    most: u32,
) -> Result<Ticket, Full> {
    let queue = &shared.queue;
    let (sender, receiver) = oneshot::channel();
    let mut lines = queue.lines();
    if queue.length() >= most {
        return Err(Full);
    }
    let order = lines.order(entrant);
    queue.length.fetch_add(1, Ordering::Relaxed);
    let waiter = Waiter { sender, client: entrant.client };
    match own {
        Some(member) => {
            lines.own.entry(member.id()).or_default().insert(order, waiter);
            member.waiting.fetch_add(1, Ordering::SeqCst);
        }
        None => {
            lines.any.insert(order, waiter);
            queue.waiting.fetch_add(1, Ordering::SeqCst);
        }
    }
    drop(lines);
    Ok(Ticket::new(receiver, Place { shared: Arc::clone(shared), own: own.cloned(), order }))
}

/// Gives free slots of a server to those who wait for them.
pub(super) fn hand_on(member: &Arc<Member>) {
    let queue = &member.shared.queue;
    while queue.wants(member) && member.has_room() && member.take(u32::MAX) {
        let Some(sender) = queue.pop(member) else {
            // They left, or got another slot. Whoever comes now looks again after us.
            member.put_back_unused();
            continue;
        };
        if let Err(mut grant) = sender.send(Grant { member: Some(Arc::clone(member)) }) {
            // It stopped waiting in this moment.
            grant.member = None;
            member.put_back_unused();
        }
    }
}

impl Grant {
    /// The server whose slot it is.
    pub(super) fn accept(mut self) -> Option<Arc<Member>> {
        self.member.take()
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(member) = self.member.take() {
            member.put_back_unused();
            hand_on(&member);
        }
    }
}

impl Place {
    /// Leaves the queue.
    pub(super) fn leave(self) {
        let queue = &self.shared.queue;
        let mut lines = queue.lines();
        let own = queue.remove(&mut lines, self.own.as_deref(), self.order);
        if own.is_none() && self.own.is_some() {
            // Its server went away and it was waiting for any.
            queue.remove(&mut lines, None, self.order);
        }
    }
}
