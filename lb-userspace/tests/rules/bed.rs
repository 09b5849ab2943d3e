//! An agent with a configuration, servers that tell what they were asked, and a client.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use pointsman::{config, model::frontend::ListenAddress};

use crate::ports;

/// Longest time a step may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers every request with its own name and the request's header.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// First lines of the requests so far.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    /// It answers with 200, and not with 503.
    pub(crate) is_well: Arc<AtomicBool>,
}

impl Server {
    /// Starts a server of this name; it answers after `delay`.
    pub(crate) fn start(name: &str, delay: Duration) -> Self {
        Self::start_over(name, delay, Some)
    }

    /// The same over what `begin` makes of a connection; none if that is of no use.
    pub(crate) fn start_over<S: Read + Write>(
        name: &str,
        delay: Duration,
        begin: impl Fn(TcpStream) -> Option<S> + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, name) = (Arc::clone(&requests), name.to_owned());
        let is_well = Arc::new(AtomicBool::new(true));
        let well = Arc::clone(&is_well);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (seen, name, well) = (Arc::clone(&seen), name.clone(), Arc::clone(&well));
                let begin = begin.clone();
                thread::spawn(move || {
                    if let Some(stream) = begin(stream) {
                        serve(stream, &seen, &name, delay, &well);
                    }
                });
            }
        });
        Self { address, requests, is_well }
    }
}

/// Serves a connection until the other side closes it.
fn serve(
    stream: impl Read + Write,
    seen: &Mutex<Vec<String>>,
    name: &str,
    delay: Duration,
    is_well: &AtomicBool,
) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if matches!(reader.read_line(&mut head), Ok(0) | Err(_)) {
                return;
            }
        }
        let first = head.lines().next().unwrap_or_default().to_owned();
        seen.lock().expect("no test panics with it").push(first);
        thread::sleep(delay);
        let length = head.len();
        let status = if is_well.load(Ordering::Relaxed) { "200 OK" } else { "503 Not Well" };
        let answer = format!(
            "HTTP/1.1 {status}\r\nX-Server: {name}\r\nServer: echo\r\nContent-Length: {length}\r\n\r\n{head}"
        );
        // The proxy takes that field off; who is joined with a client sees it.
        let is_last = head.contains("\r\nConnection: close\r\n");
        let stream = reader.get_mut();
        let written = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
        if written.is_err() || is_last {
            return;
        }
    }
}

/// An agent that serves a configuration.
pub(crate) struct Agent {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    /// Starts it and waits until it accepts connections on `ports`. `configuration` is
    /// without `admin` and `datapath`.
    pub(crate) fn start(configuration: &str, ports: &[u16]) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("pointsman.yaml");
        let socket = directory.path().join("admin.sock");
        let text = format!("admin: {{socket: {}}}\n{configuration}", socket.display());
        fs::write(&path, text).expect("the directory is ours");
        let errors = fs::File::create(directory.path().join("stderr")).expect("it is ours");
        let child = Command::new(env!("CARGO_BIN_EXE_pointsman"))
            .args(["run", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("the binary runs");
        let mut agent = Self { child, _directory: directory };
        for port in ports {
            agent.wait_for(*port);
        }
        agent
    }

    fn wait_for(&mut self, port: u16) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = self.child.try_wait().expect("it is our child");
            if ended.is_some() || start.elapsed() > PATIENCE {
                let said = fs::read_to_string(self._directory.path().join("stderr"));
                panic!(
                    "the agent does not listen on {port}: {ended:?}\n{}",
                    said.unwrap_or_default()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A port of loopback that nobody has.
pub(crate) fn free_port() -> u16 {
    ports::free(Ipv4Addr::LOCALHOST.into()).port()
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    /// A header, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The server that answered, or nothing.
    pub(crate) fn server(&self) -> &str {
        self.header("x-server")
    }
}

/// Sends a GET with these lines of header and reads the answer.
pub(crate) fn get(port: u16, target: &str, host: &str, lines: &[&str]) -> Answer {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the agent listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
    get_over(stream, target, host, lines)
}

/// The same over a connection.
pub(crate) fn get_over(
    mut stream: impl Read + Write,
    target: &str,
    host: &str,
    lines: &[&str],
) -> Answer {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n");
    stream.write_all(request.as_bytes()).expect("the agent reads");
    stream.flush().expect("the agent reads");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the agent answers and closes");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    Answer {
        status: status.unwrap_or_else(|| panic!("no status in {text:?}")),
        headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
        body: body.to_owned(),
    }
}

/// An example configuration that is served, its addresses moved to loopback.
pub(crate) struct Example {
    /// The port of each frontend.
    pub(crate) ports: BTreeMap<String, u16>,
    /// The servers by backend and name, `web/w1`.
    pub(crate) servers: BTreeMap<String, Server>,
    _agent: Agent,
}

impl Example {
    /// Serves `configs/FILE` after these replacements in its text.
    pub(crate) fn serve(file: &str, replacements: &[(&str, &str)]) -> Self {
        Self::serve_before(file, replacements, |name| Server::start(name, Duration::ZERO))
    }

    /// The same before servers that `start` starts by their names.
    pub(crate) fn serve_before(
        file: &str,
        replacements: &[(&str, &str)],
        start: impl Fn(&str) -> Server,
    ) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(file);
        let mut text = fs::read_to_string(&path).expect("the example is there");
        let snapshot =
            config::parse(&text, file).unwrap_or_else(|faults| panic!("{faults}")).snapshot;
        for (from, to) in replacements {
            assert!(text.contains(from), "{file} has no {from}");
            text = text.replace(from, to);
        }
        let mut servers = BTreeMap::new();
        let mut moved = HashSet::new();
        for (backend, config) in &snapshot.backends {
            for (name, server) in &config.servers {
                let name = format!("{backend}/{name}");
                // One machine may be a server of several backends.
                if !moved.insert(server.address) {
                    continue;
                }
                let started = start(&name);
                let quoted = format!("\"{}\"", server.address);
                assert!(text.contains(&quoted), "{file}: {quoted}");
                text = text.replace(&quoted, &format!("\"{}\"", started.address));
                servers.insert(name, started);
            }
        }
        // After the servers, which might be given a port that is only looked at.
        let mut ports = BTreeMap::new();
        for (name, frontend) in &snapshot.frontends {
            for listen in frontend.listen() {
                let ListenAddress::Tcp(address) = &listen.address else { continue };
                let port = free_port();
                text = text.replace(&format!("\"{address}\""), &format!("\"127.0.0.1:{port}\""));
                ports.insert(name.to_string(), port);
            }
        }
        let all: Vec<u16> = ports.values().copied().collect();
        let agent = Agent::start(&text, &all);
        Self { ports, servers, _agent: agent }
    }

    /// The port of a frontend.
    pub(crate) fn port(&self, frontend: &str) -> u16 {
        self.ports[frontend]
    }
}
