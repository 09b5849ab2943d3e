//! The stream of a server that has agreed on another protocol than HTTP.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{body::Bytes, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// The stream, and what the server has sent already.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) stream: FarEnd,
    pub(crate) first: Bytes,
}

/// What stands for a connection to a server.
#[derive(Debug)]
pub(crate) enum FarEnd {
    /// The connection itself, once HTTP/1.1 was given up on it.
    Connection(Stream),
    /// A stream of a connection of HTTP/2.
    Stream(TokioIo<Upgraded>),
}

impl AsyncRead for FarEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Stream(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for FarEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Stream(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_flush(context),
            Self::Stream(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Stream(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
