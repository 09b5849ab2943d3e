//! What an idle connection costs in memory: 10,000 of them, each after one request.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    account::Account,
    report::Sample,
    site::{HTTP, Site},
    tls_client,
};

const CONNECTIONS: usize = 10_000;
/// Time for the proxy to put away what an idle connection does not need.
const SETTLE: Duration = Duration::from_secs(3);

/// Opens the connections; `rss_mib` of the sample is what memory grew by. A few connections
/// come first, so that what the first ones bring for all does not count.
///
/// # Errors
/// When a connection fails or the proxy is gone.
pub(crate) fn measure(site: &Site, account: &Account, encrypted: bool) -> Result<Sample> {
    let config = tls_client::configuration(site)?;
    site.namespace.run(|| {
        let warm = open_all(100, || open(&config, encrypted))?;
        let before = account.resident_mib()?;
        let all = open_all(CONNECTIONS, || open(&config, encrypted))?;
        thread::sleep(SETTLE);
        let grown = account.resident_mib()? - before;
        let closed = warm.iter().chain(&all).filter(|connection| !connection.is_open()).count();
        Ok(Sample {
            per_second: None,
            cpu_us: None,
            p99_ms: None,
            failures: closed as u64,
            rss_mib: grown,
        })
    })
}

enum Connection {
    Plain(TcpStream),
    Encrypted(Box<tls_client::TlsStream>),
}

impl Connection {
    /// Whether the proxy still has it: there is nothing to read, not even an end.
    fn is_open(&self) -> bool {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Encrypted(stream) => &stream.sock,
        };
        let peeked = socket.set_nonblocking(true).and_then(|()| socket.peek(&mut [0]));
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

fn open_all(count: usize, open: impl Fn() -> Result<Connection>) -> Result<Vec<Connection>> {
    (0..count).map(|_| open()).collect()
}

fn open(config: &Arc<rustls::ClientConfig>, encrypted: bool) -> Result<Connection> {
    if encrypted {
        return Ok(Connection::Encrypted(Box::new(tls_client::open(config)?)));
    }
    let mut socket = TcpStream::connect(HTTP)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(tls_client::request("").as_bytes())?;
    let mut answer = [0; 4096];
    let length = socket.read(&mut answer)?;
    ensure!(answer[..length].starts_with(b"HTTP/1.1 200"), "another answer than 200");
    Ok(Connection::Plain(socket))
}
