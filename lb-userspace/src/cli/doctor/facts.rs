//! What `pointsman doctor` looks at: facts without a judgement. What could not be found out
//! is none, and nothing follows from it.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use crate::{admin::api::StatusView, model::snapshot::AttachMode};

/// Everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The configuration has no data plane.
    pub(super) is_in_user_space: bool,
    pub(super) host: HostFacts,
    pub(super) interfaces: Vec<InterfaceFacts>,
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
    /// The pin directory of the configuration, and whether it is, or will be, on a BPF
    /// file system.
    pub(super) pins: (PathBuf, bool),
    /// What the kernel reads the time from.
    pub(super) clocksource: Option<String>,
    /// Whether the time is kept in step with other clocks.
    pub(super) synchronised: Option<bool>,
    /// Bytes of memory that are free, or can be freed.
    pub(super) memory_free: Option<u64>,
    /// Most bytes that the agent's control group may use; none without a limit.
    pub(super) memory_limit: Option<u64>,
    /// Bytes that the flow tables of the configuration take.
    pub(super) memory_needed: u64,
    /// Processors in use.
    pub(super) processors: usize,
    /// `net.ipv4.ip_local_port_range`, inclusive.
    pub(super) local_ports: Option<(u16, u16)>,
    /// `datapath.snat_ports`, inclusive.
    pub(super) snat_ports: Option<(u16, u16)>,
    /// `net.ipv4.ip_forward`.
    pub(super) forwards4: Option<bool>,
    /// `net.ipv6.conf.all.forwarding`.
    pub(super) forwards6: Option<bool>,
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
    /// Name of the driver.
    pub(super) driver: Option<String>,
    /// Number of receive queues.
    pub(super) queues: Option<usize>,
    /// For each of its interrupts, the processors that take it: `0`, `0-3`.
    pub(super) interrupts: Vec<String>,
    /// What `ethtool -k` says, by its names; empty if it could not be asked.
    pub(super) offloads: BTreeMap<String, bool>,
    /// `net.ipv4.conf.*.rp_filter`, the one in force.
    pub(super) rp_filter: Option<u32>,
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
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProgramFacts {
    pub(super) id: u32,
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
