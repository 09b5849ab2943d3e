//! The `tcp` check: the handshake completes, or a unix socket takes a connection.

use std::time::Duration;

use tokio::{
    net::{TcpStream, UnixStream},
    time::{Instant, timeout_at},
};
use tokio_util::either::Either;

use super::error::{CheckError, Phase};
use crate::{dial::dial, model::address::ServerAddress};

/// Connects and hangs up. The connection is reset rather than closed (`SO_LINGER` 0): it
/// carried nothing, and a reset leaves no TIME_WAIT behind that would hold a local port.
///
/// # Errors
/// [`CheckError`] if the handshake does not complete in time.
///
/// # Cancel safety
/// Dropping the future hangs up.
pub async fn check(address: ServerAddress, timeout: Duration) -> Result<(), CheckError> {
    match connect(address, timeout, Instant::now() + timeout).await? {
        Either::Left(stream) => stream.set_zero_linger().map_err(CheckError::Connect),
        Either::Right(_within_the_host) => Ok(()),
    }
}

/// Connects before `deadline`; `timeout` is what the error says.
pub(super) async fn connect(
    address: ServerAddress,
    timeout: Duration,
    deadline: Instant,
) -> Result<Either<TcpStream, UnixStream>, CheckError> {
    match timeout_at(deadline, dial(address)).await {
        Ok(connected) => connected.map_err(CheckError::from_connect),
        Err(_elapsed) => Err(CheckError::Timeout { phase: Phase::Connect, after: timeout }),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_listening_port_passes_and_sees_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().into();
        let accepted = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap_err().kind()
        });
        check(address, SECOND).await.unwrap();
        assert_eq!(accepted.await.unwrap(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_closed_port_is_refused() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let address = listener.local_addr().unwrap().into();
        drop(listener);
        assert_eq!(check(address, SECOND).await.unwrap_err().to_string(), "connection refused");
    }

    #[tokio::test]
    async fn a_full_accept_queue_times_out() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap().into();
        // Fill the queue: nobody accepts, so further SYNs are dropped.
        let mut held = Vec::new();
        let error = loop {
            let deadline = Instant::now() + Duration::from_millis(100);
            match connect(address, Duration::from_millis(100), deadline).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() < 10, "the queue takes everything");
        };
        assert_eq!(error.to_string(), "timeout in connect after 100ms");
    }
}
