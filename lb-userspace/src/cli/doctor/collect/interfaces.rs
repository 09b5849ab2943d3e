//! Interfaces: netlink, `/sys/class/net`, `ethtool`, what is attached.

use std::{fs, path::Path};

use nix::net::if_::if_nametoindex;

use super::{
    super::facts::{FarEndFacts, InterfaceFacts, LinkFacts, ProgramFacts},
    ethtool,
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
        name: datapath::program_name(found.program),
        generic: found.generic,
        ours: found.ours,
    });
    facts.device = network::device(handle, link.index).await.unwrap_or_default();
    facts.driver = facts.device.kind.clone();
    if facts.device.kind.as_deref() == Some("veth") {
        facts.far_end = facts.device.other.as_deref().map(|other| far_end(&pins, other));
    }
    facts.filters = [facts.device.filters.clone(), datapath::tcx_programs(name)].concat();
    facts.offloads = ethtool::offloads(name);
    facts.ring = ethtool::ring(name);
    let filter = |of: &str| number::<u32>(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter"));
    // The kernel takes the greater one.
    facts.rp_filter = filter(name).max(filter("all"));
    let device = Path::new("/sys/class/net").join(name);
    // `/sys` may show another network namespace.
    if number::<u32>(device.join("ifindex")) == Some(link.index) {
        hardware(&device, &mut facts);
    }
    if let Some((queues, most)) = ethtool::queues(name) {
        facts.queues = usize::try_from(queues).ok();
        facts.most_queues = usize::try_from(most).ok();
    }
    facts
}

fn far_end(pins: &Pins, name: &str) -> FarEndFacts {
    let is_there = if_nametoindex(name).is_ok();
    FarEndFacts {
        name: name.to_owned(),
        has_program: is_there && datapath::attached(pins, name).is_ok_and(|found| found.is_some()),
        offloads: ethtool::offloads(name),
    }
}

fn hardware(device: &Path, facts: &mut InterfaceFacts) {
    let driver = fs::read_link(device.join("device/driver")).ok();
    let driver = driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    facts.driver = driver.or_else(|| facts.driver.take());
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
