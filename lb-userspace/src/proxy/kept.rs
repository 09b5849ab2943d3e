//! Connections to servers that no request has. The last one kept is the first one lent, so
//! that a quiet server's connections age and go. One that began with a PROXY header speaks
//! for one connection of a client: only requests on that one get it, and it goes with it.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::{Rc, Weak},
    time::{Duration, Instant},
};

use super::{link::Link, plan::BackendPlan, timer::coarse_now, upstream::Upstreams};

/// The connections of one worker that no request has, and those of HTTP/2, which many may
/// have.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// By [`Member::id`](crate::balance::Member::id), which no other server ever has.
    by_server: RefCell<BTreeMap<u64, OfServer>>,
    /// Names owners, and numbers what is kept for them.
    next: Cell<u64>,
}

/// Those of one server.
#[derive(Debug, Default)]
struct OfServer {
    /// Any request may have them; the latest last.
    shared: VecDeque<Idle>,
    /// Requests of their owner may have them: by its number, then in the order they were kept.
    owned: BTreeMap<(u64, u64), Idle>,
    /// Whose they are, by the order they were kept.
    order: BTreeMap<u64, u64>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) link: Box<Link>,
    /// The PROXY header it began with: one client connection may have several, behind which
    /// are different clients.
    pub(super) introduction: Option<Rc<[u8]>>,
    pub(super) since: Instant,
    pub(super) timeout: Duration,
}

/// One that a request gets.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) link: Box<Link>,
    /// How long nobody had it.
    pub(super) idle: Duration,
}

/// A connection of a client as the owner of connections to servers: they are closed when this
/// is dropped. Costs nothing until there is one.
#[derive(Debug, Default)]
pub(crate) struct Owner(OnceCell<Rc<Owning>>);

/// An owner that has, or had, connections.
#[derive(Debug)]
pub(super) struct Owning {
    upstreams: Rc<Upstreams>,
    number: u64,
    /// Where something was kept for it.
    servers: RefCell<BTreeSet<u64>>,
}

impl Owner {
    /// Does not keep it alive.
    pub(super) fn handle(&self, upstreams: &Rc<Upstreams>) -> Weak<Owning> {
        Rc::downgrade(self.0.get_or_init(|| {
            let (upstreams, number) = (Rc::clone(upstreams), upstreams.kept.number());
            Rc::new(Owning { upstreams, number, servers: RefCell::default() })
        }))
    }
}

impl Drop for Owning {
    fn drop(&mut self) {
        self.upstreams.kept.forget(self.number, self.servers.get_mut());
    }
}

impl Kept {
    /// One for a request to a server of `backend`; for one that is introduced, one of its
    /// owner's that began with the same header.
    pub(super) fn take(
        &self,
        server: u64,
        backend: &BackendPlan,
        introduced: Option<(&Owning, &[u8])>,
    ) -> Option<Lent> {
        let mut all = self.by_server.borrow_mut();
        let kept = all.get_mut(&server)?;
        let Some((owner, header)) = introduced else {
            while let Some(idle) = kept.shared.pop_back() {
                if !idle.link.is_usable(backend) {
                    continue;
                }
                let (lent, stays) = idle.lend();
                if let Some(stays) = stays {
                    kept.shared.push_back(stays);
                }
                return Some(lent);
            }
            return None;
        };
        let own = kept.owned.range(places_of(owner.number)).rev();
        let like = own.filter(|(_, idle)| idle.introduction.as_deref() == Some(header));
        let places: Vec<_> = like.map(|(place, _)| *place).collect();
        for place in places {
            let Some(idle) = kept.remove(place) else { continue };
            if !idle.link.is_usable(backend) {
                continue;
            }
            let (lent, stays) = idle.lend();
            if let Some(stays) = stays {
                kept.insert(place, stays);
            }
            return Some(lent);
        }
        None
    }

    /// Keeps a connection for any request. With `most` there already, it is closed.
    pub(super) fn put(&self, server: u64, most: u32, idle: Idle) {
        let mut all = self.by_server.borrow_mut();
        let kept = all.entry(server).or_default();
        if kept.len() < most as usize {
            kept.shared.push_back(idle);
        }
    }

    /// Keeps a connection for its owner. With `most` there already, the oldest makes room.
    pub(super) fn put_owned(&self, server: u64, most: u32, owner: &Owning, idle: Idle) {
        if most == 0 {
            return;
        }
        let mut all = self.by_server.borrow_mut();
        let kept = all.entry(server).or_default();
        if kept.len() >= most as usize {
            match kept.order.first_key_value().map(|(turn, owner)| (*owner, *turn)) {
                Some(oldest) => drop(kept.remove(oldest)),
                None => drop(kept.shared.pop_front()),
            }
        }
        kept.insert((owner.number, self.number()), idle);
        owner.servers.borrow_mut().insert(server);
    }

    /// Closes those that have been idle for too long, or were given up.
    pub(super) fn evict(&self) {
        let now = coarse_now();
        let stays = |idle: &Idle| {
            !idle.link.is_closed() && now.saturating_duration_since(idle.since) < idle.timeout
        };
        self.by_server.borrow_mut().retain(|_, kept| {
            kept.shared.retain(stays);
            let OfServer { owned, order, .. } = kept;
            for ((_, turn), _) in owned.extract_if(.., |_, idle| !stays(idle)) {
                order.remove(&turn);
            }
            kept.len() > 0
        });
    }

    /// Closes those of an owner that is gone.
    fn forget(&self, owner: u64, servers: &BTreeSet<u64>) {
        let mut all = self.by_server.borrow_mut();
        for server in servers {
            let Some(kept) = all.get_mut(server) else { continue };
            let OfServer { owned, order, .. } = kept;
            for ((_, turn), _) in owned.extract_if(places_of(owner), |_, _| true) {
                order.remove(&turn);
            }
        }
    }

    fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }
}

/// The places of an owner among what is owned.
fn places_of(owner: u64) -> std::ops::RangeInclusive<(u64, u64)> {
    (owner, 0)..=(owner, u64::MAX)
}

impl OfServer {
    fn len(&self) -> usize {
        self.shared.len() + self.owned.len()
    }

    fn insert(&mut self, place: (u64, u64), idle: Idle) {
        self.order.insert(place.1, place.0);
        self.owned.insert(place, idle);
    }

    fn remove(&mut self, place: (u64, u64)) -> Option<Idle> {
        self.order.remove(&place.1);
        self.owned.remove(&place)
    }
}

impl Idle {
    /// What a request gets that can have it now, and what stays for others meanwhile.
    fn lend(self) -> (Lent, Option<Self>) {
        match self.link.shared() {
            None => {
                let idle = coarse_now().saturating_duration_since(self.since);
                (Lent { link: self.link, idle }, None)
            }
            Some(link) => {
                let stays = Self { since: coarse_now(), ..self };
                (Lent { link, idle: Duration::ZERO }, Some(stays))
            }
        }
    }
}
