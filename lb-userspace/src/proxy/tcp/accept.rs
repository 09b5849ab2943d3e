//! The sessions of one worker: sockets that are accepted on, over reloads.

use std::{cell::RefCell, collections::BTreeMap, pin::pin, rc::Rc, sync::Arc};

use futures_util::FutureExt;
use tokio::task;
use tokio_util::sync::CancellationToken;

use super::{
    live::Live,
    pipe::Pipes,
    plan::TcpPlans,
    record::Record,
    session::{self, Site},
};
use crate::proxy::{
    listen::{Accepted, Listener, SocketKey},
    worker::{Counted, Worker},
};

/// The sessions of one worker.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: RefCell<BTreeMap<SocketKey, Rc<Slot>>>,
    pipes: Pipes,
    /// Those of layer 4.
    pub(crate) live: Live,
    /// Ends every session at once.
    abort: CancellationToken,
}

/// A socket that is accepted on; a reload changes what happens there.
#[derive(Debug)]
struct Slot {
    site: RefCell<Arc<Site>>,
    /// Ends accepting. Sessions go on.
    stop: CancellationToken,
}

impl Sessions {
    /// Ends every session at once.
    pub(crate) fn abort(&self) {
        self.abort.cancel();
    }

    /// Accepts where the plans say so, and nowhere else.
    pub(crate) fn follow(&self, worker: &Rc<Worker>, plans: &TcpPlans) {
        let sites = || plans.frontends.values().flat_map(|plan| &plan.sites);
        let mut slots = self.slots.borrow_mut();
        slots.retain(|key, slot| {
            let stays = sites().any(|(wanted, _)| wanted == key);
            if !stays {
                slot.stop.cancel();
            }
            stays
        });
        for (key, site) in sites() {
            if let Some(slot) = slots.get(key) {
                slot.site.replace(Arc::clone(site));
                continue;
            }
            match worker.listener(key) {
                Ok(listener) => {
                    let site = RefCell::new(Arc::clone(site));
                    let slot = Rc::new(Slot { site, stop: CancellationToken::new() });
                    slots.insert(key.clone(), Rc::clone(&slot));
                    task::spawn_local(accept(Rc::clone(worker), slot, listener));
                }
                Err(error) => tracing::error!("{:#}", anyhow::Error::from(error)),
            }
        }
    }
}

async fn accept(worker: Rc<Worker>, slot: Rc<Slot>, listener: Listener) {
    let mut stopped = pin!(slot.stop.cancelled());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => serve(&worker, &slot, accepted),
            Err(error) => {
                tracing::error!("can not accept connections any more: {error}");
                return;
            }
        }
    }
    // Whoever connected before the socket goes is served.
    while let Some(Ok(accepted)) = listener.accept().now_or_never() {
        serve(&worker, &slot, accepted);
    }
}

fn serve(worker: &Rc<Worker>, slot: &Slot, accepted: Accepted) {
    let counted = Counted::new(worker);
    let site = Arc::clone(&slot.site.borrow());
    let for_log = Rc::clone(worker);
    let log = move |record: Record| {
        for_log.log(|log, line| record.write(log, line));
    };
    let own = session::Worker {
        teller: worker.teller,
        pipes: worker.sessions.pipes.clone(),
        live: worker.sessions.live.clone(),
        sessions: worker.shared.count(),
        log: Rc::new(log),
    };
    let abort = worker.sessions.abort.clone();
    task::spawn_local(async move {
        session::serve(accepted, site, own, abort).await;
        drop(counted);
    });
}
