//! The joined sessions of layer 4 that one worker has, for the operator's list of flows.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
};

use lb_common::{flow::Handle, tcp_state::Progress};
use tokio::time::Instant;

use crate::{
    clock::Moment,
    model::{
        flow::{Best, Flow, Selection},
        snapshot::Protocol,
    },
};

/// The sessions of one worker.
#[derive(Clone, Debug, Default)]
pub struct Live(Rc<Sessions>);

#[derive(Debug, Default)]
struct Sessions {
    next: Cell<u64>,
    ends: RefCell<BTreeMap<u64, (Ends, Rc<Carried>)>>,
}

/// Who is joined with whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    pub(super) vip: SocketAddr,
    pub(super) server: SocketAddr,
    /// The client as the server sees it.
    pub(super) local: SocketAddr,
    /// Nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub(super) created_ns: u64,
}

/// What a session has carried so far.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) up: Cell<u64>,
    pub(super) down: Cell<u64>,
    /// When something last happened.
    pub(super) at: Cell<Instant>,
    /// The client has finished.
    pub(super) is_up_over: Cell<bool>,
    /// The server has finished.
    pub(super) is_down_over: Cell<bool>,
}

/// A session is listed until this is dropped.
#[derive(Debug)]
pub(super) struct Listed {
    live: Live,
    number: u64,
}

impl Default for Carried {
    fn default() -> Self {
        Self {
            up: Cell::new(0),
            down: Cell::new(0),
            at: Cell::new(Instant::now()),
            is_up_over: Cell::new(false),
            is_down_over: Cell::new(false),
        }
    }
}

impl Live {
    /// Lists a session.
    pub(super) fn enter(&self, ends: Ends, carried: &Rc<Carried>) -> Listed {
        let number = self.0.next.get();
        self.0.next.set(number + 1);
        self.0.ends.borrow_mut().insert(number, (ends, Rc::clone(carried)));
        Listed { live: self.clone(), number }
    }

    /// Adds the sessions that are wanted.
    pub(crate) fn list(&self, selection: &dyn Selection, best: &mut Best) {
        let now_ns = Moment::now().monotonic_ns;
        for (ends, carried) in self.0.ends.borrow().values() {
            if best.judge(selection, &view(ends, carried, now_ns)) {
                return;
            }
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.live.0.ends.borrow_mut().remove(&self.number);
    }
}

fn view(ends: &Ends, carried: &Carried, now_ns: u64) -> Flow {
    let idle_ns = u64::try_from(carried.at.get().elapsed().as_nanos()).unwrap_or(u64::MAX);
    let joined = Progress::SYN | Progress::SYN_ACK | Progress::CONFIRMED;
    let ended = |is_over: &Cell<bool>, bit| if is_over.get() { bit } else { 0 };
    let client_fin = ended(&carried.is_up_over, Progress::CLIENT_FIN);
    let server_fin = ended(&carried.is_down_over, Progress::SERVER_FIN);
    Flow {
        protocol: Protocol::Tcp.number(),
        client: ends.client,
        vip: ends.vip,
        server: ends.server,
        snat: ends.local,
        vip_handle: Handle::default(),
        server_handle: Handle::default(),
        progress: Progress(joined | client_fin | server_fin),
        confirmed: true,
        created_ns: ends.created_ns,
        last_seen_ns: now_ns.saturating_sub(idle_ns),
        forward_packets: 0,
        forward_bytes: carried.up.get(),
        reply_packets: 0,
        reply_bytes: carried.down.get(),
    }
}
