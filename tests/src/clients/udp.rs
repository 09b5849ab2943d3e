//! UDP clients of [`port::UDP`](crate::servers::port::UDP).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::{Failure, PATIENCE, Tally, tcp::in_parallel};
use crate::servers::UNANSWERED;

/// A UDP "connection": one socket, one flow.
#[derive(Debug)]
pub struct UdpConversation {
    socket: UdpSocket,
    said: u64,
}

impl UdpConversation {
    /// Makes a connected socket; nothing is sent yet.
    ///
    /// # Errors
    /// [`Failure`] when the kernel refuses.
    pub fn open(target: SocketAddr) -> Result<Self, Failure> {
        let open = || {
            let socket = if target.is_ipv4() {
                UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?
            } else {
                UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?
            };
            // Connected: the kernel checks that answers come from the VIP itself.
            socket.connect(target)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        };
        match open() {
            Ok(socket) => Ok(Self { socket, said: 0 }),
            Err(error) => Err(Failure::io("set-up", &error)),
        }
    }

    /// Opens sockets until this server answers one.
    ///
    /// # Errors
    /// Any [`Failure`] of an exchange, or when 200 flows did not reach the server.
    pub fn open_with(target: SocketAddr, server: &str) -> Result<Self, Failure> {
        for _ in 0..200 {
            let mut conversation = Self::open(target)?;
            if conversation.say(0)? == server {
                return Ok(conversation);
            }
        }
        Err(Failure::wrong(server, "only other servers in 200 flows"))
    }

    /// Sends one datagram with `payload_bytes` of padding that no server answers: a flow seen
    /// from one side only.
    ///
    /// # Errors
    /// [`Failure`] when the kernel refuses.
    pub fn send_unanswered(&self, payload_bytes: usize) -> Result<(), Failure> {
        let sent = self.socket.send(&[UNANSWERED, &vec![b'x'; payload_bytes]].concat());
        sent.map(drop).map_err(|error| Failure::io("send", &error))
    }

    /// Waits for the kernel to say what an ICMP error told it; an answer is a failure.
    ///
    /// # Errors
    /// The error, or [`super::FailureKind::TimedOut`].
    pub fn hear(&self) -> Result<(), Failure> {
        let mut buffer = [0; 64];
        match self.socket.recv(&mut buffer) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::io("receive", &error)),
        }
    }

    /// The socket, for its options.
    #[must_use]
    pub const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends a datagram with `payload_bytes` of padding and returns who answered it.
    ///
    /// # Errors
    /// Any [`Failure`]; a lost datagram is [`super::FailureKind::TimedOut`].
    pub fn say(&mut self, payload_bytes: usize) -> Result<String, Failure> {
        self.said += 1;
        let sent = format!("datagram {} {}", self.said, "x".repeat(payload_bytes));
        self.socket.send(sent.as_bytes()).map_err(|error| Failure::io("send", &error))?;
        let mut buffer = vec![0; 64 * 1024];
        let length =
            self.socket.recv(&mut buffer).map_err(|error| Failure::io("receive", &error))?;
        let answer = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        match answer.split_once(' ') {
            Some((server, echoed)) if echoed == sent => Ok(server.to_owned()),
            _ => Err(Failure::wrong(&sent, &answer)),
        }
    }
}

/// One datagram from a new socket, and its answer. Returns the server's name.
///
/// # Errors
/// Any [`Failure`].
pub fn ask_udp(target: SocketAddr) -> Result<String, Failure> {
    UdpConversation::open(target)?.say(0)
}

/// `count` exchanges, each from a new socket, from `parallel` threads.
#[must_use]
pub fn udp_exchanges(target: SocketAddr, count: u64, parallel: u64) -> Tally {
    in_parallel(count, parallel, || ask_udp(target))
}
