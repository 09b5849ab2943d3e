//! Records of the `EVENTS` ring buffer.

use crate::{
    address::{Address6, Be16},
    flow::Handle,
};

/// A finished flow, as the data plane saw it end. Flows that end by time are reported by
/// the agent's sweep in the same form.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEnd {
    /// Creation, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub created_ns: u64,
    /// End, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub ended_ns: u64,
    /// Packets client to server.
    pub forward_packets: u64,
    /// Bytes client to server.
    pub forward_bytes: u64,
    /// Packets server to client.
    pub reply_packets: u64,
    /// Bytes server to client.
    pub reply_bytes: u64,
    /// The client; IPv4 in mapped form.
    pub client: Address6,
    /// The VIP; IPv4 in mapped form.
    pub vip_address: Address6,
    /// The server; IPv4 in mapped form.
    pub server_address: Address6,
    /// The client's port, network byte order.
    pub client_port: Be16,
    /// The VIP's port, network byte order.
    pub vip_port: Be16,
    /// The server's port, network byte order.
    pub server_port: Be16,
    /// The source port towards the server, network byte order.
    pub snat_port: Be16,
    /// The VIP.
    pub vip: Handle,
    /// The server.
    pub server: Handle,
    /// Bits of [`crate::tcp_state::Progress`] at the end; 0 for UDP.
    pub progress: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// [`cause`].
    pub cause: u8,
    /// Zero.
    pub padding: [u8; 2],
}

/// Values of [`FlowEnd::cause`].
pub mod cause {
    /// Both sides sent FIN and the last ACK was seen.
    pub const FIN: u8 = 0;
    /// The client sent a RST.
    pub const CLIENT_RESET: u8 = 1;
    /// The server sent a RST.
    pub const SERVER_RESET: u8 = 2;
    /// The server died; the client was answered with a RST or the flow was rerouted.
    pub const SERVER_DOWN: u8 = 3;
    /// The idle timeout of the flow's state passed.
    pub const TIMEOUT: u8 = 4;
    /// A fresh SYN took over the tuple.
    pub const RECYCLED: u8 = 5;
}

const _: () = assert!(core::mem::size_of::<FlowEnd>() == 120);

// SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FlowEnd {}
