//! Bodies on their way through, chunk by chunk: nothing is kept, and nobody is read from
//! faster than the other side takes it.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::{
    Version,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
};

use super::{exchange::Exchange, headers, mirror::Copies};
use crate::proxy::{
    outcome::{Cause, Outcome, Phase, Side},
    timer::Deadline,
    upstream::Checkout,
};

/// Why a body ends before it is complete.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The side it comes from broke off, or sent what is no body.
    #[error("the body broke off")]
    Broken(#[source] hyper::Error),
    /// Why a request's body was given up.
    #[error("the request's body was given up")]
    Upload(UploadFailure),
    /// The request was malformed, which HTTP/2 is told by an error of the stream.
    #[error("the request was malformed")]
    Malformed(#[source] h2::Error),
    /// The client took nothing for too long.
    #[error("the client took nothing for too long")]
    ClientTimeout,
    /// The server kept it waiting for too long.
    #[error("the server sent nothing for too long")]
    ServerTimeout,
    /// The request as a whole took too long.
    #[error("the request took too long")]
    TotalTimeout,
}

/// Why a request's body was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadFailure {
    /// It is larger than the limit.
    TooLarge,
    /// The client sent nothing for too long.
    Timeout,
    /// The client sends, but too slowly.
    TooSlow,
    /// The client broke off.
    Broken,
}

impl UploadFailure {
    /// Who is to blame, and why in a word.
    pub(super) const fn blame(self) -> (Cause, &'static str) {
        match self {
            Self::TooLarge => (Cause::Policy, "body_bytes"),
            Self::Timeout => (Cause::ClientTimeout, "client_timeout"),
            Self::TooSlow => (Cause::ClientTimeout, "body_rate"),
            Self::Broken => (Cause::Client, "request_broken"),
        }
    }
}

/// How a request's body is doing, for those who wait for the response.
#[derive(Debug, Default)]
pub(super) struct Upload {
    pub(super) bytes: Cell<u64>,
    pub(super) failure: Cell<Option<UploadFailure>>,
    /// The client is waited for; if not, the server is, or nobody.
    pub(super) waits_for_client: Cell<bool>,
    pub(super) is_complete: Cell<bool>,
    /// What was relayed of it, while that is little, for a server of HTTP/2 that may say that
    /// it has not looked at the request; none if it is not kept. A copy: a piece holds on to the
    /// buffer that it was read into, and a client may send a byte at a time.
    pub(super) kept: RefCell<Option<Vec<u8>>>,
}

/// Most bytes of a body that are kept.
const MOST_KEPT: usize = 64 * 1024;

impl Upload {
    /// Keeps another piece, if there is room for it.
    fn keep(&self, piece: &[u8]) {
        let mut kept = self.kept.borrow_mut();
        if let Some(bytes) = &mut *kept {
            if bytes.len() + piece.len() > MOST_KEPT {
                *kept = None;
            } else {
                bytes.extend_from_slice(piece);
            }
        }
    }

    /// The body from its beginning, if all of it has come and was kept.
    pub(super) fn again(&self) -> Option<RequestBody> {
        let is_whole = self.is_complete.get() && self.failure.get().is_none();
        let kept = self.kept.borrow();
        let bytes = kept.as_ref().filter(|_| is_whole)?;
        Some(RequestBody::Again(Box::new(Bytes::copy_from_slice(bytes))))
    }
}

/// What bounds a request's body.
#[derive(Clone, Copy, Debug)]
pub(super) struct UploadLimits {
    pub(super) bytes: u64,
    /// Silence of the client.
    pub(super) silence: Duration,
    /// Bytes a second on average, once the client has been waited for for [`Self::silence`].
    pub(super) rate: u64,
}

/// The body of a request on its way to a server.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// None.
    Empty,
    /// From the client.
    Relayed(Box<RelayedRequest>),
    /// What has come from the client already; empty once it was sent. Boxed: requests are moved,
    /// and few have it.
    Again(Box<Bytes>),
}

/// The body of a request while it comes from the client.
#[derive(Debug)]
pub(crate) struct RelayedRequest {
    incoming: Incoming,
    upload: Rc<Upload>,
    limits: UploadLimits,
    deadline: Deadline,
    /// Since when the client is waited for, and how long it was before.
    waiting_since: Option<Instant>,
    waited: Duration,
    /// For other backends; none once they were sent.
    copies: Option<Box<Copies>>,
}

impl RequestBody {
    /// What has come already.
    pub(super) fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Again(Box::new(bytes)) }
    }

    pub(super) fn relayed(
        incoming: Incoming,
        upload: Rc<Upload>,
        limits: UploadLimits,
        copies: Option<Box<Copies>>,
    ) -> Self {
        Self::Relayed(Box::new(RelayedRequest {
            incoming,
            upload,
            limits,
            deadline: Deadline::default(),
            waiting_since: None,
            waited: Duration::ZERO,
            copies,
        }))
    }
}

impl RelayedRequest {
    fn fail(&self, failure: UploadFailure) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.upload.failure.set(Some(failure));
        Poll::Ready(Some(Err(BodyError::Upload(failure))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(item) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            self.upload.waits_for_client.set(true);
            if self.waiting_since.is_none() {
                self.waiting_since = Some(Instant::now());
                self.deadline.set(self.limits.silence);
            }
            ready!(self.deadline.poll(cx));
            return self.fail(UploadFailure::Timeout);
        };
        self.upload.waits_for_client.set(false);
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
            self.deadline.clear();
        }
        match item {
            None => {
                self.upload.is_complete.set(true);
                self.copy_is_whole();
                Poll::Ready(None)
            }
            Some(Err(_)) => self.fail(UploadFailure::Broken),
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    let bytes = self.upload.bytes.get() + data.len() as u64;
                    self.upload.bytes.set(bytes);
                    self.upload.keep(data);
                    if bytes > self.limits.bytes {
                        return self.fail(UploadFailure::TooLarge);
                    }
                    if self.is_too_slow(bytes) {
                        return self.fail(UploadFailure::TooSlow);
                    }
                    if let Some(copies) = &mut self.copies {
                        copies.see(data);
                    }
                } else if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers);
                    // Bytes alone are kept.
                    self.upload.kept.take();
                }
                let is_complete = self.incoming.is_end_stream();
                self.upload.is_complete.set(is_complete);
                if is_complete {
                    self.copy_is_whole();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn copy_is_whole(&mut self) {
        if let Some(copies) = self.copies.take() {
            copies.send();
        }
    }

    fn is_too_slow(&self, bytes: u64) -> bool {
        self.waited > self.limits.silence
            && (bytes as f64) < self.waited.as_secs_f64() * self.limits.rate as f64
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Relayed(relayed) => relayed.poll(cx),
            Self::Again(bytes) => {
                let bytes = std::mem::take(&mut **bytes);
                Poll::Ready((!bytes.is_empty()).then_some(Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Relayed(relayed) => relayed.incoming.is_end_stream(),
            Self::Again(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Relayed(relayed) => relayed.incoming.size_hint(),
            // Whether its length is said is in the header.
            Self::Again(_) => SizeHint::default(),
        }
    }
}

/// The body of a response on its way to the client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// None.
    Empty,
    /// Our own.
    Whole(Option<Bytes>),
    /// Our own to a malformed request of HTTP/2: the stream ends in an error (RFC 9113,
    /// 8.1.1).
    Malformed(Option<Bytes>),
    /// From a server.
    Relayed(Box<RelayedResponse>),
    /// From a server, on a stream of HTTP/2.
    Watched(Rc<Watched>),
}

/// A response's body on a stream whose client may close its window and keep it so: hyper
/// does not ask for the body then, and so the body does not notice.
#[derive(Debug)]
pub(crate) struct Watched {
    /// None once it was given up.
    relayed: RefCell<Option<RelayedResponse>>,
    was_asked_for: Cell<bool>,
}

impl Watched {
    /// Gives it up if the client has taken nothing since this was last called. False once
    /// there is nothing to watch any more.
    pub(super) fn is_taken(&self) -> bool {
        let mut relayed = self.relayed.borrow_mut();
        let Some(inner) = relayed.as_mut() else { return false };
        // Set, it is the server that is waited for.
        let is_clients_turn = !inner.waits_for_server();
        if self.was_asked_for.replace(false) || !is_clients_turn {
            return true;
        }
        inner.end(Outcome::new(Cause::ClientTimeout, Phase::Data, "client_timeout"));
        *relayed = None;
        false
    }
}

/// The body of a response while it comes from the server. Dropped before its end, it is the
/// client that did not want it any more.
#[derive(Debug)]
pub(crate) struct RelayedResponse {
    incoming: Incoming,
    /// None once it has ended.
    rest: Option<(Box<Exchange>, Checkout)>,
    /// Set while the server is waited for; none before it was.
    deadline: Option<Deadline>,
    silence: Duration,
    /// For the request as a whole, if its limit has a timer.
    total: Option<Deadline>,
}

impl ResponseBody {
    pub(super) fn relayed(
        incoming: Incoming,
        exchange: Box<Exchange>,
        connection: Checkout,
        silence: Duration,
    ) -> Self {
        let total = exchange.left().map(|left| {
            let total = Deadline::default();
            total.set(left);
            total
        });
        let watches = exchange.version == Version::HTTP_2;
        let client = Rc::clone(&exchange.client);
        let rest = Some((exchange, connection));
        let relayed = RelayedResponse { incoming, rest, deadline: None, silence, total };
        if !watches {
            return Self::Relayed(Box::new(relayed));
        }
        let relayed = RefCell::new(Some(relayed));
        let watched = Rc::new(Watched { relayed, was_asked_for: Cell::new(true) });
        client.watch(&watched);
        Self::Watched(watched)
    }
}

impl RelayedResponse {
    fn waits_for_server(&self) -> bool {
        self.deadline.as_ref().is_some_and(Deadline::is_set)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let is_over = self.total.as_ref().is_some_and(|total| total.poll(cx).is_ready());
        if is_over || self.rest.as_ref().is_some_and(|(exchange, _)| exchange.is_overdue()) {
            // Set, it is the server that is waited for.
            let side = if self.waits_for_server() { Side::Server } else { Side::Client };
            self.end(Outcome::total_timeout(side, Phase::Data));
            return Poll::Ready(Some(Err(BodyError::TotalTimeout)));
        }
        let Poll::Ready(item) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            // The time in which the client takes nothing is not the server's.
            let deadline = self.deadline.get_or_insert_default();
            if !deadline.is_set() {
                deadline.set(self.silence);
            }
            ready!(deadline.poll(cx));
            self.end(Outcome::new(Cause::ServerTimeout, Phase::Data, "server_timeout"));
            return Poll::Ready(Some(Err(BodyError::ServerTimeout)));
        };
        if let Some(deadline) = &self.deadline {
            deadline.clear();
        }
        match item {
            None => {
                self.end(Outcome::DONE);
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                // The connection is given up, too, when the request breaks off first.
                let upload = self.rest.as_ref().and_then(|(exchange, _)| exchange.upload_failure());
                let (cause, why) =
                    upload.map_or((Cause::Server, "response_broken"), UploadFailure::blame);
                self.end(Outcome::new(cause, Phase::Data, why));
                Poll::Ready(Some(Err(BodyError::Broken(error))))
            }
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    if let Some((exchange, _)) = &mut self.rest {
                        exchange.bytes_out += data.len() as u64;
                    }
                } else if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers);
                }
                // A body of known length is not asked for its end.
                if self.incoming.is_end_stream() {
                    self.end(Outcome::DONE);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn end(&mut self, outcome: Outcome) {
        let Some((exchange, connection)) = self.rest.take() else { return };
        if outcome.cause == Cause::Done && exchange.upload_is_complete() {
            connection.give_back();
        }
        exchange.end(outcome);
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Malformed(bytes) => Poll::Ready(Some(match bytes.take() {
                Some(bytes) => Ok(Frame::data(bytes)),
                None => Err(BodyError::Malformed(h2::Reason::PROTOCOL_ERROR.into())),
            })),
            Self::Relayed(relayed) => relayed.poll(cx),
            Self::Watched(watched) => {
                watched.was_asked_for.set(true);
                match watched.relayed.borrow_mut().as_mut() {
                    Some(relayed) => relayed.poll(cx),
                    None => Poll::Ready(Some(Err(BodyError::ClientTimeout))),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(None) => true,
            Self::Watched(watched) => {
                let relayed = watched.relayed.borrow();
                relayed.as_ref().is_some_and(|relayed| relayed.incoming.is_end_stream())
            }
            Self::Malformed(_) => false,
            Self::Whole(Some(bytes)) => bytes.is_empty(),
            Self::Relayed(relayed) => relayed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Whole(None) => SizeHint::with_exact(0),
            Self::Malformed(_) => SizeHint::default(),
            Self::Watched(watched) => {
                let relayed = watched.relayed.borrow();
                relayed.as_ref().map_or_else(SizeHint::default, |it| it.incoming.size_hint())
            }
            Self::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Relayed(relayed) => relayed.incoming.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_body_is_bounded_however_small_its_pieces() {
        let upload = Upload { kept: RefCell::new(Some(Vec::new())), ..Upload::default() };
        for _ in 0..MOST_KEPT {
            upload.keep(b"");
            upload.keep(b"x");
        }
        let room = || upload.kept.borrow().as_ref().map(Vec::capacity);
        assert!(room().is_some_and(|room| room <= MOST_KEPT), "{:?}", room());
        upload.is_complete.set(true);
        let again = upload.again().expect("all of it was kept");
        assert!(!again.is_end_stream());
        // One more, and there is nothing to send again.
        upload.keep(b"x");
        assert!(room().is_none() && upload.again().is_none());
        upload.keep(b"x");
        assert!(room().is_none());
    }
}
