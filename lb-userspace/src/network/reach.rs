//! Whether packets would reach a server now: its route and the neighbour table, looked at
//! and left alone.

use std::net::IpAddr;

use rtnetlink::Handle;

use super::{
    error::NetworkError,
    neighbours::{self, Entry},
    routes::route_to,
};

/// What is known of the next hop to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Its Ethernet address.
    Known,
    /// Nothing: nobody asked for it yet, or the kernel is asking.
    Unresolved(IpAddr),
    /// It did not answer.
    Failed(IpAddr),
}

/// What is known of the way to `server`.
///
/// # Errors
/// If there is none ([`route_to`]), or the kernel does not say.
pub async fn reach(handle: &Handle, server: IpAddr) -> Result<Reach, NetworkError> {
    let route = route_to(handle, server).await?;
    let hop = route.next_hop();
    let table = neighbours::table(handle).await?;
    Ok(match table.get(&(route.ifindex, hop)) {
        Some(Entry::Fresh(_) | Entry::Stale(_)) => Reach::Known,
        Some(Entry::Asking) | None => Reach::Unresolved(hop),
        Some(Entry::Failed) => Reach::Failed(hop),
    })
}
