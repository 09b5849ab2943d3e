//! Shows packets to an operator: has the traced data plane take over, hands on what it tells, and
//! has the other one take over again when either end has had enough. One operator at a time.
//!
//! Loading takes as long as the verifier does, so it is done beside the control loop.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::Control;
use crate::{
    admin::{
        command::{CommandError, Packet, Packets as Shown, Reply},
        trace::TraceOrder,
    },
    datapath::{DatapathError, Pins, Traced, trace::Records},
};

/// Records between the data plane and the operator; the data plane's ring buffer holds more.
const QUEUE: usize = 1024;

/// What somebody is being shown.
#[derive(Debug)]
pub(super) struct TraceDesk {
    events: mpsc::Receiver<TraceEvent>,
    sender: mpsc::Sender<TraceEvent>,
    busy: bool,
}

/// What happens to a trace beside the control loop.
#[derive(Debug)]
pub(super) enum TraceEvent {
    /// It could begin.
    Loaded(Result<Traced, DatapathError>, Duration, Reply<Shown>),
    /// Nobody looks any more.
    Ended,
}

impl Default for TraceDesk {
    fn default() -> Self {
        let (sender, events) = mpsc::channel(1);
        Self { events, sender, busy: false }
    }
}

impl TraceDesk {
    /// Whether somebody is shown packets, or about to be.
    pub(super) const fn is_busy(&self) -> bool {
        self.busy
    }

    /// What happens next.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<TraceEvent> {
        self.events.recv().await
    }
}

impl Control {
    /// Begins to trace.
    pub(super) fn trace(&mut self, order: &TraceOrder, reply: Reply<Shown>) {
        let refuse = |reply: Reply<_>, error| drop(reply.send(Err(error)));
        let Some(kernel) = &self.kernel else { return refuse(reply, CommandError::NoDatapath) };
        if self.trace.busy {
            return refuse(reply, CommandError::Traced);
        }
        self.trace.busy = true;
        let (pins, sender, duration) =
            (Pins::clone(kernel.plane.pins()), self.trace.sender.clone(), order.duration());
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Into::into);
        let filter = order.filter(now);
        tokio::task::spawn_blocking(move || {
            let loaded = Traced::load(&pins, &filter);
            // Nobody listens if the agent is stopping.
            drop(sender.blocking_send(TraceEvent::Loaded(loaded, duration, reply)));
        });
    }

    /// Goes on with a trace.
    pub(super) fn note_trace(&mut self, event: TraceEvent) {
        match event {
            TraceEvent::Loaded(loaded, duration, reply) => {
                let answer = loaded.and_then(|traced| match &mut self.kernel {
                    Some(kernel) => kernel.plane.trace(traced).map(Some),
                    None => Ok(None),
                });
                let answer = match answer {
                    Ok(Some(records)) => Ok(self.show(records, duration)),
                    Ok(None) => Err(CommandError::NoDatapath),
                    Err(error) => {
                        let error = format!("{:#}", anyhow::Error::from(error));
                        tracing::warn!("packets can not be traced: {error}");
                        Err(CommandError::NotTraced(error))
                    }
                };
                if answer.is_err() {
                    self.trace.busy = false;
                }
                // Who has gone meanwhile ends the trace by it.
                drop(reply.send(answer));
            }
            TraceEvent::Ended => self.end_trace(),
        }
    }

    /// Has the data plane take over again if it is being traced.
    pub(super) fn end_trace(&mut self) {
        self.trace.busy = false;
        let Some(kernel) = &mut self.kernel else { return };
        match kernel.plane.end_trace() {
            Ok(()) => tracing::info!("packets are no longer traced"),
            Err(error) => tracing::error!(
                "an interface kept the program that traces packets: {:#}",
                anyhow::Error::from(error)
            ),
        }
    }

    /// Hands records on, on a task of their own.
    fn show(&self, records: Records, duration: Duration) -> Shown {
        tracing::info!("packets are traced for up to {} s", duration.as_secs());
        let (out, shown) = mpsc::channel(QUEUE);
        let (sender, deadline) = (self.trace.sender.clone(), Instant::now() + duration);
        tokio::spawn(async move {
            hand_on(records, out, deadline).await;
            // Nobody listens if the agent is stopping.
            drop(sender.send(TraceEvent::Ended).await);
        });
        shown
    }
}

/// Until nobody looks or time is over.
async fn hand_on(mut records: Records, out: mpsc::Sender<Packet>, deadline: Instant) {
    let all = async {
        loop {
            match records.next().await {
                Ok(record) => {
                    if out.send(record.into()).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "could not wait for traced packets");
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = all => {}
        () = out.closed() => {}
        () = sleep_until(deadline) => {}
    }
}
