//! Lines as messages to a syslog daemon: RFC 5424 over UDP (RFC 5426), TCP with octet
//! counting (RFC 6587, section 3.4.1) and unix datagrams.
//!
//! A daemon that is slow, dead or away costs lines and nothing else: whatever waits for it is
//! bounded by [`PATIENCE`], and after a failure nothing is tried for [`PAUSE`].

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::unix::net::UnixDatagram,
    process,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    clock::rfc3339,
    model::access_log::{Syslog, SyslogPeer},
};

/// Longest wait for a connection, and for a daemon to take something.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long lines are given up at once after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of messages that go to a stream at once.
const BATCH: usize = 64 * 1024;

/// Whoever takes messages. Connects when there is something to send.
#[derive(Debug)]
pub(super) struct Sender {
    config: Syslog,
    hostname: String,
    connection: Option<Connection>,
    /// Nothing is tried before.
    not_before: Option<Instant>,
}

#[derive(Debug)]
enum Connection {
    Udp(UdpSocket),
    Unix(UnixDatagram),
    Tcp(TcpStream),
}

/// What became of lines.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// How many were handed to the kernel.
    pub(super) written: u64,
    /// How many were not.
    pub(super) lost: u64,
    /// Why the first of those was not; none if it was not tried.
    pub(super) error: Option<io::Error>,
}

impl Sent {
    fn lose(&mut self, lines: u64, error: io::Error) {
        self.lost += lines;
        self.error.get_or_insert(error);
    }
}

impl Sender {
    /// Not connected yet.
    pub(super) fn new(config: &Syslog) -> Self {
        let own = || fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let hostname = config.hostname.clone().unwrap_or_else(own);
        let hostname = hostname.trim();
        let is_good = !hostname.is_empty() && hostname.bytes().all(|byte| byte.is_ascii_graphic());
        Self {
            config: config.clone(),
            hostname: if is_good { hostname.to_owned() } else { "-".into() },
            connection: None,
            not_before: None,
        }
    }

    /// Connects anew with the next message.
    pub(super) fn reconnect(&mut self) {
        self.connection = None;
        self.not_before = None;
    }

    /// Sends lines, each a message.
    pub(super) fn send(&mut self, text: &str, lines: u64) -> Sent {
        if self.not_before.is_some_and(|time| Instant::now() < time) {
            return Sent { lost: lines, ..Sent::default() };
        }
        let header = self.header(SystemTime::now());
        let messages = text.lines().map(|line| format!("{header}{line}"));
        let mut sent = Sent::default();
        match self.connect() {
            Ok(Connection::Tcp(stream)) => send_stream(stream, messages, &mut sent),
            Ok(Connection::Udp(socket)) => {
                send_each(messages, &mut sent, |bytes| socket.send(bytes));
            }
            Ok(Connection::Unix(socket)) => {
                send_each(messages, &mut sent, |bytes| socket.send(bytes));
            }
            Err(error) => sent.lose(lines, error),
        }
        if let Some(error) = &sent.error {
            // A refused datagram tells of an earlier one: the next one may well arrive.
            let is_udp = matches!(self.connection, Some(Connection::Udp(_)));
            if !is_udp || error.kind() != io::ErrorKind::ConnectionRefused {
                self.connection = None;
                self.not_before = Some(Instant::now() + PAUSE);
            }
        }
        sent
    }

    /// `<PRI>1 TIME HOST APP PID access - `
    fn header(&self, now: SystemTime) -> String {
        let Syslog { facility, severity, app_name, .. } = &self.config;
        let priority = u32::from(*facility) * 8 + u32::from(*severity);
        let (time, host) = (rfc3339(now), &self.hostname);
        format!("<{priority}>1 {time} {host} {app_name} {} access - ", process::id())
    }

    fn connect(&mut self) -> io::Result<&mut Connection> {
        if let Some(Connection::Tcp(stream)) = &mut self.connection
            && has_ended(stream)
        {
            self.connection = None;
        }
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => Ok(none.insert(Connection::to(&self.config.peer)?)),
        }
    }
}

impl Connection {
    fn to(peer: &SyslogPeer) -> io::Result<Self> {
        match peer {
            SyslogPeer::Udp(address) => {
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Udp(socket))
            }
            SyslogPeer::Tcp(address) => {
                TcpStream::connect_timeout(address, PATIENCE).map(Self::Tcp)
            }
            SyslogPeer::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Unix(socket))
            }
        }
    }
}

/// Whether the daemon has closed the connection. What was written after that would be lost
/// without an error.
fn has_ended(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    let ended = stream.set_nonblocking(true).is_err()
        || match stream.read(&mut byte) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
    ended || stream.set_nonblocking(false).is_err()
}

/// One message a datagram. What is too large, or refused, is lost by itself; after anything
/// else the rest is not tried.
fn send_each(
    mut messages: impl Iterator<Item = String>,
    sent: &mut Sent,
    send: impl Fn(&[u8]) -> io::Result<usize>,
) {
    while let Some(message) = messages.next() {
        match send(message.as_bytes()) {
            Ok(_) => sent.written += 1,
            Err(error) => {
                let code = error.raw_os_error();
                if code == Some(libc::EMSGSIZE) {
                    sent.lost += 1;
                } else if code == Some(libc::ECONNREFUSED) {
                    sent.lose(1, error);
                } else {
                    return sent.lose(1 + messages.count() as u64, error);
                }
            }
        }
    }
}

/// Messages with their length before them, in batches: after half a message nothing else
/// could be understood.
fn send_stream(
    stream: &mut TcpStream,
    mut messages: impl Iterator<Item = String>,
    sent: &mut Sent,
) {
    let (mut batch, mut count) = (String::with_capacity(BATCH), 0);
    loop {
        let message = messages.next();
        if let Some(message) = &message {
            // Writing to a String does not fail.
            let _ = write!(batch, "{} {message}", message.len());
            count += 1;
        }
        if batch.len() >= BATCH || (message.is_none() && count > 0) {
            if let Err(error) = write_in_time(stream, batch.as_bytes()) {
                return sent.lose(count + messages.count() as u64, error);
            }
            sent.written += std::mem::take(&mut count);
            batch.clear();
        }
        if message.is_none() {
            return;
        }
    }
}

/// Writes all of it, but not for longer than [`PATIENCE`], however little a daemon takes at
/// a time.
fn write_in_time(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead, net::TcpListener};

    use super::*;

    fn sender(peer: SyslogPeer) -> Sender {
        let hostname = Some("here".to_owned());
        Sender::new(&Syslog { peer, facility: 16, severity: 6, app_name: "lb".into(), hostname })
    }

    #[track_caller]
    fn check(message: &str, line: &str) {
        let rest = message.strip_prefix("<134>1 ").unwrap();
        let (time, rest) = rest.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.len() == 24, "{time}");
        assert_eq!(rest, format!("here lb {} access - {line}", process::id()));
    }

    #[test]
    fn a_line_is_a_datagram() {
        let daemon = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sender = sender(SyslogPeer::Udp(daemon.local_addr().unwrap()));
        let sent = sender.send("one\ntwo\n", 2);
        assert_eq!((sent.written, sent.lost), (2, 0));
        let mut buffer = [0; 1000];
        for line in ["one", "two"] {
            let length = daemon.recv(&mut buffer).unwrap();
            check(str::from_utf8(&buffer[..length]).unwrap(), line);
        }
    }

    #[test]
    fn a_line_too_long_for_a_datagram_is_lost_by_itself() {
        let daemon = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sender = sender(SyslogPeer::Udp(daemon.local_addr().unwrap()));
        let sent = sender.send(&format!("{}\nshort\n", "x".repeat(70_000)), 2);
        assert_eq!((sent.written, sent.lost), (1, 1));
    }

    #[test]
    fn a_stream_has_lengths_and_a_closed_one_is_opened_again() {
        let daemon = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = sender(SyslogPeer::Tcp(daemon.local_addr().unwrap()));
        for line in ["one", "two"] {
            assert_eq!(sender.send(&format!("{line}\n"), 1).written, 1);
            let mut reader = io::BufReader::new(daemon.accept().unwrap().0);
            let mut length = Vec::new();
            reader.read_until(b' ', &mut length).unwrap();
            let length = str::from_utf8(&length).unwrap().trim().parse().unwrap();
            let mut message = vec![0; length];
            reader.read_exact(&mut message).unwrap();
            check(str::from_utf8(&message).unwrap(), line);
            // Closed by the daemon; it takes the kernel a moment to say so.
            drop(reader);
            let Some(Connection::Tcp(stream)) = &mut sender.connection else { panic!() };
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            assert_eq!(stream.peek(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn nobody_there_costs_the_lines_and_no_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut sender = sender(SyslogPeer::Unix(path.clone()));
        assert!(sender.send("one\n", 1).error.is_some());
        // Not tried again at once.
        let sent = sender.send("two\nthree\n", 2);
        assert!(sent.lost == 2 && sent.error.is_none(), "{sent:?}");
        let daemon = UnixDatagram::bind(&path).unwrap();
        sender.reconnect();
        assert_eq!(sender.send("four\n", 1).written, 1);
        let mut buffer = [0; 1000];
        let length = daemon.recv(&mut buffer).unwrap();
        check(str::from_utf8(&buffer[..length]).unwrap(), "four");
    }

    #[test]
    fn a_daemon_that_reads_nothing_is_given_up() {
        let daemon = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = sender(SyslogPeer::Tcp(daemon.local_addr().unwrap()));
        let text = format!("{}\n", "x".repeat(1000)).repeat(40_000);
        let began = Instant::now();
        let sent = sender.send(&text, 40_000);
        assert!(sent.lost > 0 && sent.written + sent.lost == 40_000, "{sent:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert_eq!(sender.send("one\n", 1).lost, 1);
    }
}
