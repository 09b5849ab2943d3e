//! What `pointsman doctor` looks at: facts without a judgement. What could not be found out
//! is none, and nothing follows from it.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use crate::{
    admin::api::StatusView, clock::Discipline, model::snapshot::AttachMode, network::Device,
};

/// Everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The configuration has no data plane.
    pub(super) is_in_user_space: bool,
    /// What is allowed in the configuration but hardly meant, and what to do about it.
    pub(super) warnings: Vec<(String, Option<String>)>,
    pub(super) host: HostFacts,
    pub(super) interfaces: Vec<InterfaceFacts>,
    /// Where packets leave inside others.
    pub(super) tunnels: Vec<TunnelFacts>,
    pub(super) servers: Vec<ServerFacts>,
    pub(super) agent: AgentFacts,
}

/// The machine.
#[derive(Clone, Debug, Default)]
pub(super) struct HostFacts {
    /// Version of the kernel: `6.1`.
    pub(super) kernel: Option<(u32, u32)>,
    /// The kernel describes its types.
    pub(super) btf: bool,
    /// `net.core.bpf_jit_enable`.
    pub(super) jit: Option<u32>,
    /// `net.core.bpf_jit_harden`: 2 blinds the constants of programs of root, too.
    pub(super) jit_harden: Option<u32>,
    /// `kernel.unprivileged_bpf_disabled`; 0 lets everybody load programs.
    pub(super) unprivileged_bpf: Option<u32>,
    /// What the kernel keeps from root: `none`, `integrity`, `confidentiality`.
    pub(super) lockdown: Option<String>,
    /// The kernel has SYN cookies for XDP programs.
    pub(super) has_cookies: bool,
    /// Keys of the configuration that ask for them.
    pub(super) wants_cookies: Vec<String>,
    /// Backends whose checks go the way of traffic (`via: vip`).
    pub(super) checked_as_traffic: Vec<String>,
    pub(super) pins: PinFacts,
    /// What the kernel reads the time from.
    pub(super) clocksource: Option<String>,
    /// Who sets the wall clock.
    pub(super) clock: Option<Discipline>,
    /// Bytes of memory that are free, or can be freed.
    pub(super) memory_free: Option<u64>,
    /// Most bytes that the agent's control group may use; none without a limit.
    pub(super) memory_limit: Option<u64>,
    /// Bytes that the maps of the configuration take once they are full, without rings.
    pub(super) memory_needed: u64,
    /// Bytes that the pinned maps have, without rings; none if there are none.
    pub(super) memory_held: Option<u64>,
    /// Processors in use.
    pub(super) processors: usize,
    /// `net.ipv4.ip_local_port_range`, inclusive.
    pub(super) local_ports: Option<(u16, u16)>,
    /// `net.ipv4.ip_local_reserved_ports`, inclusive: those that the host does not take.
    pub(super) reserved_ports: Vec<(u16, u16)>,
    /// `datapath.snat_ports`, inclusive.
    pub(super) snat_ports: Option<(u16, u16)>,
    /// `net.ipv4.ip_forward`; none if no server has an IPv4 address.
    pub(super) forwards4: Option<bool>,
    /// `net.ipv6.conf.all.forwarding`; none if no server has an IPv6 address.
    pub(super) forwards6: Option<bool>,
    /// Frontends whose servers have this machine for a router (`snat: false`).
    pub(super) half_nat: Vec<String>,
    /// Most descriptors that the running agent may have.
    pub(super) descriptors: Option<u64>,
    /// Connections that clients may have with the proxy.
    pub(super) connections: u64,
    /// There is an `ethtool` to ask.
    pub(super) has_ethtool: bool,
    /// Connections that netfilter tracks here, and most that it can.
    pub(super) tracked: Option<(u64, u64)>,
}

/// The pin directory of the configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct PinFacts {
    pub(super) directory: PathBuf,
    /// It is, or will be, on a BPF file system.
    pub(super) is_on_bpffs: bool,
    /// That is mounted read-only.
    pub(super) is_read_only: bool,
    /// Directories beside it with a data plane that no agent looks after, and the interfaces
    /// that have their program.
    pub(super) others: Vec<(PathBuf, Vec<String>)>,
}

/// One interface of the configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct InterfaceFacts {
    pub(super) name: String,
    /// None if there is no such interface, or none with Ethernet framing.
    pub(super) link: Option<LinkFacts>,
    /// How the configuration wants the program attached.
    pub(super) wanted: Option<AttachMode>,
    /// The XDP program it has.
    pub(super) program: Option<ProgramFacts>,
    /// Name of the driver, or kind of a device without hardware.
    pub(super) driver: Option<String>,
    /// What is behind it.
    pub(super) device: Device,
    /// The other end of a pair, if that is here.
    pub(super) far_end: Option<FarEndFacts>,
    /// Number of receive queues.
    pub(super) queues: Option<usize>,
    /// Most receive queues that the hardware has.
    pub(super) most_queues: Option<usize>,
    /// Packets that each receive queue has room for, and most that it can have.
    pub(super) ring: Option<(u32, u32)>,
    /// For each of its interrupts, the processors that take it: `0`, `0-3`.
    pub(super) interrupts: Vec<String>,
    /// Programs and filters of tc: `ingress bpf`.
    pub(super) filters: Vec<String>,
    /// What `ethtool -k` says, by its names; empty if it could not be asked.
    pub(super) offloads: BTreeMap<String, bool>,
    /// `net.ipv4.conf.*.rp_filter`, the one in force.
    pub(super) rp_filter: Option<u32>,
}

/// The other end of a veth pair.
#[derive(Clone, Debug, Default)]
pub(super) struct FarEndFacts {
    pub(super) name: String,
    /// It has an XDP program of any kind.
    pub(super) has_program: bool,
    /// What `ethtool -k` says of it.
    pub(super) offloads: BTreeMap<String, bool>,
}

/// Where packets of a frontend leave inside others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TunnelFacts {
    pub(super) frontend: String,
    /// `ipip` or `gue`.
    pub(super) forward: &'static str,
    /// Bytes that are put in front.
    pub(super) overhead: u32,
    /// The interface that they leave by, and the largest packet it takes, bytes.
    pub(super) interface: String,
    pub(super) mtu: u32,
}

/// An interface that is there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkFacts {
    /// Switched on and with a carrier.
    pub(super) up: bool,
    /// Largest packet without the Ethernet header, bytes.
    pub(super) mtu: u32,
}

/// An XDP program on an interface.
#[derive(Clone, Debug, Default)]
pub(super) struct ProgramFacts {
    pub(super) id: u32,
    pub(super) name: Option<String>,
    /// In the network stack, not in the driver.
    pub(super) generic: bool,
    /// Held there by the pins of the configuration.
    pub(super) ours: bool,
}

/// One server of the configuration.
#[derive(Clone, Debug)]
pub(super) struct ServerFacts {
    /// `BACKEND/SERVER`.
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) way: Way,
}

/// How packets reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The next hop's Ethernet address is known.
    Known,
    /// The next hop was not asked for yet, or is being asked for.
    Unresolved(String),
    /// The next hop, named, does not answer.
    Failed(String),
    /// There is no way; why.
    None(String),
}

/// The running agent.
#[derive(Clone, Debug, Default)]
pub(super) enum AgentFacts {
    /// Not looked for: there is no configuration.
    #[default]
    Unknown,
    /// It does not answer; why.
    Silent(String),
    /// It answers.
    Answers(Box<StatusView>),
}
