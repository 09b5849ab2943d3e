//! `frontends.NAME`: what clients connect to.

use ipnet::IpNet;

use super::{
    access::{ALLOW, ALLOW_FILE, DENY, DENY_FILE, decode_list},
    address::{BindAddress, bind_address},
    datapath,
    decode::{Cursor, Entries},
    fault::{Located, Refusal, quoted},
    limits::{self, RawLimits},
    proxy::{ACCEPT_PROXY, CONNECT, SNI, TRUSTED_PROXIES},
    rules::{RULES, RawRules},
    schema::{
        Bool, Choice, Key, KeyInfo, List, ListItems, Named, Nested, Presence, Section, Shape, Text,
        Unbuilt,
    },
    timeouts::{self, RawTimeouts},
    tls::{BIND_TLS, RawBindTls, whole},
};
use crate::model::{
    access::{AccessList, SourceLimits},
    frontend::{AcceptProxy, Forward, Listen, SniPattern},
    name::Name,
    snapshot::{Bind, Protocol, SynCookies},
};

/// `frontends.NAME` as given; `resolve` judges it together with its backend.
#[derive(Debug)]
pub(super) struct RawFrontend {
    /// What it is; none if at fault.
    pub(super) mode: Option<RawMode>,
    /// The name of its backend.
    pub(super) backend: Option<Located<Name>>,
    /// Its rules.
    pub(super) rules: Option<RawRules>,
}

impl RawFrontend {
    /// Its VIPs, if it is of layer 4.
    pub(super) fn vips(&self) -> Option<&ListItems<Bind>> {
        match &self.mode {
            Some(RawMode::L4(layer_4)) => Some(&layer_4.vips),
            _ => None,
        }
    }

    /// Every backend it names outside of rules.
    pub(super) fn references(&self) -> impl Iterator<Item = &Located<Name>> {
        let by_name = match &self.mode {
            Some(RawMode::Tcp(tcp)) => tcp.sni.as_deref(),
            _ => None,
        };
        let by_name = by_name.unwrap_or_default().iter().map(|(_, backend)| backend);
        by_name.chain(&self.backend)
    }
}

/// A frontend's mode, and what only that mode has.
#[derive(Debug)]
pub(super) enum RawMode {
    /// `mode: l4`.
    L4(RawL4),
    /// `mode: tcp`.
    Tcp(RawTcp),
    /// `mode: http`.
    Http(RawHttp),
}

/// A frontend of `mode: l4`.
#[derive(Debug)]
pub(super) struct RawL4 {
    /// Its VIPs; none in place of one that is at fault.
    pub(super) vips: ListItems<Bind>,
    /// How packets reach the servers; none if at fault.
    pub(super) forward: Option<Forward>,
    /// Whether servers see the balancer's address; none if at fault.
    pub(super) snat: Option<bool>,
    /// When SYNs are answered with cookies, if it says so; none if at fault.
    pub(super) syn_cookies: Option<Option<SynCookies>>,
    /// Who may be its client; none if at fault.
    pub(super) access: Option<AccessList>,
    /// What it takes from a source; none if at fault.
    pub(super) limits: Option<SourceLimits>,
}

/// A frontend of `mode: tcp`.
#[derive(Debug)]
pub(super) struct RawTcp {
    /// Where it listens; none in place of one that is at fault.
    pub(super) listen: ListItems<Listen>,
    /// What it says of timeouts.
    pub(super) timeouts: Option<RawTimeouts>,
    /// What it takes from clients.
    pub(super) limits: Option<RawLimits>,
    /// Backends by server name; none if at fault.
    pub(super) sni: Option<Vec<(SniPattern, Located<Name>)>>,
    /// Who may be its client; none if at fault.
    pub(super) access: Option<AccessList>,
}

/// A frontend of `mode: http`.
#[derive(Debug)]
pub(super) struct RawHttp {
    /// Where it listens; none in place of one that is at fault.
    pub(super) listen: ListItems<Listen>,
    /// What it says of timeouts.
    pub(super) timeouts: Option<RawTimeouts>,
    /// What it takes from clients.
    pub(super) limits: Option<RawLimits>,
    /// Networks of proxies in front of it; none if at fault.
    pub(super) trusted_proxies: Option<Vec<IpNet>>,
    /// Whether it takes `CONNECT`; none if at fault.
    pub(super) takes_connect: Option<bool>,
    /// Who may be its client; none if at fault.
    pub(super) access: Option<AccessList>,
}

/// The words of `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    L4,
    Tcp,
    Http,
}

/// `frontends` as a shape.
pub(super) const SHAPE: Named<Nested<RawFrontend>> =
    Named { item: Nested { section: &SECTION, decode } };

static SECTION: Section = Section {
    path: "frontends.NAME",
    doc: "What clients connect to. A name has 1 to 63 letters, digits, `-`, `_` and `.`, and \
          starts with a letter or a digit.",
    keys: &[
        &MODE,
        &BIND,
        &BACKEND,
        &FORWARD,
        &SNAT,
        &SYN_COOKIES,
        &RULES,
        &SNI,
        &TRUSTED_PROXIES,
        &CONNECT,
        &ALLOW,
        &DENY,
        &ALLOW_FILE,
        &DENY_FILE,
        &TIMEOUTS,
        &LIMITS,
    ],
    unbuilt: &[Unbuilt { name: "tls", hint: "it is a key of the entries of `bind`" }],
};

static MODE: Key<Choice<Mode>> = Key {
    name: "mode",
    shape: Choice {
        words: &[("l4", Mode::L4), ("tcp", Mode::Tcp), ("http", Mode::Http)],
        unbuilt: &[],
        unbuilt_message: "",
    },
    presence: Presence::Required("mode: l4"),
    doc: "`l4`: packets are forwarded in the kernel. `tcp`: the proxy joins each connection with \
          one to a server, with TLS on either side if asked to. `http`: the proxy reads requests and \
          answers them from servers, over HTTP/1.1 and HTTP/2 (by ALPN, or with prior knowledge).",
};

static BIND: Key<List<BindShape>> = Key {
    name: "bind",
    shape: List { item: BindShape },
    presence: Presence::Required("bind: [\"10.0.0.100:5432\"]"),
    doc: "At least one place, none of them given anywhere else. `mode: l4`: its VIPs, all IPv4 or \
          all IPv6. Other modes: where the proxy listens; `0.0.0.0:80` is every IPv4 address of \
          the host, `[::]:80` every address (`v6only` leaves IPv4 out); also `unix@/PATH`, `fd@N` (a listening socket \
          inherited as descriptor N) and `systemd@NAME` (one from socket activation).",
};

static TIMEOUTS: Key<Nested<RawTimeouts>> = Key {
    name: "timeouts",
    shape: timeouts::OF_FRONTEND,
    presence: Presence::Default("{}"),
    doc: "`mode: tcp` and `http`: how long clients may keep the proxy waiting.",
};

static LIMITS: Key<Nested<RawLimits>> = Key {
    name: "limits",
    shape: limits::SHAPE,
    presence: Presence::Default("{}"),
    doc: "What is taken from clients.",
};

static FORWARD: Key<Choice<Forward>> = Key {
    name: "forward",
    shape: Choice::of(&[
        ("nat", Forward::Nat),
        ("dsr", Forward::Dsr),
        ("ipip", Forward::Ipip),
        ("gue", Forward::Gue),
    ]),
    presence: Presence::Default("nat"),
    doc: "`mode: l4`: how packets reach the servers (forwarding.md). `nat`: source and destination \
          are translated; servers need no set-up and see the balancer's address. In the others \
          servers hold the VIP's address, see the client's, and answer it directly; ports stay \
          as they are. `dsr`: frames are addressed to a server in the same layer-2 segment. \
          `ipip`: packets travel in IP packets, `gue` in UDP datagrams; VIPs and servers may be \
          of different families.",
};

static SNAT: Key<Bool> = Key {
    name: "snat",
    shape: Bool,
    presence: Presence::Default("true"),
    doc: "With `forward: nat`: servers see the balancer's address, and need no set-up for that. \
          `false` (half NAT) leaves the client's address as it is: servers have to send what is for \
          clients by way of this balancer, their default route (forwarding.md).",
};

static SYN_COOKIES: Key<Choice<SynCookies>> = Key {
    name: "syn_cookies",
    shape: datapath::SYN_COOKIES_SHAPE,
    presence: Presence::Optional("`datapath.syn_cookies`"),
    doc: "`mode: l4` with `forward: nat`: when SYNs are answered with cookies. While they are, \
          connections of another node are not picked up.",
};

static BACKEND: Key<Text<Name>> = Key {
    name: "backend",
    shape: Text { what: "a name of a backend", parse: backend_name },
    presence: Presence::Required("the name of a backend under `backends`"),
    doc: "The backend. In `mode: l4` its servers are of the same family as the VIPs, unless \
          `forward` is `ipip` or `gue`.",
};

static BIND_SECTION: Section = Section {
    path: "frontends.NAME.bind[N]",
    doc: "A place as a mapping: `{address: \"10.0.0.53:53\", protocol: udp}` is \
          `\"10.0.0.53:53/udp\"`.",
    keys: &[&ADDRESS, &PROTOCOL, &V6ONLY, &MODE_BITS, &ACCEPT_PROXY, &BIND_TLS],
    unbuilt: &[],
};

static V6ONLY: Key<Bool> = Key {
    name: "v6only",
    shape: Bool,
    presence: Presence::Default("false"),
    doc: "The proxy: an IPv6 address does not take IPv4. As it is, `\"[::]:80\"` takes both.",
};

static MODE_BITS: Key<Text<u32>> = Key {
    name: "mode",
    shape: Text { what: "permission bits", parse: permission_bits },
    presence: Presence::Default("\"0660\""),
    doc: "The proxy, `unix@`: the socket's permissions, octal; whoever may write may connect.",
};

static ADDRESS: Key<Text<(BindAddress, Option<Protocol>)>> = Key {
    name: "address",
    shape: Text { what: "an address and a port", parse: bind_address },
    presence: Presence::Required("address: \"10.0.0.100:5432\""),
    doc: "Address and port: `10.0.0.100:5432`, `\"[2001:db8::1]:5432\"`.",
};

static PROTOCOL: Key<Choice<Protocol>> = Key {
    name: "protocol",
    shape: Choice::of(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]),
    presence: Presence::Default("tcp"),
    doc: "Transport protocol; `udp` in `mode: l4` alone.",
};

/// An entry of `bind`: a text or a mapping.
struct BindShape;

/// An entry of `bind` in any mode.
#[derive(Clone, Debug)]
struct RawBind {
    address: BindAddress,
    protocol: Protocol,
    is_v6only: bool,
    /// Permission bits.
    mode: u32,
    accept_proxy: Option<AcceptProxy>,
    tls: Option<RawBindTls>,
    /// The first key that is given and that layer 4 does not have.
    of_proxy: Option<&'static str>,
}

impl Shape for BindShape {
    type Output = RawBind;

    fn describe(&self) -> String {
        "`\"ADDRESS:PORT\"`, `\"ADDRESS:PORT/udp\"` or a mapping".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<RawBind> {
        if cursor.value.is_mapping() {
            return decode_bind(&cursor.clone().entries(&BIND_SECTION)?);
        }
        let (address, protocol) = ADDRESS.shape.decode(cursor)?;
        let rest = cursor.clone().no_entries();
        let protocol = protocol.or_else(|| rest.get(&PROTOCOL));
        Some(RawBind {
            address,
            protocol: protocol?,
            is_v6only: rest.get(&V6ONLY)?,
            mode: rest.get(&MODE_BITS)?,
            accept_proxy: None,
            tls: None,
            of_proxy: None,
        })
    }

    fn section(&self) -> Option<&'static Section> {
        Some(&BIND_SECTION)
    }
}

fn decode_bind(entries: &Entries<'_>) -> Option<RawBind> {
    let address = entries.get(&ADDRESS);
    let protocol = entries.get(&PROTOCOL);
    let (is_v6only, mode) = (entries.get(&V6ONLY), entries.get(&MODE_BITS));
    let accept_proxy = entries.get(&ACCEPT_PROXY);
    let tls = entries.get(&BIND_TLS);
    let given_are_good = (tls.is_some() || !entries.has(&BIND_TLS))
        && (accept_proxy.is_some() || !entries.has(&ACCEPT_PROXY));
    let ((address, suffix), protocol) = (address?, protocol?);
    if entries.has(&PROTOCOL) && suffix.is_some_and(|suffix| suffix != protocol) {
        let refusal = Refusal::new("contradicts the protocol behind the address");
        entries.reject(&PROTOCOL, refusal.hint("keep one of the two"));
    }
    given_are_good.then_some(())?;
    let of_proxy: [&dyn KeyInfo; 4] = [&V6ONLY, &MODE_BITS, &ACCEPT_PROXY, &BIND_TLS];
    let of_proxy = of_proxy.into_iter().find(|key| entries.has(*key));
    Some(RawBind {
        address,
        protocol: suffix.unwrap_or(protocol),
        is_v6only: is_v6only?,
        mode: mode?,
        accept_proxy,
        tls,
        of_proxy: of_proxy.map(KeyInfo::name),
    })
}

fn permission_bits(text: &str) -> Result<u32, Refusal> {
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o777);
    bits.filter(|_| text.bytes().all(|byte| byte.is_ascii_digit())).ok_or_else(|| {
        let message = format!("{} are no permission bits", quoted(text));
        Refusal::new(message).hint("octal, in quotes, such as \"0660\"")
    })
}

impl RawBind {
    /// As a VIP.
    fn vip(self) -> Result<Bind, Refusal> {
        if let Some(key) = self.of_proxy {
            let refusal = Refusal::new(format!("{} is not for `mode: l4`", quoted(key)));
            let hint = "a layer-4 frontend passes connections through as they are";
            return Err(refusal.hint(hint));
        }
        match self.address {
            BindAddress::Socket(address) => Ok(Bind { address, protocol: self.protocol }),
            BindAddress::Other(other) => {
                let message = format!("{other} can not be a VIP");
                Err(Refusal::new(message).hint("an address and a port, or another `mode`"))
            }
        }
    }

    /// As a place where the proxy listens for HTTP.
    fn listen_http(self) -> Result<Listen, Refusal> {
        self.listen(&["h2", "http/1.1"])
    }

    /// As a place where the proxy listens for whatever clients and servers speak.
    fn listen_tcp(self) -> Result<Listen, Refusal> {
        self.listen(&[])
    }

    /// As a place where the proxy listens; by ALPN it offers `protocols` unless others are
    /// given.
    fn listen(self, protocols: &[&str]) -> Result<Listen, Refusal> {
        if self.protocol != Protocol::Tcp {
            let refusal = Refusal::new("the proxy does not take UDP");
            return Err(refusal.hint("`mode: l4` does"));
        }
        let Self { address, is_v6only, mode, accept_proxy, tls, .. } = self;
        let tls = tls.map(|tls| tls.offering(protocols));
        Ok(Listen { address: address.into(), is_v6only, mode, tls, accept_proxy })
    }
}

fn decode(entries: &Entries<'_>) -> Option<RawFrontend> {
    let mode = entries.get(&MODE);
    let bind = entries.get(&BIND);
    if bind.as_ref().is_some_and(Vec::is_empty) {
        let refusal = Refusal::new("names no address").hint("bind: [\"10.0.0.100:5432\"]");
        entries.reject(&BIND, refusal);
    }
    let backend = entries.locate(&BACKEND);
    let rules = entries.get(&RULES);
    let bind = bind.unwrap_or_default();
    let mode = match mode {
        Some(Mode::L4) => {
            refuse(entries, &[&TIMEOUTS, &RULES], "needs `mode: http`");
            refuse(entries, &[&SNI, &TRUSTED_PROXIES, &CONNECT], "is not for `mode: l4`");
            let vips = judge(entries, bind, RawBind::vip);
            Some(RawMode::L4(RawL4 {
                vips,
                forward: entries.get(&FORWARD),
                snat: snat_of(entries),
                syn_cookies: syn_cookies_of(entries),
                access: decode_list(entries),
                limits: limits_of_layer_4(entries),
            }))
        }
        Some(Mode::Tcp) => {
            refuse(entries, &[&FORWARD, &SNAT, &SYN_COOKIES], "needs `mode: l4`");
            refuse(entries, &[&RULES, &TRUSTED_PROXIES, &CONNECT], "needs `mode: http`");
            let timeouts = entries.get(&TIMEOUTS);
            let limits = limits_of_proxy(entries);
            if limits.is_some_and(|limits| limits.is_about_requests) {
                let refusal = Refusal::new("is about requests, which `mode: tcp` does not see");
                entries.reject(&LIMITS, refusal.hint("connections, connections_per_source"));
            }
            let sni = entries.get(&SNI);
            let sni_is_good = sni.is_some() || !entries.has(&SNI);
            let sni = sni_is_good.then(|| sni.unwrap_or_default());
            let listen = judge(entries, bind, RawBind::listen_tcp);
            let access = decode_list(entries);
            Some(RawMode::Tcp(RawTcp { listen, timeouts, limits, sni, access }))
        }
        Some(Mode::Http) => {
            refuse(entries, &[&FORWARD, &SNAT, &SYN_COOKIES], "needs `mode: l4`");
            refuse(entries, &[&SNI], "needs `mode: tcp`");
            let timeouts = entries.get(&TIMEOUTS);
            let limits = limits_of_proxy(entries);
            let listen = judge(entries, bind, RawBind::listen_http);
            let trusted_proxies = entries.get(&TRUSTED_PROXIES).and_then(whole);
            let takes_connect = entries.get(&CONNECT);
            let access = decode_list(entries);
            Some(RawMode::Http(RawHttp {
                listen,
                timeouts,
                limits,
                trusted_proxies,
                takes_connect,
                access,
            }))
        }
        None => {
            entries.get(&FORWARD);
            entries.get(&SNAT);
            entries.get(&SYN_COOKIES);
            None
        }
    };
    Some(RawFrontend { mode, backend, rules })
}

/// `snat` of a frontend of layer 4.
fn snat_of(entries: &Entries<'_>) -> Option<bool> {
    let snat = entries.get(&SNAT)?;
    if entries.has(&SNAT) && entries.get(&FORWARD)?.is_one_way() {
        entries.reject(&SNAT, Refusal::new("needs `forward: nat`; servers see clients anyway"));
        return None;
    }
    Some(snat)
}

/// `syn_cookies` of a frontend of layer 4.
fn syn_cookies_of(entries: &Entries<'_>) -> Option<Option<SynCookies>> {
    if !entries.has(&SYN_COOKIES) {
        return Some(None);
    }
    let syn_cookies = entries.get(&SYN_COOKIES)?;
    if entries.get(&FORWARD)?.is_one_way() {
        let refusal = Refusal::new("needs `forward: nat`");
        entries.reject(&SYN_COOKIES, refusal.hint("answers of servers do not come by here"));
        return None;
    }
    Some(Some(syn_cookies))
}

/// `limits` of a frontend of layer 4.
fn limits_of_layer_4(entries: &Entries<'_>) -> Option<SourceLimits> {
    let limits = entries.get(&LIMITS)?;
    if limits.is_about_requests || limits.is_about_connections {
        let refusal = Refusal::new("says something that `mode: l4` does not limit");
        entries.reject(&LIMITS, refusal.hint("connections_per_source, new_flows, packets"));
    }
    Some(limits.source)
}

/// `limits` of a frontend of the proxy.
fn limits_of_proxy(entries: &Entries<'_>) -> Option<RawLimits> {
    let limits = entries.get(&LIMITS)?;
    if limits.is_about_packets {
        let refusal = Refusal::new("new_flows and packets need `mode: l4`");
        entries.reject(&LIMITS, refusal.hint("connections, connections_per_source"));
    }
    Some(limits)
}

/// Keys that another mode has.
fn refuse(entries: &Entries<'_>, keys: &[&dyn KeyInfo], why: &str) {
    for key in keys.iter().filter(|key| entries.has(**key)) {
        entries.reject(*key, Refusal::new(why));
    }
}

/// Entries of `bind` as what they are in a mode.
fn judge<T>(
    entries: &Entries<'_>,
    bind: ListItems<RawBind>,
    read: fn(RawBind) -> Result<T, Refusal>,
) -> ListItems<T> {
    let judge = |Located { value, place }: Located<Option<RawBind>>| {
        let value = value.and_then(|raw| match read(raw) {
            Ok(value) => Some(value),
            Err(refusal) => {
                entries.reject_at(&place, refusal);
                None
            }
        });
        Located { value, place }
    };
    bind.into_iter().map(judge).collect()
}

pub(super) fn backend_name(text: &str) -> Result<Name, Refusal> {
    Name::new(text).map_err(|error| Refusal::new(format!("{}: {error}", quoted(text))))
}
