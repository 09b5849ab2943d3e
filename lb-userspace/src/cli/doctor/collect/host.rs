//! The machine: files of `/proc` and `/sys`, the BPF file system, the kernel's clock.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
};

use nix::sys::{
    stat::{major, minor},
    statvfs::{FsFlags, statvfs},
};

use super::{
    super::facts::{AgentFacts, HostFacts, PinFacts},
    ethtool, files,
};
use crate::{
    clock,
    datapath::{self, Pins},
    model::{
        frontend::{Forward, Frontend, L4Frontend},
        snapshot::{Backend, Snapshot, SynCookies, Via},
    },
};

/// Where pins are without a configuration.
const USUAL_PINS: &str = lb_common::abi::PIN_DIRECTORY;

/// What there is to know of the machine.
pub(super) fn facts(snapshot: Option<&Snapshot>, agent: &AgentFacts) -> HostFacts {
    let config = snapshot.map(|snapshot| &snapshot.datapath);
    let directory = config.map_or_else(|| USUAL_PINS.into(), |config| config.pin_directory.clone());
    let pid = match agent {
        AgentFacts::Answers(status) => Some(status.agent.pid),
        AgentFacts::Unknown | AgentFacts::Silent(_) => None,
    };
    let memory = config.and_then(|config| datapath::memory::needed(config).ok());
    let forwards = |is_used: bool, key: &str| {
        files::sysctl::<u32>(key).map(|value| value != 0).filter(|_| is_used)
    };
    let uses = |is_used: fn(&Families) -> bool| snapshot.is_none_or(|one| is_used(&families(one)));
    HostFacts {
        kernel: files::read("/proc/sys/kernel/osrelease")
            .and_then(|text| files::kernel_version(&text)),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        jit: files::sysctl("net/core/bpf_jit_enable"),
        jit_harden: files::sysctl("net/core/bpf_jit_harden"),
        unprivileged_bpf: files::sysctl("kernel/unprivileged_bpf_disabled"),
        lockdown: files::read("/sys/kernel/security/lockdown")
            .and_then(|text| files::chosen(&text).map(str::to_owned)),
        has_cookies: datapath::stages::has_cookies(),
        wants_cookies: snapshot.map_or_else(Vec::new, wants_cookies),
        checked_as_traffic: snapshot.map_or_else(Vec::new, checked_as_traffic),
        pins: pins(directory),
        clocksource: files::read(
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        ),
        clock: clock::discipline(),
        // The tables of a running agent are there already.
        memory_free: files::read("/proc/meminfo")
            .and_then(|text| files::available(&text))
            .filter(|_| pid.is_none()),
        memory_limit: pid.and_then(memory_limit),
        memory_needed: memory.unwrap_or(0),
        memory_held: config
            .and_then(|config| datapath::memory::held(&Pins::new(&config.pin_directory))),
        processors: thread::available_parallelism().map_or(1, usize::from),
        local_ports: files::read("/proc/sys/net/ipv4/ip_local_port_range")
            .and_then(|text| files::pair(&text)),
        reserved_ports: files::read("/proc/sys/net/ipv4/ip_local_reserved_ports")
            .map_or_else(Vec::new, |text| files::ranges(&text)),
        snat_ports: config.map(|config| config.snat_ports),
        forwards4: forwards(uses(|families| families.four), "net/ipv4/ip_forward"),
        forwards6: forwards(uses(|families| families.six), "net/ipv6/conf/all/forwarding"),
        half_nat: snapshot.map_or_else(Vec::new, half_nat),
        descriptors: pid
            .and_then(|pid| files::read(format!("/proc/{pid}/limits")))
            .and_then(|limits| files::descriptors(&limits)),
        connections: snapshot.map_or(0, connections),
        has_ethtool: ethtool::is_there(),
        tracked: files::sysctl("net/netfilter/nf_conntrack_count")
            .zip(files::sysctl("net/netfilter/nf_conntrack_max")),
    }
}

/// The families that servers of layer 4 have.
struct Families {
    four: bool,
    six: bool,
}

fn families(snapshot: &Snapshot) -> Families {
    let backends = snapshot.l4_backends();
    let servers = backends.iter().filter_map(|name| snapshot.backends.get(*name));
    let addresses: Vec<_> = servers
        .flat_map(|backend| backend.servers.values())
        .filter_map(|server| server.address.socket())
        .collect();
    Families {
        four: addresses.iter().any(SocketAddr::is_ipv4),
        six: addresses.iter().any(SocketAddr::is_ipv6),
    }
}

/// The keys by which SYN cookies are asked for.
fn wants_cookies(snapshot: &Snapshot) -> Vec<String> {
    let everywhere = snapshot.datapath.syn_cookies;
    let mut keys = Vec::new();
    for (name, frontend) in snapshot.l4_frontends() {
        // Nobody else's servers answer by way of the balancer.
        if frontend.forward != Forward::Nat {
            continue;
        }
        match frontend.syn_cookies {
            Some(SynCookies::Off) => {}
            Some(_) => keys.push(format!("frontends.{name}.syn_cookies")),
            None if everywhere == SynCookies::Off => {}
            None => keys.push("datapath.syn_cookies".to_owned()),
        }
    }
    keys.sort();
    keys.dedup();
    keys
}

/// Backends whose checks go the way of traffic, where there is one.
fn checked_as_traffic(snapshot: &Snapshot) -> Vec<String> {
    let goes = |backend: &Backend| {
        let check = backend.check.as_ref();
        check.is_some_and(|check| check.via == Via::Vip) && !snapshot.is_in_user_space()
    };
    let backends = snapshot.backends.iter().filter(|(_, backend)| goes(backend));
    backends.map(|(name, _)| name.to_string()).collect()
}

/// Frontends whose servers have the balancer for a router.
fn half_nat(snapshot: &Snapshot) -> Vec<String> {
    let half = |frontend: &L4Frontend| frontend.forward == Forward::Nat && !frontend.snat;
    let frontends = snapshot.l4_frontends().filter(|(_, frontend)| half(frontend));
    frontends.map(|(name, _)| name.to_string()).collect()
}

/// Connections that the proxy may have with clients, by the limits of its frontends. What
/// layer 4 may have in user space is a limit that nobody meant to reach.
fn connections(snapshot: &Snapshot) -> u64 {
    let most = |frontend: &Frontend| match frontend {
        Frontend::Tcp(tcp) => u64::from(tcp.connections.total),
        Frontend::Http(http) => u64::from(http.connections.total),
        Frontend::L4(_) => 0,
    };
    snapshot.frontends.values().map(most).sum()
}

fn pins(directory: PathBuf) -> PinFacts {
    let nearest = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let is_read_only =
        statvfs(nearest).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
    let is_on_bpffs = datapath::is_on_bpffs(&directory);
    let others = if is_on_bpffs { left_behind(&directory) } else { Vec::new() };
    PinFacts { directory, is_on_bpffs, is_read_only, others }
}

/// Pin directories beside this one that hold a data plane and that no agent has locked.
fn left_behind(directory: &Path) -> Vec<(PathBuf, Vec<String>)> {
    let Some(parent) = directory.parent() else { return Vec::new() };
    let mut found = Vec::new();
    for name in files::entries(parent) {
        let path = parent.join(name);
        let pins = Pins::new(&path);
        if path == directory || !pins.program().exists() || is_locked(&path) {
            continue;
        }
        found.push((path, pins.linked_interfaces().unwrap_or_default()));
    }
    found
}

/// Whether an agent works with a pin directory: it holds a lock as long as it lives. To try
/// the lock would be in the way of an agent that starts.
fn is_locked(directory: &Path) -> bool {
    let Ok(found) = fs::metadata(directory) else { return true };
    let (device, inode) = (found.dev(), found.ino());
    // As `lock_get_status` in `fs/locks.c` writes it.
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    files::read("/proc/locks")
        .is_some_and(|locks| locks.split_whitespace().any(|word| word == file))
}

/// The least that the control groups of a process, and those above, let it use; none without
/// a limit.
fn memory_limit(pid: u32) -> Option<u64> {
    let groups = files::memory_groups(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?);
    let limits = groups.iter().flat_map(|(hierarchy, limit, group)| {
        let above = Path::new(group).ancestors();
        above.filter_map(move |group| {
            files::number::<u64>(Path::new(hierarchy).join(group).join(limit))
        })
    });
    // The first version writes a very large number for none.
    limits.min().filter(|bytes| *bytes < 1 << 60)
}
