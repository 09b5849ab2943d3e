//! Sizes of packets: what fits into a frame of XDP, out of every interface, and into another
//! packet.

use super::{
    super::facts::{InterfaceFacts, TunnelFacts},
    Finding,
};
use crate::model::snapshot::AttachMode;

/// MTU up to which drivers take a program whose frames are in one buffer, on pages of 4 KiB.
/// Some take less.
const MOST_NATIVE: u32 = 3500;
/// What clients beyond a router send at most.
const USUAL: u32 = 1500;

pub(super) fn findings(interfaces: &[InterfaceFacts], tunnels: &[TunnelFacts]) -> Vec<Finding> {
    let native = interfaces.iter().filter_map(native);
    let most = interfaces.iter().filter_map(|one| Some(one.link?.mtu)).max().unwrap_or(USUAL);
    let tunnels = tunnels.iter().filter_map(|tunnel| fits(tunnel, most.min(USUAL)));
    native.chain(even(interfaces)).chain(tunnels).collect()
}

/// Whether the driver is likely to take the program.
fn native(interface: &InterfaceFacts) -> Option<Finding> {
    let mtu = interface.link?.mtu;
    let has_it = interface.program.as_ref().is_some_and(|program| program.ours && !program.generic);
    if mtu <= MOST_NATIVE || has_it || interface.wanted == Some(AttachMode::Generic) {
        return None;
    }
    let name = &interface.name;
    let text = format!(
        "{name} takes packets of {mtu} bytes: with more than about {MOST_NATIVE} drivers refuse \
         native mode"
    );
    Some(Finding::notice("MTU", text, format!("ip link set dev {name} mtu {MOST_NATIVE}")))
}

/// A packet that came in has to fit everywhere.
fn even(interfaces: &[InterfaceFacts]) -> Option<Finding> {
    let known = || interfaces.iter().filter_map(|one| Some((one.link?.mtu, &one.name)));
    let ((least, narrow), (most, wide)) = (known().min()?, known().max()?);
    if least == most {
        return None;
    }
    let text = format!(
        "{wide} takes packets of {most} bytes, {narrow} only of {least}: larger ones are dropped"
    );
    Some(Finding::notice("MTU", text, format!("ip link set dev {wide} mtu {least}")))
}

/// The longest packet of clients has to fit into another one.
fn fits(tunnel: &TunnelFacts, longest: u32) -> Option<Finding> {
    let TunnelFacts { frontend, forward, overhead, interface, mtu } = tunnel;
    let wanted = longest + overhead;
    if *mtu >= wanted {
        return None;
    }
    let text = format!(
        "{frontend}: packets of more than {} bytes do not fit out of {interface} once \
         encapsulated ({forward}: {overhead} bytes more), and are answered with that size",
        mtu.saturating_sub(*overhead)
    );
    let remedy = format!(
        "ip link set dev {interface} mtu {wanted}, if the way to the servers takes it; else, on \
         them, a smaller advmss (docs/forwarding.md, Sizes)"
    );
    Some(Finding::notice("MTU", text, remedy))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::facts::{LinkFacts, ProgramFacts},
            Level,
            tests::{check, check_good, healthy_interface as healthy},
        },
        *,
    };

    fn of(name: &str, mtu: u32) -> InterfaceFacts {
        InterfaceFacts { name: name.into(), link: Some(LinkFacts { up: true, mtu }), ..healthy() }
    }

    fn tunnel(mtu: u32) -> TunnelFacts {
        TunnelFacts {
            frontend: "pg".into(),
            forward: "ipip",
            overhead: 20,
            interface: "eth1".into(),
            mtu,
        }
    }

    #[test]
    fn interfaces_of_different_mtu_are_noticed() {
        let words = ["9000", "1500", "ip link set dev wide mtu 1500"];
        let found = findings(&[healthy(), of("wide", 9000)], &[]);
        check(&found, Level::Notice, "MTU", &words);
        check_good(&findings(&[healthy(), healthy()], &[]));
    }

    #[test]
    fn frames_too_large_for_native_mode_are_noticed_before_it_is_tried() {
        let mut large = of("eth0", 9000);
        check_good(&findings(&[large.clone()], &[]));
        large.program = None;
        let words = ["9000", "native mode", "mtu 3500"];
        check(&findings(&[large.clone()], &[]), Level::Notice, "MTU", &words);
        let generic = ProgramFacts { id: 7, generic: true, ours: true, name: None };
        large.program = Some(generic);
        check(&findings(&[large.clone()], &[]), Level::Notice, "MTU", &words);
        large.wanted = Some(AttachMode::Generic);
        check_good(&findings(&[large], &[]));
    }

    #[test]
    fn encapsulated_packets_need_room() {
        let words = ["pg", "1480 bytes", "ip link set dev eth1 mtu 1520", "advmss"];
        check(&findings(&[healthy()], &[tunnel(1500)]), Level::Notice, "MTU", &words);
        check_good(&findings(&[healthy()], &[tunnel(1520)]));
        // Clients on a link that takes less send less.
        check_good(&findings(&[of("eth0", 1400)], &[tunnel(1420)]));
    }
}
