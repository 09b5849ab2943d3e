//! The demo with servers of the bed's own.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pointsman::model::state::ServerState;

use super::{
    Account, Interruption,
    account::Lines,
    explore::{self, url},
};
use crate::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    bpftool,
    clients::{self, Conversation, FailureKind, Kind, Tally, Traffic, UdpConversation},
    configuration::Service,
    fleet::Fleet,
    servers::port,
};

const SERVERS: u8 = 3;
/// Connections or datagrams of one measurement.
const EXCHANGES: u64 = 3000;
const BULK_BYTES: u64 = 64 << 20;
/// How long traffic is watched before and after something is done to it.
const WATCH: Duration = Duration::from_millis(700);

pub(super) fn run(account: &mut Account, keep: bool, interruption: &Interruption) -> Result<()> {
    let bed = account.step("Build the bed out of network namespaces", build)?;
    let fleet = account.step("Start a server on each of the three machines", |lines| {
        let fleet = Fleet::start(&bed)?;
        lines.add("each answers TCP, UDP and HTTP with its name: s0, s1, s2");
        Ok(fleet)
    })?;
    let mut agent = account.step("Start pointsman on the balancer", |lines| start(&bed, lines))?;
    account.step("TCP through the VIPs: a new connection for each request", |lines| {
        each_family(lines, |family| short_connections(&bed, family))
    })?;
    account.step("UDP through the VIPs: a new flow for each datagram", |lines| {
        each_family(lines, |family| datagrams(&bed, family))
    })?;
    account.step("Bulk transfer, SHA-256 compared at both ends", |lines| bulk(&bed, lines))?;
    account.step("Cut server s0 off, as if its machine lost power", |lines| {
        cut(&bed, &agent, lines)
    })?;
    account.step("Bring s0 back", |lines| bring_back(&bed, &agent, lines))?;
    account
        .step("Drain s1 while a client is connected to it", |lines| drain(&bed, &agent, lines))?;
    account.step("Kill the agent (SIGKILL) and start it again, under traffic", |lines| {
        kill_agent(&bed, &mut agent, lines)
    })?;
    account.step("Look inside: pointsman status", |lines| {
        lines.block(&agent.cli_good(&["status"])?);
        Ok(())
    })?;
    if keep {
        let curl = |family| format!("curl -s '{}'", url(family));
        explore::keep(&bed, &agent, &Family::BOTH.map(curl), interruption)?;
    }
    drop(fleet);
    Ok(())
}

pub(super) fn build(lines: &mut Lines) -> Result<Bed> {
    let start = Instant::now();
    let bed = Bed::new(SERVERS, Mode::Native)?;
    lines.add(format_args!("client    {}  10.91.0.2, fd91::2", bed.client.name()));
    lines.add(format_args!("balancer  {}  {}", bed.balancer.name(), bed.interfaces().join(", ")));
    for (index, server) in (0..SERVERS).zip(&bed.servers) {
        let [v4, v6] = Family::BOTH.map(|family| Bed::server_address(index, family));
        lines.add(format_args!("server    {}  {v4}, {v6}", server.name()));
    }
    lines.add(format_args!("in {} ms", start.elapsed().as_millis()));
    Ok(bed)
}

fn start<'bed>(bed: &'bed Bed, lines: &mut Lines) -> Result<Agent<'bed>> {
    launch(bed, Service::all_embedded(bed), lines)
}

/// Starts an agent with these services and says what came of it.
pub(super) fn launch<'bed>(
    bed: &'bed Bed,
    services: Vec<Service>,
    lines: &mut Lines,
) -> Result<Agent<'bed>> {
    let mut agent = Agent::install(bed)?;
    agent.without_report();
    agent.configure(&agent.configuration(services))?;
    let start = Instant::now();
    agent.start()?;
    lines.add(format_args!("ready after {} ms", start.elapsed().as_millis()));
    let status = agent.status()?;
    for interface in &status.datapath.interfaces {
        let mode = format!("{:?}", interface.mode).to_lowercase();
        ensure!(mode == "native", "{} is attached in mode {mode}", interface.name);
    }
    let names: Vec<_> = status.datapath.interfaces.iter().map(|view| view.name.as_str()).collect();
    lines.add(format_args!("XDP in native mode on {}", names.join(", ")));
    let [v4, v6] = Family::BOTH.map(|family| Bed::vip(family, 0).ip());
    lines.add(format_args!("{} VIPs on {v4} and {v6}", status.vips.len()));
    lines.add(format_args!("pinned in {}", agent.pin_directory().display()));
    Ok(agent)
}

fn each_family(lines: &mut Lines, act: impl Fn(Family) -> Result<Tally>) -> Result<()> {
    for family in Family::BOTH {
        let tally = act(family)?;
        tally.require_all(EXCHANGES)?;
        ensure!(tally.answers.len() == usize::from(SERVERS), "not every server answered: {tally}");
        lines.add(format_args!("{}: {tally}; {} a second", family.name(), tally.per_second()));
    }
    Ok(())
}

/// TCP and UDP over both families, none of which may fail; `look` sees who answered.
fn each_service(bed: &Bed, mut look: impl FnMut(&str, &Tally) -> Result<()>) -> Result<()> {
    type Exchange = fn(&Bed, Family) -> Result<Tally>;
    let services: [(&str, Exchange); 2] = [("TCP", short_connections), ("UDP", datagrams)];
    for (protocol, exchange) in services {
        for family in Family::BOTH {
            let tally = exchange(bed, family)?;
            tally.require_all(EXCHANGES)?;
            look(&format!("{protocol} over {}", family.name()), &tally)?;
        }
    }
    Ok(())
}

fn short_connections(bed: &Bed, family: Family) -> Result<Tally> {
    let vip = Bed::vip(family, port::LINE);
    bed.client.run(|| Ok(clients::short_connections(vip, EXCHANGES, 8)))
}

fn datagrams(bed: &Bed, family: Family) -> Result<Tally> {
    let vip = Bed::vip(family, port::UDP);
    bed.client.run(|| Ok(clients::udp_exchanges(vip, EXCHANGES, 8)))
}

fn bulk(bed: &Bed, lines: &mut Lines) -> Result<()> {
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::SOURCE);
        let transfer = bed.client.run(|| Ok(clients::download(vip, BULK_BYTES)?))?;
        lines.add(format_args!(
            "{}: {} MiB at {} Mbit/s, SHA-256 {:.16}...",
            family.name(),
            transfer.fingerprint.bytes >> 20,
            transfer.megabits_per_second(),
            transfer.fingerprint.sha256
        ));
    }
    Ok(())
}

fn cut(bed: &Bed, agent: &Agent<'_>, lines: &mut Lines) -> Result<()> {
    let vip = Bed::vip(Family::V4, port::LINE);
    let mut stranded = connect_to(bed, "s0")?;
    let udp = Bed::vip(Family::V4, port::UDP);
    let mut datagram_client = bed.client.run(|| Ok(UdpConversation::open_with(udp, "s0")?))?;
    let traffic = Traffic::start(&bed.client, Kind::ShortTcp, vip, 4)?;
    thread::sleep(WATCH);
    let before = traffic.exchanges();

    bed.cut(0)?;
    let cut = Instant::now();
    agent.wait_for_state("s0", ServerState::Down)?;
    let evicted = cut.elapsed();
    let reason = agent.server("line4", "s0")?.reason;
    lines.add(format_args!(
        "s0 is DOWN and out of the maps after {} ms: {reason}",
        evicted.as_millis()
    ));

    let asked = Instant::now();
    let failure = stranded.say().err().context("a connection to s0 still works")?;
    ensure!(failure.kind == FailureKind::Reset, "expected a reset: {failure}");
    lines.add(format_args!(
        "a client connected to s0 was reset {} us after its next packet, by XDP: it reconnects at once",
        asked.elapsed().as_micros()
    ));
    let other = datagram_client.say(0).context("a UDP client that s0 answered")?;
    ensure!(other != "s0", "a dead server answers a datagram");
    lines.add(format_args!("a UDP client of s0 sent its next datagram and had {other}'s answer"));

    // Clients that were waiting for s0 at that moment end their wait first.
    thread::sleep(Duration::from_millis(100));
    let settled = Instant::now();
    thread::sleep(WATCH);
    let after = traffic.since(settled);
    ensure!(after.failed() == 0, "connections still fail: {after}");
    ensure!(!after.answers.contains_key("s0"), "a dead server answers: {after}");
    let all = traffic.stop();
    lines.add(format_args!(
        "traffic meanwhile: {before} requests before, {} failed in all",
        all.failed()
    ));
    lines.add(format_args!("and afterwards: {after}"));
    each_service(bed, |what, moved| {
        ensure!(!moved.answers.contains_key("s0"), "a dead server answers: {moved}");
        lines.add(format_args!("{what}: {moved}"));
        Ok(())
    })
}

fn bring_back(bed: &Bed, agent: &Agent<'_>, lines: &mut Lines) -> Result<()> {
    let start = Instant::now();
    bed.reconnect(0)?;
    agent.wait_for_state("s0", ServerState::Up)?;
    lines.add(format_args!("s0 is UP after {} ms", start.elapsed().as_millis()));
    each_service(bed, |what, tally| {
        ensure!(tally.answers.contains_key("s0"), "s0 gets nothing: {tally}");
        lines.add(format_args!("{what}: {tally}"));
        Ok(())
    })
}

fn drain(bed: &Bed, agent: &Agent<'_>, lines: &mut Lines) -> Result<()> {
    let mut live = connect_to(bed, "s1")?;
    agent.cli_good(&["server", "set", "line4/s1", "--state", "drain"])?;
    agent.wait_for_server("line4", "s1", ServerState::Drain)?;
    let tally = short_connections(bed, Family::V4)?;
    tally.require_all(EXCHANGES)?;
    ensure!(!tally.answers.contains_key("s1"), "a drained server gets new connections: {tally}");
    live.say()?;
    lines.add("the connected client goes on with s1");
    lines.add(format_args!("new connections: {tally}"));
    agent.cli_good(&["server", "set", "line4/s1", "--state", "ready"])?;
    agent.wait_for_server("line4", "s1", ServerState::Up)?;
    let tally = short_connections(bed, Family::V4)?;
    tally.require_all(EXCHANGES)?;
    ensure!(tally.answers.contains_key("s1"), "s1 gets nothing after the drain: {tally}");
    lines.add(format_args!("after `server set line4/s1 --state ready`: {tally}"));
    Ok(())
}

fn kill_agent(bed: &Bed, agent: &mut Agent<'_>, lines: &mut Lines) -> Result<()> {
    let streams = [
        (Kind::ShortTcp, Bed::vip(Family::V4, port::LINE)),
        (Kind::LongTcp, Bed::vip(Family::V6, port::LINE)),
        (Kind::Udp, Bed::vip(Family::V4, port::UDP)),
    ];
    let mut running = Vec::new();
    for (kind, vip) in streams {
        running.push((kind, Traffic::start(&bed.client, kind, vip, 2)?));
    }
    thread::sleep(WATCH / 2);
    let program = agent.pin_directory().join("program");
    let before = bpftool::program_id(&program)?;
    agent.kill();
    thread::sleep(WATCH);
    agent.start()?;
    let after = bpftool::program_id(&program)?;
    ensure!(before == after, "program {before} was replaced by {after}");
    thread::sleep(WATCH / 2);
    lines.add(format_args!("program {after} and its maps were adopted"));
    for (kind, traffic) in running {
        let tally = traffic.stop();
        ensure!(tally.failed() == 0, "{kind:?}: {tally}");
        lines.add(format_args!("{kind:?}: {tally}"));
    }
    Ok(())
}

fn connect_to(bed: &Bed, server: &str) -> Result<Conversation> {
    let vip = Bed::vip(Family::V4, port::LINE);
    bed.client.run(|| Ok(Conversation::open_with(vip, server)?))
}
