//! Both directions of a session, their timeouts, and how it ends.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    direction::{BUFFER, Direction, Lent, Side, Waiting},
    live::Carried,
    pipe::Pipes,
};
use crate::proxy::stream::Stream;

/// How long a session may stand still. None is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RelayTimeouts {
    /// The client takes nothing of what is there for it.
    pub client: Duration,
    /// The server takes nothing of what is there for it.
    pub server: Duration,
    /// Nobody says anything.
    pub tunnel: Duration,
}

/// Why a relay ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides have finished, and each knows it of the other.
    Finished,
    /// The client's side broke.
    ClientBroke(io::Error),
    /// The server's side broke.
    ServerBroke(io::Error),
    /// The client took nothing for too long.
    ClientStalled,
    /// The server took nothing for too long.
    ServerStalled,
    /// Nobody said anything for too long.
    Silence,
    /// It was told to end.
    Interrupted,
}

/// How a relay went.
#[derive(Debug)]
pub(super) struct Relayed {
    pub(super) end: End,
    /// Bytes the server took from the client.
    pub(super) up: u64,
    /// Bytes the client took from the server.
    pub(super) down: u64,
}

thread_local! {
    /// The buffer of the worker, lent to whichever session is being polled.
    static BUFFER_OF_WORKER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// Relays until the session is over; then every byte that was taken from one side has been
/// given to the other, or both are reset when they are dropped, so that neither takes what
/// it got for all there is.
///
/// `first` has come from the client already; `interrupt` ends the session. `carried` is kept
/// up to date, if somebody may look.
pub(super) async fn relay(
    client: &mut Stream,
    server: &mut Stream,
    first: Vec<u8>,
    timeouts: RelayTimeouts,
    (pipes, carried): (&Pipes, Option<&Carried>),
    interrupt: impl Future<Output = ()>,
) -> Relayed {
    let now = Instant::now();
    let mut interrupt = pin!(interrupt);
    let mut timer = pin!(sleep_until(now + timeouts.shortest()));
    let mut both = Both {
        up: Direction::new(first),
        down: Direction::new(Vec::new()),
        up_at: now,
        down_at: now,
        timeouts,
    };
    let end = poll_fn(|context| {
        let polled = both.poll(context, client, server, pipes);
        if let Some(carried) = carried {
            both.show(carried);
        }
        if let Poll::Ready(end) = polled {
            return Poll::Ready(end);
        }
        if interrupt.as_mut().poll(context).is_ready() {
            return Poll::Ready(End::Interrupted);
        }
        both.poll_timer(context, timer.as_mut())
    })
    .await;
    if !matches!(end, End::Finished) {
        client.socket().abort_on_close();
        server.socket().abort_on_close();
    }
    Relayed { end, up: both.up.total(), down: both.down.total() }
}

struct Both {
    up: Direction,
    down: Direction,
    /// When bytes last moved, or it began to wait for something else.
    up_at: Instant,
    down_at: Instant,
    timeouts: RelayTimeouts,
}

impl Both {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        client: &mut Stream,
        server: &mut Stream,
        pipes: &Pipes,
    ) -> Poll<End> {
        let state = |direction: &Direction| (direction.total(), direction.waiting());
        let before = (state(&self.up), state(&self.down));
        let (up, down) = BUFFER_OF_WORKER.with_borrow_mut(|buffer| {
            let mut lent = Lent { pipes, buffer };
            let up = self.up.poll(context, client, server, &mut lent);
            (up, self.down.poll(context, server, client, &mut lent))
        });
        let after = (state(&self.up), state(&self.down));
        if before != after {
            let now = Instant::now();
            if before.0 != after.0 {
                self.up_at = now;
            }
            if before.1 != after.1 {
                self.down_at = now;
            }
        }
        let is_over = |direction: &Direction| direction.waiting() == Waiting::Over;
        // Many servers and clients that have nothing more to say leave out the last word of
        // TLS (close_notify) to a peer that has finished itself. Nothing is cut short then.
        if is_farewell(&down) && is_over(&self.up) || is_farewell(&up) && is_over(&self.down) {
            return Poll::Ready(End::Finished);
        }
        match (up, down) {
            (Poll::Ready(Err((Side::Sender, error))), _)
            | (_, Poll::Ready(Err((Side::Receiver, error)))) => {
                Poll::Ready(End::ClientBroke(error))
            }
            (Poll::Ready(Err((Side::Receiver, error))), _)
            | (_, Poll::Ready(Err((Side::Sender, error)))) => Poll::Ready(End::ServerBroke(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Finished),
            _ => Poll::Pending,
        }
    }

    fn show(&self, carried: &Carried) {
        carried.up.set(self.up.total());
        carried.down.set(self.down.total());
        carried.at.set(self.up_at.max(self.down_at));
        carried.is_up_over.set(self.up.waiting() == Waiting::Over);
        carried.is_down_over.set(self.down.waiting() == Waiting::Over);
    }

    /// Looks at the clock when the timer says so: at the earliest moment at which a wait
    /// that began after the last look could be too long. So an active session never
    /// touches its timer.
    fn poll_timer(&self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        while timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            if let Some(end) = self.overdue(now) {
                return Poll::Ready(end);
            }
            let next = self.deadlines().into_iter().map(|(at, _)| at).min();
            let at_latest = now + self.timeouts.shortest();
            timer.as_mut().reset(next.map_or(at_latest, |next| next.min(at_latest)));
        }
        Poll::Pending
    }

    fn overdue(&self, now: Instant) -> Option<End> {
        let overdue = self.deadlines().into_iter().filter(|(at, _)| *at <= now);
        overdue.min_by_key(|(at, _)| *at).map(|(_, why)| match why {
            Overdue::Client => End::ClientStalled,
            Overdue::Server => End::ServerStalled,
            Overdue::Silence => End::Silence,
        })
    }

    fn deadlines(&self) -> Vec<(Instant, Overdue)> {
        let mut deadlines =
            vec![(self.up_at.max(self.down_at) + self.timeouts.tunnel, Overdue::Silence)];
        if self.up.waiting() == Waiting::Receiver {
            deadlines.push((self.up_at + self.timeouts.server, Overdue::Server));
        }
        if self.down.waiting() == Waiting::Receiver {
            deadlines.push((self.down_at + self.timeouts.client, Overdue::Client));
        }
        deadlines
    }
}

/// The sender of a direction has closed its connection without a word.
fn is_farewell(polled: &Poll<Result<(), (Side, io::Error)>>) -> bool {
    matches!(polled, Poll::Ready(Err((Side::Sender, error)))
        if error.kind() == io::ErrorKind::UnexpectedEof)
}

#[derive(Clone, Copy)]
enum Overdue {
    Client,
    Server,
    Silence,
}

impl RelayTimeouts {
    fn shortest(&self) -> Duration {
        self.client.min(self.server).min(self.tunnel)
    }
}
