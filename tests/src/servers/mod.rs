//! Embedded servers: what the suites and the demo put behind VIPs without any outside
//! program. One [`Embedded`] is one "machine": it answers on every port of [`port`] with
//! its name in each answer, so that clients can tell who served them.
//!
//! A thread per connection is plenty for thousands of short connections.

mod http;
mod tcp;
pub mod tunnel_end;
mod udp;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use crate::namespace::Namespace;

/// Where an embedded server listens, on IPv4 and IPv6.
pub mod port {
    /// TCP: answers each line with `NAME LINE`.
    pub const LINE: u16 = 7000;
    /// TCP: reads to the end, then answers `NAME BYTES SHA256`; needs half-close.
    pub const DIGEST: u16 = 7001;
    /// TCP: reads a line with a number and sends that many bytes of [`crate::content`].
    pub const SOURCE: u16 = 7002;
    /// UDP: answers each datagram with `NAME DATAGRAM`.
    pub const UDP: u16 = 7003;
    /// HTTP/1.1: `/` answers the name, `/health` what the server is told to. It closes first.
    pub const HTTP: u16 = 8080;
}

/// How datagrams start that [`port::UDP`] takes and does not answer.
pub const UNANSWERED: &[u8] = b"do not answer";

/// A running server. Dropping it ends it as a killed process would: listeners and
/// connections are closed by the kernel, and the ports answer "connection refused".
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    listeners: Vec<Arc<TcpListener>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads of one server have in common.
#[derive(Debug)]
struct Shared {
    name: String,
    /// A [`Wellness`].
    wellness: AtomicU8,
    stopping: AtomicBool,
    accepted: AtomicU64,
    datagrams: AtomicU64,
    /// Open connections, to be closed when the server ends.
    connections: Mutex<HashMap<u64, TcpStream>>,
}

/// What `/health` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Wellness {
    /// 200.
    Well,
    /// 503.
    Unwell,
    /// 404.
    Leaving,
}

type Handler = fn(&Shared, TcpStream) -> io::Result<()>;

impl Embedded {
    /// Starts a server in a namespace; it accepts when this returns.
    ///
    /// # Errors
    /// When a port is taken or a thread can not be started.
    pub fn start(namespace: &Namespace, name: &str) -> Result<Self> {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            wellness: AtomicU8::new(Wellness::Well as u8),
            stopping: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            connections: Mutex::new(HashMap::new()),
        });
        let services: [(u16, Handler); 4] = [
            (port::LINE, tcp::answer_lines),
            (port::DIGEST, tcp::answer_digest),
            (port::SOURCE, tcp::send_content),
            (port::HTTP, http::answer),
        ];
        let mut server = Self { shared, listeners: Vec::new(), threads: Vec::new() };
        for (port, handler) in services {
            let listener = namespace.run(|| {
                TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
                    .with_context(|| format!("listen on TCP port {port}"))
            })?;
            let listener = Arc::new(listener);
            server.listeners.push(Arc::clone(&listener));
            let shared = Arc::clone(&server.shared);
            server.start_thread(move || accept(&shared, &listener, handler))?;
        }
        let socket = namespace.run(|| listen_udp(Ipv6Addr::UNSPECIFIED.into()))?;
        let shared = Arc::clone(&server.shared);
        server.start_thread(move || udp::answer(&shared, &socket))?;
        Ok(server)
    }

    /// Answers datagrams to an address that it holds besides its own, from that address: a
    /// socket bound to none would answer from another.
    ///
    /// # Errors
    /// When the address is not there or a thread can not be started.
    pub fn answer_at(&mut self, namespace: &Namespace, address: IpAddr) -> Result<()> {
        let socket = namespace.run(move || listen_udp(address))?;
        let shared = Arc::clone(&self.shared);
        self.start_thread(move || udp::answer(&shared, &socket))
    }

    /// Its name, as in every answer.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Makes `/health` answer 200 (true, as at the start) or 503.
    pub fn set_healthy(&self, healthy: bool) {
        self.set_wellness(if healthy { Wellness::Well } else { Wellness::Unwell });
    }

    /// Makes `/health` answer 404, which under `disable_on_404` asks for no new flows.
    pub fn ask_for_no_new_flows(&self) {
        self.set_wellness(Wellness::Leaving);
    }

    fn set_wellness(&self, wellness: Wellness) {
        self.shared.wellness.store(wellness as u8, Ordering::Relaxed);
    }

    /// TCP connections accepted so far, health checks included.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// UDP datagrams that were to be answered so far.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.shared.datagrams.load(Ordering::Relaxed)
    }

    /// TCP connections open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.connections().len()
    }

    fn start_thread(&mut self, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new().name(self.shared.name.clone()).spawn(body);
        self.threads.push(thread.context("start a server thread")?);
        Ok(())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // Ends a blocked accept; the listener is closed with its thread.
            let _ =
                nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
        self.listeners.clear();
        for thread in self.threads.drain(..) {
            // A panic there was printed; the suite's own assertions decide.
            let _ = thread.join();
        }
        for connection in self.shared.connections().values() {
            // Closed by its peer already is as good.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn wellness(&self) -> Wellness {
        match self.wellness.load(Ordering::Relaxed) {
            well if well == Wellness::Well as u8 => Wellness::Well,
            leaving if leaving == Wellness::Leaving as u8 => Wellness::Leaving,
            _ => Wellness::Unwell,
        }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, TcpStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket for [`port::UDP`]. One that is bound to an address goes before one bound to all.
fn listen_udp(address: IpAddr) -> Result<UdpSocket> {
    let address = SocketAddr::new(address, port::UDP);
    let listen = || -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    listen().with_context(|| format!("listen on UDP {address}"))
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener, handler: Handler) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        // A client that gave up before it was accepted is no reason to stop.
        let Ok((stream, _)) = accepted else { continue };
        let shared = Arc::clone(shared);
        let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
        let Ok(registered) = stream.try_clone() else { continue };
        shared.connections().insert(number, registered);
        let serve = move || {
            // What went wrong is for the client to report: it knows what it expected.
            let _ = handler(&shared, stream);
            shared.connections().remove(&number);
        };
        // Without a thread the connection is closed, which the client reports too.
        let _ = thread::Builder::new().stack_size(256 * 1024).spawn(serve);
    }
}
