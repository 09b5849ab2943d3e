//! TCP clients of [`port::LINE`](crate::servers::port::LINE).

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

use super::{Failure, PATIENCE, Tally};

/// One connection to a line server, kept open: for idle connections, drains and resets.
#[derive(Debug)]
pub struct Conversation {
    reader: BufReader<TcpStream>,
    server: String,
    said: u64,
}

impl Conversation {
    /// Connects and learns who answers.
    ///
    /// # Errors
    /// Any [`Failure`] of the connection or the first exchange.
    pub fn open(target: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&target, PATIENCE)
            .map_err(|error| Failure::io("connect", &error))?;
        Self::over(stream)
    }

    /// Connects until the wanted server answers; the others' connections are closed.
    ///
    /// # Errors
    /// Any [`Failure`]; a wrong answer if 200 connections went elsewhere.
    pub fn open_with(target: SocketAddr, server: &str) -> Result<Self, Failure> {
        for _ in 0..200 {
            let conversation = Self::open(target)?;
            if conversation.server == server {
                return Ok(conversation);
            }
        }
        Err(Failure::wrong(server, "only other servers in 200 connections"))
    }

    /// Starts on a connection that stands.
    ///
    /// # Errors
    /// Any [`Failure`] of the first exchange.
    pub fn over(stream: TcpStream) -> Result<Self, Failure> {
        prepare(&stream, PATIENCE).map_err(|error| Failure::io("set-up", &error))?;
        let reader = BufReader::new(stream);
        let mut conversation = Self { reader, server: String::new(), said: 0 };
        conversation.server = conversation.exchange()?;
        Ok(conversation)
    }

    /// The server that answers on this connection.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Sends a line and checks that the same server answers it.
    ///
    /// # Errors
    /// Any [`Failure`]; another server's answer is [`super::FailureKind::WrongAnswer`].
    pub fn say(&mut self) -> Result<(), Failure> {
        let server = self.exchange()?;
        if server == self.server { Ok(()) } else { Err(Failure::wrong(&self.server, &server)) }
    }

    /// The connection.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    fn exchange(&mut self) -> Result<String, Failure> {
        self.said += 1;
        let line = format!("line {}", self.said);
        self.reader
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .map_err(|error| Failure::io("write", &error))?;
        let mut answer = String::new();
        let read =
            self.reader.read_line(&mut answer).map_err(|error| Failure::io("read", &error))?;
        if read == 0 {
            return Err(Failure::closed("read"));
        }
        match answer.trim_end().split_once(' ') {
            Some((server, echoed)) if echoed == line => Ok(server.to_owned()),
            _ => Err(Failure::wrong(&line, &answer)),
        }
    }
}

/// One short connection: connect, one line, close. Returns the server's name.
///
/// # Errors
/// Any [`Failure`].
pub fn ask(target: SocketAddr) -> Result<String, Failure> {
    Conversation::open(target).map(|conversation| conversation.server)
}

/// `count` short connections from `parallel` threads. Call it in the client's namespace.
#[must_use]
pub fn short_connections(target: SocketAddr, count: u64, parallel: u64) -> Tally {
    in_parallel(count, parallel, || ask(target))
}

/// Runs an exchange `count` times from `parallel` threads of the same namespace.
pub(super) fn in_parallel(
    count: u64,
    parallel: u64,
    exchange: impl Fn() -> Result<String, Failure> + Sync,
) -> Tally {
    let start = Instant::now();
    let mut total = thread::scope(|scope| {
        let workers: Vec<_> = (0..parallel)
            .map(|worker| {
                let share = count / parallel + u64::from(worker < count % parallel);
                let exchange = &exchange;
                scope.spawn(move || {
                    let mut tally = Tally::default();
                    (0..share).for_each(|_| tally.count(exchange()));
                    tally
                })
            })
            .collect();
        workers.into_iter().fold(Tally::default(), |mut total, worker| {
            // A panicking worker leaves its share uncounted, which `require_all` notices.
            total.merge(worker.join().unwrap_or_default());
            total
        })
    });
    total.elapsed = start.elapsed();
    total
}

/// How long the last ACK of an earlier connection may take to free its port. Far below
/// any retransmission: a lost one is a failure.
const LAST_ACK: Duration = Duration::from_millis(100);

/// Connects from a chosen local port, even if an earlier connection from it has just ended.
///
/// # Errors
/// Any [`Failure`] of the connection.
pub fn connect_from(local: SocketAddr, target: SocketAddr) -> Result<TcpStream, Failure> {
    let start = Instant::now();
    loop {
        match open_from(local, target) {
            Err(Errno::EADDRNOTAVAIL) if start.elapsed() < LAST_ACK => {
                thread::sleep(Duration::from_millis(1));
            }
            outcome => return outcome.map_err(|error| Failure::io("connect", &error.into())),
        }
    }
}

fn open_from(local: SocketAddr, target: SocketAddr) -> nix::Result<TcpStream> {
    let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // The send timeout is also the time limit of connect.
    let milliseconds = i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX);
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(milliseconds))?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(local))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
    Ok(socket.into())
}

pub(super) fn prepare(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))
}
