//! Which sockets are open. Sockets that two configurations share stay open between them:
//! nobody who connects meanwhile is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd, RawFd},
};

use super::{
    ListenError,
    accept::Listener,
    inherited::{self, Inherited},
    open,
    unix::{self, SocketFile},
};
use crate::model::frontend::{Listen, ListenAddress};

/// What makes a socket: two places to listen are the same if these are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketKey {
    /// Where.
    pub address: ListenAddress,
    /// An IPv6 socket does not take IPv4; of no meaning elsewhere.
    pub is_v6only: bool,
    /// Permission bits of a unix socket; of no meaning elsewhere.
    pub mode: u32,
}

impl SocketKey {
    /// What makes the socket of a place to listen.
    #[must_use]
    pub fn of(listen: &Listen) -> Self {
        let Listen { address, is_v6only, mode, .. } = listen;
        Self { address: address.clone(), is_v6only: *is_v6only, mode: *mode }
    }
}

/// The open sockets of all frontends.
#[derive(Debug)]
pub struct Keeper {
    workers: usize,
    inherited: Inherited,
    open: BTreeMap<SocketKey, Open>,
}

#[derive(Debug)]
struct Open {
    /// One for each worker, or one for all; not empty.
    sockets: Vec<OwnedFd>,
    _file: Option<SocketFile>,
}

impl Keeper {
    /// No sockets yet; what was inherited is used before anything is opened.
    ///
    /// `workers` is at least 1.
    #[must_use]
    pub fn new(workers: usize, inherited: Inherited) -> Self {
        Self { workers, inherited, open: BTreeMap::new() }
    }

    /// Opens what is wanted and not open, then closes what is open and not wanted.
    ///
    /// # Errors
    /// Everything that can not be opened; then nothing has changed.
    pub fn change(&mut self, wanted: &BTreeSet<SocketKey>) -> Result<(), Vec<ListenError>> {
        let mut new = BTreeMap::new();
        let mut errors = Vec::new();
        for key in wanted.iter().filter(|key| !self.open.contains_key(key)) {
            match open_one(key, self.workers, &mut self.inherited) {
                Ok(open) => {
                    new.insert(key.clone(), open);
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        self.open.retain(|key, _| wanted.contains(key));
        self.open.extend(new);
        Ok(())
    }

    /// A worker's end of an open socket; `worker` counts from 0. To be called within the
    /// worker's runtime.
    ///
    /// # Errors
    /// If the socket is not open, or the system has no descriptor left.
    pub fn listener(&self, key: &SocketKey, worker: usize) -> Result<Listener, ListenError> {
        let address = key.address.clone();
        let Some(open) = self.open.get(key) else {
            return Err(ListenError::NotInherited(address));
        };
        let socket = &open.sockets[worker % open.sockets.len()];
        let own = socket.as_fd().try_clone_to_owned();
        let listener = own.and_then(Listener::new);
        listener.map_err(|source| ListenError::Refused { address, source })
    }

    /// A worker's end of an open socket for datagrams.
    ///
    /// # Errors
    /// As of [`Self::listener`].
    pub fn datagrams(&self, key: &SocketKey, worker: usize) -> Result<OwnedFd, ListenError> {
        let address = key.address.clone();
        let socket = self.open.get(key).map(|open| &open.sockets[worker % open.sockets.len()]);
        let Some(socket) = socket else { return Err(ListenError::NotInherited(address)) };
        let own = socket.as_fd().try_clone_to_owned();
        own.map_err(|source| ListenError::Refused { address, source })
    }

    /// What is open.
    pub fn keys(&self) -> impl Iterator<Item = &SocketKey> {
        self.open.keys()
    }

    /// Lets every socket live through exec(2): the agent that comes after finds them by
    /// their addresses. Returns their numbers.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn hand_on(&self) -> nix::Result<Vec<RawFd>> {
        let sockets = self.open.values().flat_map(|open| &open.sockets);
        sockets.map(inherited::hand_on).collect()
    }
}

fn open_one(
    key: &SocketKey,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<Open, ListenError> {
    let mut sockets = inherited.claim(&key.address);
    match &key.address {
        ListenAddress::Tcp(address) => {
            let refused = |source| ListenError::Refused { address: key.address.clone(), source };
            // One that did not ask for company can not have it: it serves all workers.
            while sockets.len() < workers {
                match open::tcp(*address, key.is_v6only) {
                    Ok(socket) => sockets.push(socket),
                    Err(_) if !sockets.is_empty() => break,
                    Err(error) => return Err(refused(error)),
                }
            }
            Ok(Open { sockets, _file: None })
        }
        ListenAddress::Udp(address) => {
            let refused = |source| ListenError::Refused { address: key.address.clone(), source };
            let sockets = (0..workers).map(|_| open::udp(*address).map_err(refused));
            Ok(Open { sockets: sockets.collect::<Result<_, _>>()?, _file: None })
        }
        ListenAddress::Unix(_) if !sockets.is_empty() => Ok(Open { sockets, _file: None }),
        ListenAddress::Unix(path) => {
            let (socket, file) = unix::open(path, key.mode)?;
            Ok(Open { sockets: vec![socket], _file: Some(file) })
        }
        ListenAddress::Descriptor(_) | ListenAddress::Systemd(_) if sockets.is_empty() => {
            Err(ListenError::NotInherited(key.address.clone()))
        }
        ListenAddress::Descriptor(_) | ListenAddress::Systemd(_) => {
            Ok(Open { sockets, _file: None })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn key(address: ListenAddress) -> SocketKey {
        SocketKey { address, is_v6only: true, mode: 0o600 }
    }

    /// A port that is free now; tests that bind it race with nobody but chance.
    fn free_port(host: &str) -> SocketAddr {
        TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
    }

    async fn serve_one(listener: &Listener) -> Addresses {
        let mut accepted = listener.accept().await.unwrap();
        accepted.socket.write_all(b"!").await.unwrap();
        accepted.addresses
    }

    use crate::proxy::socket::Addresses;

    #[tokio::test]
    async fn workers_share_an_address_and_a_listener_outlives_changes() {
        let [kept, gone, new] = [(); 3].map(|()| ListenAddress::Tcp(free_port("127.0.0.1")));
        let mut keeper = Keeper::new(2, Inherited::default());
        keeper.change(&[key(kept.clone()), key(gone.clone())].into()).unwrap();
        let before: Vec<_> = (0..2).map(|n| keeper.listener(&key(kept.clone()), n)).collect();
        assert!(before.iter().all(Result::is_ok));
        let ListenAddress::Tcp(address) = kept else { unreachable!() };
        // Connected before the change and accepted after it.
        let mut waiting = tokio::net::TcpStream::connect(address).await.unwrap();
        keeper.change(&[key(kept.clone()), key(new)].into()).unwrap();
        let [first, second] = [0, 1].map(|n| keeper.listener(&key(kept.clone()), n).unwrap());
        let addresses = tokio::select! {
            addresses = serve_one(&first) => addresses,
            addresses = serve_one(&second) => addresses,
        };
        assert_eq!(addresses.source, waiting.local_addr().unwrap());
        assert_eq!(addresses.destination, address);
        assert_eq!(waiting.read_u8().await.unwrap(), b'!');
        let ListenAddress::Tcp(gone) = gone else { unreachable!() };
        assert!(TcpStream::connect(gone).is_err(), "nobody listens there any more");
    }

    #[test]
    fn a_change_that_fails_changes_nothing_and_says_everything() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _within = runtime.enter();
        let kept = ListenAddress::Tcp(free_port("127.0.0.1"));
        // Not of ours: it does not share.
        let [a, b] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let taken = [&a, &b].map(|taken| ListenAddress::Tcp(taken.local_addr().unwrap()));
        let mut keeper = Keeper::new(1, Inherited::default());
        keeper.change(&[key(kept.clone())].into()).unwrap();
        let [a, b] = taken;
        let missing = ListenAddress::Descriptor(900);
        let wanted = [key(a), key(b), key(missing)].into();
        assert_eq!(keeper.change(&wanted).unwrap_err().len(), 3);
        assert_eq!(keeper.keys().cloned().collect::<Vec<_>>(), [key(kept.clone())]);
        let ListenAddress::Tcp(address) = kept else { unreachable!() };
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn both_families_can_listen_on_one_port() {
        let v4 = free_port("127.0.0.1");
        let v6 = SocketAddr::new("::1".parse().unwrap(), v4.port());
        let mut keeper = Keeper::new(2, Inherited::default());
        let wanted = [v4, v6].map(|address| key(ListenAddress::Tcp(address)));
        keeper.change(&wanted.into()).unwrap();
        TcpStream::connect(v4).unwrap();
        TcpStream::connect(v6).unwrap();
    }

    #[tokio::test]
    async fn a_dual_stack_socket_names_ipv4_clients_as_ipv4() {
        let port = free_port("0.0.0.0").port();
        let address = SocketAddr::new("::".parse().unwrap(), port);
        let dual = SocketKey { is_v6only: false, ..key(ListenAddress::Tcp(address)) };
        let mut keeper = Keeper::new(1, Inherited::default());
        keeper.change(&[dual.clone()].into()).unwrap();
        let listener = keeper.listener(&dual, 0).unwrap();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let addresses = serve_one(&listener).await;
        assert_eq!(addresses.source, client.local_addr().unwrap());
        assert_eq!(addresses.destination.ip().to_string(), "127.0.0.1");
    }

    #[tokio::test]
    async fn all_workers_share_a_unix_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let key = key(ListenAddress::Unix(path.clone()));
        let mut keeper = Keeper::new(4, Inherited::default());
        keeper.change(&[key.clone()].into()).unwrap();
        let last = keeper.listener(&key, 3).unwrap();
        let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
        assert_eq!(serve_one(&last).await, Addresses::NONE);
        assert_eq!(client.read_u8().await.unwrap(), b'!');
        keeper.change(&BTreeSet::new()).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn handed_on_sockets_live_through_exec() {
        let address = ListenAddress::Tcp(free_port("127.0.0.1"));
        let mut keeper = Keeper::new(2, Inherited::default());
        keeper.change(&[key(address)].into()).unwrap();
        let numbers = keeper.hand_on().unwrap();
        assert_eq!(numbers.len(), 2);
        let script =
            numbers.iter().map(|n| format!("test -S /proc/self/fd/{n}")).collect::<Vec<_>>();
        let status = std::process::Command::new("sh").arg("-c").arg(script.join(" && ")).status();
        assert!(status.unwrap().success());
    }
}
