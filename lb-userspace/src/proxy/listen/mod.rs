//! Listening sockets: who may connect where.
//!
//! | file | owns |
//! |---|---|
//! | `open` | opening a TCP socket, or one for datagrams |
//! | `unix` | opening a unix socket in place of a stale one |
//! | `inherited` | sockets that were open when the agent started |
//! | `keeper` | which sockets are open, over reloads |
//! | `accept` | a worker's end: accepting connections |
//!
//! A TCP address has a socket for each worker, so that the kernel spreads connections and
//! no worker wakes for another's (`SO_REUSEPORT`, socket(7)). Unix sockets have no such
//! thing, and inherited ones come one at a time: workers share those.

mod accept;
mod inherited;
mod keeper;
mod open;
mod unix;

use std::{io, path::PathBuf};

use crate::model::frontend::ListenAddress;

pub use self::{
    accept::{Accepted, Listener},
    inherited::Inherited,
    keeper::{Keeper, SocketKey},
};

/// Why a socket can not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The operating system refuses.
    #[error("can not listen on {address}")]
    Refused {
        /// Where.
        address: ListenAddress,
        /// Why.
        source: io::Error,
    },
    /// Another process listens on a unix socket.
    #[error("another process listens on {}", .0.display())]
    InUse(PathBuf),
    /// There is a file that is no socket.
    #[error("{} is there already and is no socket; remove it", .0.display())]
    NotSocket(PathBuf),
    /// No listening socket was inherited under this number or name.
    #[error("no listening stream socket was handed over as {0}")]
    NotInherited(ListenAddress),
}
