//! The wiring: one client and some servers, each in a namespace, around a balancer.
//!
//! ```text
//!              10.91.0.0/24   +----------+  10.92.0.0/24
//!  client eth0 -------------- | client0  | server0 ------ eth0 server 0
//!              fd91::/64      | balancer |  10.92.1.0/24
//!                             |          | server1 ------ eth0 server 1   ...
//!                             +----------+
//! ```
//!
//! The balancer ends are `.1` and `::1`, the others `.2` and `::2`. The client's default
//! route is the balancer, which is how it reaches VIPs; the servers have no route at all
//! beyond their own link, because full NAT promises that they need none.
//!
//! XDP on a veth pair delivers only what the bed prepares here, statically: an
//! `XDP_PASS` program on the peer of every balancer end (a veth without one has no XDP
//! receive path), and transmit checksum offload off on every end that makes traffic
//! (a `CHECKSUM_PARTIAL` packet loses its mark in a redirect). Hardware needs neither.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    bpffs,
    namespace::{self, Namespace, output, write_sysctl},
    stub::Stub,
};

/// How the balancer's XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

impl Mode {
    /// The mode the suites run in: generic if `POINTSMAN_TEST_MODE` says so, else native.
    ///
    /// # Errors
    /// When the variable holds anything but `native` and `generic`.
    pub fn from_environment() -> Result<Self> {
        match std::env::var("POINTSMAN_TEST_MODE").as_deref() {
            Err(_) | Ok("native") => Ok(Self::Native),
            Ok("generic") => Ok(Self::Generic),
            Ok(other) => anyhow::bail!("POINTSMAN_TEST_MODE is {other:?}, not native or generic"),
        }
    }

    /// The word for `datapath.mode`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Family of an address or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// `IPv4` or `IPv6`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// The whole bed. Dropping it removes the namespaces and, with them, every link.
#[derive(Debug)]
pub struct Bed {
    /// Where connections come from.
    pub client: Arc<Namespace>,
    /// Where the agent runs.
    pub balancer: Namespace,
    /// Where the servers run.
    pub servers: Vec<Namespace>,
    /// How the balancer's program is attached.
    pub mode: Mode,
    /// Programs on the peer ends; their links live as long as these.
    stubs: Vec<Stub>,
    directory: TempDir,
    /// Beds of one process stand one after the other: side by side they would compete for
    /// the processor and make each other's timings meaningless.
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

/// Address of the VIPs of the bed, one of each family, in documentation ranges.
#[must_use]
pub const fn vip(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10)),
    }
}

impl Bed {
    /// Builds a bed with this many servers, at most 200.
    ///
    /// # Errors
    /// Without root, or when `ip`, `ethtool` or the kernel refuses a step.
    pub fn new(servers: u8, mode: Mode) -> Result<Self> {
        let mut bed = Self::unwired(servers, mode)?;
        bed.wire()?;
        Ok(bed)
    }

    /// The machines without links and addresses between them.
    ///
    /// # Errors
    /// Without root, or when `ip` or the kernel refuses a step.
    pub fn unwired(servers: u8, mode: Mode) -> Result<Self> {
        namespace::require_root()?;
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        namespace::sweep_stale()?;
        namespace::sweep_stale_directories()?;
        bpffs::mount_if_missing()?;
        bpffs::sweep_stale()?;
        let balancer = Namespace::create("balancer")?;
        balancer.run(|| {
            write_sysctl("net/ipv4/ip_forward", "1")?;
            write_sysctl("net/ipv6/conf/all/forwarding", "1")
        })?;
        let client = Arc::new(Namespace::create("client")?);
        // Ten thousand connections from one client: do not let TIME_WAIT decide the result.
        client.run(|| write_sysctl("net/ipv4/tcp_tw_reuse", "1"))?;
        let mut bed = Self {
            client,
            balancer,
            servers: Vec::new(),
            mode,
            stubs: Vec::new(),
            directory: namespace::directory()?,
            _turn: turn,
        };
        for index in 0..servers {
            bed.servers.push(Namespace::create(&format!("server{index}"))?);
        }
        Ok(bed)
    }

    /// A directory that goes with the bed.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Names of the balancer's interfaces, the client's first.
    #[must_use]
    pub fn interfaces(&self) -> Vec<String> {
        let servers = (0..self.servers.len()).map(|index| format!("server{index}"));
        std::iter::once("client0".to_owned()).chain(servers).collect()
    }

    /// Address of the client.
    #[must_use]
    pub const fn client_address(family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 91, 0, 2)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd91, 0, 0, 0, 0, 0, 0, 2)),
        }
    }

    /// Address of the balancer on the client's link.
    #[must_use]
    pub const fn balancer_address(family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 91, 0, 1)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd91, 0, 0, 0, 0, 0, 0, 1)),
        }
    }

    /// Address of a server.
    #[must_use]
    pub const fn server_address(index: u8, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 92, index, 2)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd92, index as u16, 0, 0, 0, 0, 0, 2)),
        }
    }

    /// Address of the balancer on the link to a server: who the server thinks its client is.
    #[must_use]
    pub const fn snat_address(index: u8, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 92, index, 1)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd92, index as u16, 0, 0, 0, 0, 0, 1)),
        }
    }

    /// A VIP of the bed.
    #[must_use]
    pub const fn vip(family: Family, port: u16) -> SocketAddr {
        match vip(family) {
            IpAddr::V4(address) => SocketAddr::new(IpAddr::V4(address), port),
            IpAddr::V6(address) => SocketAddr::new(IpAddr::V6(address), port),
        }
    }

    /// Cuts a server off, as a machine that loses power: no FIN, no RST, no answer.
    ///
    /// # Errors
    /// When there is no such server or `ip` fails.
    pub fn cut(&self, index: u8) -> Result<()> {
        self.server(index)?.ip(&["link", "set", "eth0", "down"])
    }

    /// Undoes [`Bed::cut`]. IPv6 addresses and routes that went with the link are put back.
    ///
    /// # Errors
    /// When there is no such server or `ip` fails.
    pub fn reconnect(&self, index: u8) -> Result<()> {
        let server = self.server(index)?;
        server.ip(&["link", "set", "eth0", "up"])?;
        let address = format!("{}/64", Self::server_address(index, Family::V6));
        server.ip(&["addr", "replace", &address, "dev", "eth0", "nodad"])
    }

    /// Makes the balancer a server's default route in both families, with further words for
    /// `ip route`. Full NAT needs none; the other modes do, and a link that went takes it along.
    ///
    /// # Errors
    /// When there is no such server or `ip` fails.
    pub fn route_back(&self, index: u8, options: &[&str]) -> Result<()> {
        for family in Family::BOTH {
            let router = Self::snat_address(index, family).to_string();
            let version = if family == Family::V4 { "-4" } else { "-6" };
            let route = [version, "route", "replace", "default", "via", &router];
            self.server(index)?.ip(&[route.as_slice(), options].concat())?;
        }
        Ok(())
    }

    /// Deletes the link to a server, both ends, as when a virtual machine goes or a card
    /// is pulled. The server's processes stay.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn unplug_server(&self, index: u8) -> Result<()> {
        self.balancer.ip(&["link", "del", &format!("server{index}")])
    }

    /// Undoes [`Bed::unplug_server`]: interfaces of the same names and addresses. The link
    /// delivers as long as the returned value lives.
    ///
    /// # Errors
    /// When there is no such server, or `ip`, `ethtool` or the kernel refuses a step.
    pub fn replug_server(&self, index: u8) -> Result<Stub> {
        let server = self.server(index)?;
        self.connect_server(index, server)?;
        Stub::attach(server, "eth0")
    }

    /// Deletes the link to the client, both ends.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn unplug_client(&self) -> Result<()> {
        self.balancer.ip(&["link", "del", "client0"])
    }

    /// Undoes [`Bed::unplug_client`]; see [`Bed::replug_server`].
    ///
    /// # Errors
    /// When `ip`, `ethtool` or the kernel refuses a step.
    pub fn replug_client(&self) -> Result<Stub> {
        self.connect_client()?;
        Stub::attach(&self.client, "eth0")
    }

    /// The namespace of a server.
    ///
    /// # Errors
    /// When there is no such server.
    pub fn server(&self, index: u8) -> Result<&Namespace> {
        self.servers.get(usize::from(index)).with_context(|| format!("no server {index}"))
    }

    fn wire(&mut self) -> Result<()> {
        self.connect_client()?;
        for (index, server) in (0_u8..).zip(&self.servers) {
            self.connect_server(index, server)?;
        }
        for peer in std::iter::once(self.client.as_ref()).chain(&self.servers) {
            self.stubs.push(Stub::attach(peer, "eth0")?);
        }
        Ok(())
    }

    fn connect_client(&self) -> Result<()> {
        self.connect(&self.client, "client0", "10.91.0", "fd91:")?;
        self.client.ip(&["route", "add", "default", "via", "10.91.0.1"])?;
        self.client.ip(&["-6", "route", "add", "default", "via", "fd91::1"])
    }

    fn connect_server(&self, index: u8, server: &Namespace) -> Result<()> {
        let (v4, v6) = (format!("10.92.{index}"), format!("fd92:{index:x}:"));
        self.connect(server, &format!("server{index}"), &v4, &v6)
    }

    /// One veth pair, `balancer_end` with `.1` and `::1` and the peer's `eth0` with `.2` and `::2`.
    fn connect(&self, peer: &Namespace, balancer_end: &str, v4: &str, v6: &str) -> Result<()> {
        let create = ["link", "add", balancer_end, "type", "veth", "peer", "name", "eth0"];
        self.balancer.ip(&[create.as_slice(), &["netns", peer.name()]].concat())?;
        for (namespace, device, last) in [(&self.balancer, balancer_end, "1"), (peer, "eth0", "2")]
        {
            namespace.ip(&["addr", "add", &format!("{v4}.{last}/24"), "dev", device])?;
            namespace.ip(&["addr", "add", &format!("{v6}:{last}/64"), "dev", device, "nodad"])?;
            output(namespace.command("ethtool").args(["-K", device, "tx", "off"]))?;
            namespace.ip(&["link", "set", device, "up"])?;
        }
        Ok(())
    }
}

/// Shows what `ip` knows of a namespace, for failure reports.
#[must_use]
pub fn describe(namespace: &Namespace) -> String {
    ["addr", "route", "neigh"]
        .iter()
        .map(|subject| {
            let mut command = Command::new("ip");
            command.args(["-n", namespace.name(), subject, "show"]);
            output(&mut command).unwrap_or_else(|error| format!("{error:#}\n"))
        })
        .collect()
}
