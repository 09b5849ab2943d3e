//! What can go wrong with the kernel half, grouped by who is to blame. Every message
//! says what to do.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};

/// A failure of the kernel half.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The machine, or how the agent was started on it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An interface named in the configuration.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// What another agent, or another version of this one, left pinned.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// One access to one map.
    #[error(transparent)]
    Map(#[from] MapAccessError),
    /// The program itself: our fault, worth a report.
    #[error(transparent)]
    Program(#[from] ProgramFault),
}

/// The machine lacks something.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Not enough privilege.
    #[error(
        "the agent lacks {missing}; run it as root, or give its systemd unit \
         AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_NET_RAW CAP_PERFMON"
    )]
    Privilege {
        /// The capabilities that are missing, separated by spaces.
        missing: String,
    },
    /// The kernel said no although the capabilities are there.
    #[error(
        "the kernel refused {action} although the agent has its capabilities; look for a \
         lockdown, a security module or a user namespace around the agent"
    )]
    Refused {
        /// What was attempted.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pin directory is not on a BPF file system.
    #[error("{} is not on a BPF file system; mount one: mount -t bpf bpf {}", directory.display(), mount_point.display())]
    NotBpffs {
        /// The pin directory.
        directory: PathBuf,
        /// Where a BPF file system has to be mounted.
        mount_point: PathBuf,
    },
    /// The kernel has no type information.
    #[error(
        "the kernel has no BTF ({} is missing); use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        path.display()
    )]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The kernel knows no XDP, or no links to it.
    #[error(
        "the kernel has no XDP with links; use Linux 5.15 or later built with CONFIG_BPF_SYSCALL=y"
    )]
    NoXdp {
        /// What the kernel said.
        source: io::Error,
    },
    /// Out of memory for the maps.
    #[error(
        "no memory for map {map}; lower datapath.max_flows or datapath.max_half_open, or raise \
         the memory limit of the agent (systemd: MemoryMax=, before Linux 5.11 LimitMEMLOCK=infinity)"
    )]
    Memory {
        /// The map, or `unknown`.
        map: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The interface can not carry the program.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// There is no such interface.
    #[error("there is no interface {name}; `ip -brief link` lists what there is")]
    Missing {
        /// The configured name.
        name: String,
    },
    /// Another XDP program is attached.
    #[error(
        "{name} already has XDP program {program}; see `bpftool net show dev {name}` and \
         `bpftool prog show id {program}`, and take it off: `ip link set dev {name} xdp off`, or \
         stop its owner if it is held by a link (`bpftool link show`)"
    )]
    Occupied {
        /// The interface.
        name: String,
        /// Id of the attached program, or `?` if it went away meanwhile.
        program: String,
    },
    /// The driver refused.
    #[error(
        "the driver of {name} refused native XDP; set `datapath.mode: generic` (slower), or \
         lower its MTU or its number of queues if `dmesg` names them"
    )]
    NoNative {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Attaching failed for another reason.
    #[error("XDP could not be attached to {name}; `dmesg` may say more")]
    Attach {
        /// The interface.
        name: String,
        /// What aya said.
        source: ProgramError,
    },
    /// What sends checks the way of traffic could not be attached.
    #[error(
        "no classifier could be attached to {name}, and checks `via: vip` need one; use Linux 6.6 \
         or later, or check with `via: server`"
    )]
    Classifier {
        /// The interface.
        name: String,
        /// What aya said.
        source: ProgramError,
    },
    /// The kernel did not answer what is attached.
    #[error("the kernel did not say what is attached to {name}")]
    Query {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What is pinned can not be used.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// Another agent runs on these pins.
    #[error(
        "another agent uses {}; stop it, or give this one its own datapath.pin_directory",
        directory.display()
    )]
    Locked {
        /// The pin directory.
        directory: PathBuf,
    },
    /// The maps were made by another ABI version.
    #[error(
        "the maps in {} have ABI version {found}, this agent speaks {expected}; run the agent that \
         made them, or remove them with `rm -r {}` (forwarding stops and every flow is forgotten)",
        directory.display(), directory.display()
    )]
    ForeignAbi {
        /// The pin directory.
        directory: PathBuf,
        /// What `SETTINGS` says; `unknown` if there is none.
        found: String,
        /// What this agent speaks.
        expected: u32,
    },
    /// A pinned map has another shape.
    #[error(
        "the pinned map {map} has {what} {found} where this agent needs {expected}; run the agent \
         that made it, or remove all pins with `rm -r {}` (forwarding stops and every flow is forgotten)",
        directory.display()
    )]
    OtherShape {
        /// The pin directory.
        directory: PathBuf,
        /// The map.
        map: String,
        /// The property that differs: `type`, `key size`, ...
        what: &'static str,
        /// The pinned map's.
        found: String,
        /// The object's.
        expected: String,
    },
    /// A pin is of another kind.
    #[error("{} is not the pin of {expected}; remove it", path.display())]
    OtherKind {
        /// The pin.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// There is nothing pinned.
    #[error("nothing is pinned at {}; is the agent running, and with this datapath.pin_directory?", path.display())]
    Missing {
        /// The pin.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("could not {action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Pinning failed.
    #[error("could not pin {}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What aya said.
        source: PinError,
    },
    /// A pinned link could not be opened.
    #[error("could not open the pinned link {}", path.display())]
    Link {
        /// The pin.
        path: PathBuf,
        /// What aya said.
        source: LinkError,
    },
}

/// One access to one map failed.
#[derive(Debug, thiserror::Error)]
pub enum MapAccessError {
    /// aya's access failed.
    #[error("could not {action} map {map}")]
    Access {
        /// What was attempted: `read`, `write`, ...
        action: &'static str,
        /// The map's name.
        map: &'static str,
        /// What aya said.
        source: MapError,
    },
    /// A system call of our own failed.
    #[error("could not {action} map {map}")]
    Call {
        /// What was attempted.
        action: &'static str,
        /// The map's name.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map is full.
    #[error("map {map} is full ({capacity} entries)")]
    Full {
        /// The map's name.
        map: &'static str,
        /// Its capacity in entries.
        capacity: u32,
    },
    /// A map's keys or values have another size than this agent's types.
    #[error(
        "map {map} has keys of {key} and values of {value} bytes, not {expected_key} and {expected_value}"
    )]
    Layout {
        /// The map's name.
        map: &'static str,
        /// Bytes of a key.
        key: u32,
        /// Bytes of a value.
        value: u32,
        /// Bytes of a key in this agent.
        expected_key: usize,
        /// Bytes of a value in this agent.
        expected_value: usize,
    },
    /// A ring has another number of slots than the data plane.
    #[error("a ring has {expected} slots, this one {found}")]
    RingSlots {
        /// Slots given.
        found: usize,
        /// Slots needed.
        expected: usize,
    },
}

/// The program misbehaved: an error of ours.
#[derive(Debug, thiserror::Error)]
pub enum ProgramFault {
    /// The object could not be read or its maps not created.
    #[error("the embedded BPF object could not be loaded")]
    Object(#[source] EbpfError),
    /// The embedded object lacks a map or program.
    #[error("the embedded BPF object has no {0}")]
    Lacks(&'static str),
    /// The verifier refused it.
    #[error("the kernel's verifier refused the program; please report it with this whole message")]
    Verifier(#[source] ProgramError),
    /// A loaded program's descriptor could not be duplicated.
    #[error("the agent got no second descriptor of a program; raise its limit of open files")]
    Descriptor(#[source] ProgramError),
    /// The new program gave a wrong answer, so it did not replace the running one.
    #[error(
        "the new program answered a canned {packet} packet with verdict {found} in place of \
         {expected}; the running program was left in place"
    )]
    CannedPacket {
        /// The packet.
        packet: &'static str,
        /// The verdict (`XDP_*`).
        found: u32,
        /// The verdict that is right.
        expected: u32,
    },
    /// The records of a program that logs packets could not be read.
    #[cfg(feature = "dataplane-log")]
    #[error("the packet log could not be read")]
    PacketLog(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The canned packet could not be run.
    #[error("the new program could not be tried on a canned packet")]
    TestRun(#[source] ProgramError),
}
