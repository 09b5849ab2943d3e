//! Checks that travel as their server's traffic does (`check.via: vip`): what the agent says of
//! a check's socket, and what the classifiers of `lb-ebpf/src/bin/checks.rs` remember of it.
//!
//! The socket is connected with the server's own address. On its way out the VIP takes that
//! address's place, and the packet is encapsulated if the traffic is; on its way back the
//! server's address takes the VIP's place again. So the server sees what it sees of a client,
//! and the kernel of the balancer sees a connection with the server, whether or not it has the
//! VIP itself.

use crate::address::{Address6, Be16};

/// What the agent says of a check's socket: `CHECK_PATHS`, by socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckPath {
    /// The server that the socket is connected with; IPv4 in mapped form.
    pub server: Address6,
    /// The VIP that its packets go to, of the server's family; IPv4 in mapped form.
    pub vip: Address6,
    /// How they reach the server: [`Forward::to_raw`](crate::forward::Forward::to_raw).
    pub forward: u8,
    /// Zero.
    pub padding: u8,
    /// The port that `gue` datagrams are sent to, network byte order.
    pub gue_port: Be16,
    /// Zero.
    pub padding2: u32,
}

/// A check's connection as the server's answers have it: key of `CHECK_RETURNS`, whose values
/// are addresses of servers, IPv4 in mapped form.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckReturn {
    /// Source of answers; IPv4 in mapped form.
    pub vip: Address6,
    /// Destination of answers, an address of ours; IPv4 in mapped form.
    pub node: Address6,
    /// Source port of answers, network byte order.
    pub vip_port: Be16,
    /// Destination port of answers, network byte order.
    pub node_port: Be16,
    /// Zero.
    pub padding: u32,
}

/// Names of the maps.
pub mod map {
    /// [`CheckPath`](super::CheckPath) by socket.
    pub const PATHS: &str = "CHECK_PATHS";
    /// Servers by [`CheckReturn`](super::CheckReturn).
    pub const RETURNS: &str = "CHECK_RETURNS";
}

/// Names of the programs.
pub mod program {
    /// Sees packets that leave.
    pub const OUT: &str = "check_out";
    /// Sees packets that arrive.
    pub const BACK: &str = "check_back";
}

/// Connections of checks that are remembered; the longest silent give way.
pub const RETURNS: u32 = 16_384;

/// Largest TCP segment of a check, in bytes, either way: encapsulated it fits the smallest MTU
/// that IPv6 allows. 1280 less 40 and 8 outside, 40 and 20 and 12 of timestamps inside.
pub const SEGMENT: u32 = 1160;

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<CheckPath>() == 40);
    assert!(offset_of!(CheckPath, gue_port) == 34);
    assert!(size_of::<CheckReturn>() == 40);
    assert!(offset_of!(CheckReturn, vip_port) == 32);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::CheckPath {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::CheckReturn {}
}
