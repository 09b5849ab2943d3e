//! The kernel's network configuration, over netlink (rtnetlink(7)): interfaces, routes,
//! neighbours, and the VIP addresses that the agent puts on an interface.
//!
//! Everything here speaks of the network namespace of the thread that opened the
//! connection. It must not know the data plane: it reports next hops, others store them.

pub mod addresses;
pub mod announce;
pub mod device;
pub mod error;
pub mod links;
pub mod neighbour_watch;
pub mod neighbours;
mod pacing;
pub mod reach;
pub mod routes;

pub use crate::model::next_hop::NextHop;
pub use addresses::{Changes, reconcile_addresses};
pub use announce::Announcer;
pub use device::{Device, device};
pub use error::NetworkError;
pub use links::{Link, link_by_name};
pub use neighbour_watch::NeighbourWatch;
pub use reach::{Reach, reach};
pub use routes::{Route, route_to};
pub use rtnetlink::Handle;

/// Opens a netlink connection in the network namespace of the calling thread. A task on
/// the current runtime moves its messages until the last clone of the handle is dropped.
///
/// # Errors
/// [`NetworkError::Socket`] if the kernel gives no socket.
///
/// # Panics
/// Outside a tokio runtime.
pub fn open() -> Result<Handle, NetworkError> {
    let (connection, handle, _unsolicited) =
        rtnetlink::new_connection().map_err(NetworkError::Socket)?;
    tokio::spawn(connection);
    Ok(handle)
}
