//! The `tcp` check: the handshake completes, or a unix socket takes a connection.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use lb_common::check_path::SEGMENT;
use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream, UnixStream},
    time::{Instant, timeout_at},
};
use tokio_util::either::Either;

use super::{
    error::{CheckError, Phase},
    way::{AsTraffic, Detour, Way},
};
use crate::{dial::dial, model::address::ServerAddress};

/// Connects and hangs up. The connection is reset rather than closed (`SO_LINGER` 0): it
/// carried nothing, and a reset leaves no TIME_WAIT behind that would hold a local port.
///
/// # Errors
/// [`CheckError`] if the handshake does not complete in time.
///
/// # Cancel safety
/// Dropping the future hangs up.
pub async fn check(
    address: ServerAddress,
    detour: Detour<'_>,
    timeout: Duration,
) -> Result<(), CheckError> {
    match connect(address, detour, timeout, Instant::now() + timeout).await? {
        Either::Left(stream) => stream.set_zero_linger().map_err(CheckError::Connect),
        Either::Right(_within_the_host) => Ok(()),
    }
}

/// Connects before `deadline`; `timeout` is what the error says.
pub(super) async fn connect(
    address: ServerAddress,
    detour: Detour<'_>,
    timeout: Duration,
    deadline: Instant,
) -> Result<Either<TcpStream, UnixStream>, CheckError> {
    let dialled = async {
        match (address, detour) {
            (ServerAddress::Ip(address), Some((way, path))) => {
                dial_as_traffic(address, way, path).await.map(Either::Left)
            }
            _ => dial(address).await.map_err(CheckError::from_connect),
        }
    };
    match timeout_at(deadline, dialled).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(CheckError::Timeout { phase: Phase::Connect, after: timeout }),
    }
}

/// Connects the way of traffic.
async fn dial_as_traffic(
    address: SocketAddr,
    way: &Way,
    path: &dyn AsTraffic,
) -> Result<TcpStream, CheckError> {
    let socket = traffic_socket(address).map_err(CheckError::Connect)?;
    path.send(socket.as_fd(), way).map_err(CheckError::Way)?;
    socket.connect(address).await.map_err(CheckError::from_connect)
}

/// A socket whose packets have room for outer headers, whose local port no other check has at
/// the same time (to servers behind one VIP it tells connections apart), and which ends with a
/// reset: what is left of a closed connection is no socket any more, and nothing would send its
/// packets that way.
fn traffic_socket(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let (socket, unspecified) = match address {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, (Ipv4Addr::UNSPECIFIED, 0).into()),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, (Ipv6Addr::UNSPECIFIED, 0).into()),
    };
    SockRef::from(&socket).set_tcp_mss(SEGMENT)?;
    socket.set_zero_linger()?;
    socket.bind(unspecified)?;
    Ok(socket)
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
        check(address, None, SECOND).await.unwrap();
        assert_eq!(accepted.await.unwrap(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_closed_port_is_refused() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let address = listener.local_addr().unwrap().into();
        drop(listener);
        assert_eq!(
            check(address, None, SECOND).await.unwrap_err().to_string(),
            "connection refused"
        );
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
            match connect(address, None, Duration::from_millis(100), deadline).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() < 10, "the queue takes everything");
        };
        assert_eq!(error.to_string(), "timeout in connect after 100ms");
    }
}
