//! A client and a server that speak another protocol than HTTP with each other.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};

use super::{
    exchange::Exchange,
    outcome::{Cause, Outcome, Phase},
};
use crate::proxy::{timer::Deadline, upstream::Tunnel};

/// Room for bytes on their way, each way.
const BUFFER: usize = 16 * 1024;

/// Relays until both sides have finished, one breaks off, or nobody says anything.
pub(super) async fn run<S>(mut exchange: Box<Exchange>, client: S, first: Vec<u8>, server: Tunnel)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let silence = exchange.timeouts.tunnel(&exchange.frontend.config.timeouts);
    let idle = Deadline::default();
    idle.set(silence);
    let bytes = [Cell::new(0), Cell::new(0)];
    let mut client = Watched { inner: client, idle: &idle, silence, read: &bytes[0] };
    let mut socket = Watched { inner: server.stream, idle: &idle, silence, read: &bytes[1] };
    bytes[0].set(first.len() as u64);
    bytes[1].set(server.first.len() as u64);
    let mut stop = pin!(std::future::pending::<()>());
    let ended = {
        let mut relay = pin!(async {
            socket.inner.write_all(&first).await?;
            client.inner.write_all(&server.first).await?;
            copy_bidirectional_with_sizes(&mut client, &mut socket, BUFFER, BUFFER).await
        });
        poll_fn(|cx| {
            if let Poll::Ready(done) = relay.as_mut().poll(cx) {
                return Poll::Ready(match done {
                    Ok(_) => Outcome::ANSWERED,
                    Err(_) => Outcome::new(Cause::Client, Phase::Data, "tunnel_broken"),
                });
            }
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Outcome::new(Cause::Host, Phase::Data, "stopped"));
            }
            idle.poll(cx)
                .map(|()| Outcome::new(Cause::ClientTimeout, Phase::Data, "tunnel_timeout"))
        })
        .await
    };
    exchange.bytes_out = bytes[1].get();
    exchange.end(ended);
}

/// One side, whose bytes count and put off the end.
struct Watched<'a, S> {
    inner: S,
    idle: &'a Deadline,
    silence: std::time::Duration,
    read: &'a Cell<u64>,
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
            this.idle.set(this.silence);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
