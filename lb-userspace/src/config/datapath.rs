//! `datapath`: where and how the kernel half is attached, and how large it is.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use super::{
    access::{ALLOW, ALLOW_FILE, DENY, DENY_FILE, decode_list},
    decode::Entries,
    duration::Period,
    fault::{Refusal, quoted},
    schema::{Bool, Choice, Integer, Key, KeyInfo, List, Nested, Presence, Section, Text},
};
use crate::model::snapshot::{AttachMode, Datapath, FlowTimeouts, SynCookies};

/// Longest name of an interface in bytes: the kernel's `IFNAMSIZ` with its final zero.
const MAX_INTERFACE_BYTES: usize = 15;
/// Highest port that is clear of Linux's own (`net.ipv4.ip_local_port_range`).
const LAST_CLEAR_PORT: u16 = 32_767;

pub(super) static SECTION: Section = Section {
    path: "datapath",
    doc: "The kernel half: where the XDP program is attached and how much it can track.",
    keys: &[
        &INTERFACES,
        &MODE,
        &PIN_DIRECTORY,
        &MANAGE_ADDRESSES,
        &ANSWER_ECHO,
        &SYN_COOKIES,
        &SYN_COOKIE_THRESHOLD,
        &SNAT_PORTS,
        &GUE_PORT,
        &MAX_FLOWS,
        &MAX_HALF_OPEN,
        &ALLOW,
        &DENY,
        &ALLOW_FILE,
        &DENY_FILE,
        &MAX_PREFIXES,
        &MAX_SOURCES,
        &TIMEOUTS,
        &SWEEP_INTERVAL,
    ],
    unbuilt: &[],
};

static INTERFACES: Key<List<Text<String>>> = Key {
    name: "interfaces",
    shape: List { item: Text { what: "an interface name", parse: interface_name } },
    presence: Presence::Default("[]"),
    doc: "Interfaces the program is attached to: where clients' packets come in and where \
          servers' replies come in. At least one, unless `mode` is `off`.",
};

static MODE: Key<Choice<AttachMode>> = Key {
    name: "mode",
    shape: Choice::of(&[
        ("auto", AttachMode::Auto),
        ("native", AttachMode::Native),
        ("generic", AttachMode::Generic),
        ("off", AttachMode::Off),
    ]),
    presence: Presence::Default("auto"),
    doc: "How the program is attached: `native` in the driver, `generic` in the network stack \
          (any interface, slower), `auto` native where the driver can and generic with a \
          warning where it can not. `off` not at all: no privilege is needed, and frontends of \
          `mode: l4` are served in user space: `forward` does not matter, servers see this \
          host's address, and `packets` holds for UDP alone.",
};

static PIN_DIRECTORY: Key<Text<PathBuf>> = Key {
    name: "pin_directory",
    shape: Text { what: "an absolute path", parse: absolute_path },
    presence: Presence::Default("/sys/fs/bpf/pointsman"),
    doc: "Directory of the pinned maps, program and links, on a bpffs. What is pinned here \
          goes on forwarding while no agent runs.",
};

static MANAGE_ADDRESSES: Key<Bool> = Key {
    name: "manage_addresses",
    shape: Bool,
    presence: Presence::Default("false"),
    doc: "Put VIP addresses on the first interface, announce them to its neighbours, and take \
          them off when they leave the configuration.",
};

static ANSWER_ECHO: Key<Bool> = Key {
    name: "answer_echo",
    shape: Bool,
    presence: Presence::Default("true"),
    doc: "Answer ICMP and ICMPv6 echo requests (ping) for VIP addresses in the data plane, at most \
          1,000 a second on each processor. Otherwise they are the kernel's, which answers for \
          addresses that stand on an interface.",
};

/// The words of `syn_cookies`.
pub(super) const SYN_COOKIES_SHAPE: Choice<SynCookies> = Choice::of(&[
    ("off", SynCookies::Off),
    ("auto", SynCookies::Auto),
    ("always", SynCookies::Always),
]);

static SYN_COOKIES: Key<Choice<SynCookies>> = Key {
    name: "syn_cookies",
    shape: SYN_COOKIES_SHAPE,
    presence: Presence::Default("auto"),
    doc: "Answer SYNs to frontends with `forward: nat` with SYN cookies, which take no place in a \
          table: `auto` while the table of half-open flows is fuller than \
          `syn_cookie_threshold`, and 10 seconds longer than that or a flood lasts. Connections \
          that begin so have no window scaling, selective acknowledgements or timestamps. \
          Linux 6.0 or later.",
};

static SYN_COOKIE_THRESHOLD: Key<Integer<u8>> = Key {
    name: "syn_cookie_threshold",
    shape: Integer { min: 1, max: 100 },
    presence: Presence::Default("50"),
    doc: "Per cent of `max_half_open` that are in use when `syn_cookies: auto` begins.",
};

static SNAT_PORTS: Key<Text<(u16, u16)>> = Key {
    name: "snat_ports",
    shape: Text { what: "a range of ports", parse: port_range },
    presence: Presence::Default("1024-32767"),
    doc: "Source ports of flows towards servers, inclusive. Keep it clear of the ports this \
          host takes for its own connections (`sysctl net.ipv4.ip_local_port_range`).",
};

static GUE_PORT: Key<Integer<u16>> = Key {
    name: "gue_port",
    shape: Integer { min: 1, max: u16::MAX },
    presence: Presence::Default("6080"),
    doc: "UDP port that frontends with `forward: gue` send to, on every server.",
};

static MAX_FLOWS: Key<Integer<u32>> = Key {
    name: "max_flows",
    shape: Integer { min: 16, max: 16_777_216 },
    presence: Presence::Default("262144"),
    doc: "Most established flows of each family. Memory for all of them is taken at start: \
          a \
          million flows take about 340 MB for IPv4 and 440 MB for IPv6.",
};

static MAX_HALF_OPEN: Key<Integer<u32>> = Key {
    name: "max_half_open",
    shape: Integer { min: 1024, max: 16_777_216 },
    presence: Presence::Default("65536"),
    doc: "Most flows of each family whose handshake is not finished. When full, the least \
          recently used one goes; established flows are never touched.",
};

static MAX_PREFIXES: Key<Integer<u32>> = Key {
    name: "max_prefixes",
    shape: Integer { min: 1024, max: 16_777_216 },
    presence: Presence::Default("262144"),
    doc: "Most networks of each family on all lists of sources together with what is blocked. \
          Memory is taken as they come: 100,000 take about 10 MB.",
};

static MAX_SOURCES: Key<Integer<u32>> = Key {
    name: "max_sources",
    shape: Integer { min: 1024, max: 16_777_216 },
    presence: Presence::Default("65536"),
    doc: "Most sources whose use of `limits` is remembered, and most whose server is \
          (`affinity`), 100 bytes each. When full, the source that was silent for longest is \
          forgotten: its rates start anew, its flows are not counted any more, and it goes \
          where its hash leads.",
};

static TIMEOUTS: Key<Nested<FlowTimeouts>> = Key {
    name: "timeouts",
    shape: Nested { section: &TIMEOUTS_SECTION, decode: decode_timeouts },
    presence: Presence::Default("{}"),
    doc: "After how much idleness a flow is forgotten, by its state.",
};

static SWEEP_INTERVAL: Key<Period> = Key {
    name: "sweep_interval",
    shape: Period { min: Duration::from_millis(100), max: Duration::from_secs(3600) },
    presence: Presence::Default("5s"),
    doc: "Time between two sweeps of the flow tables for flows that are idle too long.",
};

static TIMEOUTS_SECTION: Section = Section {
    path: "datapath.timeouts",
    doc: "Idle timeouts of flows by state.",
    keys: &[&HALF_OPEN, &ESTABLISHED, &CLOSING, &CLOSED, &UDP],
    unbuilt: &[],
};

/// Any idle timeout.
const IDLE: Period =
    Period { min: Duration::from_millis(100), max: Duration::from_secs(30 * 86_400) };

static HALF_OPEN: Key<Period> = Key {
    name: "half_open",
    shape: IDLE,
    presence: Presence::Default("30s"),
    doc: "TCP before the handshake is finished, UDP before the first reply.",
};

static ESTABLISHED: Key<Period> = Key {
    name: "established",
    shape: IDLE,
    presence: Presence::Default("3h"),
    doc: "TCP, established. Longer than the keep-alive of clients and servers (Linux: 2 h), \
          or idle connections break.",
};

static CLOSING: Key<Period> = Key {
    name: "closing",
    shape: IDLE,
    presence: Presence::Default("10m"),
    doc: "TCP after one side has sent FIN; the other may go on sending.",
};

static CLOSED: Key<Period> = Key {
    name: "closed",
    shape: IDLE,
    presence: Presence::Default("10s"),
    doc: "TCP after both sides have sent FIN, or one a RST; less when so many end that they \
          would fill the table.",
};

static UDP: Key<Period> =
    Key { name: "udp", shape: IDLE, presence: Presence::Default("60s"), doc: "UDP with replies." };

/// The section as a shape.
pub(super) const SHAPE: Nested<Datapath> = Nested { section: &SECTION, decode };

fn decode(entries: &Entries<'_>) -> Option<Datapath> {
    let interfaces = decode_interfaces(entries);
    let mode = entries.get(&MODE);
    if let (Some([]), Some(AttachMode::Auto | AttachMode::Native | AttachMode::Generic)) =
        (interfaces.as_deref(), mode)
    {
        let missing = if entries.has(&INTERFACES) { "names no interface" } else { "is missing" };
        entries.reject(&INTERFACES, Refusal::new(missing).hint("interfaces: [eth0]"));
    }
    let pin_directory = entries.get(&PIN_DIRECTORY);
    let manage_addresses = entries.get(&MANAGE_ADDRESSES);
    let answer_echo = entries.get(&ANSWER_ECHO);
    let syn_cookies = entries.get(&SYN_COOKIES);
    let syn_cookie_threshold = entries.get(&SYN_COOKIE_THRESHOLD);
    let snat_ports = entries.get(&SNAT_PORTS);
    if let Some((_, last)) = snat_ports
        && last > LAST_CLEAR_PORT
        && mode != Some(AttachMode::Off)
    {
        let message = "reaches into the ports Linux takes for its own connections by default";
        let hint = format!("end it at {LAST_CLEAR_PORT}, or move net.ipv4.ip_local_port_range");
        entries.warn(&SNAT_PORTS, Refusal::new(message).hint(hint));
    }
    let gue_port = entries.get(&GUE_PORT);
    let max_flows = entries.get(&MAX_FLOWS);
    let max_half_open = entries.get(&MAX_HALF_OPEN);
    let access = decode_list(entries);
    let (max_prefixes, max_sources) = (entries.get(&MAX_PREFIXES), entries.get(&MAX_SOURCES));
    let timeouts = entries.get(&TIMEOUTS);
    let sweep_interval = entries.get(&SWEEP_INTERVAL);
    if mode == Some(AttachMode::Off) {
        warn_of_idle_keys(entries);
    }
    Some(Datapath {
        interfaces: interfaces?.into_iter().collect::<Option<_>>()?,
        mode: mode?,
        pin_directory: pin_directory?,
        manage_addresses: manage_addresses?,
        answer_echo: answer_echo?,
        syn_cookies: syn_cookies?,
        syn_cookie_threshold: syn_cookie_threshold?,
        snat_ports: snat_ports?,
        gue_port: gue_port?,
        max_flows: max_flows?,
        max_half_open: max_half_open?,
        max_prefixes: max_prefixes?,
        max_sources: max_sources?,
        access: access?,
        timeouts: timeouts?,
        sweep_interval: sweep_interval?,
    })
}

/// Keys that mean nothing where there is no data plane.
fn warn_of_idle_keys(entries: &Entries<'_>) {
    let idle: [(&dyn KeyInfo, &str); 9] = [
        (&INTERFACES, "no program is attached"),
        (&PIN_DIRECTORY, "nothing is pinned"),
        (&MANAGE_ADDRESSES, "put the VIPs on an interface by other means"),
        (&ANSWER_ECHO, "this host's kernel answers"),
        (&SYN_COOKIES, "the kernel's are in force: sysctl net.ipv4.tcp_syncookies"),
        (&SYN_COOKIE_THRESHOLD, "the kernel's cookies are in force: net.ipv4.tcp_syncookies"),
        (&SNAT_PORTS, "the kernel takes ports out of net.ipv4.ip_local_port_range"),
        (&GUE_PORT, "nothing is encapsulated"),
        (&SWEEP_INTERVAL, "flows are looked after twice a second"),
    ];
    for (key, hint) in idle.into_iter().filter(|(key, _)| entries.has(*key)) {
        entries.warn(key, Refusal::new("does nothing with `mode: off`").hint(hint));
    }
}

fn decode_interfaces(entries: &Entries<'_>) -> Option<Vec<Option<String>>> {
    let interfaces = entries.get(&INTERFACES)?;
    let mut first_lines = HashMap::new();
    for interface in &interfaces {
        let line = interface.place.mark.line;
        let Some(name) = &interface.value else { continue };
        if let Some(first) = first_lines.insert(name, line) {
            let name = quoted(name);
            let message = format!("{name} is listed twice, first in line {first}");
            entries.reject_at(&interface.place, Refusal::new(message).hint("keep one of the two"));
        }
    }
    Some(interfaces.into_iter().map(|interface| interface.value).collect())
}

fn decode_timeouts(entries: &Entries<'_>) -> Option<FlowTimeouts> {
    let half_open = entries.get(&HALF_OPEN);
    let established = entries.get(&ESTABLISHED);
    let closing = entries.get(&CLOSING);
    let closed = entries.get(&CLOSED);
    let udp = entries.get(&UDP);
    Some(FlowTimeouts {
        half_open: half_open?,
        established: established?,
        closing: closing?,
        closed: closed?,
        udp: udp?,
    })
}

/// The kernel's rule for names of interfaces (`dev_valid_name` in net/core/dev.c).
fn interface_name(text: &str) -> Result<String, Refusal> {
    let not_one = Refusal::new(format!("{} is not an interface name", quoted(text)));
    if text.is_empty() || text.len() > MAX_INTERFACE_BYTES {
        return Err(not_one.hint(format!("it has 1 to {MAX_INTERFACE_BYTES} bytes")));
    }
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text == "." || text == ".." || text.contains(forbidden) {
        return Err(not_one.hint("`ip link` lists them"));
    }
    Ok(text.to_owned())
}

/// An absolute path: the agent's working directory means nothing.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Refusal> {
    if !text.starts_with('/') || text.contains('\0') {
        let message = format!("{} is not an absolute path", quoted(text));
        return Err(Refusal::new(message).hint("start it with '/'"));
    }
    Ok(PathBuf::from(text))
}

fn port_range(text: &str) -> Result<(u16, u16), Refusal> {
    let ends = text.split_once('-');
    let parsed = ends.and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    let Some((low, high)) = parsed else {
        let message = format!("{} is not a range of ports", quoted(text));
        return Err(Refusal::new(message).hint("write it like 1024-32767"));
    };
    if low > high {
        let message = format!("the range is empty: {low} is more than {high}");
        return Err(Refusal::new(message).hint(format!("write {high}-{low}")));
    }
    if low < 1024 {
        let message = format!("{low} is less than 1024");
        return Err(Refusal::new(message).hint("lower ports belong to this host's services"));
    }
    Ok((low, high))
}
