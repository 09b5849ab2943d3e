//! Echo requests (ping) with the kernel's own sockets for them, which write the identifier and
//! the checksum, and hand out only answers that are right and meant for them.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::write_sysctl;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of the header: type, code, checksum, identifier, number.
const HEADER_BYTES: usize = 8;

/// Lets everybody in the calling thread's namespace send echo requests.
///
/// # Errors
/// When the kernel refuses.
pub fn allow_echo() -> Result<()> {
    write_sysctl("net/ipv4/ping_group_range", "0 2147483647")
}

/// Sends an echo request with `padding` bytes; whether the same bytes came back in time.
///
/// # Errors
/// When the kernel refuses to send, or what comes back is not the answer.
pub fn echo(address: IpAddr, number: u16, padding: usize) -> Result<bool> {
    let (domain, protocol, request, reply) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol)).context("open a socket")?;
    // It sends and receives like one of UDP.
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(SocketAddr::new(address, 0))?;
    let mut message = vec![request, 0, 0, 0, 0, 0];
    message.extend(number.to_be_bytes());
    message.extend((0..=u8::MAX).cycle().take(padding));
    socket.send(&message)?;
    let mut answer = vec![0; message.len() + 1];
    let Ok(bytes) = socket.recv(&mut answer) else { return Ok(false) };
    answer.truncate(bytes);
    ensure!(answer[..2] == [reply, 0], "type and code {:?}", &answer[..2]);
    ensure!(answer[HEADER_BYTES - 2..] == message[HEADER_BYTES - 2..], "other bytes came back");
    Ok(true)
}
