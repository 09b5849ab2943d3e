//! The admin interface over a real unix socket and TCP, with a control loop of the test's
//! own; no privilege, no data plane.

use std::{io::ErrorKind, net::SocketAddr, path::PathBuf, time::Duration};

use pointsman::{
    admin::{
        access::{AccessView, Says},
        api::{BlocksView, DropView, DropsView, FlowQuery, FlowsView, ReloadResult},
        client::{Client, ClientError},
        command::{Command, CommandError, Commands, QUEUE},
        scrape::PageFormat,
        server::{AdminServer, Limits, Listener},
        socket::{AdminSocket, SocketFile},
    },
    model::state::AdminState,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// A served socket in a directory of its own.
struct Bed {
    socket: PathBuf,
    tcp: SocketAddr,
    cancel: CancellationToken,
    _file: SocketFile,
    _directory: tempfile::TempDir,
}

impl Bed {
    async fn start(limits: Limits) -> (Self, Commands) {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let socket = directory.path().join("admin.sock");
        let (listener, file) = AdminSocket::claim(&socket).expect("the path is free").into_parts();
        let listener = Listener::Unix(UnixListener::from_std(listener).expect("in a runtime"));
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = tcp.local_addr().expect("it is bound");
        let (sender, commands) = mpsc::channel(QUEUE);
        let cancel = CancellationToken::new();
        let server = AdminServer::new(sender, limits);
        tokio::spawn(server.clone().run(listener, cancel.clone()));
        tokio::spawn(server.run(Listener::Tcp(tcp), cancel.clone()));
        let bed = Self { socket, tcp: address, cancel, _file: file, _directory: directory };
        (bed, commands)
    }

    /// A bed whose control loop answers as [`answer`] does.
    async fn answering(limits: Limits) -> Self {
        let (bed, mut commands) = Self::start(limits).await;
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                answer(command);
            }
        });
        bed
    }

    /// Sends bytes over a new connection and returns all that comes back.
    async fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.expect("the agent listens");
        stream.write_all(request.as_bytes()).await.expect("the agent reads");
        let mut answer = Vec::new();
        let whole = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        // An agent that has not read all of the request resets the connection after its answer.
        if let Err(error) = whole.expect("the agent closes the connection") {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        String::from_utf8(answer).expect("the answer is text")
    }
}

/// Lines of a page of metrics.
const LINES: usize = 4_000_000;

fn answer(command: Command) {
    match command {
        Command::Drops(reply) => {
            let drop = DropView {
                reason: "fragment".into(),
                packets: 3,
                description: "A fragment.".into(),
            };
            reply.send(Ok(DropsView { drops: vec![drop] })).expect("the server waits");
        }
        Command::Flows(query, reply) => {
            assert_eq!(query, FlowQuery { limit: Some(5), ..FlowQuery::default() });
            reply.send(Ok(FlowsView { flows: vec![], truncated: true })).expect("the server waits");
        }
        Command::SetServer((backend, server), set, reply) => {
            assert_eq!(set.state, Some(AdminState::Drain));
            let error = CommandError::UnknownServer {
                backend: backend.to_string(),
                server: server.to_string(),
                hint: "did you mean 'pg1'?".into(),
            };
            reply.send(Err(error)).expect("the server waits");
        }
        Command::Reload(reply) => {
            reply
                .send(Ok(ReloadResult { accepted: true, ..ReloadResult::default() }))
                .expect("the server waits");
        }
        Command::Block(order, reply) => {
            assert_eq!(order.time, Some(Duration::from_secs(60)));
            reply.send(Err(CommandError::NoRoom(7))).expect("the server waits");
        }
        Command::Unblock(order, reply) => {
            let (network, frontend) = (order.network.to_string(), None);
            let error = CommandError::NotBlocked { network, frontend };
            reply.send(Err(error)).expect("the server waits");
        }
        Command::Blocks(reply) => {
            reply.send(Ok(BlocksView::default())).expect("the server waits");
        }
        Command::Access(reply) => {
            reply.send(Ok(AccessView::default())).expect("the server waits");
        }
        Command::SetAccess(order, reply) => {
            assert_eq!((order.says, order.force), (Says::Allow, false));
            reply.send(Err(CommandError::OtherKind("do harm"))).expect("the server waits");
        }
        Command::SetLimits(order, reply) => {
            let view = AccessView { limits: vec![order.set], ..AccessView::default() };
            reply.send(Ok(view)).expect("the server waits");
        }
        Command::Trace(order, reply) => {
            let (packets, shown) = mpsc::channel(2);
            for number in 0..2_u8 {
                let packet = vec![number; order.snaplen as usize];
                packets.try_send(packet.into()).expect("there is room");
            }
            reply.send(Ok(shown)).expect("the server waits");
            // The trace goes on until nobody looks, or ends here.
            if order.duration_s > 1 {
                tokio::spawn(async move { packets.closed().await });
            }
        }
        Command::Metrics(format, reply) => {
            // Larger than what sockets buffer.
            let lines = if format == PageFormat::Text { LINES } else { 1 };
            reply.send(Ok("a 1\n".repeat(lines).into())).expect("the server waits");
        }
        // Dropped: the control loop is stopping.
        Command::Status(_) => {}
    }
}

fn head(method: &str, target: &str, rest: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{rest}\r\n")
}

#[tokio::test]
async fn commands_reach_the_control_loop_and_answers_come_back() {
    let bed = Bed::answering(Limits::default()).await;
    let client = Client::new(&bed.socket);
    let drops: DropsView = client.get("/v1/drops").await.unwrap();
    assert_eq!(drops.drops[0].packets, 3);
    let flows: FlowsView = client.get("/v1/flows?limit=5").await.unwrap();
    assert!(flows.truncated);
    let reload: ReloadResult = client.post("/v1/reload", &serde_json::json!({})).await.unwrap();
    assert!(reload.accepted);
}

#[tokio::test]
async fn blocks_are_ordered_refused_and_listed() {
    let bed = Bed::answering(Limits::default()).await;
    let client = Client::new(&bed.socket);
    let order = serde_json::json!({"source": "192.0.2.0/24", "for_s": 60});
    let result: Result<serde_json::Value, _> = client.post("/v1/block", &order).await;
    let Err(ClientError::Refused(error)) = result else { panic!("got {result:?}") };
    assert!(error.error.contains("(7 at most)"), "{error:?}");
    let order = serde_json::json!({"source": "192.0.2.1"});
    let result: Result<serde_json::Value, _> = client.post("/v1/unblock", &order).await;
    let Err(ClientError::Refused(error)) = result else { panic!("got {result:?}") };
    assert_eq!(error.error, "192.0.2.1/32 is not blocked");
    let blocks: BlocksView = client.get("/v1/blocks").await.unwrap();
    assert!(blocks.blocks.is_empty());
}

#[tokio::test]
async fn lists_and_limits_are_changed_refused_and_listed() {
    let bed = Bed::answering(Limits::default()).await;
    let client = Client::new(&bed.socket);
    let order = serde_json::json!({"source": "192.0.2.1", "says": "allow"});
    let result: Result<AccessView, _> = client.post("/v1/access", &order).await;
    let Err(ClientError::Refused(error)) = result else { panic!("{result:?}") };
    assert!(error.hint.contains("--force"), "{error:?}");
    let limits =
        serde_json::json!({"frontend": "web", "packets": {"rate": 5}, "new_flows": "none"});
    let view: AccessView = client.post("/v1/limits", &limits).await.unwrap();
    assert_eq!(serde_json::to_value(&view.limits[0]).unwrap(), limits);
    let view: AccessView = client.get("/v1/access").await.unwrap();
    assert_eq!(view, AccessView::default());
}

#[tokio::test]
async fn an_unknown_server_is_refused_with_a_hint() {
    let bed = Bed::answering(Limits::default()).await;
    let body = serde_json::json!({"state": "drain"});
    let result: Result<serde_json::Value, _> =
        Client::new(&bed.socket).post("/v1/servers/pg/pg9", &body).await;
    let Err(ClientError::Refused(error)) = result else { panic!("got {result:?}") };
    assert_eq!(error.error, "there is no server 'pg9' in backend 'pg'");
    assert_eq!(error.hint, "did you mean 'pg1'?");
}

#[tokio::test]
async fn packets_come_until_either_end_has_had_enough() {
    let bed = Bed::answering(Limits { connections: 2, ..Limits::default() }).await;
    let client = Client::new(&bed.socket);
    let order =
        |duration_s| serde_json::json!({"sample": 1, "snaplen": 20, "duration_s": duration_s});
    let mut packets = client.stream("/v1/trace", &order(1)).await.unwrap();
    let mut found = Vec::new();
    while let Some(part) = packets.next().await.unwrap() {
        found.extend_from_slice(&part);
    }
    assert_eq!(found, [[0; 20], [1; 20]].concat());
    // Whoever goes makes room: this would not end if the agent did not see it.
    for _ in 0..5 {
        let mut packets = client.stream("/v1/trace", &order(60)).await.unwrap();
        assert!(packets.next().await.unwrap().is_some());
    }
    let refused = client.stream("/v1/trace", &order(0)).await;
    let Err(ClientError::Refused(error)) = refused else { panic!("got {refused:?}") };
    assert!(error.error.contains("duration_s is 0"), "{error:?}");
}

#[tokio::test]
async fn a_stopping_agent_says_so() {
    let bed = Bed::answering(Limits::default()).await;
    let result: Result<serde_json::Value, _> = Client::new(&bed.socket).get("/v1/status").await;
    let Err(ClientError::Failed(error)) = result else { panic!("got {result:?}") };
    assert_eq!(error.error, "the agent is stopping");
}

#[tokio::test]
async fn a_control_loop_that_does_not_answer_gives_503() {
    let limits = Limits { answer: Duration::from_millis(50), ..Limits::default() };
    let (bed, _commands) = Bed::start(limits).await;
    let answer = bed.raw(&head("GET", "/v1/drops", "")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn faulty_requests_get_the_status_code_they_deserve() {
    let limits = Limits { body_bytes: 100, ..Limits::default() };
    let bed = Bed::answering(limits).await;
    let json = |body: &str| format!("Content-Length: {}\r\n\r\n{body}", body.len());
    for (request, status) in [
        (head("GET", "/v2/status", ""), 404),
        (head("DELETE", "/v1/status", ""), 405),
        (head("POST", "/v1/servers/pg/pg1", &json("{\"state\": 1}")), 400),
        (head("POST", "/v1/servers/pg/pg1", &json(&" ".repeat(101))), 413),
        (head("GET", "/v1/flows?limit=many", ""), 400),
    ] {
        let answer = bed.raw(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let error: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(error["error"].is_string() && error["hint"].is_string(), "{body}");
    }
    let answer = bed.raw(&head("PUT", "/v1/reload", "")).await;
    assert!(answer.to_lowercase().contains("\r\nallow: post\r\n"), "{answer}");
    assert!(bed.raw("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    let endless = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert!(bed.raw(&endless).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn a_slow_client_is_cut_off() {
    let limits = Limits { head: Duration::from_millis(100), ..Limits::default() };
    let bed = Bed::answering(limits).await;
    let started = Instant::now();
    bed.raw("GET /v1/drops HTTP/1.1\r\n").await;
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn further_connections_wait_for_a_slot() {
    let limits = Limits { connections: 1, head: Duration::from_secs(60), ..Limits::default() };
    let bed = Bed::answering(limits).await;
    let occupant = UnixStream::connect(&bed.socket).await.unwrap();
    let client = Client::new(&bed.socket);
    let mut waiting = Box::pin(client.get::<DropsView>("/v1/drops"));
    assert!(timeout(Duration::from_millis(200), &mut waiting).await.is_err());
    drop(occupant);
    timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn tcp_is_read_only() {
    let bed = Bed::answering(Limits::default()).await;
    for (request, status) in [
        (head("GET", "/v1/drops", ""), 200),
        (head("POST", "/v1/reload", "Content-Length: 0\r\n"), 403),
    ] {
        let mut stream = TcpStream::connect(bed.tcp).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

/// A scrape over TCP: the head of the answer, and how long its body is.
async fn scrape(bed: &Bed, request: &str) -> (String, usize) {
    let mut stream = TcpStream::connect(bed.tcp).await.expect("the agent listens");
    stream.write_all(request.as_bytes()).await.expect("the agent reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the answer is whole");
    let (head, body) = answer.split_once("\r\n\r\n").expect("the head ends");
    (head.to_lowercase(), body.len())
}

#[tokio::test]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let bed = Bed::answering(Limits::default()).await;
    let length = 4 * LINES;
    let (got, body) = scrape(&bed, &head("GET", "/metrics", "")).await;
    assert!(got.starts_with("http/1.1 200 "), "{got}");
    assert!(got.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8"), "{got}");
    assert!(got.contains(&format!("\r\ncontent-length: {length}")), "{got}");
    assert_eq!(body, length);
    let open = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let (got, body) = scrape(&bed, &head("GET", "/metrics", open)).await;
    assert!(got.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0"), "{got}");
    assert_eq!(body, 4);
    let (got, body) = scrape(&bed, &head("HEAD", "/metrics", "")).await;
    assert!(got.contains(&format!("\r\ncontent-length: {length}")) && body == 0, "{got}");
    let (got, _) = scrape(&bed, &head("POST", "/metrics", "Content-Length: 0\r\n")).await;
    assert!(got.starts_with("http/1.1 405 ") && got.contains("\r\nallow: get, head"), "{got}");
}

#[tokio::test]
async fn scrapers_that_do_not_read_hold_nothing() {
    let stall = Duration::from_millis(300);
    let limits = Limits { pages: 2, connections: 8, stall, ..Limits::default() };
    let bed = Bed::answering(limits).await;
    let mut dead = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(bed.tcp).await.expect("the agent listens");
        stream.write_all(head("GET", "/metrics", "").as_bytes()).await.expect("the agent reads");
        stream.readable().await.expect("the answer begins");
        dead.push(stream);
    }
    // The others go on, and pages as soon as the dead are given up.
    let drops: DropsView = Client::new(&bed.socket).get("/v1/drops").await.unwrap();
    assert_eq!(drops.drops.len(), 1);
    let whole = timeout(Duration::from_secs(5), scrape(&bed, &head("GET", "/metrics", ""))).await;
    assert_eq!(whole.expect("in time").1, 4 * LINES);
    for mut stream in dead {
        let mut got = Vec::new();
        // Broken off, not ended in order.
        let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut got)).await;
        assert!(read.expect("in time").is_err() || got.len() < 4 * LINES);
    }
}

#[tokio::test]
async fn scrapers_that_read_a_little_at_a_time_are_given_up() {
    let limits = Limits { pages: 1, page: Duration::from_millis(400), ..Limits::default() };
    let bed = Bed::answering(limits).await;
    let mut slow = TcpStream::connect(bed.tcp).await.expect("the agent listens");
    slow.write_all(head("GET", "/metrics", "").as_bytes()).await.expect("the agent reads");
    let (started, mut piece, mut total) = (Instant::now(), vec![0; 64 * 1024], 0);
    while let Ok(length @ 1..) = slow.read(&mut piece).await {
        total += length;
        assert!(started.elapsed() < Duration::from_secs(10), "{total} bytes came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(total < 4 * LINES, "it got all of it");
    assert_eq!(scrape(&bed, &head("GET", "/metrics", "")).await.1, 4 * LINES);
}

#[tokio::test]
async fn cancelling_closes_what_is_open() {
    let bed = Bed::answering(Limits::default()).await;
    let mut idle = UnixStream::connect(&bed.socket).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    bed.cancel.cancel();
    let read = timeout(Duration::from_secs(5), idle.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
    assert!(matches!(
        Client::new(&bed.socket).get::<DropsView>("/v1/drops").await,
        Err(ClientError::NoAgent(_))
    ));
}
