//! The socket of a client as hyper sees it: what comes is guarded, and whoever keeps it
//! waiting is noticed.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    client::Client,
    frames::Frames,
    guard::{Guard, Verdict},
};
use crate::proxy::stream::Stream;

/// The socket of a client.
#[derive(Debug)]
pub(super) struct ClientIo {
    pub(super) stream: Stream,
    client: Rc<Client>,
    guard: Guard,
    /// Of HTTP/2, in the guard's place.
    frames: Option<Box<Frames>>,
    /// Bytes that came after a request for another protocol, or before the guard was there.
    held: Vec<u8>,
}

impl ClientIo {
    /// `first` has come already.
    pub(super) fn new(stream: Stream, client: Rc<Client>, first: Vec<u8>) -> Self {
        Self { stream, client, guard: Guard::new(), frames: None, held: first }
    }

    /// One of HTTP/2.
    pub(super) fn of_http2(stream: Stream, client: Rc<Client>, first: Vec<u8>) -> Self {
        let frames = Some(Box::new(Frames::new()));
        Self { stream, client, guard: Guard::opaque(), frames, held: first }
    }

    /// Lets the watch over frames see what is in `buffer` from `start` on.
    fn watch(&mut self, buffer: &mut ReadBuf<'_>, start: usize) -> io::Result<()> {
        let Some(frames) = &mut self.frames else { return Ok(()) };
        let limits = &self.client.http2_limits;
        frames.look(&mut buffer.filled_mut()[start..], limits, Instant::now).map_err(|flood| {
            self.client.flood.set(Some(flood));
            io::Error::other(flood.word())
        })
    }

    /// The socket, and what has come of another protocol.
    pub(super) fn into_parts(self) -> (Stream, Vec<u8>) {
        (self.stream, self.held)
    }

    /// Lets the guard see what is in `buffer` from `start` on.
    fn judge(&mut self, buffer: &mut ReadBuf<'_>, start: usize) {
        let was_between = self.guard.is_between_messages();
        let headers = self.guard.headers();
        let new = &mut buffer.filled_mut()[start..];
        if new.is_empty() || self.guard.is_opaque() {
            return;
        }
        match self.guard.look(new) {
            Verdict::Pass => {}
            Verdict::Hold(good) => {
                let mut back = new[good..].to_vec();
                back.append(&mut self.held);
                self.held = back;
                buffer.set_filled(start + good);
            }
            Verdict::Refuse(good, why) => {
                self.client.ambiguity.set(Some(why));
                new[good..].fill(0);
            }
        }
        self.client.is_between.set(self.guard.is_between_messages());
        if self.guard.is_in_head() {
            self.client.header_begins();
        } else if self.guard.headers() != headers {
            // Anything else, empty lines above all, puts nothing off.
            self.client.header_ends(was_between);
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.guard.is_undecided() {
            match this.client.decision.take() {
                Some(is_opaque) => this.guard.decide(is_opaque),
                None => {
                    *this.client.decided.borrow_mut() = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
        let start = buffer.filled().len();
        if this.held.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        } else {
            let taken = this.held.len().min(buffer.remaining());
            let rest = this.held.split_off(taken);
            buffer.put_slice(&std::mem::replace(&mut this.held, rest));
        }
        this.watch(buffer, start)?;
        this.judge(buffer, start);
        if buffer.filled().len() == start && this.guard.is_undecided() && !this.held.is_empty() {
            // Nothing for now, which is not the end.
            *this.client.decided.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl ClientIo {
    fn count(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Some(frames), Poll::Ready(Ok(bytes))) = (&mut self.frames, written) {
            frames.wrote(*bytes);
        }
    }

    /// Notices a client that takes nothing.
    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending if !self.client.sending.is_set() => {
                self.client.sending.set(self.client.taking.get());
            }
            Poll::Pending => {}
            Poll::Ready(_) => self.client.sending.clear(),
        }
        written
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.count(&written);
        this.note(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.count(&written);
        this.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.note(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.note(shut)
    }
}
