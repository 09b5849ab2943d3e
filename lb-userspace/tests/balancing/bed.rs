//! The agent's binary, servers that answer as they are told, and a client.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;

/// Longest that anybody waits for a byte.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200.
    Good,
    /// This status.
    Status(u16),
    /// Nothing until told otherwise.
    Hang,
}

/// What a client gets.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    head: String,
    body: String,
}

/// An agent between a client and servers `a`, `b`, ...
pub(crate) struct Bed {
    agent: Option<Child>,
    directory: TempDir,
    servers: Vec<Server>,
    frontend: SocketAddr,
}

struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    name: char,
    answer: Mutex<Answer>,
    changed: Condvar,
    is_dead: AtomicBool,
    now: AtomicU32,
    most: AtomicU32,
    /// What it has accepted.
    sockets: Mutex<Vec<TcpStream>>,
}

impl Bed {
    /// Starts servers and the agent. `options` are keys of the backend, `of_servers` keys
    /// of each server; both YAML in flow style.
    pub(crate) fn start(count: u8, options: &str, of_servers: &[&str]) -> Self {
        let address = own_address();
        let servers: Vec<Server> = (0..count)
            .map(|index| {
                Server::start(
                    char::from(b'a' + index),
                    SocketAddr::new(address.into(), 9000 + u16::from(index)),
                )
            })
            .collect();
        let frontend = SocketAddr::new(address.into(), 8080);
        let directory = tempfile::tempdir().expect("works in a test");
        let mut text = format!(
            "datapath: {{mode: off}}\nadmin: {{socket: {}/admin.sock}}\n\
             frontends: {{web: {{mode: http, bind: [\"{frontend}\"], backend: web}}}}\n\
             backends:\n  web: {{{options}, servers: {{",
            directory.path().display()
        );
        for (index, server) in servers.iter().enumerate() {
            let keys = of_servers.get(index).map_or(String::new(), |keys| format!(", {keys}"));
            let (name, address) = (server.shared.name, server.address);
            write!(text, "{name}: {{address: \"{address}\"{keys}}}, ").expect("works in a test");
        }
        text.push_str("}}\n");
        fs::write(directory.path().join("p.yaml"), text).expect("works in a test");
        let mut bed = Self { agent: None, directory, servers, frontend };
        bed.restart();
        bed
    }

    /// Ends the agent, if it runs, and starts it; it listens when this returns.
    pub(crate) fn restart(&mut self) {
        self.stop();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("works in a test");
        let child = Command::new(env!("CARGO_BIN_EXE_pointsman"))
            .args(["run", "--config"])
            .arg(self.directory.path().join("p.yaml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("works in a test"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.agent = Some(child);
        super::wait_for("the agent to listen", || {
            let ended =
                self.agent.as_mut().and_then(|agent| agent.try_wait().expect("works in a test"));
            assert!(
                ended.is_none(),
                "the agent ended: {}",
                fs::read_to_string(self.log()).expect("works in a test")
            );
            TcpStream::connect(self.frontend).is_ok()
        });
    }

    fn stop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // Fails only if it has ended already.
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    fn log(&self) -> std::path::PathBuf {
        self.directory.path().join("log")
    }

    /// Whether the agent's log has this text.
    pub(crate) fn said(&self, text: &str) -> bool {
        fs::read_to_string(self.log()).expect("works in a test").contains(text)
    }

    /// The states of all servers as the operator sees them, by name.
    pub(crate) fn states(&self) -> Vec<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
            .args(["status", "--json", "--socket"])
            .arg(self.directory.path().join("admin.sock"))
            .output()
            .expect("works in a test");
        let status: serde_json::Value = match serde_json::from_slice(&output.stdout) {
            Ok(status) => status,
            Err(_) => return Vec::new(),
        };
        let servers = status["backends"][0]["servers"].as_array().cloned().unwrap_or_default();
        servers.iter().map(|server| server["state"].as_str().unwrap_or("?").to_owned()).collect()
    }

    /// Makes a server answer so from now on.
    pub(crate) fn answer(&self, server: char, answer: Answer) {
        let shared = &self.server(server).shared;
        *shared.answer.lock().expect("works in a test") = answer;
        shared.changed.notify_all();
    }

    /// Ends a server: connections to it are refused, open ones end.
    pub(crate) fn kill(&mut self, server: char) {
        let server = self.server(server);
        server.shared.is_dead.store(true, Ordering::SeqCst);
        // Wakes who accepts; from the next moment on nobody does.
        let _ = TcpStream::connect(server.address);
        super::wait_for("the server to be gone", || TcpStream::connect(server.address).is_err());
        for socket in server.shared.sockets.lock().expect("works in a test").drain(..) {
            // Fails only if the other side was quicker.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Most requests that a server has had at a time.
    pub(crate) fn most_at_once(&self, server: char) -> u32 {
        self.server(server).shared.most.load(Ordering::SeqCst)
    }

    fn server(&self, name: char) -> &Server {
        self.servers.iter().find(|server| server.shared.name == name).expect("works in a test")
    }

    /// A request on a connection of its own.
    pub(crate) fn get(&self, path: &str, headers: &[&str]) -> Response {
        self.request(path, headers, TIMEOUT).expect("a response")
    }

    /// The status of a request, if there is one in time.
    pub(crate) fn get_within(&self, path: &str, time: Duration) -> Option<u16> {
        self.request(path, &[], time).ok().map(|response| response.status)
    }

    fn request(&self, path: &str, headers: &[&str], timeout: Duration) -> io::Result<Response> {
        let mut socket = TcpStream::connect(self.frontend)?;
        socket.set_read_timeout(Some(timeout))?;
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Response { status, head: head.to_owned(), body: body.to_owned() })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop();
        for server in &self.servers {
            server.shared.is_dead.store(true, Ordering::SeqCst);
            let _ = TcpStream::connect(server.address);
        }
    }
}

impl Response {
    /// Which server answered; `?` if none did.
    pub(crate) fn server(&self) -> char {
        self.body.strip_prefix("server ").and_then(|rest| rest.chars().next()).unwrap_or('?')
    }

    /// A field of the response.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// A field of the request as the server saw it.
    pub(crate) fn seen(&self, name: &str) -> Option<&str> {
        field(&self.body, name)
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (own, value) = line.split_once(':')?;
        own.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// A loopback address that no other bed has: of this process and the count of its beds.
fn own_address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let bed = COUNT.fetch_add(1, Ordering::Relaxed);
    let [.., high, low] = std::process::id().to_be_bytes();
    let [.., bed] = bed.to_be_bytes();
    Ipv4Addr::new(127, high, low, bed)
}

impl Server {
    fn start(name: char, address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            name,
            answer: Mutex::new(Answer::Good),
            changed: Condvar::new(),
            is_dead: AtomicBool::new(false),
            now: AtomicU32::new(0),
            most: AtomicU32::new(0),
            sockets: Mutex::default(),
        });
        let listener = TcpListener::bind(address).expect("the address is free");
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for socket in listener.incoming() {
                if of_thread.is_dead.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&of_thread);
                thread::spawn(move || socket.and_then(|socket| shared.serve(socket)));
            }
        });
        Self { address, shared }
    }
}

impl Shared {
    /// Answers the requests of one connection, which have no bodies.
    fn serve(&self, mut socket: TcpStream) -> io::Result<()> {
        socket.set_read_timeout(Some(TIMEOUT))?;
        self.sockets.lock().expect("works in a test").push(socket.try_clone()?);
        let mut bytes = Vec::new();
        loop {
            let mut chunk = [0; 4096];
            let length = socket.read(&mut chunk)?;
            if length == 0 || self.is_dead.load(Ordering::SeqCst) {
                return Ok(());
            }
            bytes.extend_from_slice(&chunk[..length]);
            if bytes.ends_with(b"\r\n\r\n") {
                let request = String::from_utf8_lossy(&bytes).into_owned();
                bytes.clear();
                let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(now, Ordering::SeqCst);
                let status = self.status();
                self.now.fetch_sub(1, Ordering::SeqCst);
                socket.write_all(self.response(status, &request).as_bytes())?;
            }
        }
    }

    /// The status to answer with, once there is one.
    fn status(&self) -> u16 {
        let hangs = |answer: &mut Answer| *answer == Answer::Hang;
        let answer = self
            .changed
            .wait_while(self.answer.lock().expect("works in a test"), hangs)
            .expect("works in a test");
        match *answer {
            Answer::Status(status) => status,
            Answer::Good | Answer::Hang => 200,
        }
    }

    fn response(&self, status: u16, request: &str) -> String {
        let body = format!("server {}\n{request}", self.name);
        let session = match request.starts_with("GET /login ") {
            true => "Set-Cookie: SID=session; Path=/\r\n",
            false => "",
        };
        let length = body.len();
        format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{session}\r\n{body}")
    }
}
