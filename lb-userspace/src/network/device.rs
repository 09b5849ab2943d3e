//! What kind of device an interface is, what it is made of, and what else looks at its packets
//! (`RTM_GETLINK`, `RTM_GETTFILTER`).

use futures_util::TryStreamExt;
use netlink_packet_route::{
    link::{
        BondMode, BondXmitHashPolicy, InfoBond, InfoData, InfoKind, LinkAttribute, LinkInfo,
        LinkMessage,
    },
    tc::{TcAttribute, TcMessage},
};
use rtnetlink::Handle;

use super::error::NetworkError;

/// What is behind an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// `veth`, `vlan`, `bond`; none for a network card.
    pub kind: Option<String>,
    /// Name of the device below, or at the other end of a pair, if that is in this namespace.
    pub other: Option<String>,
    /// Names of the VLAN devices on top of it.
    pub vlans: Vec<String>,
    /// Whether a program can be attached to this bond, by its mode and hash policy
    /// (`bond_xdp_check` in `drivers/net/bonding/bond_main.c`); none if it is no bond.
    pub bond_takes_xdp: Option<bool>,
    /// Kinds of the filters of tc, at `ingress` or `egress`: `ingress bpf`.
    pub filters: Vec<String>,
}

/// What is behind the interface of this index.
///
/// # Errors
/// [`NetworkError::Refused`].
pub async fn device(handle: &Handle, index: u32) -> Result<Device, NetworkError> {
    let links: Vec<LinkMessage> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|error| NetworkError::refused("list interfaces", error))?;
    let mut device = from_messages(&links, index);
    let index = i32::try_from(index).unwrap_or(i32::MAX);
    for (place, request) in [
        ("ingress", handle.traffic_filter(index).get().ingress()),
        ("egress", handle.traffic_filter(index).get().egress()),
    ] {
        // Refused where there is nothing that could have filters.
        let found: Vec<TcMessage> = request.execute().try_collect().await.unwrap_or_default();
        device
            .filters
            .extend(found.iter().filter_map(kind_of).map(|kind| format!("{place} {kind}")));
    }
    device.filters.sort();
    device.filters.dedup();
    Ok(device)
}

fn kind_of(filter: &TcMessage) -> Option<&str> {
    filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    })
}

fn from_messages(links: &[LinkMessage], index: u32) -> Device {
    let Some(own) = links.iter().find(|link| link.header.index == index) else {
        return Device::default();
    };
    let other = find(own, |attribute| match attribute {
        LinkAttribute::Link(other) => Some(*other),
        _ => None,
    });
    let is_elsewhere = find(own, |attribute| match attribute {
        LinkAttribute::LinkNetNsId(id) => Some(*id),
        _ => None,
    });
    let other = other.filter(|other| *other != index && is_elsewhere.is_none());
    let other = links.iter().find(|link| Some(link.header.index) == other);
    let on_top = links.iter().filter(|link| {
        kind(link) == Some(InfoKind::Vlan)
            && find(link, |attribute| match attribute {
                LinkAttribute::Link(below) => Some(*below),
                _ => None,
            }) == Some(index)
    });
    Device {
        kind: kind(own).map(|kind| kind.to_string()),
        other: other.and_then(name),
        vlans: on_top.filter_map(name).collect(),
        bond_takes_xdp: bond(own).map(takes_xdp),
        filters: Vec::new(),
    }
}

fn find<T>(link: &LinkMessage, of: impl Fn(&LinkAttribute) -> Option<T>) -> Option<T> {
    link.attributes.iter().find_map(of)
}

fn name(link: &LinkMessage) -> Option<String> {
    find(link, |attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

fn kind(link: &LinkMessage) -> Option<InfoKind> {
    info(link).iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.clone()),
        _ => None,
    })
}

fn bond(link: &LinkMessage) -> Option<&[InfoBond]> {
    info(link).iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Bond(bond)) => Some(bond.as_slice()),
        _ => None,
    })
}

fn info(link: &LinkMessage) -> &[LinkInfo] {
    let info = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(info) => Some(info.as_slice()),
        _ => None,
    });
    info.unwrap_or_default()
}

fn takes_xdp(bond: &[InfoBond]) -> bool {
    let by_source = bond.contains(&InfoBond::XmitHashPolicy(BondXmitHashPolicy::VlanSrcMac));
    bond.iter().any(|info| match info {
        InfoBond::Mode(BondMode::BalanceRr | BondMode::ActiveBackup) => true,
        InfoBond::Mode(BondMode::BalanceXor | BondMode::Ieee8023Ad) => !by_source,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message
    }

    fn of(kind: InfoKind) -> LinkAttribute {
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])
    }

    #[test]
    fn what_is_behind_an_interface_is_read() {
        let links = [
            link(2, "eth0", vec![]),
            link(3, "eth0.7", vec![of(InfoKind::Vlan), LinkAttribute::Link(2)]),
            link(4, "va", vec![of(InfoKind::Veth), LinkAttribute::Link(5)]),
            link(5, "vb", vec![of(InfoKind::Veth), LinkAttribute::Link(4)]),
            link(
                6,
                "vc",
                vec![of(InfoKind::Veth), LinkAttribute::Link(4), LinkAttribute::LinkNetNsId(0)],
            ),
        ];
        let card = from_messages(&links, 2);
        assert_eq!((card.kind, card.vlans), (None, vec!["eth0.7".to_owned()]));
        let vlan = from_messages(&links, 3);
        assert_eq!((vlan.kind.as_deref(), vlan.other.as_deref()), (Some("vlan"), Some("eth0")));
        let end = from_messages(&links, 4);
        assert_eq!((end.kind.as_deref(), end.other.as_deref()), (Some("veth"), Some("vb")));
        assert_eq!(from_messages(&links, 6).other, None, "its other end is elsewhere");
        assert_eq!(from_messages(&links, 9), Device::default());
    }

    #[test]
    fn bonds_take_programs_in_some_modes() {
        #[track_caller]
        fn check(mode: BondMode, policy: BondXmitHashPolicy, expected: bool) {
            let info = [InfoBond::Mode(mode), InfoBond::XmitHashPolicy(policy)];
            assert_eq!(takes_xdp(&info), expected, "{mode:?} {policy:?}");
        }
        check(BondMode::ActiveBackup, BondXmitHashPolicy::Layer2, true);
        check(BondMode::Ieee8023Ad, BondXmitHashPolicy::Layer34, true);
        check(BondMode::Ieee8023Ad, BondXmitHashPolicy::VlanSrcMac, false);
        check(BondMode::BalanceRr, BondXmitHashPolicy::VlanSrcMac, true);
        check(BondMode::BalanceAlb, BondXmitHashPolicy::Layer2, false);
        check(BondMode::Broadcast, BondXmitHashPolicy::Layer2, false);
    }
}
