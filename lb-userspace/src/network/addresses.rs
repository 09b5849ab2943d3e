//! The VIP addresses that the agent puts on an interface.
//!
//! An address the agent added carries [`OWNER`] in `IFA_PROTO` (Linux 5.18; recent versions
//! of iproute2 show it as `proto 80`). That mark is the only memory of ownership: it survives the
//! agent, so a restarted agent knows which addresses it may take off, and addresses of
//! the operator or of other daemons are never touched.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use rtnetlink::{AddressMessageBuilder, Handle};

use super::{
    error::{NetworkError, to_io},
    links::Link,
};

/// The mark of the agent's addresses in `IFA_PROTO`. The kernel uses 1 to 3, routing
/// daemons the numbers of their route protocols; nobody 80.
pub const OWNER: u8 = 80;

/// What [`reconcile_addresses`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Put on the interface.
    pub added: BTreeSet<IpAddr>,
    /// Taken off.
    pub removed: BTreeSet<IpAddr>,
    /// Already there and not the agent's: left alone, now and later.
    pub foreign: BTreeSet<IpAddr>,
}

/// Puts `desired` on `link` as /32 and /128 and takes off whatever else the agent once put
/// on it or on any other interface. An address that is already there, with any prefix, is
/// left as it is. Addresses are usable on return. IPv6 ones are deprecated (RFC 4862
/// section 5.5.4), so that the kernel does not choose a VIP as source of the checks or of
/// SNAT.
///
/// # Errors
/// [`NetworkError::Refused`]; what was done before stays, and calling again continues.
pub async fn reconcile_addresses(
    handle: &Handle,
    link: &Link,
    desired: &BTreeSet<IpAddr>,
) -> Result<Changes, NetworkError> {
    let present = dump(handle).await?;
    let plan = plan(&present, link.index, desired);
    let mut changes = Changes { foreign: plan.foreign, ..Changes::default() };
    for &address in &plan.add {
        add(handle, link, address).await?;
        changes.added.insert(address);
    }
    for (address, message) in plan.remove {
        remove(handle, address, message).await?;
        changes.removed.insert(address);
    }
    if !changes.added.is_empty() {
        warn_if_unmarked(&dump(handle).await?, link, &changes.added);
    }
    Ok(changes)
}

#[derive(Debug, PartialEq, Eq)]
struct Plan {
    add: BTreeSet<IpAddr>,
    remove: Vec<(IpAddr, AddressMessage)>,
    foreign: BTreeSet<IpAddr>,
}

fn plan(present: &[AddressMessage], index: u32, desired: &BTreeSet<IpAddr>) -> Plan {
    let mut plan = Plan { add: desired.clone(), remove: Vec::new(), foreign: BTreeSet::new() };
    for message in present {
        let Some(address) = address(message) else { continue };
        let here = message.header.index == index;
        if here && desired.contains(&address) {
            plan.add.remove(&address);
            if !owned(message) {
                plan.foreign.insert(address);
            }
        } else if owned(message) {
            plan.remove.push((address, message.clone()));
        }
    }
    plan
}

/// An interface's own address. On a point-to-point link `IFA_ADDRESS` is the peer's.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    find(true).or_else(|| find(false))
}

fn owned(message: &AddressMessage) -> bool {
    message.attributes.contains(&mark())
}

fn mark() -> AddressAttribute {
    AddressAttribute::Protocol(AddressProtocol::Other(OWNER))
}

async fn dump(handle: &Handle) -> Result<Vec<AddressMessage>, NetworkError> {
    let addresses = handle.address().get().execute().try_collect().await;
    addresses.map_err(|error| NetworkError::refused("list addresses", error))
}

async fn add(handle: &Handle, link: &Link, address: IpAddr) -> Result<(), NetworkError> {
    let mut request = handle.address().add(link.index, address, host_prefix(address));
    let message = request.message_mut();
    message.attributes.push(mark());
    if address.is_ipv6() {
        // No duplicate address detection: it would keep the address from use for a second.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        let mut lifetime = CacheInfo::default();
        (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
        message.attributes.push(AddressAttribute::CacheInfo(lifetime));
    }
    let what = || format!("put address {address} on {}", link.name);
    ignoring(libc::EEXIST, what, request.execute().await)
}

async fn remove(
    handle: &Handle,
    address: IpAddr,
    message: AddressMessage,
) -> Result<(), NetworkError> {
    let index = message.header.index;
    // Only what identifies the address: the rest of a dump is no input.
    let request = match address {
        IpAddr::V4(address) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(address, message.header.prefix_len)
            .build(),
        IpAddr::V6(address) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(index)
            .address(address, message.header.prefix_len)
            .build(),
    };
    let what = || format!("take address {address} off interface #{index}");
    ignoring(libc::EADDRNOTAVAIL, what, handle.address().del(request).execute().await)
}

/// The result of a request, where one error number means that all is as wanted.
fn ignoring(
    number: i32,
    what: impl FnOnce() -> String,
    result: Result<(), rtnetlink::Error>,
) -> Result<(), NetworkError> {
    match result.map_err(to_io) {
        Err(error) if error.raw_os_error() != Some(number) => {
            Err(NetworkError::Refused { request: what(), source: error })
        }
        _ => Ok(()),
    }
}

fn warn_if_unmarked(present: &[AddressMessage], link: &Link, added: &BTreeSet<IpAddr>) {
    for lost in plan(present, link.index, added).foreign {
        tracing::warn!(
            address = %lost, interface = link.name,
            "the kernel does not remember who added the address (Linux 5.18 does): \
             take it off by hand when it is no longer a VIP"
        );
    }
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn set(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| ip(text)).collect()
    }

    fn present(index: u32, text: &str, marked: bool) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.attributes.push(AddressAttribute::Address(ip(text)));
        if marked {
            message.attributes.push(mark());
        }
        message
    }

    #[track_caller]
    fn check(present: &[AddressMessage], desired: &[&str], add: &[&str], remove: &[&str]) {
        let plan = plan(present, 2, &set(desired));
        assert_eq!(plan.add, set(add));
        let removed: BTreeSet<IpAddr> = plan.remove.iter().map(|(address, _)| *address).collect();
        assert_eq!(removed, set(remove));
    }

    #[test]
    fn missing_addresses_are_added_and_surplus_ones_removed() {
        check(&[], &["10.0.0.100", "fd00::100"], &["10.0.0.100", "fd00::100"], &[]);
        let both = [present(2, "10.0.0.100", true), present(2, "10.0.0.101", true)];
        check(&both, &["10.0.0.100"], &[], &["10.0.0.101"]);
        check(&both, &[], &[], &["10.0.0.100", "10.0.0.101"]);
    }

    #[test]
    fn addresses_of_others_are_left_alone() {
        let others = [present(2, "10.0.0.1", false), present(2, "10.0.0.100", false)];
        check(&others, &["10.0.0.100"], &[], &[]);
        assert_eq!(plan(&others, 2, &set(&["10.0.0.100"])).foreign, set(&["10.0.0.100"]));
        check(&others, &[], &[], &[]);
    }

    #[test]
    fn own_addresses_move_with_the_interface() {
        let elsewhere = [present(3, "10.0.0.100", true), present(4, "10.0.0.100", false)];
        check(&elsewhere, &["10.0.0.100"], &["10.0.0.100"], &["10.0.0.100"]);
        assert_eq!(plan(&elsewhere, 2, &set(&["10.0.0.100"])).remove[0].1.header.index, 3);
    }

    #[test]
    fn on_a_point_to_point_link_the_local_address_counts() {
        let mut message = present(2, "10.0.0.2", false);
        message.attributes.push(AddressAttribute::Local(ip("10.0.0.1")));
        assert_eq!(address(&message), Some(ip("10.0.0.1")));
    }
}
