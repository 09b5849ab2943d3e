//! Telling the neighbours of an interface that an address is here now, so that those who
//! remember it at another machine do not go on sending there until they find out.
//!
//! IPv4: ARP announcements (RFC 5227 section 2.3). IPv6: unsolicited neighbour
//! advertisements with the override flag (RFC 4861 section 7.2.6). Both are lost like any
//! packet, and Linux ignores one that comes within a second of another about the same
//! address (`locktime`), so each is sent several times.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, PacketBuilder,
    icmpv6::NeighborAdvertisementHeader,
};
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};
use tokio::{task::AbortHandle, time};

/// Pauses between announcements; one goes out before the first pause. The last comes late,
/// for a switch port that takes its time to forward after it came up.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_millis(1100),
    Duration::from_millis(2000),
    Duration::from_millis(5000),
];
/// The one value that receivers of neighbour discovery accept: no router was passed.
const HOP_LIMIT: u8 = 255;
/// All nodes of the link (RFC 4291 section 2.7.1), and the Ethernet group it maps to.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// The option that carries the sender's Ethernet address: type 2, one unit of 8 bytes.
const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
const BROADCAST: [u8; 6] = [0xff; 6];

/// Announces addresses, each for some seconds after it was put on an interface. Dropping
/// it ends all of that.
#[derive(Debug, Default)]
pub struct Announcer {
    running: BTreeMap<IpAddr, AbortHandle>,
}

impl Announcer {
    /// Announces addresses that were just put on an interface, in the background. What
    /// fails is logged: it delays traffic and breaks nothing.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn announce(&mut self, interface: &str, addresses: &BTreeSet<IpAddr>) {
        for &address in addresses {
            let task = tokio::spawn(repeat(interface.to_owned(), address));
            if let Some(before) = self.running.insert(address, task.abort_handle()) {
                before.abort();
            }
        }
    }

    /// Stops announcing addresses: they are somebody else's now.
    pub fn withdraw(&mut self, addresses: &BTreeSet<IpAddr>) {
        for address in addresses {
            if let Some(task) = self.running.remove(address) {
                task.abort();
            }
        }
        self.running.retain(|_, task| !task.is_finished());
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.running.values().for_each(AbortHandle::abort);
    }
}

async fn repeat(interface: String, address: IpAddr) {
    let mut failed = false;
    for pause in [Duration::ZERO].into_iter().chain(PAUSES) {
        time::sleep(pause).await;
        // The interface may come up, or change its address, meanwhile.
        if let Err(error) = send(&interface, address)
            && !std::mem::replace(&mut failed, true)
        {
            tracing::warn!("could not announce {address} on {interface}: {error}");
        }
    }
}

fn send(interface: &str, address: IpAddr) -> io::Result<()> {
    let link = link_address(interface)?;
    let Some(mac) = link.addr() else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
    let packet = match address {
        IpAddr::V4(address) => arp_announcement(mac, address),
        IpAddr::V6(address) => advertisement(mac, address, forwards(interface)),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    sendto(socket.as_raw_fd(), &packet?, &link, MsgFlags::empty())?;
    Ok(())
}

/// Index and Ethernet address of an interface.
fn link_address(interface: &str) -> io::Result<LinkAddr> {
    let mut found = getifaddrs()?
        .filter(|found| found.interface_name == interface)
        .filter_map(|found| found.address?.as_link_addr().copied());
    found.next().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A request for the address by its owner, to all: RFC 5227 prefers it to a reply.
fn arp_announcement(mac: [u8; 6], address: Ipv4Addr) -> io::Result<Vec<u8>> {
    let octets = address.octets();
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &mac,
        &octets,
        &[0; 6],
        &octets,
    );
    let arp = arp.map_err(io::Error::other)?;
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(mac, BROADCAST)
        .arp(arp)
        .write(&mut packet)
        .map_err(io::Error::other)?;
    Ok(packet)
}

/// What the kernel would answer if it were asked. `router` has to agree with its answers.
fn advertisement(mac: [u8; 6], address: Ipv6Addr, router: bool) -> io::Result<Vec<u8>> {
    let header = NeighborAdvertisementHeader { router, solicited: false, r#override: true };
    let body = [&address.octets()[..], &TARGET_LINK_LAYER_ADDRESS, &mac].concat();
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(mac, ALL_NODES_MAC)
        .ipv6(address.octets(), ALL_NODES.octets(), HOP_LIMIT)
        .icmpv6(Icmpv6Type::NeighborAdvertisement(header))
        .write(&mut packet, &body)
        .map_err(io::Error::other)?;
    Ok(packet)
}

fn forwards(interface: &str) -> bool {
    let setting = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    fs::read_to_string(setting).is_ok_and(|value| value.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn an_arp_announcement_asks_everybody_for_ones_own_address() {
        let packet = arp_announcement(MAC, Ipv4Addr::new(10, 0, 0, 100)).expect("it fits");
        let expected = [
            &[0xff; 6][..],
            &MAC,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &MAC,
            &[10, 0, 0, 100],
            &[0; 6],
            &[10, 0, 0, 100],
        ];
        assert_eq!(packet, expected.concat());
    }

    #[test]
    fn an_advertisement_overrides_what_neighbours_remember() {
        let address: Ipv6Addr = "2001:db8::100".parse().expect("an address");
        let packet = advertisement(MAC, address, true).expect("it fits");
        let parsed = etherparse::PacketHeaders::from_ethernet_slice(&packet).expect("it parses");
        let Some(etherparse::TransportHeader::Icmpv6(icmp)) = &parsed.transport else {
            panic!("no ICMPv6 in {parsed:?}")
        };
        let Some(etherparse::NetHeaders::Ipv6(ip, _)) = &parsed.net else {
            panic!("no IPv6 in {parsed:?}")
        };
        let expected =
            NeighborAdvertisementHeader { router: true, solicited: false, r#override: true };
        assert_eq!(icmp.icmp_type, Icmpv6Type::NeighborAdvertisement(expected));
        assert_eq!(
            (ip.hop_limit, ip.source, ip.destination),
            (255, address.octets(), ALL_NODES.octets())
        );
        let body = parsed.payload.slice();
        assert_eq!(body, [&address.octets()[..], &[2, 1], &MAC].concat());
        let sum = icmp.icmp_type.calc_checksum(ip.source, ip.destination, body);
        assert_eq!(sum.expect("short enough"), icmp.checksum);
    }
}
