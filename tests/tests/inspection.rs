//! How an operator looks inside: `bpftool`, the access log, the command line, addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use lb_common::{
    abi::{self, map},
    ring::RingLine,
    stage::Stage,
};
use pointsman::{
    admin::api::{FlowsView, InterfaceView},
    datapath::rings,
};
use serde_json::Value;
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    bpftool,
    clients::{self, Conversation, UdpConversation},
    configuration::Service,
    fleet::Fleet,
    namespace::output,
    process::wait_until,
    servers::port,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Every pinned map that holds values, and fields that `bpftool map dump` must print of its
/// entries: JSON pointers into key and value (of the first processor, where there is one for
/// each). A number, never a string of hexadecimal bytes. Maps of other kinds are looked into
/// by [`require_rings`], [`require_events`] and [`require_stages`].
const FIELDS: [(&str, &[&str]); 24] = [
    (map::SETTINGS, &["/value/abi_version", "/value/snat_port_low", "/value/flags"]),
    (map::ADDRESS_FILTER, &["/value/bits"]),
    (
        map::VIPS,
        &[
            "/key/address/octets/15",
            "/key/port/__0",
            "/key/protocol",
            "/value/backend",
            "/value/on_down",
        ],
    ),
    (map::BACKENDS, &["/value/name/0", "/value/ring_signature", "/value/ring_members"]),
    (
        map::SERVERS,
        &["/value/generation", "/value/state", "/value/neighbour/5", "/value/address/octets/15"],
    ),
    (map::SERVER_FLOWS, &["/value/generation", "/value/flows"]),
    (
        map::FLOWS4,
        &[
            "/key/source/octets/3",
            "/key/destination_port/__0",
            "/value/server/id",
            "/value/last_seen_ns",
        ],
    ),
    (
        map::FLOWS6,
        &[
            "/key/source/octets/15",
            "/key/source_port/__0",
            "/value/client_hop/neighbour/0",
            "/value/packets",
        ],
    ),
    (map::HALF_OPEN4, &["/value/tags/0", "/value/flows/0/from_client/source/octets/3"]),
    (map::HALF_OPEN6, &["/value/seen_ms/3", "/value/flows/3/created_ns"]),
    (map::ACCESS4, &["/value/action", "/value/expires_s"]),
    (map::ACCESS6, &["/value/action", "/value/expires_s"]),
    (map::ADMISSION, &["/value/generation", "/value/flags", "/value/flow_interval_ns"]),
    (
        map::SOURCES,
        &["/key/address", "/key/scope", "/key/family", "/value/flows", "/value/flows_full_ns"],
    ),
    (map::AFFINITY, &["/key/source", "/key/backend", "/value/seen_ns", "/value/server/generation"]),
    (map::ENDED, &["/values/0/value/taken", "/values/0/value/left"]),
    (map::ENDED4, &["/values/0/value/flows/0/ended_ms"]),
    (map::ENDED6, &["/values/0/value/flows/31/client/source/octets/15"]),
    (map::FRAGMENTS4, &["/key/identification", "/value/first_bytes"]),
    (map::COOKIES, &["/value/active_until_ns", "/value/sent_ns"]),
    (map::FRAGMENTS6, &["/key/source/octets/15", "/value/seen_ns"]),
    (map::VIP_COUNTERS, &["/values/0/value/flows", "/values/0/value/reply_bytes"]),
    (map::SERVER_COUNTERS, &["/values/0/value/forward_packets", "/values/0/value/resets"]),
    (map::DROP_COUNTERS, &["/values/0/value/packets"]),
];

#[test]
fn bpftool_prints_named_and_typed_fields_of_every_map() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    let mut configuration = agent.configuration(Service::all_embedded(&bed));
    // An array is dumped as a whole, in use or not.
    configuration.datapath_options.extend(["max_half_open: 1024".into(), "max_flows: 4096".into()]);
    // What makes the data plane remember sources.
    let line = configuration.service("line4");
    line.frontend_options.push("limits: {connections_per_source: 100}".into());
    line.options.extend(["hash: source".into(), "affinity: 1h".into()]);
    agent.configure(&configuration)?;
    agent.start()?;
    // One confirmed flow and one half-open flow of each family.
    let mut conversations = Vec::new();
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::LINE);
        conversations.push(bed.client.run(|| Ok(Conversation::open(vip)?))?);
        half_open(&bed, family)?;
    }
    agent.cli_good(&["block", "192.0.2.0/24"])?;
    agent.cli_good(&["block", "2001:db8:ff::/48"])?;
    let mut missing: BTreeSet<&str> = map::ALL.into();
    let mut stages = 0;
    for entry in fs::read_dir(agent.pin_directory())? {
        let pin = entry?.path();
        let name = pin.file_name().unwrap_or_default().to_string_lossy().into_owned();
        missing.remove(name.as_str());
        let mut others = ["program", "origin"].into_iter().chain(abi::RUN_BY_AGENT);
        if others.any(|other| other == name) || name.starts_with("link-") {
            continue;
        }
        if name.starts_with("stages-") {
            require_stages(&pin)?;
            stages += 1;
            continue;
        }
        match FIELDS.iter().find(|(known, _)| *known == name) {
            Some((_, fields)) => require_fields(&pin, fields)?,
            None if name == map::RINGS => require_rings(&pin, &bed, &agent)?,
            // No backend has that many servers.
            None if name == map::LARGE_RINGS => {}
            None if name == map::EVENTS => require_events(&pin)?,
            None => bail!("the test does not know the pinned map {name}"),
        }
    }
    ensure!(missing.is_empty(), "maps that are not pinned: {missing:?}");
    ensure!(stages == 1, "{stages} arrays of stages");
    Ok(())
}

/// Every entry that is printed has its fields.
fn require_fields(pin: &Path, fields: &[&str]) -> Result<()> {
    let entries = bpftool::formatted_entries(pin)?;
    ensure!(!entries.is_empty(), "{} is empty", pin.display());
    for entry in &entries {
        for field in fields {
            let typed = entry.pointer(field).is_some_and(Value::is_number);
            ensure!(typed, "{} has no number at {field}: {entry}", pin.display());
        }
    }
    Ok(())
}

/// Each backend has a ring, whose slots name servers that there are. The kernel knows no types
/// of maps that user space makes and puts into another.
fn require_rings(pin: &Path, bed: &Bed, agent: &Agent<'_>) -> Result<()> {
    let shown = bpftool::json(&["map", "show", "pinned"], pin)?;
    ensure!(text(&shown, "type") == "array_of_maps", "{shown}");
    let servers = bpftool::formatted_entries(&agent.pin_directory().join(map::SERVERS))?;
    let number = |entry: &Value, field| entry.pointer(field).and_then(Value::as_u64);
    let generations: BTreeMap<u16, u64> = servers
        .iter()
        .filter_map(|entry| {
            let id = u16::try_from(number(entry, "/key")?).ok()?;
            Some((id, number(entry, "/value/generation")?))
        })
        .collect();
    let rings = bpftool::raw_entries(&["pinned", pin.to_str().context("a path in UTF-8")?])?;
    ensure!(rings.len() == Service::all_embedded(bed).len(), "{} rings", rings.len());
    for ring in rings {
        let id = ring.id()?.to_string();
        let lines = bpftool::raw_entries(&["id", &id])?;
        let lines: Result<Vec<RingLine>> = lines.iter().map(line).collect();
        let slots = rings::slots(rings::Size::Small, &lines?);
        for server in slots.iter().map(|slot| slot.server) {
            let current = Some(u64::from(server.generation));
            ensure!(
                generations.get(&server.id).copied() == current,
                "{server:?} is of another time"
            );
        }
    }
    Ok(())
}

/// A line of a ring as `bpftool` printed it.
fn line(entry: &bpftool::RawEntry) -> Result<RingLine> {
    let bytes = entry.bytes()?;
    ensure!(bytes.len() == size_of::<RingLine>(), "{entry:?}");
    let mut line = RingLine::default();
    for (word, bytes) in line.words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into()?);
    }
    Ok(line)
}

/// A ring buffer has no entries to dump.
fn require_events(pin: &Path) -> Result<()> {
    let shown = bpftool::json(&["map", "show", "pinned"], pin)?;
    ensure!(text(&shown, "type") == "ringbuf", "{shown}");
    ensure!(text(&shown, "name") == map::EVENTS, "{shown}");
    let size = shown.get("max_entries").and_then(Value::as_u64);
    ensure!(size == Some(u64::from(abi::EVENT_BYTES)), "{shown}");
    Ok(())
}

/// Programs by stage, each under its own name.
fn require_stages(pin: &Path) -> Result<()> {
    let shown = bpftool::json(&["map", "show", "pinned"], pin)?;
    ensure!(text(&shown, "type") == "prog_array", "{shown}");
    let entries = bpftool::raw_entries(&["pinned", pin.to_str().context("a path in UTF-8")?])?;
    // By number, the programs that bpftool shows.
    let mut found = BTreeMap::new();
    for entry in &entries {
        let id = entry.id()?.to_string();
        let shown = bpftool::json(&["prog", "show", "id"], Path::new(&id))?;
        found.insert(entry.index()?, text(&shown, "name"));
    }
    for stage in Stage::ALL {
        let name =
            found.get(&(stage as u32)).with_context(|| format!("no {stage:?}: {found:?}"))?;
        // The kernel keeps 15 characters.
        let wanted: String = stage.program().chars().take(15).collect();
        ensure!(*name == wanted, "{stage:?} is {name}");
    }
    ensure!(found.len() == Stage::ALL.len(), "{found:?}");
    Ok(())
}

/// A datagram that the server does not answer leaves a half-open flow, and what follows the first
/// of its fragments.
fn half_open(bed: &Bed, family: Family) -> Result<()> {
    let vip = Bed::vip(family, port::UDP);
    bed.client.run(|| Ok(UdpConversation::open(vip)?.send_unanswered(4000)?))
}

#[test]
fn finished_flows_are_logged() -> Result<()> {
    const CONNECTIONS: u64 = 25;
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    let vips = Family::BOTH.map(|family| Bed::vip(family, port::LINE));
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for vip in vips {
        let tally = bed.client.run(|| Ok(clients::short_connections(vip, CONNECTIONS, 1)))?;
        tally.require_all(CONNECTIONS)?;
        let backend = if vip.is_ipv4() { "line4" } else { "line6" };
        for (server, count) in tally.answers {
            expected.insert(format!("{backend}/{server}"), count);
        }
    }
    // The two sides' FINs cross on the way: the line follows the last of them.
    let ((), _) = wait_until("all flows in the access log", PATIENCE, || {
        let lines = access_lines(&agent)?;
        let ours = lines
            .iter()
            .filter(|line| vips.map(|vip| vip.to_string()).contains(&text(line, "vip")));
        ensure!(ours.count() as u64 >= 2 * CONNECTIONS, "{} lines", lines.len());
        Ok(())
    })?;
    let mut logged: BTreeMap<String, u64> = BTreeMap::new();
    for line in access_lines(&agent)? {
        *logged.entry(text(&line, "server")).or_default() += 1;
        let number = |field: &str| line.get(field).and_then(Value::as_u64).unwrap_or_default();
        ensure!(text(&line, "protocol") == "tcp" && text(&line, "end") == "fin", "{line}");
        let client: SocketAddr = text(&line, "client").parse()?;
        let family = if client.is_ipv4() { Family::V4 } else { Family::V6 };
        ensure!(client.ip() == Bed::client_address(family), "{line}");
        ensure!((1024..=32767).contains(&number("snat_port")), "{line}");
        // SYN, ACK, the line, FIN and their answers: at least four packets each way.
        ensure!(number("forward_packets") >= 4 && number("reply_packets") >= 3, "{line}");
        ensure!(number("forward_bytes") > number("forward_packets") * 54, "{line}");
    }
    ensure!(logged == expected, "logged {logged:?}, expected {expected:?}");
    Ok(())
}

fn access_lines(agent: &Agent<'_>) -> Result<Vec<Value>> {
    let text = fs::read_to_string(agent.access_log()).context("read the access log")?;
    text.lines().map(|line| serde_json::from_str(line).context("read a line")).collect()
}

fn text(line: &Value, field: &str) -> String {
    line.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[test]
fn the_command_line_shows_what_is_going_on() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    let vip = Bed::vip(Family::V4, port::LINE);
    let conversation = bed.client.run(|| Ok(Conversation::open(vip)?))?;
    bed.client.run(|| clients::short_connections(vip, 99, 2).require_all(99))?;

    let status = agent.status()?;
    let mode = bed.mode.name();
    let attached = |view: &InterfaceView| format!("{:?}", view.mode).to_lowercase() == mode;
    let interfaces = &status.datapath.interfaces;
    ensure!(interfaces.len() == 3 && interfaces.iter().all(attached), "{interfaces:?}");
    let line = status.vips.iter().find(|view| view.frontend == "line4").context("no line4")?;
    ensure!(line.address == vip && line.traffic.flows == 100, "{line:?}");
    ensure!(line.traffic.reply_packets >= 300, "{line:?}");
    let servers = status.backends.iter().find(|view| view.name == "line4").context("no line4")?;
    let flows: u64 = servers.servers.iter().map(|server| server.traffic.flows).sum();
    ensure!(flows == 100 && servers.usable == 2, "{servers:?}");

    let local = conversation.stream().local_addr()?;
    let printed = agent.cli_good(&["flows", "--json", "--limit", "100000"])?;
    let view: FlowsView = serde_json::from_str(&printed)?;
    let flow = view.flows.iter().find(|flow| flow.client == local).context("no such flow")?;
    ensure!(flow.vip == vip && flow.state == "established", "{flow:?}");
    let server = format!("line4/{}", conversation.server());
    ensure!(flow.server_name.as_deref() == Some(server.as_str()), "{flow:?}");

    // The tables for people say the same.
    let local = local.to_string();
    let tables: [(&[&str], &[&str]); 3] = [
        (&["status"], &["line4", "198.51.100.10:7000", "UP"]),
        (&["flows", "--limit", "1000"], &[&local, "established"]),
        (&["drops"], &["no_server", "malformed"]),
    ];
    for (command, words) in tables {
        let printed = agent.cli_good(command)?;
        for word in words {
            ensure!(printed.contains(word), "{command:?} does not print {word}: {printed}");
        }
    }
    let unknown = agent.cli(&["server", "set", "line4/nobody", "--state", "drain"])?;
    ensure!(unknown.code != Some(0) && unknown.stderr.contains("nobody"), "{unknown:?}");
    Ok(())
}

#[test]
fn flows_are_found_by_what_is_known_of_them() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    let mut kept = Vec::new();
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::LINE);
        for _ in 0..3 {
            kept.push(bed.client.run(|| Ok(Conversation::open(vip)?))?);
        }
    }
    // The fourth says more than the others.
    for _ in 0..20 {
        kept[3].say()?;
    }
    let busiest = kept[3].stream().local_addr()?;
    let found = |filters: &str| -> Result<Vec<SocketAddr>> {
        let mut arguments = vec!["flows", "--json"];
        arguments.extend(filters.split_whitespace());
        let view: FlowsView = serde_json::from_str(&agent.cli_good(&arguments)?)?;
        Ok(view.flows.iter().map(|flow| flow.client).collect())
    };
    let check = |filters: &str, expected: usize| {
        let flows = found(filters)?;
        ensure!(flows.len() == expected, "{filters:?} finds {flows:?}");
        Ok(())
    };
    check("", 6)?;
    check("--client 10.91.0.0/24", 3)?;
    check("--client 10.91.0.3", 0)?;
    check("--vip 198.51.100.10 --state established", 3)?;
    check("--vip 198.51.100.10:1", 0)?;
    check("--state closed", 0)?;
    check("--protocol udp", 0)?;
    check(&format!("--protocol tcp --port {}", busiest.port()), 1)?;
    check("--frontend line6 --limit 2", 2)?;
    let sorted = found("--sort packets --limit 1")?;
    ensure!(sorted == [busiest], "{sorted:?}, expected {busiest}");
    let least = found("--sort packets --reverse")?;
    ensure!(least.last() == Some(&busiest), "{least:?}");
    // Half-open flows are chosen like others.
    half_open(&bed, Family::V4)?;
    check("--protocol udp", 1)?;
    check("--protocol tcp", 6)?;
    check("--frontend line4", 3)?;
    let wrong = agent.cli(&["flows", "--state", "open"])?;
    ensure!(wrong.code == Some(2) && wrong.stderr.contains("established"), "{wrong:?}");
    Ok(())
}

#[test]
fn drops_are_watched_as_they_happen() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let mut fleet = Fleet::start(&bed)?;
    let agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    fleet.kill(0)?;
    agent.wait_for_state("s0", pointsman::model::state::ServerState::Down)?;
    let vip = Bed::vip(Family::V4, port::UDP);
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    let sender = bed.client.spawn("datagrams", move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        while !end.load(Ordering::Relaxed) {
            socket.send_to(b"anybody?", vip)?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    })?;
    let printed = agent.cli_good(&["drops", "--watch", "--count", "3", "--json"]);
    ended.store(true, Ordering::Relaxed);
    sender.join().expect("the sender does not panic")?;
    let printed = printed?;
    ensure!(printed.lines().count() == 3, "{printed}");
    let seen = printed.lines().any(|line| line.contains(r#""reason":"no_server""#));
    ensure!(seen, "nobody was dropped for want of a server: {printed}");
    Ok(())
}

#[test]
fn vip_addresses_are_put_on_the_interface_and_taken_off() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    let mut configuration = agent.configuration(Service::all_embedded(&bed));
    configuration.datapath_options.push("manage_addresses: true".into());
    agent.configure(&configuration)?;
    let vips = Family::BOTH.map(|family| Bed::vip(family, port::LINE));
    let elsewhere = "02:00:00:00:09:99";
    for vip in vips {
        let vip = vip.ip().to_string();
        let stale = ["neigh", "replace", &vip, "lladdr", elsewhere, "dev", "eth0", "nud", "stale"];
        bed.client.ip(&stale)?;
    }
    agent.start_with(&["--detach-on-exit"])?;
    for vip in vips {
        wait_until("the client to be told where the VIP is", PATIENCE, || {
            let vip = vip.ip().to_string();
            let shown = output(bed.client.command("ip").args(["neigh", "show", &vip]))?;
            ensure!(shown.contains("lladdr") && !shown.contains(elsewhere), "{shown}");
            Ok(())
        })?;
    }
    for vip in vips {
        wait_until("the address", PATIENCE, || require_address(&bed, vip, true))?;
        bed.client.run(|| clients::short_connections(vip, 200, 2).require_all(200))?;
    }
    // The IPv6 services go: their address goes, the other stays.
    configuration.services.retain(|service| service.vip.is_ipv4());
    agent.configure(&configuration)?;
    agent.reload()?;
    let [v4, v6] = vips;
    wait_until("the address to go", PATIENCE, || require_address(&bed, v6, false))?;
    require_address(&bed, v4, true)?;
    bed.client.run(|| clients::short_connections(v4, 200, 2).require_all(200))?;
    agent.stop()?;
    require_address(&bed, v4, false)?;
    // The interface's own addresses were never touched.
    for family in Family::BOTH {
        require_address(&bed, SocketAddr::new(Bed::balancer_address(family), 0), true)?;
    }
    Ok(())
}

fn require_address(bed: &Bed, address: SocketAddr, wanted: bool) -> Result<()> {
    let shown = output(bed.balancer.command("ip").args(["addr", "show", "client0"]))?;
    let there = shown.contains(&format!(" {}/", address.ip()));
    ensure!(
        there == wanted,
        "{} is {}there: {shown}",
        address.ip(),
        if there { "" } else { "not " }
    );
    Ok(())
}
