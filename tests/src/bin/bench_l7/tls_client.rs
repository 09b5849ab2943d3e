//! Clients over TLS that wrk can not be: with sessions that are resumed, and with
//! connections that are left idle.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use testbed::bench::wrk::Count;

use crate::site::{HOST, HTTPS, Site};

/// Connections that are open at once.
const CONNECTIONS: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// New connections, each with one request, that resume the session of one before.
/// Whatever is not resumed is a failure.
///
/// # Errors
/// When nothing can be connected to at all.
pub(crate) fn resume(site: &Site, time: Duration) -> Result<Count> {
    // A ticket is used once, so each has its own.
    let configs: Result<Vec<_>> = (0..CONNECTIONS).map(|_| configuration(site)).collect();
    let configs = configs?;
    let work = || {
        for config in &configs {
            exchange(config).context("the first handshake")?;
        }
        let (start, mut tally) = (Instant::now(), Tally::default());
        thread::scope(|scope| {
            let threads: Vec<_> = configs
                .iter()
                .map(|config| scope.spawn(move || Tally::of(config, start + time)))
                .collect();
            for thread in threads {
                // Only an assertion could panic, and there is none.
                tally.add(thread.join().unwrap_or_default());
            }
        });
        Ok(tally.count(start.elapsed()))
    };
    site.namespace.run(work)
}

/// A connection with one request answered, left open.
///
/// # Errors
/// When it fails.
pub(crate) fn open(config: &Arc<ClientConfig>) -> Result<TlsStream> {
    let mut stream = connect(config)?;
    stream.write_all(request("").as_bytes())?;
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer)?;
    ensure!(answer[..length].starts_with(b"HTTP/1.1 200"), "another answer than 200");
    Ok(stream)
}

/// What all connections share. Key exchange is X25519, as with the other clients.
///
/// # Errors
/// When the certificate can not be read.
pub(crate) fn configuration(site: &Site) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(site.certificate())?)?;
    let provider = CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(1);
    Ok(Arc::new(config))
}

/// A request, to be written at once: parts of it would wait for acknowledgements.
pub(crate) fn request(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")
}

#[derive(Default)]
struct Tally {
    times_us: Vec<u64>,
    failures: u64,
}

impl Tally {
    /// Of one connection after the other until the deadline.
    fn of(config: &Arc<ClientConfig>, deadline: Instant) -> Self {
        let mut tally = Self::default();
        while Instant::now() < deadline {
            let start = Instant::now();
            match exchange(config) {
                Ok(HandshakeKind::Resumed) => {
                    let time = start.elapsed().as_micros();
                    tally.times_us.push(u64::try_from(time).unwrap_or(u64::MAX));
                }
                Ok(_) | Err(_) => tally.failures += 1,
            }
        }
        tally
    }

    fn add(&mut self, other: Self) {
        self.times_us.extend(other.times_us);
        self.failures += other.failures;
    }

    fn count(mut self, time: Duration) -> Count {
        self.times_us.sort_unstable();
        let p99 = self.times_us.get(self.times_us.len() * 99 / 100).copied().unwrap_or(0);
        Count {
            answered: self.times_us.len() as u64,
            seconds: time.as_secs_f64(),
            failures: self.failures,
            p99_ms: p99 as f64 / 1000.0,
        }
    }
}

/// A connection with one request, and how its handshake went.
fn exchange(config: &Arc<ClientConfig>) -> Result<HandshakeKind> {
    let mut stream = connect(config)?;
    stream.write_all(request("Connection: close\r\n").as_bytes())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // Not everybody says good-bye before closing.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(error.into()),
        _ => {}
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "another answer than 200");
    stream.conn.handshake_kind().context("the handshake is done")
}

fn connect(config: &Arc<ClientConfig>) -> Result<TlsStream> {
    let socket = TcpStream::connect(HTTPS)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from(HOST)?)?;
    Ok(StreamOwned::new(connection, socket))
}
