//! Clients: drivers that talk to embedded servers through whatever is under test and count
//! what happened. Every one is bounded in number and time, and none retries: a failure is
//! typed ([`Failure`]) and counted ([`Tally`]).
//!
//! They use the network of the calling thread: run them in
//! [`Namespace::run`](crate::namespace::Namespace::run).

mod bulk;
mod echo;
mod failure;
mod flood;
mod http;
mod tally;
mod tcp;
mod traffic;
mod udp;

use std::time::Duration;

pub use self::{
    bulk::{Transfer, download, download_half_closed, upload},
    echo::{allow_echo, echo},
    failure::{Failure, FailureKind},
    flood::Flood,
    http::{HttpAnswer, get},
    tally::Tally,
    tcp::{Conversation, ask, connect_from, short_connections},
    traffic::{Kind, Record, Traffic},
    udp::{UdpConversation, ask_udp, udp_exchanges},
};

/// How long one step of a client (connect, one answer) may take. Far beyond anything a
/// working bed needs, and above one TCP retransmission (1 s), so that a lost SYN shows up
/// as slowness in the figures and a dead path as [`FailureKind::TimedOut`].
pub const PATIENCE: Duration = Duration::from_secs(3);
