//! Network interfaces (`RTM_GETLINK`).

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::Handle;

use super::error::NetworkError;

/// A network interface with Ethernet framing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in this network namespace, from 1.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address in wire order; zeros for the loopback interface.
    pub mac: [u8; 6],
    /// Largest packet without the Ethernet header, in bytes.
    pub mtu: u32,
    /// Switched on and with a carrier.
    pub up: bool,
}

/// Finds an interface by its name.
///
/// # Errors
/// [`NetworkError::NoLink`], naming those that exist, [`NetworkError::NotEthernet`], or
/// [`NetworkError::Refused`].
pub async fn link_by_name(handle: &Handle, name: &str) -> Result<Link, NetworkError> {
    let messages = dump(handle).await?;
    match messages.iter().find(|message| name_of(message) == Some(name)) {
        Some(message) => {
            from_message(message).ok_or_else(|| NetworkError::NotEthernet { name: name.to_owned() })
        }
        None => Err(NetworkError::NoLink {
            name: name.to_owned(),
            existing: messages.iter().filter_map(name_of).map(str::to_owned).collect(),
        }),
    }
}

/// All interfaces with Ethernet framing, by index.
///
/// # Errors
/// [`NetworkError::Refused`].
pub async fn links(handle: &Handle) -> Result<BTreeMap<u32, Link>, NetworkError> {
    let messages = dump(handle).await?;
    Ok(messages.iter().filter_map(from_message).map(|link| (link.index, link)).collect())
}

async fn dump(handle: &Handle) -> Result<Vec<LinkMessage>, NetworkError> {
    let links = handle.link().get().execute().try_collect().await;
    links.map_err(|error| NetworkError::refused("list interfaces", error))
}

fn name_of(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// None for an interface without a six-byte address, such as a tunnel.
fn from_message(message: &LinkMessage) -> Option<Link> {
    let mut mac = None;
    let mut mtu = 0;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            _ => {}
        }
    }
    let header = &message.header;
    Some(Link {
        index: header.index,
        name: name_of(message)?.to_owned(),
        mac: mac?,
        mtu,
        up: header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 3;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Broadcast;
        message.attributes = attributes;
        message
    }

    #[test]
    fn an_ethernet_interface_is_read() {
        let mac = [2, 0, 0, 0, 0, 1];
        let mut message = message(vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(mac.to_vec()),
        ]);
        let expected = Link { index: 3, name: "eth0".into(), mac, mtu: 1500, up: true };
        assert_eq!(from_message(&message), Some(expected.clone()));
        message.header.flags = LinkFlags::Up;
        assert_eq!(from_message(&message), Some(Link { up: false, ..expected }));
    }

    #[test]
    fn a_tunnel_is_no_ethernet_interface() {
        let name = || LinkAttribute::IfName("tun0".into());
        assert_eq!(from_message(&message(vec![name()])), None);
        assert_eq!(from_message(&message(vec![name(), LinkAttribute::Address(vec![1; 4])])), None);
    }
}
