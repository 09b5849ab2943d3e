//! Interfaces: netlink, `/sys/class/net`, and `ethtool`, which knows what drivers say.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use super::{
    super::facts::{InterfaceFacts, LinkFacts, ProgramFacts},
    files::{entries, number, read},
};
use crate::{
    datapath::{self, Pins},
    model::snapshot::Snapshot,
    network::{self, Handle},
};

/// What there is to know of an interface of the configuration.
pub(super) async fn facts(handle: &Handle, name: &str, snapshot: &Snapshot) -> InterfaceFacts {
    let link = network::link_by_name(handle, name).await.ok();
    let mut facts = InterfaceFacts {
        name: name.to_owned(),
        link: link.as_ref().map(|link| LinkFacts { up: link.up, mtu: link.mtu }),
        wanted: Some(snapshot.datapath.mode),
        ..InterfaceFacts::default()
    };
    let Some(link) = link else { return facts };
    let pins = Pins::new(&snapshot.datapath.pin_directory);
    facts.program = datapath::attached(&pins, name).ok().flatten().map(|found| ProgramFacts {
        id: found.program,
        generic: found.generic,
        ours: found.ours,
    });
    facts.offloads = Command::new("ethtool")
        .args(["-k", name])
        .output()
        .map(|output| offloads(&String::from_utf8_lossy(&output.stdout)))
        .unwrap_or_default();
    let filter = |of: &str| number::<u32>(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter"));
    // The kernel takes the greater one.
    facts.rp_filter = filter(name).max(filter("all"));
    let device = Path::new("/sys/class/net").join(name);
    // `/sys` may show another network namespace.
    if number::<u32>(device.join("ifindex")) == Some(link.index) {
        hardware(&device, &mut facts);
    }
    facts
}

fn hardware(device: &Path, facts: &mut InterfaceFacts) {
    let driver = fs::read_link(device.join("device/driver")).ok();
    facts.driver = driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let receives = |name: &String| name.starts_with("rx-");
    facts.queues =
        Some(entries(device.join("queues")).iter().filter(|name| receives(name)).count());
    // A virtio device has those of the PCI device it sits on.
    let places = ["device/msi_irqs", "device/../msi_irqs"].map(|place| device.join(place));
    let irqs = places.iter().map(entries).find(|irqs| !irqs.is_empty()).unwrap_or_default();
    let taken_by = |irq: &String| read(format!("/proc/irq/{irq}/effective_affinity_list"));
    facts.interrupts =
        irqs.iter().filter_map(taken_by).filter(|processors| !processors.is_empty()).collect();
}

/// What `ethtool -k` prints: `NAME: on`, `NAME: off [fixed]`.
fn offloads(text: &str) -> BTreeMap<String, bool> {
    let feature = |line: &str| {
        let (name, value) = line.trim().split_once(": ")?;
        match value.split(' ').next()? {
            "on" => Some((name.to_owned(), true)),
            "off" => Some((name.to_owned(), false)),
            _ => None,
        }
    };
    text.lines().filter_map(feature).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_are_read_as_ethtool_prints_them() {
        let text = "Features for eth0:\nrx-checksumming: on [fixed]\n\
                    tcp-segmentation-offload: off\n\ttx-tcp-segmentation: off [requested on]\n\
                    large-receive-offload: on\n";
        let found = offloads(text);
        assert_eq!(found.get("large-receive-offload"), Some(&true));
        assert_eq!(found.get("tx-tcp-segmentation"), Some(&false));
        assert_eq!(found.len(), 4);
        assert!(offloads("").is_empty());
    }
}
