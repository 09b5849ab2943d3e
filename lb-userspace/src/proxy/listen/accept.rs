//! A worker's end of a listening socket.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use socket2::{Domain, SockRef};
use tokio::{
    net::{TcpListener, UnixListener},
    time,
};

use crate::proxy::socket::{Addresses, Socket, tune};

/// How long a worker lets a host recover that is out of descriptors or memory. Connections
/// wait in the kernel meanwhile.
const RECOVERY: Duration = Duration::from_millis(50);

/// A listening socket in a worker's runtime.
#[derive(Debug)]
pub enum Listener {
    /// Over IP. With the address that all connections went to, if there is but one.
    Tcp(TcpListener, Option<SocketAddr>),
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
    /// Of a listening stream socket that does not block. What is set here, connections
    /// inherit from it: none has to be set up by itself.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let options = SockRef::from(&socket);
        if options.domain()? == Domain::UNIX {
            return Ok(Self::Unix(UnixListener::from_std(socket.into())?));
        }
        tune(&options)?;
        // A transparent socket takes what was sent to others.
        let is_transparent = match options.domain()? {
            Domain::IPV6 => true,
            _ => options.ip_transparent_v4().unwrap_or(true),
        };
        let listener = TcpListener::from_std(socket.into())?;
        let address = listener.local_addr().ok();
        let only = address.filter(|address| !is_transparent && !address.ip().is_unspecified());
        Ok(Self::Tcp(listener, only))
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
                Ok(accepted) => return Ok(accepted),
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

    async fn accept_any(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, only) => {
                let (stream, source) = listener.accept().await?;
                let destination = match only {
                    Some(only) => *only,
                    // Of a connection that is gone already.
                    None => stream.local_addr().map_err(|_| io::ErrorKind::NotConnected)?,
                };
                let addresses = Addresses::new(source, destination);
                Ok(Accepted { socket: Socket::Tcp(stream), addresses })
            }
            Self::Unix(listener) => {
                let socket = Socket::Unix(listener.accept().await?.0);
                Ok(Accepted { socket, addresses: Addresses::NONE })
            }
        }
    }
}
