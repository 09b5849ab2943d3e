//! A frontend on loopback, with a worker of its own and servers that a test plays itself.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::{self, LocalSet},
};
use tokio_util::sync::CancellationToken;

use super::super::{
    Pipes,
    live::Live,
    reach::{Backend, Endings},
    record::Record,
    route::Router,
    session::{Site, Worker, serve},
};
use crate::{
    balance::{KnownServer, Pool, Teller},
    model::{
        balance::{Balance, Balancing, Queue, QueueOrder, Retries, RetryStatuses},
        frontend::{ConnectionLimits, SniPattern},
        name::Name,
        snapshot::HashBy,
        state::ServerState,
    },
    proxy::{
        gate::Gate,
        listen::Accepted,
        socket::{Addresses, Socket},
    },
};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Runs a test on one thread, as a worker does.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let within = async {
        tokio::time::timeout(20 * SECOND, test).await.expect("a test ends in time");
    };
    LocalSet::new().block_on(&runtime, within);
}

/// A backend whose servers, `s0` and so on, listen at these addresses.
pub(super) fn backend(text: &str, servers: &[SocketAddr]) -> Backend {
    let balancing = Balancing {
        algorithm: Balance::First,
        load_factor: None,
        slow_start: Duration::ZERO,
        queue: Queue { length: 10, timeout: SECOND / 10, order: QueueOrder::Fair },
        persistence: None,
        retries: Retries {
            attempts: 3,
            budget_percent: 20,
            budget_floor: 100,
            statuses: RetryStatuses::NONE,
        },
        passive: None,
    };
    let known = |address: &SocketAddr| KnownServer {
        address: (*address).into(),
        weight: 100,
        backup: false,
        most: None,
        state: ServerState::Up,
    };
    let servers: BTreeMap<Name, KnownServer> = servers
        .iter()
        .enumerate()
        .map(|(number, address)| (name(&format!("s{number}")), known(address)))
        .collect();
    // Old enough to have earned some retries.
    let now = Instant::now();
    let begun = now.checked_sub(SECOND).unwrap_or(now);
    let pool = Pool::new(balancing.clone(), Arc::new(Notify::new()), 0, begun);
    pool.configure(&balancing, &servers, Instant::now());
    Backend {
        name: name(text),
        pool: Arc::new(pool),
        hash: HashBy::Tuple,
        refuses_when_full: false,
        encryption: None,
        send_proxy: None,
        connect: SECOND,
        server: 5 * SECOND,
        sessions: Arc::default(),
        endings: Arc::new(Endings::default()),
    }
}

/// A frontend over these backends; the first is the default.
pub(super) fn site(backends: Vec<Backend>, sni: &[(SniPattern, Name)]) -> Site {
    let backends: Vec<Arc<Backend>> = backends.into_iter().map(Arc::new).collect();
    let find = |wanted: &Name| backends.iter().find(|backend| backend.name == *wanted).cloned();
    Site {
        frontend: name("front"),
        router: Router::new(sni, Arc::clone(&backends[0]), find),
        termination: None,
        accept_proxy: None,
        gate: Gate::new(Arc::default(), name("front")),
        layer_4: None,
        limits: ConnectionLimits { total: 100, per_source: 100 },
        connections: Arc::default(),
        counters: Arc::default(),
        timings: Arc::default(),
        request: SECOND,
        client: 5 * SECOND,
        tunnel: 10 * SECOND,
    }
}

/// A frontend that listens.
pub(super) struct Bed {
    pub(super) address: SocketAddr,
    pub(super) pipes: Pipes,
    pub(super) stop: CancellationToken,
    records: RefCell<mpsc::UnboundedReceiver<Record>>,
}

impl Bed {
    /// Starts accepting, within [`run`].
    pub(super) async fn start(site: Site) -> Self {
        Self::start_on("127.0.0.1:0", site).await
    }

    /// The same at this address.
    pub(super) async fn start_on(address: &str, site: Site) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, records) = mpsc::unbounded_channel();
        let pipes = Pipes::default();
        let log = move |record| drop(sender.send(record));
        let sessions = Arc::new(AtomicU32::new(0));
        let live = Live::default();
        let worker = Worker {
            teller: Teller::default(),
            pipes: pipes.clone(),
            live,
            sessions,
            log: Rc::new(log),
        };
        let stop = CancellationToken::new();
        let (site, stopping) = (Arc::new(site), stop.clone());
        task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (source, own) = (stream.peer_addr().unwrap(), stream.local_addr().unwrap());
                let addresses = Addresses::new(source, own);
                let socket = Socket::Tcp(stream);
                let accepted = Accepted { socket, addresses };
                let (site, worker) = (Arc::clone(&site), worker.clone());
                let stopping = stopping.clone();
                task::spawn_local(async move {
                    let sessions = Arc::clone(&worker.sessions);
                    sessions.fetch_add(1, Ordering::Relaxed);
                    serve(accepted, site, worker, stopping).await;
                    sessions.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, pipes, stop, records: RefCell::new(records) }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The record of the next session that ends.
    #[expect(clippy::await_holding_refcell_ref, reason = "a test waits for one at a time")]
    pub(super) async fn record(&self) -> Record {
        self.records.borrow_mut().recv().await.unwrap()
    }

    /// How the next session ended: state and reason.
    pub(super) async fn ending(&self) -> (String, &'static str) {
        let record = self.record().await;
        (record.outcome.to_string(), record.outcome.reason)
    }
}

/// A server's socket, and its address.
pub(super) async fn server() -> (TcpListener, SocketAddr) {
    server_on("127.0.0.1:0").await
}

/// The same at this address.
pub(super) async fn server_on(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nobody listens.
pub(super) async fn nobody() -> SocketAddr {
    server().await.1
}

/// The next connection that a server gets.
pub(super) async fn accept(listener: &TcpListener) -> TcpStream {
    listener.accept().await.unwrap().0
}
