//! What the neighbour table says about next hops (RFC 826, RFC 4861 section 7.3.2;
//! `net/core/neighbour.c`). Pure but for the two requests at the end.

use std::{collections::BTreeMap, net::IpAddr};

use futures_util::TryStreamExt;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::Handle;

use super::{error::NetworkError, links::Link, routes::Route};
use crate::model::next_hop::NextHop;

/// A place in the neighbour table: interface index and address.
pub(super) type Place = (u32, IpAddr);

/// What the neighbour table holds at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Known and confirmed, static, or just being confirmed by the kernel.
    Fresh([u8; 6]),
    /// Known, not confirmed of late.
    Stale([u8; 6]),
    /// The kernel is asking.
    Asking,
    /// It did not answer.
    Failed,
}

/// What is to be done about a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Have the kernel confirm what it knows.
    Confirm,
    /// Have the kernel ask, or let it go on asking.
    Resolve,
}

/// Ethernet addresses last known of places in use. An entry that disappears (garbage
/// collection, a flush, a link that flaps) was not proved wrong: its address is kept until
/// the kernel says that the neighbour does not answer.
#[derive(Debug, Default)]
pub(super) struct LastKnown(BTreeMap<Place, [u8; 6]>);

impl LastKnown {
    /// Takes the present entry of a place into account; returns the address to use and
    /// what is to be done.
    pub(super) fn settle(
        &mut self,
        place: Place,
        entry: Option<Entry>,
    ) -> (Option<[u8; 6]>, Option<Need>) {
        let need = match entry {
            Some(Entry::Fresh(mac)) => {
                self.0.insert(place, mac);
                None
            }
            Some(Entry::Stale(mac)) => {
                self.0.insert(place, mac);
                Some(Need::Confirm)
            }
            Some(Entry::Failed) => {
                self.0.remove(&place);
                Some(Need::Resolve)
            }
            Some(Entry::Asking) | None => Some(Need::Resolve),
        };
        (self.0.get(&place).copied(), need)
    }

    /// Forgets places that are not in use.
    pub(super) fn retain(&mut self, used: impl Fn(&Place) -> bool) {
        self.0.retain(|place, _| used(place));
    }
}

/// The next hop by a route, out of a link, to a neighbour.
pub(super) fn next_hop(route: &Route, link: &Link, neighbour: [u8; 6]) -> NextHop {
    NextHop {
        ifindex: route.ifindex,
        own: link.mac,
        neighbour,
        source: route.source,
        mtu: match u16::try_from(link.mtu) {
            Ok(0) | Err(_) => u16::MAX,
            Ok(mtu) => mtu,
        },
        routed: route.gateway.is_some(),
    }
}

/// The place a message speaks of; none if it is not about an IP neighbour.
pub(super) fn place(message: &NeighbourMessage) -> Option<Place> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
            Some((message.header.ifindex, IpAddr::from(*address)))
        }
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
            Some((message.header.ifindex, IpAddr::from(*address)))
        }
        _ => None,
    })
}

/// What a message says of its place. An address is believed in the states that RFC 4861
/// section 7.3.2 sends packets in.
fn entry(message: &NeighbourMessage) -> Entry {
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    match (message.header.state, mac) {
        (NeighbourState::Failed, _) => Entry::Failed,
        (NeighbourState::Stale, Some(mac)) => Entry::Stale(mac),
        (
            NeighbourState::Reachable
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp,
            Some(mac),
        ) => Entry::Fresh(mac),
        (NeighbourState::None, _) => Entry::Failed,
        _ => Entry::Asking,
    }
}

/// The whole neighbour table.
pub(super) async fn table(handle: &Handle) -> Result<BTreeMap<Place, Entry>, NetworkError> {
    let messages: Result<Vec<NeighbourMessage>, _> =
        handle.neighbours().get().execute().try_collect().await;
    let messages = messages.map_err(|error| NetworkError::refused("list neighbours", error))?;
    Ok(messages.iter().filter_map(|message| Some((place(message)?, entry(message)))).collect())
}

/// Has the kernel ask or confirm, as if a packet were sent there (`NTF_USE`). Not to be
/// used on a permanent entry: the kernel would take its permanence away.
pub(super) async fn provoke(
    handle: &Handle,
    (ifindex, address): Place,
) -> Result<(), NetworkError> {
    handle
        .neighbours()
        .add(ifindex, address)
        .replace()
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .execute()
        .await
        .map_err(|error| NetworkError::refused(format!("resolve neighbour {address}"), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 10];

    fn here() -> Place {
        (2, "10.0.1.20".parse().unwrap())
    }

    fn message(state: NeighbourState, mac: Option<&[u8]>) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 2;
        message.header.state = state;
        let destination = NeighbourAddress::Inet("10.0.1.20".parse().unwrap());
        message.attributes.push(NeighbourAttribute::Destination(destination));
        if let Some(bytes) = mac {
            message.attributes.push(NeighbourAttribute::LinkLayerAddress(bytes.to_vec()));
        }
        message
    }

    #[track_caller]
    fn check(state: NeighbourState, expected: Entry) {
        assert_eq!(entry(&message(state, Some(&MAC))), expected, "{state}");
    }

    #[test]
    fn states_mean_what_the_kernel_means() {
        check(NeighbourState::Reachable, Entry::Fresh(MAC));
        check(NeighbourState::Delay, Entry::Fresh(MAC));
        check(NeighbourState::Probe, Entry::Fresh(MAC));
        check(NeighbourState::Permanent, Entry::Fresh(MAC));
        check(NeighbourState::Noarp, Entry::Fresh(MAC));
        check(NeighbourState::Stale, Entry::Stale(MAC));
        check(NeighbourState::Failed, Entry::Failed);
        check(NeighbourState::Incomplete, Entry::Asking);
        check(NeighbourState::None, Entry::Failed);
        check(NeighbourState::Other(0x1234), Entry::Asking);
        let short = message(NeighbourState::Reachable, Some(&[1, 2, 3, 4]));
        assert_eq!(entry(&short), Entry::Asking, "an address of another length is none");
        assert_eq!(entry(&message(NeighbourState::Stale, None)), Entry::Asking);
    }

    #[test]
    fn a_proxied_address_is_no_neighbour() {
        let mut message = message(NeighbourState::Permanent, Some(&MAC));
        assert_eq!(place(&message), Some(here()));
        message.header.flags = NeighbourFlags::Proxy;
        assert_eq!(place(&message), None);
    }

    #[test]
    fn a_vanished_entry_keeps_its_address_until_it_fails() {
        let mut known = LastKnown::default();
        let resolve = Some(Need::Resolve);
        assert_eq!(known.settle(here(), None), (None, resolve));
        assert_eq!(known.settle(here(), Some(Entry::Asking)), (None, resolve));
        assert_eq!(known.settle(here(), Some(Entry::Fresh(MAC))), (Some(MAC), None));
        assert_eq!(known.settle(here(), None), (Some(MAC), resolve));
        assert_eq!(known.settle(here(), Some(Entry::Asking)), (Some(MAC), resolve));
        assert_eq!(known.settle(here(), Some(Entry::Failed)), (None, resolve));
        assert_eq!(known.settle(here(), Some(Entry::Asking)), (None, resolve));
    }

    #[test]
    fn a_stale_entry_is_used_and_confirmed() {
        let mut known = LastKnown::default();
        let stale = known.settle(here(), Some(Entry::Stale(MAC)));
        assert_eq!(stale, (Some(MAC), Some(Need::Confirm)));
        assert_eq!(known.settle(here(), Some(Entry::Fresh(OTHER))), (Some(OTHER), None));
        known.retain(|_| false);
        assert_eq!(known.settle(here(), None).0, None);
    }
}
