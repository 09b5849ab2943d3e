//! What clients connect to: `frontends.NAME`, by mode.
//!
//! Layer 4 sees [`L4Frontend`] alone, through [`Snapshot::l4_frontends`]; the proxy sees
//! [`TcpFrontend`] and [`HttpFrontend`]. Names are unique over all modes.
//!
//! [`Snapshot::l4_frontends`]: super::snapshot::Snapshot::l4_frontends

use std::{collections::BTreeSet, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
pub use lb_common::forward::Forward;

use super::{
    access::{AccessList, SourceLimits},
    name::Name,
    rule::Rule,
    snapshot::{Bind, Datapath, Protocol, SynCookies},
    tls::BindTls,
};

/// `frontends.NAME`.
#[derive(Clone, Debug, PartialEq)]
pub enum Frontend {
    /// `mode: l4`: packets are forwarded in the kernel.
    L4(L4Frontend),
    /// `mode: tcp`: the proxy joins two TCP connections.
    Tcp(TcpFrontend),
    /// `mode: http`: the proxy reads requests.
    Http(HttpFrontend),
}

/// A layer-4 frontend.
#[derive(Clone, Debug, PartialEq)]
pub struct L4Frontend {
    /// Its VIPs; at least one, no two alike in the whole configuration, all of one family.
    pub bind: Vec<Bind>,
    /// The backend; always present in [`Snapshot::backends`]. Its servers are of the family of
    /// the VIPs unless packets are encapsulated, and have the port of every VIP unless
    /// `forward` translates.
    ///
    /// [`Snapshot::backends`]: super::snapshot::Snapshot::backends
    pub backend: Name,
    /// How packets reach the servers.
    pub forward: Forward,
    /// With [`Forward::Nat`]: servers see the balancer's address. Otherwise they see the
    /// client's, and the way to clients leads through the balancer (half NAT).
    pub snat: bool,
    /// With [`Forward::Nat`]: when SYNs are answered with cookies; none as the data plane says.
    pub syn_cookies: Option<SynCookies>,
    /// Who may be its client.
    pub access: AccessList,
    /// What it takes from one source.
    pub limits: SourceLimits,
}

/// A frontend that joins TCP connections.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpFrontend {
    /// Where it listens; at least one.
    pub listen: Vec<Listen>,
    /// The backend; always present.
    pub backend: Name,
    /// How long the client may keep it waiting; those of HTTP are not used.
    pub timeouts: ClientTimeouts,
    /// Most connections, and most of one source.
    pub connections: ConnectionLimits,
    /// Backends by the server name of TLS; each is always present, no name is given twice.
    pub sni: Vec<(SniPattern, Name)>,
    /// Who may be its client; of no meaning for one of layer 4 in user space, which has its own.
    pub access: AccessList,
}

/// A server name, or the names below one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SniPattern {
    /// This name, lower case.
    Exact(String),
    /// Names of one label more, as a certificate's wildcard: of `*.example.com` what follows
    /// the star, `.example.com`, lower case.
    Wildcard(String),
}

/// A frontend that speaks HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpFrontend {
    /// Where it listens; at least one.
    pub listen: Vec<Listen>,
    /// The backend of requests that no rule sends elsewhere; always present.
    pub backend: Name,
    /// How long the client may keep it waiting.
    pub timeouts: ClientTimeouts,
    /// Most connections, and most of one source.
    pub connections: ConnectionLimits,
    /// What a request may be.
    pub limits: HttpLimits,
    /// Peers whose word on where a request comes from is taken (`X-Forwarded-For` and its
    /// kind).
    pub trusted_proxies: Vec<IpNet>,
    /// Whether `CONNECT` is for its servers, which are forward proxies; else it is refused.
    pub takes_connect: bool,
    /// Who may be its client.
    pub access: AccessList,
    /// What happens to which requests, in order; the backends that they name are present.
    pub rules: Vec<Rule>,
}

/// One place where the proxy listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Listen {
    /// Where.
    pub address: ListenAddress,
    /// An IPv6 socket does not take IPv4; of no meaning elsewhere. True by default.
    pub is_v6only: bool,
    /// Permission bits of a unix socket; of no meaning elsewhere. 0660 by default.
    pub mode: u32,
    /// TLS that ends here.
    pub tls: Option<BindTls>,
    /// Who introduces clients by the PROXY protocol.
    pub accept_proxy: Option<AcceptProxy>,
}

/// Who introduces clients by the PROXY protocol. Connections from there begin with a header
/// or are refused; others are clients' own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AcceptProxy {
    /// Their networks.
    pub sources: Vec<IpNet>,
    /// Longest wait for a header.
    pub timeout: Duration,
}

/// Where the proxy listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddress {
    /// `ADDRESS:PORT`; the address may be unspecified, the port is not 0.
    Tcp(SocketAddr),
    /// A VIP of UDP, where frontends of layer 4 are served in user space.
    Udp(SocketAddr),
    /// `unix@/absolute/path`.
    Unix(PathBuf),
    /// `fd@N`: a listening socket that was inherited under this number.
    Descriptor(i32),
    /// `systemd@NAME`: the sockets of systemd's socket activation of this name
    /// (`FileDescriptorName=`, sd_listen_fds(3)).
    Systemd(String),
}

/// How long a client may keep the proxy waiting. None is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// Silence while the client should send or take; 30 s by default.
    pub client: Duration,
    /// From the first byte of a request to the end of its header; 10 s by default.
    pub http_request: Duration,
    /// From a response to the first byte of the next request; 60 s by default.
    pub keep_alive: Duration,
    /// Silence of both sides of an upgraded or TCP connection; 1 h by default.
    pub tunnel: Duration,
    /// A whole request of `mode: http`, from the end of its header to that of its response; 24 h
    /// by default, none for no such limit.
    pub total: Option<Duration>,
}

/// Most connections at a time. None is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Of the frontend.
    pub total: u32,
    /// Of one source address.
    pub per_source: u32,
}

/// What a request may be. None is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Bytes of the request line and all header fields.
    pub header_bytes: u32,
    /// Number of header fields.
    pub header_count: u32,
    /// Bytes of the request target.
    pub uri_bytes: u32,
    /// Bytes of the body.
    pub body_bytes: u64,
    /// Least bytes of a body a second, on average, once the client was waited for for
    /// longer than [`ClientTimeouts::client`].
    pub body_rate: u64,
    /// Open streams of one HTTP/2 connection.
    pub streams: u32,
    /// Streams of one HTTP/2 connection that may be reset, by the client beyond as many as
    /// it lets come to their end, before the proxy closes it.
    pub resets: u32,
    /// Frames of HTTP/2 that carry nothing of a request, beyond those that content makes up
    /// for, before the proxy closes the connection.
    pub control_frames: u32,
}

impl Frontend {
    /// The backend of what no rule sends elsewhere.
    #[must_use]
    pub const fn backend(&self) -> &Name {
        match self {
            Self::L4(frontend) => &frontend.backend,
            Self::Tcp(frontend) => &frontend.backend,
            Self::Http(frontend) => &frontend.backend,
        }
    }

    /// Every backend that it may send something to.
    #[must_use]
    pub fn backends(&self) -> BTreeSet<&Name> {
        let (rules, sni): (&[Rule], &[_]) = match self {
            Self::Http(frontend) => (&frontend.rules, &[]),
            Self::Tcp(frontend) => (&[], &frontend.sni),
            Self::L4(_) => (&[], &[]),
        };
        let by_name = sni.iter().map(|(_, backend)| backend);
        rules.iter().flat_map(Rule::backends).chain(by_name).chain([self.backend()]).collect()
    }

    /// Who may be its client.
    #[must_use]
    pub const fn access(&self) -> &AccessList {
        match self {
            Self::L4(frontend) => &frontend.access,
            Self::Tcp(frontend) => &frontend.access,
            Self::Http(frontend) => &frontend.access,
        }
    }

    /// The same, to be changed.
    pub const fn access_mut(&mut self) -> &mut AccessList {
        match self {
            Self::L4(frontend) => &mut frontend.access,
            Self::Tcp(frontend) => &mut frontend.access,
            Self::Http(frontend) => &mut frontend.access,
        }
    }

    /// The frontend if it is of layer 4.
    #[must_use]
    pub const fn as_l4(&self) -> Option<&L4Frontend> {
        match self {
            Self::L4(frontend) => Some(frontend),
            Self::Tcp(_) | Self::Http(_) => None,
        }
    }

    /// Where the proxy listens for it; nowhere if it is of layer 4.
    #[must_use]
    pub fn listen(&self) -> &[Listen] {
        match self {
            Self::L4(_) => &[],
            Self::Tcp(frontend) => &frontend.listen,
            Self::Http(frontend) => &frontend.listen,
        }
    }
}

impl Listen {
    /// A VIP where there is no data plane.
    #[must_use]
    pub fn on_vip(vip: &Bind) -> Self {
        let address = match vip.protocol {
            Protocol::Tcp => ListenAddress::Tcp(vip.address),
            Protocol::Udp => ListenAddress::Udp(vip.address),
        };
        Self { address, is_v6only: true, mode: 0o660, tls: None, accept_proxy: None }
    }
}

impl L4Frontend {
    /// Its VIPs of UDP.
    pub fn datagram_vips(&self) -> impl Iterator<Item = &Bind> {
        self.bind.iter().filter(|bind| bind.protocol == Protocol::Udp)
    }

    /// What the proxy serves on VIPs of TCP where there is no data plane. Idle connections last
    /// as long as flows would, and there may be as many; how packets would reach servers does
    /// not matter.
    #[must_use]
    pub fn in_user_space(&self, datapath: &Datapath) -> TcpFrontend {
        let listen = self.bind.iter().filter(|bind| bind.protocol == Protocol::Tcp);
        let listen = listen.map(Listen::on_vip);
        let idle = datapath.timeouts.established;
        TcpFrontend {
            listen: listen.collect(),
            backend: self.backend.clone(),
            timeouts: ClientTimeouts {
                client: idle,
                http_request: idle,
                keep_alive: idle,
                tunnel: idle,
                total: None,
            },
            connections: ConnectionLimits {
                total: datapath.max_flows,
                per_source: self.limits.flows.unwrap_or(u32::MAX),
            },
            sni: Vec::new(),
            access: AccessList::default(),
        }
    }

    /// A frontend with one TCP VIP, `forward: nat`.
    #[must_use]
    pub fn of_one_vip(address: SocketAddr, backend: Name) -> Self {
        Self {
            bind: vec![Bind { address, protocol: Protocol::Tcp }],
            backend,
            forward: Forward::Nat,
            snat: true,
            syn_cookies: None,
            access: AccessList::default(),
            limits: SourceLimits::default(),
        }
    }
}

impl fmt::Display for ListenAddress {
    /// As it is written in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Udp(address) => write!(f, "{address}/udp"),
            Self::Unix(path) => write!(f, "unix@{}", path.display()),
            Self::Descriptor(number) => write!(f, "fd@{number}"),
            Self::Systemd(name) => write!(f, "systemd@{name}"),
        }
    }
}
