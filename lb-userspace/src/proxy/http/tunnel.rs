//! A client and a server that speak another protocol than HTTP with each other.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use lb_common::drop_reason::DropReason;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};

use super::exchange::Exchange;
use crate::proxy::{
    far_end::Tunnel,
    outcome::{Cause, Outcome, Phase, Side},
    timer::Deadline,
};

/// Room for bytes on their way, each way.
const BUFFER: usize = 16 * 1024;

/// Relays until both sides have finished, one breaks off, or nobody says anything.
pub(super) async fn run<S>(exchange: Box<Exchange>, client: S, first: Vec<u8>, server: Tunnel)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (frontend, source) = (Arc::clone(&exchange.frontend), exchange.client.addresses.peer());
    let silence = exchange.timeouts.tunnel(&exchange.frontend.config.timeouts);
    let idle = Deadline::default();
    idle.set(silence);
    let open = Open {
        exchange: Some(exchange),
        up: Cell::new(first.len() as u64),
        down: Cell::new(server.first.len() as u64),
        broken: Cell::new(None),
        stalled: Cell::new(None),
    };
    let watch = Watch { idle: &idle, silence, broken: &open.broken, stalled: &open.stalled };
    let mut client = Watched { inner: client, side: Side::Client, read: &open.up, watch };
    let mut socket = Watched { inner: server.stream, side: Side::Server, read: &open.down, watch };
    let ended = {
        let mut expelled = pin!(frontend.gate.expelled(source));
        let mut relay = pin!(async {
            socket.write_all(&first).await?;
            client.write_all(&server.first).await?;
            copy_bidirectional_with_sizes(&mut client, &mut socket, BUFFER, BUFFER).await
        });
        poll_fn(|cx| {
            if let Poll::Ready(done) = relay.as_mut().poll(cx) {
                return Poll::Ready(match (done, open.broken.get()) {
                    (Ok(_), _) => Outcome::DONE,
                    (Err(_), Some(Side::Server)) => {
                        Outcome::new(Cause::Server, Phase::Data, "server_broke")
                    }
                    (Err(_), _) => Outcome::new(Cause::Client, Phase::Data, "client_broke"),
                });
            }
            if expelled.as_mut().poll(cx).is_ready() {
                let reason = frontend.gate.judge(source).err().map_or("denied", DropReason::name);
                return Poll::Ready(Outcome::new(Cause::Policy, Phase::Data, reason));
            }
            idle.poll(cx).map(|()| {
                let (cause, reason) = match open.stalled.get() {
                    Some(Side::Client) => (Cause::ClientTimeout, "client_stalled"),
                    Some(Side::Server) => (Cause::ServerTimeout, "server_stalled"),
                    None => (Cause::ClientTimeout, "tunnel_timeout"),
                };
                Outcome::new(cause, Phase::Data, reason)
            })
        })
        .await
    };
    open.end(ended);
}

/// A tunnel until its line is in the log.
struct Open {
    /// None once it has ended.
    exchange: Option<Box<Exchange>>,
    /// Bytes from the client.
    up: Cell<u64>,
    /// Bytes from the server.
    down: Cell<u64>,
    /// The side that broke off.
    broken: Cell<Option<Side>>,
    /// The side that does not take what there is for it.
    stalled: Cell<Option<Side>>,
}

impl Open {
    fn end(mut self, outcome: Outcome) {
        if let Some(exchange) = self.counted() {
            exchange.end(outcome);
        }
    }

    fn counted(&mut self) -> Option<Box<Exchange>> {
        let mut exchange = self.exchange.take()?;
        exchange.bytes_out = self.down.get();
        exchange.upload.get_or_insert_default().bytes.set(self.up.get());
        Some(exchange)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // It says itself why it is dropped.
        drop(self.counted());
    }
}

/// What both sides have in common.
#[derive(Clone, Copy)]
struct Watch<'a> {
    idle: &'a Deadline,
    silence: Duration,
    broken: &'a Cell<Option<Side>>,
    stalled: &'a Cell<Option<Side>>,
}

/// One side, whose bytes count and put off the end.
struct Watched<'a, S> {
    inner: S,
    side: Side,
    read: &'a Cell<u64>,
    watch: Watch<'a>,
}

impl<S> Watched<'_, S> {
    /// Notes who was the first to break off.
    fn note<T>(&self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(done, Poll::Ready(Err(_))) && self.watch.broken.get().is_none() {
            self.watch.broken.set(Some(self.side));
        }
        done
    }

    /// The same of something that was to be sent.
    fn note_sent<T>(&self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let stalled = self.watch.stalled;
        if done.is_pending() {
            stalled.set(Some(self.side));
        } else if stalled.get() == Some(self.side) {
            stalled.set(None);
        }
        self.note(done)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buffer);
        let new = buffer.filled().len() - before;
        if new > 0 {
            this.read.set(this.read.get() + new as u64);
            this.watch.idle.set(this.watch.silence);
        }
        this.note(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.note_sent(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.note_sent(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.note(shut)
    }
}
