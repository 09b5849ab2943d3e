//! VIPs of UDP where there is no data plane: a relay with a flow for each client of a VIP.
//!
//! | file | owns |
//! |---|---|
//! | `plan` | VIPs as workers use them, over reloads |
//! | `worker` | the VIPs and flows of one worker, and its turns |
//! | `relay` | datagrams from clients to servers and back |
//! | `open` | how a flow begins: whether it may, its server, its socket |
//! | `flow` | one flow: what it holds, what it comes to |
//! | `table` | the flows, by client and in order of their silence |
//! | `room` | how many there may be |
//! | `batch` | datagrams by the dozen |
//!
//! Each worker has a socket on every VIP, and the kernel gives the datagrams of one client to
//! the same worker (`SO_REUSEPORT`), so flows are never shared. A flow has a socket of its own,
//! connected to its server: the kernel tells flows apart by its port and lets nobody else
//! answer. Replies leave by the VIP's socket. One task serves everything, with an epoll of its
//! own: a flow is a place in a table, a socket, and no task, timer or buffer.
//!
//! UDP loses what there is no room for. Nothing here waits: what a socket does not take is lost
//! like in any other router, and what comes faster than it is read is lost in the VIP's socket
//! (`UdpRcvbufErrors` and `UdpSndbufErrors` of `nstat`).

mod batch;
mod flow;
mod open;
pub mod plan;
mod relay;
mod room;
mod table;
pub(crate) mod worker;
