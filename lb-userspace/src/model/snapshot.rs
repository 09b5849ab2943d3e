//! The validated configuration: what `config` produces and everything else reads.
//!
//! A [`Snapshot`] can not be invalid: references resolve, families match, ids fit. It is
//! immutable; a reload makes a new one.

use super::address::ServerAddress;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    access::AccessList,
    access_log::AccessLog,
    backend::ProxySettings,
    frontend::{Frontend, L4Frontend, Listen, TcpFrontend},
    name::Name,
};

/// A whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Node-wide settings of the kernel half.
    pub datapath: Datapath,
    /// Where the admin interface listens.
    pub admin: Admin,
    /// Logs of the agent and of finished flows.
    pub log: Log,
    /// What clients connect to.
    pub frontends: BTreeMap<Name, Frontend>,
    /// Pools of servers.
    pub backends: BTreeMap<Name, Backend>,
}

impl Snapshot {
    /// The frontends that are forwarded in the kernel.
    pub fn l4_frontends(&self) -> impl Iterator<Item = (&Name, &L4Frontend)> {
        self.frontends.iter().filter_map(|(name, frontend)| Some((name, frontend.as_l4()?)))
    }

    /// The names of the backends that the kernel forwards to.
    #[must_use]
    pub fn l4_backends(&self) -> BTreeSet<&Name> {
        self.l4_frontends().map(|(_, frontend)| &frontend.backend).collect()
    }
}

impl Snapshot {
    /// Whether the proxy serves the frontends of layer 4: there is no data plane.
    #[must_use]
    pub fn is_in_user_space(&self) -> bool {
        self.datapath.mode == AttachMode::Off
    }

    /// Whether some check is to go the way of traffic, and there is one.
    #[must_use]
    pub fn checks_as_traffic(&self) -> bool {
        let mut checks = self.backends.values().filter_map(|backend| backend.check.as_ref());
        !self.is_in_user_space() && checks.any(|check| check.via == Via::Vip)
    }

    /// The names of the backends that the proxy connects to.
    #[must_use]
    pub fn proxy_backends(&self) -> BTreeSet<&Name> {
        let is_proxied =
            |frontend: &&Frontend| self.is_in_user_space() || frontend.as_l4().is_none();
        self.frontends.values().filter(is_proxied).flat_map(Frontend::backends).collect()
    }

    /// The frontends whose connections the proxy joins: those of `mode: tcp`, and those of
    /// layer 4 in user space, as such.
    pub fn joined_frontends(&self) -> impl Iterator<Item = (&Name, Cow<'_, TcpFrontend>)> {
        self.frontends.iter().filter_map(|(name, frontend)| match frontend {
            Frontend::Tcp(tcp) => Some((name, Cow::Borrowed(tcp))),
            Frontend::L4(layer_4) if self.is_in_user_space() => {
                Some((name, Cow::Owned(layer_4.in_user_space(&self.datapath))))
            }
            Frontend::L4(_) | Frontend::Http(_) => None,
        })
    }

    /// Every place where the proxy listens.
    #[must_use]
    pub fn listens(&self) -> Vec<Listen> {
        let http = self.frontends.values().filter_map(|frontend| match frontend {
            Frontend::Http(http) => Some(&http.listen),
            Frontend::L4(_) | Frontend::Tcp(_) => None,
        });
        let joined = self.joined_frontends().flat_map(|(_, tcp)| tcp.into_owned().listen);
        let layer_4 = self.l4_frontends().filter(|_| self.is_in_user_space());
        let datagrams = layer_4.flat_map(|(_, frontend)| frontend.datagram_vips());
        http.flatten().cloned().chain(joined).chain(datagrams.map(Listen::on_vip)).collect()
    }
}

/// `datapath`: the kernel half.
#[derive(Clone, Debug, PartialEq)]
pub struct Datapath {
    /// Interfaces the program is attached to; at least one unless `mode` is `Off`.
    pub interfaces: Vec<String>,
    /// How the program is attached.
    pub mode: AttachMode,
    /// Directory of the pins; `/sys/fs/bpf/pointsman` by default.
    pub pin_directory: PathBuf,
    /// Put VIP addresses on the first interface and take them off when they go.
    pub manage_addresses: bool,
    /// Answer echo requests for VIP addresses in the data plane; true by default.
    pub answer_echo: bool,
    /// When SYNs to frontends that translate addresses are answered with cookies.
    pub syn_cookies: SynCookies,
    /// Per cent of `max_half_open` in use from which on `SynCookies::Auto` sends cookies, 1 to
    /// 100.
    pub syn_cookie_threshold: u8,
    /// Source ports towards servers, inclusive; 1024 to 32767 by default.
    pub snat_ports: (u16, u16),
    /// Port that `forward: gue` sends to; 6080 by default.
    pub gue_port: u16,
    /// Most confirmed flows of each family; two table entries each.
    pub max_flows: u32,
    /// Most half-open flows of each family; two table entries each.
    pub max_half_open: u32,
    /// Most networks of each family on all lists of sources and blocked by the operator.
    pub max_prefixes: u32,
    /// Most sources whose use of their limits is remembered.
    pub max_sources: u32,
    /// Who may be a client of any frontend of layer 4.
    pub access: AccessList,
    /// After how much idleness a flow is forgotten.
    pub timeouts: FlowTimeouts,
    /// Time between two sweeps of the flow tables; 5 s by default.
    pub sweep_interval: Duration,
}

/// When SYNs are answered with cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SynCookies {
    /// Never.
    Off,
    /// While the table of half-open flows is fuller than a threshold.
    Auto,
    /// Always.
    Always,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// Native, or generic with a warning where the driver has no XDP.
    Auto,
    /// In the driver; an error where the driver has no XDP.
    Native,
    /// In the network stack, on any interface, slower.
    Generic,
    /// Not at all.
    Off,
}

/// Idle timeouts of flows by state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// TCP, handshake not finished, or UDP, no reply yet; 30 s by default.
    pub half_open: Duration,
    /// TCP, established; 3 h by default, longer than Linux's keep-alive (2 h).
    pub established: Duration,
    /// TCP, one side has sent FIN; 10 min by default (a half-closed peer may go on sending).
    pub closing: Duration,
    /// TCP, both sides have sent FIN or one a RST; 10 s by default.
    pub closed: Duration,
    /// UDP with replies; 60 s by default.
    pub udp: Duration,
}

/// `admin`: where the agent answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Unix socket, read and write, for the owner (mode 0600).
    pub socket: PathBuf,
    /// TCP address that answers read-only requests; none by default.
    pub listen: Option<SocketAddr>,
}

/// `log`: the agent's own log and the access log.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Where the agent's own log goes.
    pub target: LogTarget,
    /// Where finished flows, sessions and requests are written; none by default. Shared
    /// with whatever writes lines.
    pub access: Option<Arc<AccessLog>>,
}

/// Where the agent's own log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error, one line an event.
    Stderr,
    /// systemd's journal, structured.
    Journald,
}

/// Transport protocol of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
}

impl Protocol {
    /// The IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// One VIP of a layer-4 frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Bind {
    /// Address and port; neither is unspecified.
    pub address: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// `backends.NAME`: a pool of servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// What selects the server of a new flow.
    pub hash: HashBy,
    /// How new flows are spread in layer 4.
    pub spread: Spread,
    /// Whether a new flow in layer 4 is refused if its server has no room for it.
    pub refuse_when_full: bool,
    /// For how long an idle client of layer 4 belongs to its server, 1 s to 18 h; none if
    /// clients belong to nobody.
    pub affinity: Option<Duration>,
    /// What happens to the flows of a dead server.
    pub on_down: OnDown,
    /// How servers are checked; none means they are always taken to be up.
    pub check: Option<Check>,
    /// What only the proxy honours.
    pub proxy: ProxySettings,
    /// The servers, by name.
    pub servers: BTreeMap<Name, Server>,
}

/// How new flows are spread in layer 4: `balance` as far as that has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// By [`Backend::hash`] (`maglev`).
    #[default]
    Hashed,
    /// To the less loaded of two servers, or one that has far fewer flows
    /// (`least-connections`).
    LeastConnections,
    /// In turn (`round-robin`).
    InTurn,
}

/// What selects the server of a new flow (`balance: maglev`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashBy {
    /// All five fields: every connection on its own.
    Tuple,
    /// The client's address: all its connections go to one server.
    Source,
}

/// What happens to the flows of a dead server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDown {
    /// The client's next TCP packet is answered with a RST; UDP is rerouted.
    Reset,
    /// The flow is forgotten and a server is selected again.
    Reroute,
    /// The flow stays where it is.
    Keep,
}

/// `backends.NAME.servers.NAME`: one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub address: ServerAddress,
    /// Share of new flows relative to the others, 0 to 256; 0 gets none. 100 by default.
    pub weight: u16,
    /// Used only while no server without this mark is usable.
    pub backup: bool,
    /// Most requests of the proxy, or flows of layer 4, at a time; none for no limit.
    pub max_connections: Option<u32>,
}

/// `backends.NAME.check`: how servers are checked.
#[derive(Clone, Debug)]
pub struct Check {
    /// What is asked and expected.
    pub kind: CheckKind,
    /// Time between the starts of two checks; jittered by a tenth. 2 s by default.
    pub interval: Duration,
    /// The same while the server is between UP and DOWN; `interval` by default.
    pub fast_interval: Duration,
    /// Longest time one check may take; 1 s by default.
    pub timeout: Duration,
    /// Failures in a row that make an UP server DOWN; 3 by default.
    pub fall: u32,
    /// Successes in a row that make a DOWN server UP; 2 by default.
    pub rise: u32,
    /// Port to check in place of the server's own.
    pub port: Option<u16>,
    /// Which way it goes; to the server by default.
    pub via: Via,
}

/// Which way checks go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// To the address of the server.
    #[default]
    Server,
    /// To the VIP, as the packets of clients reach the server.
    Vip,
}

/// What a check asks and expects.
#[derive(Clone, Debug)]
pub enum CheckKind {
    /// The handshake completes.
    Tcp,
    /// An HTTP/1.1 request gets the expected answer.
    Http(Box<HttpCheck>),
}

/// `check: {type: http}`.
#[derive(Clone, Debug)]
pub struct HttpCheck {
    /// Request method; `GET` by default.
    pub method: String,
    /// Request target, origin form; `/` by default.
    pub path: String,
    /// `Host` header; the server's address by default.
    pub host: Option<String>,
    /// Further request headers.
    pub headers: Vec<(String, String)>,
    /// Accepted status codes as inclusive ranges; 200 to 399 by default.
    pub status: Vec<(u16, u16)>,
    /// What the body must hold.
    pub body: Option<BodyExpectation>,
    /// A 404 means NOLB in place of a failure: finish what is there, take nothing new.
    pub disable_on_404: bool,
}

/// What the body of a checked answer must hold.
#[derive(Clone, Debug)]
pub enum BodyExpectation {
    /// This text somewhere.
    Contains(String),
    /// A match of this expression somewhere.
    Matches(regex::Regex),
}

impl PartialEq for Check {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Check {
    /// Everything but the compiled regex is comparable; a regex is compared by its text.
    fn key(&self) -> impl PartialEq + '_ {
        let kind = match &self.kind {
            CheckKind::Tcp => None,
            CheckKind::Http(http) => {
                let body = http.body.as_ref().map(|body| match body {
                    BodyExpectation::Contains(text) => (false, text.as_str()),
                    BodyExpectation::Matches(regex) => (true, regex.as_str()),
                });
                let request = (&http.method, &http.path, &http.host, &http.headers);
                Some((request, &http.status, body, http.disable_on_404))
            }
        };
        let times = (self.interval, self.fast_interval, self.timeout);
        (kind, times, self.fall, self.rise, self.port, self.via)
    }
}
