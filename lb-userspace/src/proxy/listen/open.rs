//! Opening sockets of IP that clients reach.

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections whose handshake is done and that no worker has accepted yet; the kernel
/// takes fewer if `net.core.somaxconn` says so (listen(2)).
const BACKLOG: i32 = 4096;

/// Room for datagrams that a worker has not read yet.
const BUFFER_BYTES: usize = 4 << 20;

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

/// A socket for datagrams to a VIP, beside which others may have the same address: the kernel
/// gives those of one client to the same one, as long as there are as many of them.
pub(super) fn udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    // As much as the host lets anybody have (net.core.rmem_max): a burst waits there.
    let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Makes an open socket listen.
pub(super) fn listen(socket: &Socket) -> io::Result<()> {
    socket.listen(BACKLOG)
}
