//! Listening sockets that were open when the agent started: from systemd
//! (sd_listen_fds(3)), from a shell, or from the agent that was here before.

use std::{
    env,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use socket2::{SockRef, Type};

use crate::model::frontend::ListenAddress;

/// The first descriptor that is handed over, after the three standard ones.
const FIRST: RawFd = 3;
/// Descriptors that are looked at; nobody hands over more.
const MOST: RawFd = 1024;

/// Listening stream sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Handed>);

#[derive(Debug)]
struct Handed {
    number: RawFd,
    /// What systemd calls it.
    name: Option<String>,
    socket: OwnedFd,
}

impl Inherited {
    /// Takes every listening stream socket the process was started with, and keeps it from
    /// being handed on by accident. Names come from the environment if it is about this
    /// process.
    ///
    /// What this process has opened itself is left alone: it is closed by exec(2), and so can
    /// not have been handed over.
    #[must_use]
    pub fn take() -> Self {
        let names = names();
        let take = |number| {
            let index = usize::try_from(number - FIRST).unwrap_or(usize::MAX);
            Some(Handed { number, name: names.get(index).cloned(), socket: claim(number)? })
        };
        Self((FIRST..MOST).filter_map(take).collect())
    }

    /// Takes what was handed over for an address: by number, by name, or because it
    /// listens there. All of them, if there are several.
    pub(super) fn claim(&mut self, address: &ListenAddress) -> Vec<OwnedFd> {
        let fits = |handed: &mut Handed| match address {
            ListenAddress::Descriptor(number) => handed.number == *number,
            ListenAddress::Systemd(name) => handed.name.as_ref() == Some(name),
            ListenAddress::Tcp(address) => local_address(&handed.socket) == Some(*address),
            // They do not listen, and nobody hands them over.
            ListenAddress::Udp(_) => false,
            ListenAddress::Unix(path) => SockRef::from(&handed.socket)
                .local_addr()
                .is_ok_and(|local| local.as_pathname() == Some(path)),
        };
        self.0.extract_if(.., fits).map(|handed| handed.socket).collect()
    }

    /// What nobody wanted, as numbers; closed by dropping this.
    pub fn unclaimed(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().map(|handed| handed.number)
    }
}

/// The address an IP socket listens on.
pub(super) fn local_address(socket: &OwnedFd) -> Option<SocketAddr> {
    SockRef::from(socket).local_addr().ok()?.as_socket()
}

/// The names of the descriptors from [`FIRST`] on.
fn names() -> Vec<String> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    names.split(':').take(count).map(str::to_owned).collect()
}

/// Owns a descriptor if it is a stream socket that listens.
fn claim(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: borrowed for system calls that fail with EBADF if it is not open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = FdFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFD).ok()?);
    if flags.contains(FdFlag::FD_CLOEXEC) {
        // It can not have come through exec(2): somebody here has opened it.
        return None;
    }
    let socket = SockRef::from(&descriptor);
    let listens = socket.is_listener().ok()? && socket.r#type().ok()? == Type::STREAM;
    if !listens {
        return None;
    }
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    socket.set_nonblocking(true).ok()?;
    // SAFETY: it is open, and came through exec(2): whatever this process opens is closed
    // there, and `take` gives each one away once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets a descriptor live through exec(2), for the agent that comes after this one.
///
/// # Errors
/// If the system refuses.
pub(super) fn hand_on(socket: &OwnedFd) -> nix::Result<RawFd> {
    fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(socket.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::IntoRawFd};

    use super::*;

    #[test]
    fn only_listening_stream_sockets_are_claimed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = tempfile::tempfile().unwrap();
        for other in [client.as_raw_fd(), datagrams.as_raw_fd(), file.as_raw_fd(), 100_000] {
            assert!(claim(other).is_none());
        }
        let number = listener.into_raw_fd();
        assert!(claim(number).is_none(), "it was opened here");
        // SAFETY: open and of this test alone.
        fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_SETFD(FdFlag::empty()))
            .unwrap();
        let socket = claim(number).unwrap();
        assert_eq!(socket.as_raw_fd(), number);
        assert_eq!(local_address(&socket), Some(address));
    }

    fn handed(name: Option<&str>) -> (Handed, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = OwnedFd::from(listener);
        let name = name.map(str::to_owned);
        (Handed { number: socket.as_raw_fd(), name, socket }, address)
    }

    #[test]
    fn sockets_are_claimed_by_number_name_and_address_and_only_once() {
        let (a, _) = handed(None);
        let (b, _) = handed(Some("web"));
        let (c, address) = handed(None);
        let number = a.number;
        let mut inherited = Inherited(vec![a, b, c]);
        let mut check = |address: ListenAddress, expected: [usize; 2]| {
            let first = inherited.claim(&address).len();
            assert_eq!([first, inherited.claim(&address).len()], expected, "{address}");
        };
        check(ListenAddress::Descriptor(number), [1, 0]);
        check(ListenAddress::Systemd("api".into()), [0, 0]);
        check(ListenAddress::Systemd("web".into()), [1, 0]);
        check(ListenAddress::Tcp(address), [1, 0]);
        assert_eq!(inherited.unclaimed().count(), 0);
    }
}
