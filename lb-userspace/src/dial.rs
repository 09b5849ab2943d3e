//! Connecting to a server, over IP or within the host.

use std::{io, time::Duration};

use tokio::{
    net::{TcpStream, UnixStream},
    time::sleep,
};
use tokio_util::either::Either;

use crate::model::address::ServerAddress;

/// How long to wait before a unix socket is tried again whose queue is full.
const AGAIN: Duration = Duration::from_millis(10);

/// Connects; how long to wait is the caller's. A unix socket whose queue of connections is
/// full refuses with `EAGAIN`, where TCP would wait (unix(7)): it is tried until there is
/// room.
///
/// # Errors
/// As connect(2).
///
/// # Cancel safety
/// Dropping the future gives the attempt up.
pub(crate) async fn dial(address: ServerAddress) -> io::Result<Either<TcpStream, UnixStream>> {
    match address {
        ServerAddress::Ip(address) => TcpStream::connect(address).await.map(Either::Left),
        ServerAddress::Unix(path) => loop {
            match UnixStream::connect(path.as_path()).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(AGAIN).await,
                connected => return connected.map(Either::Right),
            }
        },
    }
}

/// Whether this host is too short of something to connect (ports of its own, descriptors,
/// memory), which says nothing of the server.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRNOTAVAIL | libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::socket::{Backlog, listen};

    use super::*;
    use crate::model::address::SocketPath;

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full");
        let listener = UnixListener::bind(&path).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address = ServerAddress::Unix(SocketPath::new(path.to_str().unwrap()));
        let mut held = Vec::new();
        let mut next = Box::pin(dial(address));
        while let Ok(connected) =
            tokio::time::timeout(Duration::from_millis(100), next.as_mut()).await
        {
            held.push(connected.unwrap());
            assert!(held.len() < 10, "the queue takes everything");
            next = Box::pin(dial(address));
        }
        listener.accept().unwrap();
        next.await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_an_error() {
        let address = ServerAddress::Unix(SocketPath::new("/nonexistent/socket"));
        assert_eq!(dial(address).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
