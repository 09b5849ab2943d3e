//! The checker against servers on loopback.

use std::{net::SocketAddr, time::Instant};

use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use super::*;
use crate::model::{
    access::AccessList,
    backend::ProxySettings,
    name::Name,
    snapshot::{
        Admin, AttachMode, Backend, CheckKind, Datapath, FlowTimeouts, HashBy, Log, LogTarget,
        OnDown, Server, SynCookies,
    },
};

const INTERVAL: Duration = Duration::from_millis(40);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn id(server: &str) -> ServerId {
    (name("pool"), name(server))
}

fn check() -> Check {
    Check {
        kind: CheckKind::Tcp,
        interval: INTERVAL,
        fast_interval: INTERVAL,
        timeout: Duration::from_secs(2),
        fall: 3,
        rise: 2,
        port: None,
        via: crate::model::snapshot::Via::Server,
    }
}

/// One backend `pool` with these servers.
fn snapshot(check: Option<Check>, servers: &[(&str, SocketAddr)]) -> Arc<Snapshot> {
    let second = Duration::from_secs(1);
    let server = |&(text, address): &(&str, SocketAddr)| {
        let address = address.into();
        (name(text), Server { address, weight: 100, backup: false, max_connections: None })
    };
    let backend = Backend {
        hash: HashBy::Tuple,
        spread: crate::model::snapshot::Spread::Hashed,
        refuse_when_full: false,
        affinity: None,
        on_down: OnDown::Reset,
        check,
        proxy: ProxySettings::default(),
        servers: servers.iter().map(server).collect(),
    };
    Arc::new(Snapshot {
        datapath: Datapath {
            interfaces: Vec::new(),
            mode: AttachMode::Off,
            pin_directory: "/nowhere".into(),
            manage_addresses: false,
            answer_echo: true,
            syn_cookies: SynCookies::Off,
            syn_cookie_threshold: 50,
            snat_ports: (1024, 32767),
            gue_port: 6080,
            max_flows: 1,
            max_half_open: 1,
            max_prefixes: 1,
            max_sources: 1,
            access: AccessList::default(),
            timeouts: FlowTimeouts {
                half_open: second,
                established: second,
                closing: second,
                closed: second,
                udp: second,
            },
            sweep_interval: second,
        },
        admin: Admin { socket: "/nowhere".into(), listen: None },
        log: Log { target: LogTarget::Stderr, access: None },
        frontends: BTreeMap::new(),
        backends: BTreeMap::from([(name("pool"), backend)]),
    })
}

/// For checks that go no other way.
#[derive(Debug)]
struct NoWay;

impl AsTraffic for NoWay {
    fn send(
        &self,
        _socket: std::os::fd::BorrowedFd<'_>,
        way: &Way,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("asked for {way:?}").into())
    }

    fn rest(&self) {}
}

/// A checker at work.
struct Running {
    snapshots: watch::Sender<Arc<Snapshot>>,
    maintenance: watch::Sender<BTreeSet<ServerId>>,
    marked: watch::Sender<BTreeMap<ServerId, String>>,
    events: mpsc::Receiver<HealthEvent>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(snapshot: Arc<Snapshot>, known: BTreeMap<ServerId, Health>) -> Self {
        let (snapshots, snapshot_receiver) = watch::channel(snapshot);
        let (maintenance, maintenance_receiver) = watch::channel(BTreeSet::new());
        let (marked, marked_receiver) = watch::channel(BTreeMap::new());
        let (sender, events) = mpsc::channel(64);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(Checker::new(known, Arc::new(NoWay)).run(
            snapshot_receiver,
            maintenance_receiver,
            marked_receiver,
            sender,
            cancel.clone(),
        ));
        Self { snapshots, maintenance, marked, events, cancel, task }
    }

    async fn next(&mut self) -> (ServerId, Health, String) {
        let event = timeout(Duration::from_secs(5), self.events.recv()).await;
        let event = event.expect("an event within five seconds").expect("the checker runs");
        (event.server, event.health, event.reason)
    }

    async fn expect(&mut self, server: &str, health: Health, reason: &str) {
        assert_eq!(self.next().await, (id(server), health, reason.to_owned()));
    }

    async fn expect_silence(&mut self) {
        let event = timeout(INTERVAL * 4, self.events.recv()).await;
        assert!(event.is_err(), "{event:?}");
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address on which nothing listens, and which nobody else gets meanwhile.
fn refusing() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test]
async fn a_dying_server_goes_down_and_comes_back() {
    let (listener, address) = listener().await;
    let mut checker = Running::start(snapshot(Some(check()), &[("a", address)]), BTreeMap::new());
    checker.expect("a", Health::Up, "connected").await;
    checker.expect_silence().await;
    drop(listener);
    checker.expect("a", Health::Up, "connection refused (failure 1 of 3)").await;
    checker.expect("a", Health::Up, "connection refused (failure 2 of 3)").await;
    checker.expect("a", Health::Down, "connection refused").await;
    let _listener = TcpListener::bind(address).await.unwrap();
    checker.expect("a", Health::Down, "connected (success 1 of 2)").await;
    checker.expect("a", Health::Up, "connected").await;
    checker.cancel.cancel();
    checker.task.await.unwrap();
    assert!(checker.events.recv().await.is_none(), "all workers have ended");
}

#[tokio::test]
async fn events_name_the_address_they_are_about() {
    let (_first, first) = listener().await;
    let (_socket, second) = refusing();
    let mut checker = Running::start(snapshot(Some(check()), &[("a", first)]), BTreeMap::new());
    let event = checker.events.recv().await.expect("the checker runs");
    assert_eq!((event.health, event.address), (Health::Up, first.into()));
    // Checks may go elsewhere than traffic; the address is the server's.
    let elsewhere = Check { port: Some(second.port()), ..check() };
    checker.snapshots.send_replace(snapshot(Some(elsewhere), &[("a", first)]));
    let event = checker.events.recv().await.expect("the checker runs");
    assert_eq!((event.health, event.address), (Health::Down, first.into()));
    checker.snapshots.send_replace(snapshot(Some(check()), &[("a", second)]));
    let event = checker.events.recv().await.expect("the checker runs");
    assert_eq!((event.health, event.address), (Health::Down, second.into()));
    checker.snapshots.send_replace(snapshot(None, &[("a", first)]));
    let event = checker.events.recv().await.expect("the checker runs");
    assert_eq!((event.health, event.address), (Health::Up, first.into()));
}

#[tokio::test]
async fn the_first_check_decides_unless_the_health_is_known() {
    let (_socket, address) = refusing();
    let known = BTreeMap::from([(id("known"), Health::Up)]);
    let servers = [("known", address), ("new", address)];
    let mut checker = Running::start(snapshot(Some(check()), &servers), known);
    let first = [checker.next().await, checker.next().await, checker.next().await];
    let refused = "connection refused".to_owned();
    assert!(first.contains(&(id("new"), Health::Down, refused.clone())), "{first:?}");
    let reason = format!("{refused} (failure 1 of 3)");
    assert!(first.contains(&(id("known"), Health::Up, reason)), "{first:?}");
}

fn http() -> CheckKind {
    CheckKind::Http(Box::new(crate::model::snapshot::HttpCheck {
        method: "GET".into(),
        path: "/".into(),
        host: None,
        headers: Vec::new(),
        status: vec![(200, 399)],
        body: None,
        disable_on_404: false,
    }))
}

/// With `fast_interval` shorter than `timeout`, which may be, and so here.
#[tokio::test]
async fn checks_that_outlast_the_interval_follow_each_other_and_each_counts_once() {
    let (listener, address) = listener().await;
    // Accepts without a word; the check before has hung up by then.
    let served = tokio::spawn(async move {
        let mut before: Option<std::net::TcpStream> = None;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Some(mut before) = before.replace(stream.into_std().unwrap()) {
                let ended = std::io::copy(&mut before, &mut std::io::sink());
                let kind = ended.map_err(|error| error.kind());
                assert_ne!(kind, Err(std::io::ErrorKind::WouldBlock), "two checks at a time");
            }
        }
    });
    let timeout = INTERVAL * 3;
    let slow = Check { kind: http(), timeout, ..check() };
    let known = BTreeMap::from([(id("a"), Health::Up)]);
    let started = Instant::now();
    let mut checker = Running::start(snapshot(Some(slow), &[("a", address)]), known);
    for failure in [
        "timeout in answer after 120ms (failure 1 of 3)",
        "timeout in answer after 120ms (failure 2 of 3)",
    ] {
        checker.expect("a", Health::Up, failure).await;
    }
    checker.expect("a", Health::Down, "timeout in answer after 120ms").await;
    assert!(started.elapsed() >= timeout * 3, "{:?}", started.elapsed());
    checker.expect_silence().await;
    assert!(!served.is_finished(), "two checks at a time");
    served.abort();
}

#[tokio::test]
async fn a_server_that_never_answers_delays_no_other() {
    let (_hanging, hanging) = listener().await;
    let (_listener, address) = listener().await;
    let (_socket, dead) = refusing();
    // Every check times out on `hanging` and answers at once elsewhere.
    let slow = Check { kind: http(), ..check() };
    let mut snapshot = Arc::unwrap_or_clone(snapshot(Some(slow), &[("hanging", hanging)]));
    let quick = self::snapshot(Some(check()), &[("dead", dead), ("well", address)]);
    snapshot.backends.insert(name("quick"), quick.backends[&name("pool")].clone());
    let started = Instant::now();
    let mut checker = Running::start(Arc::new(snapshot), BTreeMap::new());
    let seen = [checker.next().await.0.1, checker.next().await.0.1];
    assert!(seen.contains(&name("dead")) && seen.contains(&name("well")), "{seen:?}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    checker.expect("hanging", Health::Down, "timeout in answer after 2s").await;
}

#[tokio::test]
async fn a_server_that_traffic_marks_down_comes_back_by_its_checks() {
    let (_server, address) = listener().await;
    let mut running = Running::start(snapshot(Some(check()), &[("a", address)]), BTreeMap::new());
    running.expect("a", Health::Up, "connected").await;
    let why = BTreeMap::from([(id("a"), "5 requests in a row failed".to_owned())]);
    running.marked.send(why.clone()).unwrap();
    let reason = "marked down by traffic: 5 requests in a row failed";
    running.expect("a", Health::Down, reason).await;
    running.expect("a", Health::Down, "connected (success 1 of 2)").await;
    running.expect("a", Health::Up, "connected").await;
    // The mark is still there, and said only once.
    running.marked.send(why).unwrap();
    running.expect_silence().await;
}

#[tokio::test]
async fn maintenance_stops_checks_and_ready_decides_at_once() {
    let (listener, address) = listener().await;
    let mut checker = Running::start(snapshot(Some(check()), &[("a", address)]), BTreeMap::new());
    checker.expect("a", Health::Up, "connected").await;
    checker.maintenance.send_replace(BTreeSet::from([id("a")]));
    sleep(INTERVAL * 5).await;
    drop(listener);
    checker.expect_silence().await;
    checker.maintenance.send_replace(BTreeSet::new());
    checker.expect("a", Health::Down, "connection refused").await;
}

#[tokio::test]
async fn a_reload_with_changed_parameters_keeps_health() {
    let (_socket, address) = refusing();
    let servers = [("a", address)];
    let mut checker = Running::start(snapshot(Some(check()), &servers), BTreeMap::new());
    checker.expect("a", Health::Down, "connection refused").await;
    let (_listener, other) = listener().await;
    let changed = Check { rise: 3, port: Some(address.port()), ..check() };
    checker.snapshots.send_replace(snapshot(Some(changed.clone()), &servers));
    checker.expect("a", Health::Down, "connection refused").await;
    // Another address is another server: its first check decides.
    let moved = Check { port: Some(other.port()), ..changed };
    checker.snapshots.send_replace(snapshot(Some(moved), &servers));
    checker.expect("a", Health::Up, "connected").await;
}

#[tokio::test]
async fn a_reload_that_changes_nothing_is_not_noticed() {
    let (_listener, address) = listener().await;
    let snapshot = snapshot(Some(check()), &[("a", address)]);
    let mut checker = Running::start(Arc::clone(&snapshot), BTreeMap::new());
    checker.expect("a", Health::Up, "connected").await;
    checker.snapshots.send_replace(snapshot);
    checker.expect_silence().await;
}

#[tokio::test]
async fn servers_come_and_go_with_the_configuration() {
    let (_listener, address) = listener().await;
    let (_socket, dead) = refusing();
    let mut checker = Running::start(snapshot(Some(check()), &[("a", dead)]), BTreeMap::new());
    checker.expect("a", Health::Down, "connection refused").await;
    checker.snapshots.send_replace(snapshot(Some(check()), &[("b", address)]));
    checker.expect("b", Health::Up, "connected").await;
    checker.snapshots.send_replace(snapshot(Some(check()), &[("b", dead)]));
    checker.expect("b", Health::Down, "connection refused").await;
    checker.snapshots.send_replace(snapshot(None, &[("b", dead)]));
    checker.expect("b", Health::Up, "not checked").await;
    checker.expect_silence().await;
}

#[tokio::test]
async fn a_worker_that_dies_is_started_again() {
    let (_listener, address) = listener().await;
    let snapshot = snapshot(Some(check()), &[("a", address)]);
    let (events, mut received) = mpsc::channel(8);
    let (known, counts) = (BTreeMap::new(), CheckCounts::default());
    let (running, path) = (BTreeMap::new(), Arc::new(NoWay));
    let mut workers = Workers { known, counts, running, tasks: JoinSet::new(), events, path };
    workers.reconcile(&snapshot, &BTreeSet::new(), &BTreeMap::new()).await;
    received.recv().await.unwrap();
    workers.running[&id("a")].task.abort();
    workers.one_died().await;
    assert!(workers.running.is_empty());
    workers.reconcile(&snapshot, &BTreeSet::new(), &BTreeMap::new()).await;
    assert_eq!(received.recv().await.unwrap().server, id("a"));
}

#[tokio::test]
async fn checks_are_counted_for_as_long_as_the_server_is_checked() {
    let (_listener, good) = listener().await;
    let (closed, bad) = listener().await;
    drop(closed);
    let all = snapshot(Some(check()), &[("a", good), ("b", bad)]);
    let checker = Checker::new(BTreeMap::new(), Arc::new(NoWay));
    let counts = checker.counts();
    let (snapshots, seen) = watch::channel(all);
    let (_maintenance, paused) = watch::channel(BTreeSet::new());
    let (_marked, marked) = watch::channel(BTreeMap::new());
    let (events, mut received) = mpsc::channel(8);
    let cancel = CancellationToken::new();
    tokio::spawn(checker.run(seen, paused, marked, events, cancel.clone()));
    tokio::spawn(async move { while received.recv().await.is_some() {} });
    let deadline = Instant::now() + Duration::from_secs(5);
    let settled = loop {
        let all = counts.all();
        let (a, b) = (all.get(&id("a")).copied(), all.get(&id("b")).copied());
        if let (Some(a), Some(b)) = (a, b)
            && a.passed > 1
            && b.failed > 1
        {
            break (a, b);
        }
        assert!(Instant::now() < deadline, "{all:?}");
        sleep(Duration::from_millis(10)).await;
    };
    let (a, b) = settled;
    assert_eq!((a.failed, b.passed), (0, 0));
    assert!(a.last.is_some_and(|took| took < Duration::from_secs(2)), "{a:?}");
    snapshots.send_replace(snapshot(Some(check()), &[("a", good)]));
    while counts.all().contains_key(&id("b")) {
        assert!(Instant::now() < deadline, "b is still counted");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(counts.all()[&id("a")].passed >= a.passed);
    cancel.cancel();
}
