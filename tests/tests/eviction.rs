//! Servers that die, come back, are drained and taken out, with traffic on them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_common::{abi::map, server::state};
use pointsman::{
    admin::api::DropsView,
    model::state::{Health, ServerState},
};
use serde_json::Value;
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    bpftool,
    clients::{self, Conversation, FailureKind, Kind, Tally, Traffic, UdpConversation},
    configuration::{FAST_HTTP_CHECK, Service},
    fleet::Fleet,
    process::wait_until,
    report::note,
    servers::port,
};

/// How long an eviction may take with the fast checks of the bed (dead after 0.4 s at
/// most) on a busy machine.
const EVICTED_WITHIN: Duration = Duration::from_secs(3);

/// A bed of three servers and an agent with one line service and one UDP service a family;
/// `options` are further keys of each backend.
fn with_three_servers(
    options: &[&str],
    test: impl FnOnce(&Bed, &mut Fleet<'_>, &Agent<'_>) -> Result<()>,
) -> Result<()> {
    let bed = Bed::new(3, Mode::from_environment()?)?;
    let mut fleet = Fleet::start(&bed)?;
    let mut services = Service::all_embedded(&bed);
    for service in &mut services {
        service.options = options.iter().map(|option| (*option).to_owned()).collect();
    }
    let agent = Agent::launch(&bed, services)?;
    test(&bed, &mut fleet, &agent)
}

fn line_vip(family: Family) -> std::net::SocketAddr {
    Bed::vip(family, port::LINE)
}

fn ask_many(bed: &Bed, family: Family, count: u64) -> Result<Tally> {
    bed.client.run(|| Ok(clients::short_connections(line_vip(family), count, 4)))
}

fn names(tally: &Tally) -> BTreeSet<&str> {
    tally.answers.keys().map(String::as_str).collect()
}

/// All of `count` connections succeed, and exactly these servers answer.
fn require_answers_from(bed: &Bed, expected: &[&str]) -> Result<()> {
    for family in Family::BOTH {
        let tally = ask_many(bed, family, 300)?;
        tally.require_all(300)?;
        ensure!(names(&tally) == expected.iter().copied().collect(), "{expected:?}: {tally}");
    }
    Ok(())
}

fn conversation_with(bed: &Bed, family: Family, server: &str) -> Result<Conversation> {
    bed.client.run(|| Ok(Conversation::open_with(line_vip(family), server)?))
}

fn udp_conversation_with(bed: &Bed, family: Family, server: &str) -> Result<UdpConversation> {
    let vip = Bed::vip(family, port::UDP);
    bed.client.run(|| Ok(UdpConversation::open_with(vip, server)?))
}

#[test]
fn a_killed_server_is_evicted_and_comes_back() -> Result<()> {
    with_three_servers(&[], |bed, fleet, agent| {
        let mut kept: Vec<Conversation> = Vec::new();
        for server in ["s1", "s2"] {
            for family in Family::BOTH {
                kept.push(conversation_with(bed, family, server)?);
            }
        }
        let traffic = Traffic::start(&bed.client, Kind::ShortTcp, line_vip(Family::V4), 4)?;
        thread::sleep(Duration::from_millis(500));

        fleet.kill(0)?;
        let killed = Instant::now();
        agent.wait_for_state("s0", ServerState::Down)?;
        let evicted = killed.elapsed();
        ensure!(evicted < EVICTED_WITHIN, "eviction took {evicted:?}");
        // What was on its way at that instant may still fail; nothing after it.
        thread::sleep(Duration::from_millis(100));
        let settled = Instant::now();
        thread::sleep(Duration::from_secs(1));
        let after = traffic.since(settled);
        ensure!(after.failed() == 0 && !after.answers.contains_key("s0"), "{after}");
        ensure!(after.succeeded() > 100, "{after}");
        require_answers_from(bed, &["s1", "s2"])?;

        fleet.restart(0)?;
        agent.wait_for_state("s0", ServerState::Up)?;
        let back = Instant::now();
        thread::sleep(Duration::from_secs(1));
        let after = traffic.since(back);
        ensure!(after.failed() == 0 && after.answers.contains_key("s0"), "{after}");
        require_answers_from(bed, &["s0", "s1", "s2"])?;

        // Other servers' connections never noticed.
        for conversation in &mut kept {
            conversation.say()?;
        }
        let all = traffic.stop();
        let refused = all.failures.get(&FailureKind::Refused).copied().unwrap_or_default();
        note(format!("evicted after {evicted:?}; {all}"));
        // Between the kill and the eviction the dead server's own kernel refuses.
        ensure!(refused > 0, "no client noticed the kill, so nothing was tested: {all}");
        let unexpected = [FailureKind::TimedOut, FailureKind::WrongAnswer, FailureKind::Other];
        let clean = unexpected.iter().all(|kind| !all.failures.contains_key(kind));
        ensure!(clean, "{all}");
        Ok(())
    })
}

/// The machine is gone: no FIN, no RST. Its clients must not wait for TCP to give up.
#[test]
fn connections_of_a_dead_machine_are_reset() -> Result<()> {
    with_three_servers(&[], |bed, _, agent| {
        let mut stranded = Vec::new();
        for family in Family::BOTH {
            stranded.push(conversation_with(bed, family, "s0")?);
        }
        let mut datagrams = udp_conversation_with(bed, Family::V4, "s0")?;
        bed.cut(0)?;
        agent.wait_for_state("s0", ServerState::Down)?;
        for conversation in &mut stranded {
            let start = Instant::now();
            let kind = conversation.say().map_err(|failure| failure.kind);
            ensure!(kind == Err(FailureKind::Reset), "{kind:?}");
            ensure!(start.elapsed() < Duration::from_secs(1), "reset after {:?}", start.elapsed());
        }
        let server = datagrams.say(0)?;
        ensure!(server != "s0", "a dead server answers");
        require_answers_from(bed, &["s1", "s2"])?;
        let drops = drops(agent, "server_down")?;
        ensure!(drops >= 2, "{drops} packets counted as server_down");
        bed.reconnect(0)?;
        agent.wait_for_state("s0", ServerState::Up)?;
        require_answers_from(bed, &["s0", "s1", "s2"])
    })
}

#[test]
fn on_down_reroute_sends_flows_to_another_server() -> Result<()> {
    with_three_servers(&["on_down: reroute"], |bed, _, agent| {
        let mut stranded = conversation_with(bed, Family::V4, "s0")?;
        let mut datagrams = udp_conversation_with(bed, Family::V6, "s0")?;
        bed.cut(0)?;
        agent.wait_for_state("s0", ServerState::Down)?;
        let server = datagrams.say(0)?;
        ensure!(server != "s0", "a dead server answers");
        // The new server's kernel knows nothing of the connection and says so.
        let kind = stranded.say().map_err(|failure| failure.kind);
        ensure!(kind == Err(FailureKind::Reset), "{kind:?}");
        Ok(())
    })
}

#[test]
fn on_down_keep_lets_flows_survive_a_flap() -> Result<()> {
    with_three_servers(&["on_down: keep"], |bed, _, agent| {
        let mut kept = Vec::new();
        for family in Family::BOTH {
            kept.push(conversation_with(bed, family, "s0")?);
        }
        bed.cut(0)?;
        agent.wait_for_state("s0", ServerState::Down)?;
        require_answers_from(bed, &["s1", "s2"])?;
        bed.reconnect(0)?;
        agent.wait_for_state("s0", ServerState::Up)?;
        for conversation in &mut kept {
            conversation.say()?;
        }
        Ok(())
    })
}

/// A check that says no while the server still works: new connections go elsewhere.
#[test]
fn a_failing_health_check_evicts_with_its_reason() -> Result<()> {
    with_three_servers(&[], |bed, fleet, agent| {
        fleet.server(1)?.set_healthy(false);
        agent.wait_for_state("s1", ServerState::Down)?;
        require_answers_from(bed, &["s0", "s2"])?;
        let view = agent.server("line4", "s1")?;
        ensure!(view.health == Health::Down && view.reason.contains("503"), "{view:?}");
        fleet.server(1)?.set_healthy(true);
        agent.wait_for_state("s1", ServerState::Up)?;
        require_answers_from(bed, &["s0", "s1", "s2"])
    })
}

/// A server that answers its check with 404 says itself that it is to be left alone: NOLB.
#[test]
fn a_server_that_asks_for_no_new_flows_keeps_those_it_has() -> Result<()> {
    let bed = Bed::new(3, Mode::from_environment()?)?;
    let fleet = Fleet::start(&bed)?;
    let mut services = Service::all_embedded(&bed);
    for service in &mut services {
        service.check = FAST_HTTP_CHECK.replace('}', ", disable_on_404: true}");
    }
    let agent = Agent::launch(&bed, services)?;
    let mut live = Vec::new();
    let mut datagrams = Vec::new();
    for family in Family::BOTH {
        live.push(conversation_with(&bed, family, "s2")?);
        datagrams.push(udp_conversation_with(&bed, family, "s2")?);
    }
    let traffic = Traffic::start(&bed.client, Kind::ShortTcp, line_vip(Family::V4), 2)?;

    fleet.server(2)?.ask_for_no_new_flows();
    agent.wait_for_state("s2", ServerState::Nolb)?;
    let view = agent.server("line4", "s2")?;
    ensure!(view.health == Health::Nolb && view.reason.contains("404"), "{view:?}");
    let left = Instant::now();
    require_answers_from(&bed, &["s0", "s1"])?;
    for (conversation, datagrams) in live.iter_mut().zip(&mut datagrams) {
        for _ in 0..20 {
            conversation.say()?;
            ensure!(datagrams.say(0)? == "s2", "a flow of datagrams went elsewhere");
        }
    }
    let tally = traffic.since(left);
    ensure!(tally.succeeded() > 0 && names(&tally) == ["s0", "s1"].into(), "{tally}");

    fleet.server(2)?.set_healthy(true);
    agent.wait_for_state("s2", ServerState::Up)?;
    require_answers_from(&bed, &["s0", "s1", "s2"])?;
    for conversation in &mut live {
        conversation.say()?;
    }
    let all = traffic.stop();
    ensure!(all.failed() == 0, "a server that left and came back lost connections: {all}");

    // NOLB protects from nothing: a server that then fails is dead like any other.
    fleet.server(2)?.ask_for_no_new_flows();
    agent.wait_for_state("s2", ServerState::Nolb)?;
    fleet.server(2)?.set_healthy(false);
    agent.wait_for_state("s2", ServerState::Down)?;
    for conversation in &mut live {
        let kind = conversation.say().map_err(|failure| failure.kind);
        ensure!(kind == Err(FailureKind::Reset), "{kind:?}");
    }
    Ok(())
}

#[test]
fn a_drained_server_keeps_its_connections_and_gets_no_new_ones() -> Result<()> {
    with_three_servers(&[], |bed, _, agent| {
        let mut live = conversation_with(bed, Family::V4, "s2")?;
        let traffic = Traffic::start(&bed.client, Kind::ShortTcp, line_vip(Family::V4), 4)?;
        agent.cli_good(&["server", "set", "line4/s2", "--state", "drain"])?;
        thread::sleep(Duration::from_millis(300));
        let view = agent.server("line4", "s2")?;
        ensure!(view.state == ServerState::Drain, "{view:?}");
        let other = agent.server("line6", "s2")?;
        ensure!(other.state == ServerState::Up, "another backend was drained too: {other:?}");
        let drained = Instant::now();
        for _ in 0..10 {
            live.say()?;
            thread::sleep(Duration::from_millis(50));
        }
        let tally = traffic.since(drained);
        ensure!(names(&tally) == ["s0", "s1"].into(), "{tally}");

        agent.cli_good(&["server", "set", "line4/s2", "--state", "ready"])?;
        thread::sleep(Duration::from_millis(300));
        require_answers_from(bed, &["s0", "s1", "s2"])?;
        live.say()?;
        let all = traffic.stop();
        ensure!(all.failed() == 0 && all.succeeded() > 200, "a drain lost connections: {all}");
        Ok(())
    })
}

#[test]
fn a_server_in_maintenance_gets_nothing_and_its_flows_are_settled() -> Result<()> {
    with_three_servers(&[], |bed, _, agent| {
        let mut live = conversation_with(bed, Family::V4, "s1")?;
        agent.cli_good(&["server", "set", "line4/s1", "--state", "maint"])?;
        thread::sleep(Duration::from_millis(300));
        let kind = live.say().map_err(|failure| failure.kind);
        ensure!(kind == Err(FailureKind::Reset), "{kind:?}");
        let tally = ask_many(bed, Family::V4, 300)?;
        tally.require_all(300)?;
        ensure!(names(&tally) == ["s0", "s2"].into(), "{tally}");
        agent.cli_good(&["server", "set", "line4/s1", "--state", "ready"])?;
        thread::sleep(Duration::from_millis(300));
        require_answers_from(bed, &["s0", "s1", "s2"])
    })
}

#[test]
fn weights_set_at_run_time_move_the_shares() -> Result<()> {
    with_three_servers(&[], |bed, _, agent| {
        agent.cli_good(&["server", "set", "line4/s0", "--weight", "0"])?;
        agent.cli_good(&["server", "set", "line4/s1", "--weight", "50"])?;
        thread::sleep(Duration::from_millis(300));
        let tally = ask_many(bed, Family::V4, 1500)?;
        tally.require_all(1500)?;
        ensure!(names(&tally) == ["s1", "s2"].into(), "{tally}");
        // 50 to 100: a third, give or take what 1500 draws scatter.
        let share = tally.answers.get("s1").copied().context("no answer from s1")?;
        ensure!((400..=600).contains(&share), "{tally}");
        Ok(())
    })
}

#[test]
fn a_backup_server_serves_only_while_no_other_can() -> Result<()> {
    let bed = Bed::new(3, Mode::from_environment()?)?;
    let mut fleet = Fleet::start(&bed)?;
    let mut services = Service::all_embedded(&bed);
    for (name, value) in services.iter_mut().flat_map(|service| &mut service.servers) {
        if name == "s2" {
            *value = format!("{{address: {value}, backup: true}}");
        }
    }
    let agent = Agent::launch(&bed, services)?;
    require_answers_from(&bed, &["s0", "s1"])?;
    fleet.kill(0)?;
    agent.wait_for_state("s0", ServerState::Down)?;
    require_answers_from(&bed, &["s1"])?;
    fleet.kill(1)?;
    agent.wait_for_state("s1", ServerState::Down)?;
    require_answers_from(&bed, &["s2"])?;
    fleet.restart(0)?;
    agent.wait_for_state("s0", ServerState::Up)?;
    require_answers_from(&bed, &["s0"])
}

#[test]
fn without_any_server_clients_are_refused_at_once() -> Result<()> {
    with_three_servers(&[], |bed, fleet, agent| {
        for index in 0..3 {
            fleet.kill(index)?;
        }
        for server in ["s0", "s1", "s2"] {
            agent.wait_for_state(server, ServerState::Down)?;
        }
        let before = drops(agent, "no_server")?;
        for family in Family::BOTH {
            let start = Instant::now();
            let tally = ask_many(bed, family, 20)?;
            let refused = tally.failures.get(&FailureKind::Refused).copied();
            ensure!(refused == Some(20), "{tally}");
            ensure!(start.elapsed() < Duration::from_secs(1), "refused after {tally}");
        }
        let counted = drops(agent, "no_server")? - before;
        ensure!(counted >= 40, "{counted} packets counted as no_server");
        fleet.restart(1)?;
        agent.wait_for_state("s1", ServerState::Up)?;
        require_answers_from(bed, &["s1"])
    })
}

/// Packets dropped for a reason so far.
fn drops(agent: &Agent<'_>, reason: &str) -> Result<u64> {
    let view: DropsView = serde_json::from_str(&agent.cli_good(&["drops", "--json"])?)?;
    let found = view.drops.into_iter().find(|drop| drop.reason == reason);
    Ok(found.with_context(|| format!("no drop reason {reason}"))?.packets)
}

/// Whether the status says of no server what the map does not say too. The map is read
/// after the status: what it says may be newer, never older.
fn require_truth(agent: &Agent<'_>, expected: ServerState) -> Result<bool> {
    let status = agent.status()?;
    let entries = bpftool::formatted_entries(&agent.pin_directory().join(map::SERVERS))?;
    let mut all = true;
    for view in status.backends.iter().flat_map(|backend| &backend.servers) {
        if view.name != "s0" || view.state != expected {
            all &= view.name != "s0";
            continue;
        }
        let found = entries.iter().find(|entry| place(entry) == view.address.socket());
        let state = found.and_then(|entry| entry.pointer("/value/state")?.as_u64());
        let wanted = if expected == ServerState::Up { state::UP } else { state::DOWN };
        ensure!(state == Some(wanted.into()), "{view:?} while the map says {state:?}");
    }
    Ok(all)
}

/// Address and port of a live entry of `SERVERS`.
fn place(entry: &Value) -> Option<SocketAddr> {
    let state = entry.pointer("/value/state")?.as_u64()?;
    let octets = entry.pointer("/value/address/octets")?.as_array()?;
    let octets: Vec<u8> =
        octets.iter().filter_map(|octet| u8::try_from(octet.as_u64()?).ok()).collect();
    let address = IpAddr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical();
    let port = u16::try_from(entry.pointer("/value/port/__0")?.as_u64()?).ok()?;
    (state != u64::from(state::UNUSED)).then(|| SocketAddr::new(address, u16::from_be(port)))
}

#[test]
fn a_state_is_told_only_when_the_maps_have_it() -> Result<()> {
    with_three_servers(&[], |_, fleet, agent| {
        for _ in 0..3 {
            for expected in [ServerState::Down, ServerState::Up] {
                match expected {
                    ServerState::Down => fleet.kill(0)?,
                    _ => fleet.restart(0)?,
                }
                wait_until("all of s0 to change", Duration::from_secs(10), || {
                    // A lie is no reason to wait for the truth.
                    match require_truth(agent, expected) {
                        Ok(true) => Ok(Ok(())),
                        Ok(false) => anyhow::bail!("not all of s0 is {expected}"),
                        Err(lie) => Ok(Err(lie)),
                    }
                })?
                .0?;
            }
        }
        Ok(())
    })
}
