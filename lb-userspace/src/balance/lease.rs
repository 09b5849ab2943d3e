//! A place at a server, for as long as a request needs it, and a place in the queue for
//! one. Both give back what they hold when they are dropped, whenever that is.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    member::Member,
    queue::{self, Grant, Place},
};

/// How a request to a server went, as far as the server is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered as it should.
    Success,
    /// It could not be reached, was too slow, broke off, or answered that it is broken.
    Failure,
    /// Nobody knows: the client left before there was an answer.
    Unknown,
}

/// One request's place at a server. Dropping it makes room for the next.
pub struct Lease {
    member: Arc<Member>,
}

impl Lease {
    /// Of a slot that was taken.
    pub(super) fn of(member: Arc<Member>) -> Self {
        Self { member }
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &Arc<Member> {
        &self.member
    }

    /// Says how the request went; at most once for each request.
    pub fn report(&self, outcome: Outcome, now: Instant) {
        self.member.note(outcome, now);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.member.put_back();
        queue::hand_on(&self.member);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(self.member.name()).finish()
    }
}

/// Why a request that waited gets no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the servers went away while the request waited for one")]
pub struct Abandoned;

/// A place in the queue: a future of a [`Lease`]. How long to wait is up to the caller.
///
/// # Cancel safety
/// Dropping it leaves the queue. A slot that was given to it in the same moment goes to
/// the next who waits.
#[derive(Debug)]
#[must_use = "a request that does not wait gets no server"]
pub struct Ticket {
    grant: oneshot::Receiver<Grant>,
    place: Option<Place>,
}

impl Ticket {
    pub(super) fn new(grant: oneshot::Receiver<Grant>, place: Place) -> Self {
        Self { grant, place: Some(place) }
    }
}

impl Future for Ticket {
    type Output = Result<Lease, Abandoned>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let grant = ready!(Pin::new(&mut self.grant).poll(context));
        // Who hands out a slot, or closes the queue, has taken the place away.
        self.place = None;
        Poll::Ready(grant.ok().and_then(Grant::accept).map(Lease::of).ok_or(Abandoned))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            place.leave();
        }
    }
}
