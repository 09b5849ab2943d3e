//! Connections to servers that no request has. The last one kept is the first one lent, so
//! that a quiet server's connections age and go. One that began with a PROXY header is lent
//! where it would begin with the same: to requests of the same client.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    plan::BackendPlan,
    timer::coarse_now,
    tls::encryption::Encryption,
    upstream::{Handover, Sender},
};
use crate::model::backend::ServerProtocol;

/// The connections of one worker that no request has, and those of HTTP/2, which many may
/// have.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// By [`Member::id`](crate::balance::Member::id), which no other server ever has.
    by_server: RefCell<HashMap<u64, Vec<Idle>>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) sender: Sender,
    pub(super) handover: Handover,
    /// The TLS it was made with: another configuration does not get it.
    pub(super) encryption: Option<Arc<Encryption>>,
    /// The PROXY header it began with.
    pub(super) introduction: Option<Rc<[u8]>>,
    pub(super) since: Instant,
    pub(super) timeout: Duration,
}

/// One that a request gets.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) sender: Sender,
    pub(super) handover: Handover,
    /// How long nobody had it.
    pub(super) idle: Duration,
}

impl Kept {
    /// One for a request to a server of `backend` that would begin with this PROXY header.
    pub(super) fn take(
        &self,
        server: u64,
        backend: &BackendPlan,
        introduction: Option<&[u8]>,
    ) -> Option<Lent> {
        let mut all = self.by_server.borrow_mut();
        let kept = all.get_mut(&server)?;
        let mut next = kept.len();
        while next > 0 {
            next -= 1;
            let is_for_it = match (&kept[next].introduction, introduction) {
                (None, None) => true,
                (Some(own), Some(wanted)) => **own == *wanted,
                _ => false,
            };
            // Left to others, or to be evicted.
            if !is_for_it {
                continue;
            }
            let idle = kept.remove(next);
            if !idle.is_usable(backend) {
                continue;
            }
            let Sender::Http2(shared) = &idle.sender else {
                let age = coarse_now().saturating_duration_since(idle.since);
                return Some(Lent { sender: idle.sender, handover: idle.handover, idle: age });
            };
            let sender = Sender::Http2(shared.clone());
            let lent = Lent { sender, handover: idle.handover.clone(), idle: Duration::ZERO };
            kept.push(Idle { since: coarse_now(), ..idle });
            return Some(lent);
        }
        None
    }

    /// Keeps a connection. With `most` there already, one that any client may have is closed;
    /// for one that only its own client may have, the oldest makes room.
    pub(super) fn put(&self, server: u64, most: u32, idle: Idle) {
        let mut all = self.by_server.borrow_mut();
        let kept = all.entry(server).or_default();
        if kept.len() >= most as usize {
            if idle.introduction.is_none() || kept.is_empty() {
                return;
            }
            kept.remove(0);
        }
        kept.push(idle);
    }

    /// Closes those that have been idle for too long, or were given up.
    pub(super) fn evict(&self) {
        let now = coarse_now();
        self.by_server.borrow_mut().retain(|_, kept| {
            kept.retain(|idle| {
                !idle.is_closed() && now.saturating_duration_since(idle.since) < idle.timeout
            });
            !kept.is_empty()
        });
    }
}

impl Idle {
    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Whether a request to `backend` can have it now.
    fn is_usable(&self, backend: &BackendPlan) -> bool {
        let is_same = match (&self.encryption, &backend.encryption) {
            (None, None) => true,
            (Some(own), Some(wanted)) => Arc::ptr_eq(own, wanted),
            _ => false,
        };
        let is_ready = match (&self.sender, backend.settings.protocol) {
            (Sender::Http1(sender), ServerProtocol::Http1) => sender.is_ready(),
            (Sender::Http2(sender), ServerProtocol::Http2) => sender.is_ready(),
            _ => false,
        };
        is_same && is_ready
    }
}
