//! Reaching a server: choosing, queueing, connecting, introducing the client, encrypting;
//! and another one if that fails. Until a session is joined nothing of the client's has
//! been sent, so trying again is always safe.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::proxy::stream::Stream;
use crate::{
    balance::{self, Lease, Member, PickError, PickFacts, Picked, Pool, Teller, key},
    model::{
        address::ServerAddress,
        backend::SendProxy,
        balance::{Balance, Balancing, HashKey},
        name::Name,
        snapshot::{HashBy, Protocol},
    },
    proxy::{
        outcome::{Cause, Outcome, Phase},
        proxy_protocol::{self, Facts},
        socket::{Addresses, Socket},
        timer::RETRY_PAUSE,
        tls::encryption::Encryption,
    },
};

/// A backend as sessions see it.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub name: Name,
    /// Chooses its servers.
    pub pool: Arc<Pool>,
    /// What is hashed for `balance: maglev`.
    pub hash: HashBy,
    /// Whether a full server refuses, although others may have room.
    pub refuses_when_full: bool,
    /// TLS with its servers.
    pub encryption: Option<Arc<Encryption>>,
    /// The header its servers get.
    pub send_proxy: Option<SendProxy>,
    /// Longest time a connection may take to be made.
    pub connect: Duration,
    /// How long a server may take nothing.
    pub server: Duration,
    /// Sessions it has; kept over reloads.
    pub sessions: Arc<AtomicU32>,
    /// How its sessions are told that their server is dead; kept over reloads.
    pub endings: Arc<Endings>,
}

impl Backend {
    /// What the backend hashes of a connection, or a flow, from `source` to `destination`;
    /// none if nothing.
    #[must_use]
    pub fn hash_of(
        &self,
        balancing: &Balancing,
        source: SocketAddr,
        destination: SocketAddr,
        protocol: Protocol,
    ) -> Option<u64> {
        match &balancing.algorithm {
            Balance::Maglev => Some(match self.hash {
                HashBy::Tuple => key::of_flow(source, destination, protocol),
                HashBy::Source => key::of_source(source.ip()),
            }),
            Balance::Hash(HashKey::Source) => Some(key::of_source(source.ip())),
            // Parts of requests: a connection has none, and goes in turn.
            _ => None,
        }
    }
}

/// One for each server: cancelled when its sessions are to end.
#[derive(Debug, Default)]
pub struct Endings(Mutex<HashMap<ServerAddress, CancellationToken>>);

impl Endings {
    /// Ends the sessions of servers that are `dead`.
    pub fn settle(&self, dead: impl Fn(ServerAddress) -> bool) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, token) in tokens.extract_if(|address, _| dead(*address)) {
            token.cancel();
        }
    }

    /// Cancelled when a server's sessions are to end.
    pub(crate) fn of(&self, address: ServerAddress) -> CancellationToken {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.entry(address).or_default().clone()
    }
}

/// A session counts for its backend until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicU32>);

impl Counted {
    /// One more.
    pub(crate) fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) stream: Stream,
    /// The place at the server, given back when the session ends.
    pub(super) lease: Lease,
    /// Cancelled when the server is dead.
    pub(super) ending: CancellationToken,
    /// How long the attempt took that succeeded.
    pub(super) connect: Duration,
}

/// What reaching a server has come to so far, for the log.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Who counts.
    pub(super) teller: Teller,
    pub(super) server: Option<Arc<Member>>,
    pub(super) queue: Option<Duration>,
    /// It was not let through at once.
    pub(super) has_waited: bool,
    /// Sessions that waited when this one began to.
    pub(super) waiting: u32,
    pub(super) retries: u32,
}

/// Reaches a server of `backend` for the client of `facts`.
///
/// # Errors
/// Who is to blame that there is none.
pub(super) async fn reach(
    backend: &Backend,
    facts: &Facts<'_>,
    progress: &mut Progress,
) -> Result<Reached, Outcome> {
    let attempts = backend.pool.balancing().retries.attempts;
    let mut tried: Vec<u64> = Vec::new();
    loop {
        let lease = take(backend, facts.addresses, &tried, progress).await?;
        let server = Arc::clone(lease.server());
        if tried.contains(&server.id()) {
            sleep(RETRY_PAUSE.min(backend.connect)).await;
        }
        progress.server = Some(Arc::clone(&server));
        let ending = backend.endings.of(server.address());
        let started = Instant::now();
        let failure = match connect(backend, server.address(), facts).await {
            Ok(stream) => {
                lease.report(balance::Outcome::Success, started.into_std());
                let connect = started.elapsed();
                return Ok(Reached { stream, lease, ending, connect });
            }
            Err(failure) => failure,
        };
        let is_servers = matches!(failure.cause, Cause::Server | Cause::ServerTimeout);
        let now = Instant::now().into_std();
        if is_servers {
            lease.report(balance::Outcome::Failure, now);
        }
        if !is_servers || progress.retries >= attempts || !backend.pool.may_retry(now) {
            return Err(failure);
        }
        server.counters().count_retry(progress.teller);
        tried.push(server.id());
        progress.retries += 1;
    }
}

/// A place at a server, waited for if need be.
async fn take(
    backend: &Backend,
    addresses: Addresses,
    tried: &[u64],
    progress: &mut Progress,
) -> Result<Lease, Outcome> {
    let balancing = backend.pool.balancing();
    let source = addresses.source;
    let hash = backend.hash_of(&balancing, source, addresses.destination, Protocol::Tcp);
    let request = PickFacts {
        hash,
        random: fastrand::u64(..),
        client: Some(key::of_source(source.ip())),
        avoid: tried,
        is_firm: backend.refuses_when_full,
        is_again: !tried.is_empty(),
        ..PickFacts::default()
    };
    let started = Instant::now();
    // As HAProxy has it: no server is a server that refuses.
    let refused = |reason| Outcome::new(Cause::Server, Phase::Connect, reason);
    let lease = match backend.pool.pick(&request) {
        Ok(Picked::Server(lease)) => lease,
        Ok(Picked::Queued(ticket)) => {
            progress.has_waited = true;
            progress.waiting = backend.pool.waiting().saturating_sub(1);
            match timeout(balancing.queue.timeout, ticket).await {
                Ok(Ok(lease)) => lease,
                Ok(Err(_abandoned)) => return Err(refused("no_server")),
                Err(_elapsed) => {
                    let reason = "queue_timeout";
                    return Err(Outcome::new(Cause::ServerTimeout, Phase::Queue, reason));
                }
            }
        }
        Err(PickError::QueueFull { .. }) => {
            return Err(Outcome::new(Cause::Policy, Phase::Queue, "queue_full"));
        }
        Err(PickError::NoServer | PickError::OwnServer) => return Err(refused("no_server")),
    };
    *progress.queue.get_or_insert_default() += started.elapsed();
    Ok(lease)
}

/// A connection that is ready for the client's bytes.
async fn connect(
    backend: &Backend,
    address: ServerAddress,
    facts: &Facts<'_>,
) -> Result<Stream, Outcome> {
    let broken = |error: &io::Error| Outcome::not_connected(error);
    let too_late = |_| Outcome::new(Cause::ServerTimeout, Phase::Connect, "connect_timeout");
    let connected = timeout(backend.connect, Socket::connect(address)).await.map_err(too_late)?;
    let mut socket = connected.map_err(|error| broken(&error))?;
    socket.tune().map_err(|error| broken(&error))?;
    if let Some(version) = backend.send_proxy {
        let header = proxy_protocol::encode(version, facts);
        socket.write_all(&header).await.map_err(|error| broken(&error))?;
    }
    let Some(encryption) = &backend.encryption else { return Ok(Stream::Plain(socket)) };
    match encryption.connect(socket, address, &[]).await {
        Ok(tls) => Ok(Stream::Server(Box::new(tls))),
        Err(error) => {
            tracing::debug!(backend = %backend.name, server = %address, "{error}");
            Err(error.of_server())
        }
    }
}
