//! How a flow begins: whether its client may have one, room, a server, and a socket.

use std::{io, net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Instant};

use lb_common::{counters::TrafficCounters, drop_reason::DropReason, event::cause};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    flow::{Carried, Flow},
    plan::Site,
    room::Stay,
    table::{Id, Key, Queue},
    worker::{Engine, Host, Origin},
};
use crate::{
    balance::{Lease, Outcome, PickError, PickFacts, Picked, key},
    model::{frontend::ConnectionLimits, snapshot},
    proxy::{limits::TooMany, tcp::reach::Counted},
};

impl Engine {
    /// Makes a flow for the client of `key`.
    pub(super) fn open(
        &mut self,
        key: Key,
        site: &Arc<Site>,
        host: &Host<'_>,
    ) -> Result<Id, DropReason> {
        // Rules that change meanwhile judge it again.
        let judged = site.gate.generation();
        site.gate.admit(key.client.ip())?;
        let lease = choose(site, key.client)?;
        // The room bounds them in all.
        let limits = ConnectionLimits { total: u32::MAX, per_source: site.gate.per_source() };
        let reason = |error| match error {
            TooMany::InAll(_) => DropReason::FlowTableFull,
            TooMany::OfSource(_) => DropReason::FlowsPerSource,
        };
        let mut admission = site.connections.admit(&limits).map_err(reason)?;
        admission.attribute(Some(key.client.ip()), &limits).map_err(reason)?;
        // Nobody gives way to a flow that is refused.
        let stay = self.make_room(host)?;
        let address = lease.server().address();
        let server = address.socket().ok_or(DropReason::NoServer)?;
        // Somebody else's socket can give way once.
        let mut connected = connect(server);
        if connected.as_ref().is_err_and(is_exhausted) && self.give_way(host) {
            connected = connect(server);
        }
        let socket = connected.map_err(|error| {
            if matches!(reason_of(&error), DropReason::NoNeighbour | DropReason::NoServer) {
                lease.report(Outcome::Failure, Instant::now());
            }
            reason_of(&error)
        })?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Origin::Flow(self.table.next()).into());
        self.epoll.add(&socket, event).map_err(|_| DropReason::FlowTableFull)?;
        let backend = &site.backend;
        let flow = Flow {
            socket,
            site: Arc::clone(site),
            ending: backend.endings.of(address),
            traffic: host.ledger.server((backend.name.clone(), address)),
            lease,
            judged,
            stay,
            _admission: admission,
            _counted: Counted::new(&backend.sessions),
            created_ns: host.now_ns,
            carried: Carried::default(),
        };
        flow.count(host.teller, &TrafficCounters { flows: 1, ..TrafficCounters::default() });
        Ok(self.table.insert(key, flow, host.now_ns))
    }

    /// A place among all flows. If there is none, the flow of this worker that was never
    /// answered and is silent for longest gives way, as in the data plane.
    fn make_room(&mut self, host: &Host<'_>) -> Result<Stay, DropReason> {
        if self.room.is_full_of_unreplied(&self.most) && !self.give_way(host) {
            return Err(DropReason::HalfOpenTableFull);
        }
        if let Some(stay) = self.room.enter(&self.most) {
            return Ok(stay);
        }
        self.give_way(host);
        self.room.enter(&self.most).ok_or(DropReason::FlowTableFull)
    }

    /// Ends the oldest flow that was never answered; whether there was one.
    fn give_way(&mut self, host: &Host<'_>) -> bool {
        match self.table.oldest(Queue::Unreplied) {
            Some((id, _)) => {
                self.end(id, cause::RECYCLED, host);
                true
            }
            None => false,
        }
    }
}

/// A place at a server. Nobody waits for one: a datagram is sent again by whoever needs it.
fn choose(site: &Site, client: SocketAddr) -> Result<Lease, DropReason> {
    let backend = &site.backend;
    let balancing = backend.pool.balancing();
    let facts = PickFacts {
        hash: backend.hash_of(&balancing, client, site.vip.address, snapshot::Protocol::Udp),
        random: fastrand::u64(..),
        client: Some(key::of_source(client.ip())),
        is_firm: backend.refuses_when_full,
        ..PickFacts::default()
    };
    match backend.pool.pick(&facts) {
        Ok(Picked::Server(lease)) => Ok(lease),
        Ok(Picked::Queued(_)) | Err(PickError::QueueFull { .. }) => Err(DropReason::ServerFull),
        Err(PickError::NoServer | PickError::OwnServer) => Err(DropReason::NoServer),
    }
}

/// A socket that the server, and nobody else, can answer.
fn connect(server: SocketAddr) -> io::Result<OwnedFd> {
    let domain = Domain::for_address(server);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.connect(&server.into())?;
    Ok(socket.into())
}

/// Whether descriptors, memory or ports have run out.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(reason_of(error), DropReason::FlowTableFull | DropReason::PortsExhausted)
}

/// Why a datagram could not be sent to a server.
pub(super) fn reason_of(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            DropReason::FlowTableFull
        }
        Some(libc::EADDRNOTAVAIL | libc::EAGAIN | libc::EADDRINUSE) => DropReason::PortsExhausted,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EPERM) => {
            DropReason::NoNeighbour
        }
        Some(libc::EMSGSIZE) => DropReason::TooBig,
        _ => DropReason::NoServer,
    }
}
