//! What is particular to devices that are no network cards of their own.

use super::{
    super::facts::{FarEndFacts, InterfaceFacts},
    Finding,
};
use crate::model::snapshot::AttachMode;

/// What takes tags off frames before XDP sees them, by its name and by its option.
const UNTAGS: (&str, &str) = ("rx-vlan-offload", "rxvlan");

pub(super) fn findings(subject: &str, interface: &InterfaceFacts) -> Vec<Finding> {
    let kind = match interface.device.kind.as_deref() {
        Some("veth") => veth(subject, interface),
        Some("vlan") => vlan(subject, interface),
        Some("bond") => bond(subject, interface),
        _ => None,
    };
    kind.into_iter().chain(tags(subject, interface)).collect()
}

/// A veth end hands redirected frames to the far end's own receive path, which is there with a
/// program or with GRO (`veth_xdp_xmit` in `drivers/net/veth.c`), and packets without a checksum
/// lose the mark of it on the way.
fn veth(subject: &str, interface: &InterfaceFacts) -> Option<Finding> {
    let Some(end) = &interface.far_end else {
        let text = "a veth pair, whose far end is elsewhere: it needs an XDP program there or \
                    GRO, and no transmit checksum offload, or packets are lost";
        let remedy = "in the other namespace: ethtool -K FAR_END gro on tx off";
        return Some(Finding::notice(subject, text, remedy));
    };
    let FarEndFacts { name, has_program, offloads } = end;
    let is_on = |offload: &str| offloads.get(offload).copied();
    let receives = *has_program || is_on("generic-receive-offload") != Some(false);
    let marks = is_on("tx-checksumming") == Some(true);
    if receives && !marks {
        return None;
    }
    let text = match (receives, marks) {
        (false, _) => format!("{name}, the far end of the pair, takes no frames from XDP"),
        (true, _) => format!("{name}, the far end of the pair, sends packets without a checksum"),
    };
    Some(Finding::problem(subject, text, format!("ethtool -K {name} gro on tx off")))
}

fn vlan(subject: &str, interface: &InterfaceFacts) -> Option<Finding> {
    if interface.wanted == Some(AttachMode::Generic) {
        return None;
    }
    let below = interface.device.other.as_deref().unwrap_or("the card below");
    let text = "a VLAN device, which has no native mode";
    let remedy = format!("put {below} into datapath.interfaces, in its place");
    Some(Finding::notice(subject, text, remedy))
}

fn bond(subject: &str, interface: &InterfaceFacts) -> Option<Finding> {
    let name = &interface.name;
    let text = "a bond of a kind that takes no program natively: XDP wants mode balance-rr, \
                active-backup, balance-xor or 802.3ad, and no vlan+srcmac";
    let remedy = format!("ip link set dev {name} type bond mode 802.3ad xmit_hash_policy layer3+4");
    (interface.device.bond_takes_xdp == Some(false)).then(|| Finding::notice(subject, text, remedy))
}

/// Matters only where tags are in use.
fn tags(subject: &str, interface: &InterfaceFacts) -> Option<Finding> {
    let vlans = &interface.device.vlans;
    let (offload, option) = UNTAGS;
    if vlans.is_empty() || interface.offloads.get(offload) != Some(&true) {
        return None;
    }
    let text = format!(
        "takes tags off frames before XDP sees them, and has VLANs ({}): their packets look \
         untagged",
        vlans.join(", ")
    );
    Some(Finding::notice(subject, text, format!("ethtool -K {} {option} off", interface.name)))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Level,
            tests::{check, check_good, healthy_interface as healthy},
        },
        *,
    };
    use crate::network::Device;

    fn of(kind: &str) -> InterfaceFacts {
        let device = Device { kind: Some(kind.into()), ..Device::default() };
        InterfaceFacts { device, ..healthy() }
    }

    #[track_caller]
    fn ill(interface: &InterfaceFacts, level: Level, words: &[&str]) {
        check(&findings("interface eth0", interface), level, "interface eth0", words);
    }

    #[test]
    fn the_far_end_of_a_pair_has_to_take_frames() {
        ill(&of("veth"), Level::Notice, &["elsewhere", "gro on tx off"]);
        let pair = |has_program, gro: bool, tx: bool| {
            let offloads = [("generic-receive-offload", gro), ("tx-checksumming", tx)];
            let offloads = offloads.map(|(name, on)| (name.to_owned(), on)).into();
            let far_end = Some(FarEndFacts { name: "vb".into(), has_program, offloads });
            InterfaceFacts { far_end, ..of("veth") }
        };
        check_good(&findings("interface eth0", &pair(true, false, false)));
        check_good(&findings("interface eth0", &pair(false, true, false)));
        let mends = "ethtool -K vb gro on tx off";
        ill(&pair(false, false, false), Level::Problem, &["takes no frames", mends]);
        ill(&pair(true, true, true), Level::Problem, &["without a checksum", mends]);
    }

    #[test]
    fn devices_without_a_native_mode_are_noticed() {
        let mut vlan = of("vlan");
        vlan.device.other = Some("eth7".into());
        ill(&vlan, Level::Notice, &["VLAN device", "put eth7 into datapath.interfaces"]);
        vlan.wanted = Some(AttachMode::Generic);
        check_good(&findings("interface eth0", &vlan));
        let mut bond = of("bond");
        bond.device.bond_takes_xdp = Some(true);
        check_good(&findings("interface eth0", &bond));
        bond.device.bond_takes_xdp = Some(false);
        ill(&bond, Level::Notice, &["a bond", "type bond mode 802.3ad"]);
    }

    #[test]
    fn tags_that_are_taken_off_matter_with_vlans() {
        let mut card = healthy();
        card.offloads.insert(UNTAGS.0.into(), true);
        check_good(&findings("interface eth0", &card));
        card.device.vlans = vec!["eth0.7".into()];
        ill(&card, Level::Notice, &["eth0.7", "ethtool -K eth0 rxvlan off"]);
    }
}
