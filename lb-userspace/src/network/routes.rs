//! Which way packets to an address leave (`RTM_GETROUTE`).

use std::{io, net::IpAddr};

use futures_util::TryStreamExt;
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};
use rtnetlink::Handle;

use super::error::{NetworkError, to_io};

/// The way to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpAddr,
    /// Index of the interface that packets leave by.
    pub ifindex: u32,
    /// The router on the way; none if the destination is on the link. It may be of the
    /// other family (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would choose: the SNAT address.
    pub source: IpAddr,
}

impl Route {
    /// The address whose Ethernet address packets are sent to.
    #[must_use]
    pub fn next_hop(&self) -> IpAddr {
        self.gateway.unwrap_or(self.destination)
    }
}

/// Asks the kernel for the way to `destination`. Of several equal ways it picks one.
///
/// # Errors
/// [`NetworkError::NoRoute`], [`NetworkError::Local`] and [`NetworkError::NotUnicast`] if
/// packets could not reach a server there; [`NetworkError::Incomplete`].
pub async fn route_to(handle: &Handle, destination: IpAddr) -> Result<Route, NetworkError> {
    let no_route = |source| NetworkError::NoRoute { destination, source };
    let mut answers = std::pin::pin!(handle.route().get(question(destination)).execute());
    match answers.try_next().await {
        Ok(Some(message)) => from_message(destination, &message),
        Ok(None) => Err(no_route(io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(no_route(to_io(error))),
    }
}

fn question(destination: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = match destination {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes.push(RouteAttribute::Destination(destination.into()));
    message
}

fn from_message(destination: IpAddr, message: &RouteMessage) -> Result<Route, NetworkError> {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(NetworkError::Local { destination }),
        kind => return Err(NetworkError::NotUnicast { destination, kind }),
    }
    let (mut ifindex, mut gateway, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some((*address).into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
            RouteAttribute::PrefSource(address) => source = ip(address),
            _ => {}
        }
    }
    let incomplete = |missing| NetworkError::Incomplete {
        subject: format!("the route to {destination}"),
        missing,
    };
    Ok(Route {
        destination,
        ifindex: ifindex.ok_or_else(|| incomplete("interface"))?,
        gateway,
        source: source.ok_or_else(|| incomplete("source address"))?,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn answer(kind: RouteType, attributes: Vec<RouteAttribute>) -> Result<Route, NetworkError> {
        let mut message = RouteMessage::default();
        message.header.kind = kind;
        message.attributes = attributes;
        from_message(address("10.0.1.20"), &message)
    }

    fn out() -> Vec<RouteAttribute> {
        vec![RouteAttribute::Oif(4), RouteAttribute::PrefSource(address("10.0.0.1").into())]
    }

    #[test]
    fn the_next_hop_is_the_destination_or_the_gateway() {
        let route = answer(RouteType::Unicast, out()).unwrap();
        assert_eq!((route.ifindex, route.source), (4, address("10.0.0.1")));
        assert_eq!(route.next_hop(), address("10.0.1.20"));

        let gateway = RouteAttribute::Gateway(address("10.0.0.254").into());
        let route = answer(RouteType::Unicast, [out(), vec![gateway]].concat()).unwrap();
        assert_eq!(route.next_hop(), address("10.0.0.254"));

        let via = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        let route = answer(RouteType::Unicast, [out(), vec![via]].concat()).unwrap();
        assert_eq!(route.next_hop(), address("fe80::1"));
    }

    #[test]
    fn a_route_that_reaches_no_other_host_is_refused() {
        let text = |kind| answer(kind, out()).unwrap_err().to_string();
        assert!(text(RouteType::Local).starts_with("10.0.1.20 is an address of this host"));
        let blackhole = "the route to 10.0.1.20 is of type BlackHole, not unicast";
        assert_eq!(text(RouteType::BlackHole), blackhole);
    }

    #[test]
    fn an_incomplete_answer_says_what_is_missing() {
        let error = answer(RouteType::Unicast, vec![RouteAttribute::Oif(4)]).unwrap_err();
        let expected = "the kernel's answer about the route to 10.0.1.20 has no source address";
        assert_eq!(error.to_string(), expected);
    }
}
