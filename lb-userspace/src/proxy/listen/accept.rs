//! A worker's end of a listening socket.

use std::{io, os::fd::OwnedFd, time::Duration};

use socket2::{Domain, SockRef};
use tokio::{
    net::{TcpListener, UnixListener},
    time,
};

use crate::proxy::socket::{Addresses, Socket};

/// How long a worker lets a host recover that is out of descriptors or memory. Connections
/// wait in the kernel meanwhile.
const RECOVERY: Duration = Duration::from_millis(50);

/// A listening socket in a worker's runtime.
#[derive(Debug)]
pub enum Listener {
    /// Over IP.
    Tcp(TcpListener),
    /// Within the host.
    Unix(UnixListener),
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub socket: Socket,
    /// Who connected to what, as the kernel has it.
    pub addresses: Addresses,
}

impl Listener {
    /// Of a listening stream socket that does not block.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        if SockRef::from(&socket).domain()? == Domain::UNIX {
            Ok(Self::Unix(UnixListener::from_std(socket.into())?))
        } else {
            Ok(Self::Tcp(TcpListener::from_std(socket.into())?))
        }
    }

    /// The next connection. Connections that are gone before they are accepted are passed
    /// over, and a host without descriptors or memory is waited for (accept(2)).
    ///
    /// # Errors
    /// If the socket itself is of no more use.
    ///
    /// # Cancel safety
    /// No connection is lost.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let mut is_told = false;
        loop {
            let error = match self.accept_any().await {
                Ok(socket) => match socket.addresses() {
                    Ok(addresses) => return Ok(Accepted { socket, addresses }),
                    // Gone already.
                    Err(_) => continue,
                },
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    if !is_told {
                        tracing::error!("can not accept connections: {error}; trying on");
                    }
                    is_told = true;
                    time::sleep(RECOVERY).await;
                }
                Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => {
                    return Err(error);
                }
                // Errors of the connection that are reported at its acceptance.
                _ => {}
            }
        }
    }

    async fn accept_any(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => Ok(Socket::Tcp(listener.accept().await?.0)),
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}
