//! Opening a TCP socket that listens.

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections whose handshake is done and that no worker has accepted yet; the kernel
/// takes fewer if `net.core.somaxconn` says so (listen(2)).
const BACKLOG: i32 = 4096;

/// A listening socket at `address` beside which others may listen at the same address.
///
/// `is_v6only` says whether an IPv6 socket leaves IPv4 alone. It is always set and not left
/// to `net.ipv6.bindv6only`, so that a configuration means the same on every host.
pub(super) fn tcp(address: SocketAddr, is_v6only: bool) -> io::Result<OwnedFd> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(is_v6only)?;
    }
    // After a restart old connections may linger on the port (SO_REUSEADDR, socket(7)).
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Makes an open socket listen.
pub(super) fn listen(socket: &Socket) -> io::Result<()> {
    socket.listen(BACKLOG)
}
