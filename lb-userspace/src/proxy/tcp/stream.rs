//! One side of a session: plain, or TLS with a client or with a server.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};

use crate::proxy::socket::Socket;

/// One side of a session.
#[derive(Debug)]
pub(super) enum Stream {
    /// As it is on the wire.
    Plain(Socket),
    /// TLS with a client.
    Client(Box<server::TlsStream<Socket>>),
    /// TLS with a server.
    Server(Box<client::TlsStream<Socket>>),
}

impl Stream {
    /// The socket, for splicing: none if there is TLS in between.
    pub(super) fn plain(&self) -> Option<&Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Client(_) | Self::Server(_) => None,
        }
    }

    /// The socket below.
    pub(super) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Client(tls) => tls.get_ref().0,
            Self::Server(tls) => tls.get_ref().0,
        }
    }

    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Client(tls) => Pin::new(tls).poll_read(context, buffer),
            Self::Server(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Client(tls) => Pin::new(tls).poll_write(context, bytes),
            Self::Server(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Client(tls) => Pin::new(tls).poll_flush(context),
            Self::Server(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    /// Says that nothing more will be sent; the other direction stays open.
    pub(super) fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Poll::Ready(socket.finish_sending()),
            Self::Client(tls) => Pin::new(tls).poll_shutdown(context),
            Self::Server(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
