//! A connected stream socket, of TCP or of the host itself, and who is at its other end.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_util::either::Either;

use crate::{dial::dial, model::address::ServerAddress};

/// A connection, ours to clients and ours to servers.
#[derive(Debug)]
pub enum Socket {
    /// Over IP.
    Tcp(TcpStream),
    /// Within the host.
    Unix(UnixStream),
}

/// The addresses of a connection. Those of a unix socket are unspecified, port 0; nobody else's
/// source is: the kernel takes no such packet, and [`super::proxy_protocol`] no such header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it went to.
    pub destination: SocketAddr,
}

impl Addresses {
    /// What stands for the addresses of a unix socket.
    pub const NONE: Self = Self {
        source: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        destination: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    };

    /// As the kernel has them, but IPv4 in its own form, also where a listener has both.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { source: canonical(source), destination: canonical(destination) }
    }

    /// The same in one family: an IPv4 address beside an IPv6 one in mapped form
    /// (RFC 4291 section 2.5.5.2).
    #[must_use]
    pub fn in_one_family(self) -> Self {
        let mapped = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(_) => address,
        };
        if self.source.is_ipv4() == self.destination.is_ipv4() {
            return self;
        }
        Self { source: mapped(self.source), destination: mapped(self.destination) }
    }

    /// Who is at the other end; none of a unix socket.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        Some(self.source.ip()).filter(|source| !source.is_unspecified())
    }

    /// Whether they are of one family and can be handed on to a server.
    #[must_use]
    pub fn are_known(&self) -> bool {
        self.peer().is_some() && self.source.is_ipv4() == self.destination.is_ipv4()
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.source, self.destination)
    }
}

/// How often an idle connection is probed, so that a peer that vanished without a word is
/// found out (tcp(7)); dead after nine probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));

impl Socket {
    /// Connects to a server.
    ///
    /// # Errors
    /// As connect(2).
    ///
    /// # Cancel safety
    /// Dropping the future gives the attempt up.
    pub async fn connect(address: ServerAddress) -> io::Result<Self> {
        Ok(match dial(address).await? {
            Either::Left(stream) => Self::Tcp(stream),
            Either::Right(stream) => Self::Unix(stream),
        })
    }

    /// This host's end of a connection over IP.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Sends small writes at once and probes an idle peer. Connections that were accepted
    /// have that of their listener.
    ///
    /// # Errors
    /// If the connection is gone already.
    pub fn tune(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => tune(&SockRef::from(stream)),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Makes closing it an abort: the peer sees a reset and can not take what came for all
    /// there is.
    pub fn abort_on_close(&self) {
        // A socket that is gone needs no reset.
        let _ = SockRef::from(&self.as_fd()).set_linger(Some(Duration::ZERO));
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// If the connection is gone already.
    pub fn finish_sending(&self) -> io::Result<()> {
        SockRef::from(&self.as_fd()).shutdown(std::net::Shutdown::Write)
    }

    /// Waits until there is something to read, or the peer has left.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(context),
            Self::Unix(stream) => stream.poll_read_ready(context),
        }
    }

    /// Waits until there is room to write, or the connection is gone.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(context),
            Self::Unix(stream) => stream.poll_write_ready(context),
        }
    }

    /// Does a system call of one's own that does not block; `WouldBlock` ends readiness.
    pub(crate) fn try_io<T>(
        &self,
        interest: Interest,
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, call),
            Self::Unix(stream) => stream.try_io(interest, call),
        }
    }

    /// Copies what has come without taking it; 0 means the peer has finished sending.
    ///
    /// # Errors
    /// As recv(2).
    ///
    /// # Cancel safety
    /// Nothing is taken.
    pub async fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            std::future::poll_fn(|context| self.poll_readable(context)).await?;
            let peeked = self.try_io(Interest::READABLE, || {
                Ok(recv(self.as_fd().as_raw_fd(), into, MsgFlags::MSG_PEEK)?)
            });
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

/// What every TCP socket of the proxy has: small writes go at once, an idle peer is probed.
pub(super) fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let (idle, between) = KEEPALIVE;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(between))
}

/// IPv4 out of its IPv6 form, as a dual-stack listener has it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
