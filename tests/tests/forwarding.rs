//! Servers that answer their clients themselves: `forward: dsr`, `ipip` and `gue`, with the
//! servers' side set up as docs/forwarding.md says.
//!
//! The balancer's kernel is the router between servers and clients here, as another machine
//! would be elsewhere: answers pass through it and not through the data plane.
#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the method of a type with a lifetime is for one lifetime only"
)]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_common::forward::Forward;
use pointsman::{
    admin::api::{DropsView, FlowsView},
    model::state::ServerState,
};
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    clients::{self, Conversation, UdpConversation},
    configuration::{FAST_HTTP_CHECK, Service, quoted},
    fleet::{self, Fleet},
    namespace::{Namespace, write_sysctl},
    process::wait_until,
    report::note,
    servers::{port, tunnel_end::TunnelEnd},
};

const SERVERS: u8 = 3;
/// How long an eviction may take on a busy machine.
const EVICTED_WITHIN: Duration = Duration::from_secs(3);

/// What is set up: servers of one family, clients of one or both.
struct Scene<'bed> {
    bed: &'bed Bed,
    agent: Agent<'bed>,
    forward: Forward,
    ends: Vec<TunnelEnd>,
    clients: Vec<Family>,
}

fn scene(
    forward: Forward,
    servers: Family,
    test: impl FnOnce(&mut Scene<'_>) -> Result<()>,
) -> Result<()> {
    let bed = Bed::new(SERVERS, Mode::from_environment()?)?;
    let clients = if forward.encapsulates() { Family::BOTH.to_vec() } else { vec![servers] };
    let mut ends = Vec::new();
    let mut fleet = Fleet::start(&bed)?;
    for index in 0..SERVERS {
        let server = bed.server(index)?;
        hold_vips(server)?;
        bed.route_back(index, FITTING)?;
        for family in &clients {
            let vip = Bed::vip(*family, port::UDP).ip();
            fleet.server_mut(index)?.answer_at(server, vip)?;
        }
        if forward.encapsulates() {
            ends.push(TunnelEnd::start(server, forward, servers)?);
        }
    }
    let services = clients.iter().flat_map(|family| services(forward, servers, *family));
    let agent = Agent::launch(&bed, services.collect())?;
    test(&mut Scene { bed: &bed, agent, forward, ends, clients })
}

/// The VIPs are the server's own addresses, and it keeps quiet about them.
fn hold_vips(server: &Namespace) -> Result<()> {
    server.run(|| {
        write_sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
        write_sysctl("net/ipv4/conf/all/arp_announce", "2")
    })?;
    let (v4, v6) = (Bed::vip(Family::V4, 1).ip(), Bed::vip(Family::V6, 1).ip());
    server.ip(&["addr", "add", &format!("{v4}/32"), "dev", "lo"])?;
    server.ip(&["addr", "add", &format!("{v6}/128"), "dev", "lo", "nodad"])
}

/// The largest segments of clients that fit encapsulated, in every mode and family.
const FITTING: &[&str] = &["advmss", "1380"];

fn services(forward: Forward, servers: Family, clients: Family) -> Vec<Service> {
    let service = |name: &str, port, protocol| {
        let address = |index| SocketAddr::new(Bed::server_address(index, servers), port);
        Service {
            name: format!("{name}-{}", clients.name()),
            vip: Bed::vip(clients, port),
            protocol,
            forward,
            frontend_options: Vec::new(),
            options: Vec::new(),
            check: FAST_HTTP_CHECK.into(),
            servers: (0..SERVERS).map(|n| (fleet::name(n), quoted(address(n)))).collect(),
        }
    };
    vec![
        service("line", port::LINE, "tcp"),
        service("digest", port::DIGEST, "tcp"),
        service("source", port::SOURCE, "tcp"),
        service("udp", port::UDP, "udp"),
    ]
}

impl Scene<'_> {
    /// Connections and datagrams of all clients succeed, are spread, and their answers do not
    /// come back through the data plane.
    fn serves(&self) -> Result<()> {
        for family in &self.clients {
            let (tcp, udp) = (Bed::vip(*family, port::LINE), Bed::vip(*family, port::UDP));
            let tally = self.bed.client.run(|| Ok(clients::short_connections(tcp, 1000, 8)))?;
            note(format!("{} {}: {tally}", self.forward.name(), family.name()));
            tally.require_all(1000)?;
            ensure!(tally.answers.len() == usize::from(SERVERS), "not spread: {tally}");
            let tally = self.bed.client.run(|| Ok(clients::udp_exchanges(udp, 300, 4)))?;
            tally.require_all(300)?;
            ensure!(tally.answers.len() == usize::from(SERVERS), "not spread: {tally}");
        }
        for vip in self.agent.status()?.vips {
            ensure!(vip.forward == self.forward.name(), "{vip:?}");
            ensure!(vip.traffic.reply_packets == 0, "answers were counted: {vip:?}");
        }
        Ok(())
    }

    /// Data of many segments arrives whole both ways.
    fn carries_bulk(&self) -> Result<()> {
        const BYTES: u64 = 16 << 20;
        for family in &self.clients {
            let (source, digest) =
                (Bed::vip(*family, port::SOURCE), Bed::vip(*family, port::DIGEST));
            let down = self.bed.client.run(|| Ok(clients::download(source, BYTES)?))?;
            let up = self.bed.client.run(|| Ok(clients::upload(digest, BYTES)?))?;
            let rates = (down.megabits_per_second(), up.megabits_per_second());
            note(format!("{} {} down, up: {rates:?} Mbit/s", self.forward.name(), family.name()));
        }
        Ok(())
    }

    fn pins_flows(&self) -> Result<()> {
        for family in &self.clients {
            let vip = Bed::vip(*family, port::UDP);
            self.bed.client.run(|| {
                let mut conversation = UdpConversation::open(vip)?;
                let server = conversation.say(0)?;
                for padding in [10, 1000, 1200, 0] {
                    ensure!(conversation.say(padding)? == server, "the flow moved");
                }
                Ok(())
            })?;
        }
        let listed = self.agent.cli_good(&["flows", "--json", "--protocol", "udp"])?;
        let flows: FlowsView = serde_json::from_str(&listed)?;
        ensure!(!flows.flows.is_empty(), "no flow is listed");
        for flow in &flows.flows {
            ensure!(flow.forward == self.forward.name() && flow.state == "one_way", "{flow:?}");
            ensure!(flow.snat == flow.client && flow.server_name.is_some(), "{flow:?}");
            ensure!(flow.server.ip() != flow.vip.ip(), "{flow:?}");
        }
        Ok(())
    }

    /// A server is cut off and comes back.
    fn survives_a_server(&mut self) -> Result<()> {
        let family = self.clients[0];
        let vip = Bed::vip(family, port::LINE);
        let open =
            || Ok((0..60).map(|_| Conversation::open(vip)).collect::<Result<Vec<_>, _>>()?);
        let conversations = self.bed.client.run(open)?;
        let (mut dying, mut staying): (Vec<_>, Vec<_>) =
            conversations.into_iter().partition(|one| one.server() == "s0");
        ensure!(!dying.is_empty() && !staying.is_empty(), "not spread");
        self.bed.cut(0)?;
        let name = format!("line-{}", family.name());
        self.agent.wait_for_server(&name, "s0", ServerState::Down)?;
        let start = Instant::now();
        for conversation in &mut dying {
            ensure!(conversation.say().is_err(), "a dead server answered");
        }
        ensure!(start.elapsed() < EVICTED_WITHIN, "resets took {:?}", start.elapsed());
        for conversation in &mut staying {
            conversation.say()?;
        }
        let tally = self.bed.client.run(|| Ok(clients::short_connections(vip, 300, 4)))?;
        tally.require_all(300)?;
        ensure!(!tally.answers.contains_key("s0"), "{tally}");
        self.bed.reconnect(0)?;
        self.bed.route_back(0, FITTING)?;
        self.agent.wait_for_server(&name, "s0", ServerState::Up)?;
        let answered = wait_until("s0 to answer again", EVICTED_WITHIN, || {
            let tally = self.bed.client.run(|| Ok(clients::short_connections(vip, 60, 4)))?;
            tally.require_all(60)?;
            ensure!(tally.answers.contains_key("s0"), "{tally}");
            Ok(())
        });
        answered.map(drop)
    }

    fn all(&mut self) -> Result<()> {
        let by_kernel = self.ends.iter().filter(|end| end.is_by_kernel()).count();
        note(format!("{} of {} tunnels end in the kernel", by_kernel, self.ends.len()));
        self.serves()?;
        self.pins_flows()?;
        self.carries_bulk()?;
        self.survives_a_server()?;
        if self.forward.encapsulates() && by_kernel == 0 {
            let taken: u64 = self.ends.iter().map(TunnelEnd::packets).sum();
            ensure!(taken > 4000, "only {taken} packets came out of tunnels");
        }
        Ok(())
    }
}

#[test]
fn dsr_of_ipv4() -> Result<()> {
    scene(Forward::Dsr, Family::V4, |scene| scene.all())
}

#[test]
fn dsr_of_ipv6() -> Result<()> {
    scene(Forward::Dsr, Family::V6, |scene| scene.all())
}

#[test]
fn both_families_in_ipv4() -> Result<()> {
    scene(Forward::Ipip, Family::V4, |scene| scene.all())
}

#[test]
fn both_families_in_ipv6() -> Result<()> {
    scene(Forward::Ipip, Family::V6, |scene| scene.all())
}

#[test]
fn both_families_in_udp_of_ipv4() -> Result<()> {
    scene(Forward::Gue, Family::V4, |scene| scene.all())
}

#[test]
fn both_families_in_udp_of_ipv6() -> Result<()> {
    scene(Forward::Gue, Family::V6, |scene| scene.all())
}

/// Servers that ask for segments which do not fit once they are encapsulated: clients learn it.
#[test]
fn clients_learn_what_fits() -> Result<()> {
    const BYTES: u64 = 4 << 20;
    for forward in [Forward::Ipip, Forward::Gue] {
        for servers in Family::BOTH {
            scene(forward, servers, |scene| {
                for index in 0..SERVERS {
                    scene.bed.route_back(index, &[])?;
                }
                for family in &scene.clients {
                    let vip = Bed::vip(*family, port::DIGEST);
                    scene.bed.client.run(|| Ok(clients::upload(vip, BYTES)?))?;
                }
                let listed = scene.agent.cli_good(&["drops", "--json"])?;
                let drops: DropsView = serde_json::from_str(&listed)?;
                let too_big = drops.drops.iter().find(|drop| drop.reason == "too_big");
                let packets = too_big.map_or(0, |drop| drop.packets);
                note(format!("{} to {}: {packets} did not fit", forward.name(), servers.name()));
                ensure!(packets > 0, "everything fitted: {listed}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// The agent dies, the data plane goes on, and the next agent takes over.
#[test]
fn encapsulated_connections_outlive_the_agent() -> Result<()> {
    scene(Forward::Gue, Family::V4, |scene| {
        let vip = Bed::vip(Family::V4, port::LINE);
        let mut conversation = scene.bed.client.run(|| Ok(Conversation::open(vip)?))?;
        scene.agent.kill();
        conversation.say()?;
        let tally = scene.bed.client.run(|| Ok(clients::short_connections(vip, 200, 4)))?;
        tally.require_all(200)?;
        scene.agent.start()?;
        conversation.say()?;
        let drops: DropsView = serde_json::from_str(&scene.agent.cli_good(&["drops", "--json"])?)?;
        for drop in &drops.drops {
            ensure!(drop.packets == 0, "{drop:?}");
        }
        Ok(())
    })
}
