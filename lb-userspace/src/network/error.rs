//! What can go wrong with netlink.

use std::{io, net::IpAddr};

use netlink_packet_route::route::RouteType;

/// What can go wrong with netlink.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No netlink socket.
    #[error("can not open a netlink socket")]
    Socket(#[source] io::Error),
    /// The interface does not exist.
    #[error("there is no interface {name}; there are {}", existing.join(", "))]
    NoLink {
        /// The name asked for.
        name: String,
        /// The names of all interfaces of this network namespace.
        existing: Vec<String>,
    },
    /// The interface has no Ethernet address.
    #[error("interface {name} is not an Ethernet interface")]
    NotEthernet {
        /// The interface.
        name: String,
    },
    /// The routing table has no way to the address.
    #[error("there is no route to {destination}")]
    NoRoute {
        /// Where to.
        destination: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The address is one of this host.
    #[error("{destination} is an address of this host; servers must be on other hosts")]
    Local {
        /// Where to.
        destination: IpAddr,
    },
    /// The route leads nowhere, or to more than one host.
    #[error("the route to {destination} is of type {kind:?}, not unicast")]
    NotUnicast {
        /// Where to.
        destination: IpAddr,
        /// The type of the route.
        kind: RouteType,
    },
    /// The kernel's answer lacks something.
    #[error("the kernel's answer about {subject} has no {missing}")]
    Incomplete {
        /// What was asked for.
        subject: String,
        /// What is missing.
        missing: &'static str,
    },
    /// The kernel refused a request.
    #[error("can not {request}")]
    Refused {
        /// What was requested: `list interfaces`.
        request: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl NetworkError {
    pub(super) fn refused(request: impl Into<String>, error: rtnetlink::Error) -> Self {
        Self::Refused { request: request.into(), source: to_io(error) }
    }
}

/// The kernel's error number where there is one.
pub(super) fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
