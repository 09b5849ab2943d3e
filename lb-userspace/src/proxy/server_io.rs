//! The connection to an HTTP/1 server, as hyper sees it.
//!
//! hyper passes over responses of 1xx, however many there are, and reads on within one turn
//! of its task. A server that sends nothing else would keep its worker from everybody's
//! requests. So what may come before a response is bounded here.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// Most bytes before the header of a response is complete: a header of the largest size, and
/// as much of 1xx responses.
const MOST: usize = 128 * 1024;

/// How many bytes have come while a response is waited for; none while it is not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Awaited(Rc<Cell<Option<usize>>>);

impl Awaited {
    /// A request is sent.
    pub(crate) fn begin(&self) {
        self.0.set(Some(0));
    }

    /// Whether nothing has come since.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.get() == Some(0)
    }

    /// Its response has begun.
    pub(crate) fn end(&self) {
        self.0.set(None);
    }
}

/// The stream of a server.
#[derive(Debug)]
pub(crate) struct ServerIo {
    stream: Stream,
    awaited: Awaited,
}

impl ServerIo {
    pub(crate) fn new(stream: Stream, awaited: Awaited) -> Self {
        Self { stream, awaited }
    }

    pub(crate) fn into_stream(self) -> Stream {
        self.stream
    }
}

/// Whether hyper failed because a server said too much before its response.
pub(crate) fn is_too_much(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| error.kind() == io::ErrorKind::FileTooLarge)
}

impl AsyncRead for ServerIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let so_far = this.awaited.0.get();
        if so_far.is_some_and(|bytes| bytes > MOST) {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        this.awaited.0.set(so_far.map(|bytes| bytes + buffer.filled().len() - before));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
