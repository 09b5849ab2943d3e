//! Interfaces that are deleted and made again while the agent runs: the program returns to
//! them by itself, and whatever does not need them goes on meanwhile. And servers whose
//! interface gets another Ethernet address.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_common::abi::map;
use pointsman::model::{snapshot::AttachMode, state::ServerState};
use serde_json::Value;
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    bpftool,
    clients::{self, Conversation, Kind, Traffic},
    configuration::{Service, TCP_SERVICES},
    fleet::Fleet,
    namespace::write_sysctl,
    process::wait_until,
    report::note,
    servers::port,
};

const PATIENCE: Duration = Duration::from_secs(15);

/// How the status says the program is attached to an interface.
fn attached(agent: &Agent<'_>, interface: &str) -> Result<AttachMode> {
    let interfaces = agent.status()?.datapath.interfaces;
    let found = interfaces.into_iter().find(|view| view.name == interface);
    Ok(found.map_or(AttachMode::Off, |view| view.mode))
}

fn wanted(bed: &Bed) -> AttachMode {
    match bed.mode {
        Mode::Native => AttachMode::Native,
        Mode::Generic => AttachMode::Generic,
    }
}

/// Waits until the status says that the program is back, and nothing of a fault.
fn wait_for_return(bed: &Bed, agent: &Agent<'_>, interface: &str) -> Result<()> {
    let waited = wait_until(&format!("the program on {interface}"), PATIENCE, || {
        let mode = attached(agent, interface)?;
        ensure!(mode == wanted(bed), "{interface} is {mode:?}");
        let error = agent.status()?.datapath.apply_error;
        ensure!(error.is_none(), "{error:?}");
        Ok(())
    });
    waited.map(drop)
}

/// Waits until the status names the interface that is missing.
fn wait_for_fault(agent: &Agent<'_>, interface: &str) -> Result<()> {
    let waited = wait_until(&format!("{interface} to be missed"), PATIENCE, || {
        let error = agent.status()?.datapath.apply_error.unwrap_or_default();
        ensure!(error.contains(&format!("no interface {interface}")), "it says {error:?}");
        ensure!(attached(agent, interface)? == AttachMode::Off);
        Ok(())
    });
    waited.map(drop)
}

fn wait_for_both_servers(bed: &Bed, vip: SocketAddr) -> Result<()> {
    let waited = wait_until("both servers to answer", PATIENCE, || {
        let tally = bed.client.run(|| Ok(clients::short_connections(vip, 100, 2)))?;
        ensure!(tally.failed() == 0 && tally.answers.len() == 2, "{tally}");
        Ok(())
    });
    waited.map(drop)
}

#[test]
fn a_link_to_a_server_that_is_made_again_carries_its_flows_again() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    let vip = Bed::vip(Family::V4, port::LINE);
    bed.unplug_server(0)?;
    wait_for_fault(&agent, "server0")?;
    agent.wait_for_state("s0", ServerState::Down)?;
    // The other server goes on, while the agent misses the interface.
    let traffic = Traffic::start(&bed.client, Kind::ShortTcp, vip, 2)?;
    wait_until("the other server to be used", PATIENCE, || {
        ensure!(traffic.exchanges() > 200, "{} so far", traffic.exchanges());
        Ok(())
    })?;
    let _stub = bed.replug_server(0)?;
    wait_for_return(&bed, &agent, "server0")?;
    agent.wait_for_state("s0", ServerState::Up)?;
    let tally = traffic.stop();
    ensure!(tally.failed() == 0, "{tally}");
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::LINE);
        let tally = bed.client.run(|| Ok(clients::short_connections(vip, 400, 2)))?;
        ensure!(tally.failed() == 0 && tally.answers.len() == 2, "{}: {tally}", family.name());
    }
    Ok(())
}

#[test]
fn a_link_to_the_clients_that_is_made_again_takes_new_and_old_connections() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    let mut configuration = agent.configuration(Service::all_embedded(&bed));
    configuration.datapath_options.push("manage_addresses: true".into());
    agent.configure(&configuration)?;
    agent.start_with(&["--detach-on-exit"])?;
    let mut kept = Vec::new();
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::LINE);
        kept.push(bed.client.run(|| Ok(Conversation::open(vip)?))?);
    }
    bed.unplug_client()?;
    wait_for_fault(&agent, "client0")?;
    let _stub = bed.replug_client()?;
    wait_for_return(&bed, &agent, "client0")?;
    for conversation in &mut kept {
        conversation.say()?;
    }
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::LINE);
        bed.client.run(|| clients::short_connections(vip, 300, 2).require_all(300))?;
    }
    // The VIP addresses are on the new interface.
    let mut command = bed.balancer.command("ip");
    let shown = testbed::namespace::output(command.args(["addr", "show", "client0"]))?;
    for family in Family::BOTH {
        let address = Bed::vip(family, port::LINE).ip().to_string();
        ensure!(shown.contains(&address), "{address} is not on client0: {shown}");
    }
    agent.stop()
}

/// The pinned link of the old interface holds nothing any more.
#[test]
fn a_restart_finds_an_interface_that_was_made_again_meanwhile() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    agent.kill();
    bed.unplug_server(1)?;
    let _stub = bed.replug_server(1)?;
    agent.start()?;
    wait_for_return(&bed, &agent, "server1")?;
    agent.wait_for_state("s1", ServerState::Up)?;
    let vip = Bed::vip(Family::V4, port::LINE);
    wait_for_both_servers(&bed, vip)
}

/// At boot, interfaces come in any order.
#[test]
fn an_interface_may_come_later_than_the_agent() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    bed.unplug_server(1)?;
    bed.unplug_client()?;
    let mut agent = Agent::install(&bed)?;
    let mut configuration = agent.configuration(Service::all_embedded(&bed));
    configuration.datapath_options.push("manage_addresses: true".into());
    bed.balancer.ip(&["link", "add", "spare0", "type", "veth", "peer", "name", "spare1"])?;
    configuration.interfaces.push("spare0".into());
    agent.configure(&configuration)?;
    agent.start_lacking("no interface client0")?;
    let link = agent.pin_directory().join("link-spare0");
    ensure!(link.exists(), "the program is not on spare0");
    let _client = bed.replug_client()?;
    wait_for_fault(&agent, "server1")?;
    // Which is no reason to take no other configuration, nor to stay where it has not to be.
    configuration.interfaces.pop();
    agent.configure(&configuration)?;
    agent.reload()?;
    ensure!(!link.exists(), "the program is still on spare0");
    let vip = Bed::vip(Family::V6, port::LINE);
    bed.client.run(|| clients::short_connections(vip, 50, 2).require_all(50))?;
    let _server = bed.replug_server(1)?;
    wait_for_return(&bed, &agent, "server1")?;
    agent.wait_for_state("s1", ServerState::Up)?;
    wait_for_both_servers(&bed, vip)
}

/// The Ethernet address that servers get.
const OTHER: [u8; 6] = [2, 0, 0, 0, 9, 3];

/// Gives the server on the other end of `server0` another Ethernet address.
fn move_server(bed: &Bed) -> Result<()> {
    let text = OTHER.map(|byte| format!("{byte:02x}")).join(":");
    bed.server(0)?.ip(&["link", "set", "eth0", "address", &text])
}

/// How many entries of `SERVERS` have this next hop, and how many have any.
fn next_hops(agent: &Agent<'_>, wanted: [u8; 6]) -> Result<(usize, usize)> {
    let entries = bpftool::formatted_entries(&agent.pin_directory().join(map::SERVERS))?;
    let mut counts = (0, 0);
    for entry in &entries {
        let octets = entry.pointer("/value/neighbour").and_then(Value::as_array);
        let octets = octets.with_context(|| format!("no next hop in {entry}"))?;
        let octets: Vec<u64> = octets.iter().filter_map(Value::as_u64).collect();
        counts.0 += usize::from(octets == wanted.map(u64::from));
        counts.1 += usize::from(octets != [0; 6]);
    }
    Ok(counts)
}

/// As a card that is exchanged or a virtual machine that moves: the server says where it is
/// now. Nothing is lost but what is on its way, and no check fails.
#[test]
fn open_connections_follow_a_server_that_announces_another_ethernet_address() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    let mut kept = Vec::new();
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::LINE);
        kept.push(bed.client.run(|| Ok(Conversation::open(vip)?))?);
    }
    let (moved, all) = next_hops(&agent, OTHER)?;
    ensure!(moved == 0 && all == 10, "{moved} of {all} next hops are new before the move");
    bed.server(0)?.run(|| {
        write_sysctl("net/ipv4/conf/eth0/arp_notify", "1")?;
        write_sysctl("net/ipv6/conf/eth0/ndisc_notify", "1")
    })?;
    move_server(&bed)?;
    for conversation in &mut kept {
        conversation.say()?;
    }
    let (moved, all) = next_hops(&agent, OTHER)?;
    ensure!(moved == 10 && all == 10, "{moved} of {all} next hops are new");
    for conversation in &mut kept {
        for _ in 0..50 {
            conversation.say()?;
        }
    }
    for backend in agent.status()?.backends {
        let down = backend.servers.iter().find(|server| server.state != ServerState::Up);
        ensure!(down.is_none(), "{down:?}");
    }
    let said = agent.log();
    ensure!(!said.contains("DOWN"), "a check failed meanwhile: {said}");
    Ok(())
}

/// Nobody tells: that the old address does not answer any more is found out by asking.
#[test]
fn open_connections_follow_a_server_that_gets_another_ethernet_address_in_silence() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    // The kernel's patience with neighbours, cut so that a test need not wait a minute.
    bed.balancer.run(|| {
        for family in ["ipv4", "ipv6"] {
            for (key, value) in [
                ("retrans_time_ms", "100"),
                ("delay_first_probe_time", "1"),
                ("base_reachable_time_ms", "1000"),
            ] {
                write_sysctl(&format!("net/{family}/neigh/server0/{key}"), value)?;
            }
        }
        Ok(())
    })?;
    let mut services = Service::all_embedded(&bed);
    // Checks would find the server dead first.
    services.iter_mut().for_each(|service| service.check.clear());
    let agent = Agent::launch(&bed, services)?;
    let mut kept = Vec::new();
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::LINE);
        kept.push(bed.client.run(|| Ok(Conversation::open(vip)?))?);
    }
    move_server(&bed)?;
    let start = Instant::now();
    for conversation in &mut kept {
        conversation.stream().set_read_timeout(Some(PATIENCE))?;
        conversation.say()?;
    }
    note(format_args!("both connections went on {:?} after the move", start.elapsed()));
    let (moved, all) = next_hops(&agent, OTHER)?;
    ensure!(moved == 10 && all == 10, "{moved} of {all} next hops are new");
    for conversation in &mut kept {
        for _ in 0..50 {
            conversation.say()?;
        }
    }
    Ok(())
}

/// Loopback has no native XDP.
#[test]
fn a_driver_without_native_xdp_falls_back_loudly() -> Result<()> {
    let bed = Bed::new(1, Mode::Native)?;
    let mut agent = Agent::install(&bed)?;
    let service = Service::embedded(&bed, TCP_SERVICES[0], "tcp", Family::V4);
    let mut configuration = agent.configuration(vec![service]);
    configuration.interfaces.push("lo".into());
    configuration.mode = "auto".into();
    agent.configure(&configuration)?;
    agent.start()?;
    ensure!(attached(&agent, "lo")? == AttachMode::Generic);
    ensure!(attached(&agent, "client0")? == AttachMode::Native);
    let loud = "lo forwards in GENERIC mode, several times slower than native";
    let log = agent.log();
    let logged: Vec<_> = log.lines().filter(|line| line.contains("GENERIC")).collect();
    ensure!(logged.len() == 1 && logged[0].contains("WARN") && logged[0].contains(loud), "{log}");
    let warnings = agent.status()?.warnings;
    ensure!(warnings.iter().filter(|one| one.contains(loud)).count() == 1, "{warnings:?}");
    let shown = agent.cli_good(&["status"])?;
    ensure!(shown.contains(loud), "{shown}");
    Ok(())
}
