//! How packets reach a server: what `network` finds out and `reconcile` writes into the maps.

use std::net::IpAddr;

/// How packets to a server leave this host: what a rewritten frame needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface they leave by.
    pub ifindex: u32,
    /// That interface's Ethernet address, in wire order.
    pub own: [u8; 6],
    /// The Ethernet address of the server, or of the router on the way to it, in wire
    /// order.
    pub neighbour: [u8; 6],
    /// The source address towards the server: the SNAT address, of the server's family.
    pub source: IpAddr,
    /// Largest IP packet that the interface takes, in bytes; the most if that is not known.
    pub mtu: u16,
    /// A router is on the way: `neighbour` is not the server.
    pub routed: bool,
}
