//! Ports for who is told where to listen, or where nobody does.
#![allow(unreachable_pub, reason = "suites of two crates have this file")]

use std::{
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the ports that the kernel gives to clients, and to servers that ask for any
/// (`net.ipv4.ip_local_port_range`).
const FIRST: u16 = 10_000;
const PORTS: u16 = 20_000;

/// A port that nobody has, of TCP and of UDP. It stays free until it is used: the kernel gives
/// it to nobody, and neither does this process; others begin elsewhere.
///
/// # Panics
/// When there is none.
pub fn free(host: IpAddr) -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Knuth's multiplier: processes of adjacent ids are far from each other.
    let first = process::id().wrapping_mul(0x9e37_79b1) >> 16;
    let mut addresses = (0..PORTS).map(|_| {
        let turn = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let place = u16::try_from((first + turn) % u32::from(PORTS)).unwrap_or(0);
        SocketAddr::new(host, FIRST + place)
    });
    let is_free = |address: &SocketAddr| {
        UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok()
    };
    addresses.find(is_free).expect("some port is free")
}
