//! Finding out the facts: files of `/proc` and `/sys`, netlink, `ethtool`, the agent.
//! What can not be read is unknown, and no error.

use std::{collections::BTreeMap, fs, path::Path, process::Command, str::FromStr, thread};

use lb_common::flow::{FlowEntry4, FlowEntry6, FlowKey4, FlowKey6};

use super::facts::{
    AgentFacts, Facts, HostFacts, InterfaceFacts, LinkFacts, ProgramFacts, ServerFacts, Way,
};
use crate::{
    admin::client::Client,
    datapath::{self, Pins},
    model::snapshot::{Datapath, Snapshot},
    network::{self, Handle, Reach},
};

/// Where pins are without a configuration.
const USUAL_PINS: &str = lb_common::abi::PIN_DIRECTORY;

/// Everything there is to know of the machine, and of what the configuration names.
pub(super) async fn facts(snapshot: Option<&Snapshot>) -> anyhow::Result<Facts> {
    let handle = network::open()?;
    let mut facts = Facts { host: host(snapshot), ..Facts::default() };
    let Some(snapshot) = snapshot else { return Ok(facts) };
    facts.agent = agent(snapshot).await;
    if let AgentFacts::Answers(status) = &facts.agent {
        facts.host.memory_limit = memory_limit(status.agent.pid);
        // Its tables are there already.
        facts.host.memory_free = None;
    }
    if snapshot.is_in_user_space() {
        facts.is_in_user_space = true;
        return Ok(facts);
    }
    for name in &snapshot.datapath.interfaces {
        facts.interfaces.push(interface(&handle, name, snapshot).await);
    }
    facts.servers = servers(&handle, snapshot).await;
    Ok(facts)
}

fn host(snapshot: Option<&Snapshot>) -> HostFacts {
    let config = snapshot.map(|snapshot| &snapshot.datapath);
    let pins = config.map_or_else(|| USUAL_PINS.into(), |config| config.pin_directory.clone());
    let mounted = datapath::is_on_bpffs(&pins);
    let sysctl = |key: &str| number::<u32>(Path::new("/proc/sys/net").join(key));
    HostFacts {
        kernel: read("/proc/sys/kernel/osrelease").and_then(|text| kernel_version(&text)),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        jit: sysctl("core/bpf_jit_enable"),
        pins: (pins, mounted),
        clocksource: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        // Only systemd's own daemon says so in a file; others are not known of.
        synchronised: Path::new("/run/systemd/timesync")
            .exists()
            .then(|| Path::new("/run/systemd/timesync/synchronized").exists()),
        memory_free: read("/proc/meminfo").and_then(|text| available(&text)),
        memory_limit: None,
        memory_needed: config.map_or(0, tables),
        processors: thread::available_parallelism().map_or(1, usize::from),
        local_ports: read("/proc/sys/net/ipv4/ip_local_port_range").and_then(|text| pair(&text)),
        snat_ports: config.map(|config| config.snat_ports),
        forwards4: sysctl("ipv4/ip_forward").map(|value| value != 0),
        forwards6: sysctl("ipv6/conf/all/forwarding").map(|value| value != 0),
    }
}

async fn interface(handle: &Handle, name: &str, snapshot: &Snapshot) -> InterfaceFacts {
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

async fn servers(handle: &Handle, snapshot: &Snapshot) -> Vec<ServerFacts> {
    let mut found = Vec::new();
    for name in snapshot.l4_backends() {
        let Some(backend) = snapshot.backends.get(name) else { continue };
        for (server_name, server) in &backend.servers {
            let Some(address) = server.address.socket() else { continue };
            let way = match network::reach(handle, address.ip()).await {
                Ok(Reach::Known) => Way::Known,
                Ok(Reach::Unresolved(hop)) => Way::Unresolved(hop.to_string()),
                Ok(Reach::Failed(hop)) => Way::Failed(hop.to_string()),
                Err(error) => Way::None(format!("{:#}", anyhow::Error::from(error))),
            };
            let name = format!("{name}/{server_name}");
            found.push(ServerFacts { name, address, way });
        }
    }
    found
}

async fn agent(snapshot: &Snapshot) -> AgentFacts {
    match Client::new(&snapshot.admin.socket).get("/v1/status").await {
        Ok(status) => AgentFacts::Answers(Box::new(status)),
        Err(error) => AgentFacts::Silent(format!("{:#}", anyhow::Error::from(error))),
    }
}

/// Bytes that the flow tables take: the kernel allocates them when they are made.
fn tables(config: &Datapath) -> u64 {
    // Hash chain, LRU list and alignment of an entry of a hash map.
    const OVERHEAD: usize = 64;
    let four = size_of::<FlowKey4>() + size_of::<FlowEntry4>() + OVERHEAD;
    let six = size_of::<FlowKey6>() + size_of::<FlowEntry6>() + OVERHEAD;
    let flows = u64::from(config.max_flows) + u64::from(config.max_half_open);
    // A flow has two entries.
    flows.saturating_mul(2 * (four + six) as u64)
}

/// What the control group of a process may use; none without a limit.
fn memory_limit(pid: u32) -> Option<u64> {
    let groups = read(format!("/proc/{pid}/cgroup"))?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    number(Path::new("/sys/fs/cgroup").join(group).join("memory.max"))
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number<T: FromStr>(path: impl AsRef<Path>) -> Option<T> {
    read(path)?.parse().ok()
}

/// Names of the entries of a directory, in order; none if there is none.
fn entries(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// `6.1` of `6.1.0-28-amd64`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|character: char| !character.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Bytes of `MemAvailable` in `/proc/meminfo`.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn pair(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(char::is_whitespace)?;
    Some((first.parse().ok()?, last.trim().parse().ok()?))
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
    fn files_are_read_as_the_kernel_writes_them() {
        assert_eq!(kernel_version("6.1.0-28-amd64"), Some((6, 1)));
        assert_eq!(kernel_version("5.15-rc1"), Some((5, 15)));
        assert_eq!(kernel_version("linux"), None);
        let meminfo = "MemTotal:       8000000 kB\nMemAvailable:    4000000 kB\n";
        assert_eq!(available(meminfo), Some(4_096_000_000));
        assert_eq!(available("MemAvailable: lots"), None);
        assert_eq!(pair("32768\t60999"), Some((32_768, 60_999)));
        assert_eq!(pair("32768"), None);
    }

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
