//! A proxy of the test's own on loopback, with servers and clients that speak bytes.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use lb_common::event::FlowEnd;
use pointsman::{
    config,
    model::{
        access::Block,
        name::Name,
        snapshot::Snapshot,
        state::{AdminState, ServerStatus, ServerStatuses},
    },
    proxy::{
        gate::{RuleBook, Ruling},
        listen::Inherited,
        log::LineSink,
        report::ProxyReport,
        supervisor::Proxy,
    },
    reconcile::Access,
};

use crate::ports;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A running proxy with one frontend.
pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    proxy: Option<Proxy>,
    runtime: tokio::runtime::Runtime,
    log: Arc<Log>,
}

#[derive(Debug, Default)]
struct Log(Mutex<String>);

impl LineSink for Log {
    fn write(&self, lines: String, _count: u64) {
        self.0.lock().expect("nobody panics here").push_str(&lines);
    }

    fn flow(&self, end: FlowEnd) {
        unreachable!("there is no frontend of layer 4: {end:?}");
    }
}

/// The snapshot of a frontend `web` and a backend `app` with these keys.
pub(crate) fn snapshot(address: SocketAddr, frontend: &str, backend: &str) -> Snapshot {
    snapshot_on(address, "", frontend, backend)
}

/// The same, with these keys beside the address.
pub(crate) fn snapshot_on(
    address: SocketAddr,
    bind: &str,
    frontend: &str,
    backend: &str,
) -> Snapshot {
    let yaml = format!(
        "datapath: {{mode: off}}\nlog: {{access: {{}}}}\n\
         frontends: {{web: {{mode: http, bind: [{{address: \"{address}\", {bind}}}], backend: app, {frontend}}}}}\n\
         backends: {{app: {{{backend}}}}}\n"
    );
    config::parse(&yaml, "test").unwrap_or_else(|faults| panic!("{faults}\n{yaml}")).snapshot
}

/// Who may be a client, by the configuration and by what is blocked.
fn ruling(snapshot: &Snapshot, blocks: &[Block]) -> Ruling {
    let Access { rules, flags, frontends } = Access::of_proxy(snapshot, blocks);
    Ruling::new(RuleBook::new(rules, flags, frontends), RuleBook::default(), 0)
}

/// An address nobody listens on.
pub(crate) fn free() -> SocketAddr {
    ports::free(Ipv4Addr::LOCALHOST.into())
}

impl Rig {
    /// A frontend with these keys before one server.
    pub(crate) fn new(frontend: &str, server: SocketAddr) -> Self {
        Self::with(frontend, &format!("servers: {{s1: \"{server}\"}}"))
    }

    /// A frontend and a backend with these keys.
    pub(crate) fn with(frontend: &str, backend: &str) -> Self {
        Self::on("", frontend, backend)
    }

    /// The same, with these keys beside the address.
    pub(crate) fn on(bind: &str, frontend: &str, backend: &str) -> Self {
        let log = Arc::new(Log::default());
        let sink: Arc<dyn LineSink> = Arc::<Log>::clone(&log);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for the end");
        let mut proxy = Proxy::new(Inherited::default(), sink);
        let address = free();
        let snapshot = snapshot_on(address, bind, frontend, backend);
        proxy
            .install(&snapshot, &ServerStatuses::new(), ruling(&snapshot, &[]))
            .expect("the sockets are free");
        Self { address, proxy: Some(proxy), runtime, log }
    }

    /// As a reload does it.
    pub(crate) fn install(&mut self, snapshot: &Snapshot) {
        let proxy = self.proxy.as_mut().expect("it runs");
        proxy
            .install(snapshot, &ServerStatuses::new(), ruling(snapshot, &[]))
            .expect("the sockets are free");
    }

    /// How it is doing, of this configuration.
    pub(crate) fn report(&self, snapshot: &Snapshot) -> ProxyReport {
        self.proxy.as_ref().expect("it runs").report(snapshot)
    }

    /// As `block` does it.
    pub(crate) fn block(&self, snapshot: &Snapshot, network: &str) {
        let network = network.parse().expect("a network");
        let block = Block { frontend: None, network, expires_s: 0 };
        self.proxy.as_ref().expect("it runs").rule(ruling(snapshot, &[block]));
    }

    /// As `server set` does it.
    pub(crate) fn set(&self, snapshot: &Snapshot, server: &str, admin: AdminState) {
        let name = |text| Name::new(text).expect("a good name");
        let status = ServerStatus { admin, ..ServerStatus::default() };
        let statuses = [((name("app"), name(server)), status)].into();
        self.proxy.as_ref().expect("it runs").set_servers(snapshot, &statuses);
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Client {
        Client(connect(self.address))
    }

    /// What is answered to these bytes until the proxy closes.
    pub(crate) fn exchange(&self, request: &[u8]) -> String {
        let mut client = self.connect();
        client.send(request);
        client.rest()
    }

    /// Waits for a line in the access log with this in it.
    pub(crate) fn logged(&self, part: &str) -> String {
        for _ in 0..PATIENCE.as_millis() / 10 {
            let log = self.log.0.lock().expect("nobody panics here");
            if let Some(line) = log.lines().find(|line| line.contains(part)) {
                return line.to_owned();
            }
            drop(log);
            thread::sleep(Duration::from_millis(10));
        }
        panic!("no line with {part:?} in\n{}", self.log.0.lock().expect("nobody panics here"));
    }

    /// Stops it as the agent does.
    pub(crate) fn stop(&mut self, grace: Duration) {
        if let Some(proxy) = self.proxy.take() {
            self.runtime.block_on(proxy.stop(grace));
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes timeouts");
    stream
}

/// One end of a connection that speaks bytes.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the peer takes it");
    }

    /// Exactly so many bytes.
    pub(crate) fn take(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("the peer sends as much");
        String::from_utf8(bytes).expect("tests send text")
    }

    /// Up to and with `end`.
    pub(crate) fn until(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            text.push_str(&self.take(1));
        }
        text
    }

    /// Past whatever comes before this and this itself: headers of bytes, not of text.
    pub(crate) fn skip(&mut self, part: &str) {
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(part.as_bytes()) {
            self.0.read_exact(&mut byte).expect("the peer sends as much");
            seen.push(byte[0]);
        }
        self.until("\r\n\r\n");
    }

    /// A header and a body of known length.
    pub(crate) fn response(&mut self) -> (String, String) {
        let head = self.until("\r\n\r\n");
        let length = head.to_ascii_lowercase().lines().find_map(|line| {
            line.strip_prefix("content-length: ").map(|length| length.parse().expect("a number"))
        });
        let body = self.take(length.unwrap_or(0));
        (head, body)
    }

    /// Up to the end; a reset shows as `<reset>`.
    pub(crate) fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let end = match self.0.read_to_end(&mut bytes) {
            Ok(_) => "",
            Err(error) if error.kind() == ErrorKind::ConnectionReset => "<reset>",
            Err(error) => panic!("{error} after {}", String::from_utf8_lossy(&bytes)),
        };
        String::from_utf8_lossy(&bytes).into_owned() + end
    }

    /// Whether nothing comes for a while.
    pub(crate) fn is_silent(&mut self, time: Duration) -> bool {
        self.heard(time).is_none()
    }

    /// What comes within a while, an end and errors too; it stays to be read.
    pub(crate) fn heard(&mut self, time: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(time)).expect("a socket takes timeouts");
        let mut bytes = [0; 64];
        let heard = match self.0.peek(&mut bytes) {
            Ok(length) => Some(String::from_utf8_lossy(&bytes[..length]).into_owned()),
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                None
            }
            Err(error) => Some(format!("<{error}>")),
        };
        self.0.set_read_timeout(Some(PATIENCE)).expect("a socket takes timeouts");
        heard
    }
}

/// A server whose connections the test handles one by one.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    connections: Receiver<Client>,
}

impl Server {
    pub(crate) fn new() -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address"))
    }

    fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the port is free");
        let address = listener.local_addr().expect("it is bound");
        let (sender, connections): (Sender<Client>, _) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stream.set_read_timeout(Some(PATIENCE)).is_err() {
                    continue;
                }
                if sender.send(Client(stream)).is_err() {
                    return;
                }
            }
        });
        Self { address, connections }
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> Client {
        self.connections.recv_timeout(PATIENCE).expect("the proxy connects")
    }

    /// The next connection to this server, 0, or to another one, 1.
    pub(crate) fn first_of(&self, other: &Self) -> (usize, Client) {
        let short = Duration::from_millis(5);
        for _ in 0..PATIENCE.as_millis() / short.as_millis() {
            for (index, server) in [self, other].into_iter().enumerate() {
                if let Ok(connection) = server.connections.recv_timeout(short) {
                    return (index, connection);
                }
            }
        }
        panic!("no connection comes");
    }

    /// Where the proxy sends its next request: this connection, or a new one.
    pub(crate) fn next(&self, connection: Client) -> Client {
        let short = Duration::from_millis(10);
        connection.0.set_read_timeout(Some(short)).expect("a socket takes timeouts");
        for _ in 0..PATIENCE.as_millis() / short.as_millis() {
            if let Ok(1..) = connection.0.peek(&mut [0]) {
                connection.0.set_read_timeout(Some(PATIENCE)).expect("a socket takes timeouts");
                return connection;
            }
            if let Ok(new) = self.connections.recv_timeout(short) {
                return new;
            }
        }
        panic!("no further request comes");
    }

    /// A server that answers every request without a body with `response`.
    pub(crate) fn answering(response: &'static str) -> SocketAddr {
        Self::new().answer(response)
    }

    /// The same, at this address.
    pub(crate) fn answering_at(address: SocketAddr, response: &'static str) {
        Self::at(address).answer(response);
    }

    pub(crate) fn answer(self, response: &'static str) -> SocketAddr {
        let server = self;
        let address = server.address;
        thread::spawn(move || {
            while let Ok(mut connection) = server.connections.recv() {
                thread::spawn(move || {
                    let mut seen = Vec::new();
                    let mut chunk = [0; 4096];
                    while let Ok(count @ 1..) = connection.0.read(&mut chunk) {
                        seen.extend_from_slice(&chunk[..count]);
                        while let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
                            seen.drain(..end + 4);
                            if connection.0.write_all(response.as_bytes()).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        address
    }
}

/// A response with this body.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
