//! The task that keeps the next hop of every server known, so that the hot path never
//! meets an unresolved one.
//!
//! Level-triggered: on a kernel event that may matter, and every few seconds in any case,
//! it reads links, neighbours and routes anew, publishes what follows, and has the kernel
//! ask after neighbours that are unknown, failed or stale. Events only say that it is time
//! to look, so a lost one (ENOBUFS, netlink(7)) costs nothing but another look.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    error::NetworkError,
    links::{self, Link},
    neighbours::{self, Entry, LastKnown, Place},
    pacing::{Attempts, Debounce},
    routes,
};
use crate::model::next_hop::NextHop;

/// What may change a next hop.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    // The source address towards a server.
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
];

/// Time between two looks if nothing happens.
const IDLE_LOOK: Duration = Duration::from_secs(5);

/// Longest time one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before broken netlink sockets are opened again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Keeps the next hops of servers known.
#[derive(Debug)]
pub struct NeighbourWatch {
    sockets: Sockets,
    state: State,
}

impl NeighbourWatch {
    /// Opens the netlink sockets in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetworkError::Socket`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open() -> Result<Self, NetworkError> {
        Ok(Self { sockets: Sockets::open()?, state: State::default() })
    }

    /// Publishes the next hop of each of `servers` whose next hop is known, after each
    /// change. Ends when cancelled, when the sender of `servers` is gone, or when nobody
    /// listens to `updates`. Broken sockets are opened again, in the namespace of the
    /// thread that happens to run this: a process must not spread over namespaces.
    ///
    /// # Cancel safety
    /// Dropping the future closes the sockets.
    pub async fn run(
        mut self,
        mut servers: watch::Receiver<BTreeSet<IpAddr>>,
        updates: watch::Sender<BTreeMap<IpAddr, NextHop>>,
        cancel: CancellationToken,
    ) {
        let watch = async {
            while self.serve(&mut servers, &updates).await == Stopped::SocketsBroken {
                self.sockets = reopen().await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = updates.closed() => {}
            () = watch => {}
        }
    }

    async fn serve(
        &mut self,
        servers: &mut watch::Receiver<BTreeSet<IpAddr>>,
        updates: &watch::Sender<BTreeMap<IpAddr, NextHop>>,
    ) -> Stopped {
        let mut debounce = Debounce::default();
        loop {
            let wanted = servers.borrow_and_update().clone();
            debounce.clear();
            let look = timeout(LOOK_TIMEOUT, self.state.look(&self.sockets.handle, &wanted)).await;
            if self.sockets.broken() {
                return Stopped::SocketsBroken;
            }
            match look {
                Ok(Ok(next_hops)) => publish(updates, next_hops),
                Ok(Err(error)) => tracing::warn!(%error, "can not read the next hops of servers"),
                Err(_elapsed) => return Stopped::SocketsBroken,
            }
            let idle = Instant::now() + IDLE_LOOK;
            loop {
                let due = [debounce.due(), self.state.attempts.next()];
                let due = due.into_iter().flatten().fold(idle, Instant::min);
                tokio::select! {
                    () = sleep_until(due.into()) => break,
                    changed = servers.changed() => match changed {
                        Ok(()) => break,
                        Err(_closed) => return Stopped::NoServers,
                    },
                    event = self.sockets.events.next() => match event {
                        Some(message) if self.state.concerned_by(&message.payload) => {
                            debounce.note(Instant::now());
                        }
                        Some(_other) => {}
                        None => return Stopped::SocketsBroken,
                    },
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    NoServers,
    SocketsBroken,
}

fn publish(updates: &watch::Sender<BTreeMap<IpAddr, NextHop>>, next: BTreeMap<IpAddr, NextHop>) {
    updates.send_if_modified(|current| {
        let changed = *current != next;
        *current = next;
        changed
    });
}

/// Two sockets: one for events, whose buffer may overrun, and one for requests, whose
/// answers must not get lost with them.
struct Sockets {
    handle: Handle,
    events: Pin<Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send>>,
    /// The two connections. Neither ends unless its socket breaks.
    connections: JoinSet<()>,
    /// Keeps the connection of the events going.
    _events_handle: Handle,
}

impl Sockets {
    fn open() -> Result<Self, NetworkError> {
        let (requests, handle, _unsolicited) =
            rtnetlink::new_connection().map_err(NetworkError::Socket)?;
        let (notifications, events_handle, events) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(NetworkError::Socket)?;
        let mut connections = JoinSet::new();
        connections.spawn(requests);
        connections.spawn(notifications);
        let events = Box::pin(events.map(|(message, _sender)| message));
        Ok(Self { handle, events, connections, _events_handle: events_handle })
    }

    fn broken(&mut self) -> bool {
        self.connections.try_join_next().is_some()
    }
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockets").finish_non_exhaustive()
    }
}

async fn reopen() -> Sockets {
    loop {
        sleep(REOPEN_PAUSE).await;
        match Sockets::open() {
            Ok(sockets) => return sockets,
            Err(error) => tracing::warn!(%error, "can not watch neighbours"),
        }
    }
}

/// What is remembered from look to look.
#[derive(Debug, Default)]
struct State {
    known: LastKnown,
    attempts: Attempts,
    /// The places next hops are at, by server.
    places: BTreeMap<IpAddr, Place>,
    /// Why servers have no next hop, as last logged.
    faults: BTreeMap<IpAddr, String>,
}

impl State {
    /// Reads everything anew and provokes what is due.
    async fn look(
        &mut self,
        handle: &Handle,
        servers: &BTreeSet<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, NextHop>, NetworkError> {
        let links = links::links(handle).await?;
        let table = neighbours::table(handle).await?;
        let mut next_hops = BTreeMap::new();
        let mut needs = BTreeMap::new();
        self.places.clear();
        for &server in servers {
            let (route, link) = match way(handle, &links, server).await {
                Ok(way) => way,
                Err(error) => {
                    self.fault(server, error.to_string());
                    continue;
                }
            };
            let place = (route.ifindex, route.next_hop());
            self.places.insert(server, place);
            let entry = table.get(&place).copied();
            let (mac, need) = self.known.settle(place, entry);
            if let Some(need) = need {
                needs.insert(place, need);
            }
            match mac {
                Some(mac) => {
                    next_hops.insert(server, neighbours::next_hop(&route, link, mac));
                    self.well(server);
                }
                None if entry == Some(Entry::Failed) => {
                    let hop = route.next_hop();
                    self.fault(server, format!("{hop} on {} does not answer", link.name));
                }
                // The kernel is asking, or is about to.
                None => {}
            }
        }
        self.known.retain(|place| self.places.values().any(|used| used == place));
        self.faults.retain(|server, _| servers.contains(server));
        for place in self.attempts.take_due(&needs, Instant::now()) {
            if let Err(error) = neighbours::provoke(handle, place).await {
                let reason = std::error::Error::source(&error).map(ToString::to_string);
                tracing::debug!(%error, reason, "a neighbour can not be asked after");
            }
        }
        Ok(next_hops)
    }

    /// Whether an event may change what was published.
    fn concerned_by(&self, payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
        use RouteNetlinkMessage::{DelNeighbour, NewNeighbour};
        match payload {
            NetlinkPayload::InnerMessage(NewNeighbour(message) | DelNeighbour(message)) => {
                neighbours::place(message)
                    .is_some_and(|place| self.places.values().any(|used| *used == place))
            }
            // Links, routes and addresses; and an overrun, after which anything may be.
            _ => true,
        }
    }

    fn fault(&mut self, server: IpAddr, reason: String) {
        if self.faults.get(&server) != Some(&reason) {
            tracing::warn!(%server, reason, "the server has no next hop");
            self.faults.insert(server, reason);
        }
    }

    fn well(&mut self, server: IpAddr) {
        if self.faults.remove(&server).is_some() {
            tracing::info!(%server, "the server has a next hop again");
        }
    }
}

async fn way<'a>(
    handle: &Handle,
    links: &'a BTreeMap<u32, Link>,
    server: IpAddr,
) -> Result<(routes::Route, &'a Link), NetworkError> {
    let route = routes::route_to(handle, server).await?;
    let link = links
        .get(&route.ifindex)
        .ok_or_else(|| NetworkError::NotEthernet { name: format!("#{}", route.ifindex) })?;
    Ok((route, link))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{
        link::LinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
        route::RouteMessage,
    };

    use super::*;

    fn about(ifindex: u32, address: [u8; 4]) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = ifindex;
        let destination = NeighbourAddress::Inet(address.into());
        message.attributes.push(NeighbourAttribute::Destination(destination));
        message
    }

    #[track_caller]
    fn check(payload: &NetlinkPayload<RouteNetlinkMessage>, expected: bool) {
        let places = BTreeMap::from([([10, 0, 9, 9].into(), (2, [10, 0, 0, 1].into()))]);
        let state = State { places, ..State::default() };
        assert_eq!(state.concerned_by(payload), expected, "{payload:?}");
    }

    #[test]
    fn only_neighbours_on_the_way_to_servers_matter() {
        use RouteNetlinkMessage::{DelNeighbour, NewNeighbour};
        let inner = NetlinkPayload::InnerMessage;
        check(&inner(NewNeighbour(about(2, [10, 0, 0, 1]))), true);
        check(&inner(DelNeighbour(about(2, [10, 0, 0, 1]))), true);
        check(&inner(NewNeighbour(about(3, [10, 0, 0, 1]))), false);
        check(&inner(NewNeighbour(about(2, [10, 0, 9, 9]))), false);
    }

    #[test]
    fn links_routes_and_overruns_lead_to_another_look() {
        let inner = NetlinkPayload::InnerMessage;
        check(&inner(RouteNetlinkMessage::NewLink(LinkMessage::default())), true);
        check(&inner(RouteNetlinkMessage::DelRoute(RouteMessage::default())), true);
        check(&NetlinkPayload::Overrun(Vec::new()), true);
    }
}
