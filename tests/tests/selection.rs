//! What decides where new connections go, with real ones: turns, limits of servers, and
//! the growing share of a server that comes back.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::{abi::map, server::ServerFlows};
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    clients::Conversation,
    configuration::Service,
    fleet::Fleet,
    process::wait_until,
    report::note,
    servers::port,
};

const PATIENCE: Duration = Duration::from_secs(10);
const SERVERS: [&str; 3] = ["s0", "s1", "s2"];

/// Runs a test of an agent whose backends have these keys.
fn with_agent(
    balance: &str,
    options: &[&str],
    limit: Option<u32>,
    test: impl FnOnce(&Bed, &mut Agent<'_>) -> Result<()>,
) -> Result<()> {
    let bed = Bed::new(3, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    let mut services = Service::all_embedded(&bed);
    for service in &mut services {
        service.options.extend(options.iter().copied().map(str::to_owned));
        for (_, value) in service.servers.iter_mut().filter(|_| limit.is_some()) {
            *value = format!("{{address: {value}, max_connections: {}}}", limit.unwrap_or(1));
        }
    }
    let mut configuration = agent.configuration(services);
    configuration.datapath_options =
        ["sweep_interval: 200ms", "timeouts: {closed: 500ms, closing: 1s}"]
            .map(str::to_owned)
            .into();
    let text = configuration.render().replace("balance: maglev", &format!("balance: {balance}"));
    agent.configure_text(&text)?;
    agent.start()?;
    test(&bed, &mut agent)
}

fn open(bed: &Bed) -> Result<Conversation> {
    let vip = Bed::vip(Family::V4, port::LINE);
    bed.client.run(|| Ok(Conversation::open(vip)?))
}

fn open_many(bed: &Bed, number: usize) -> Result<Vec<Conversation>> {
    (0..number).map(|_| open(bed)).collect()
}

/// How many of them each server has.
fn spread(held: &[Conversation]) -> BTreeMap<&str, usize> {
    let mut spread: BTreeMap<&str, usize> = SERVERS.map(|server| (server, 0)).into();
    for conversation in held {
        *spread.entry(conversation.server()).or_default() += 1;
    }
    spread
}

/// Waits until each server has this many flows, as `status` shows it.
fn wait_for_flows(agent: &Agent<'_>, flows: u64) -> Result<()> {
    wait_until("the flows of all servers", PATIENCE, || {
        for server in SERVERS {
            let shown = agent.server("line4", server)?.flows_now;
            ensure!(shown == flows, "{server} has {shown} flows");
        }
        Ok(())
    })?;
    Ok(())
}

#[test]
fn connections_go_to_servers_in_turn_by_weight() -> Result<()> {
    with_agent("round-robin", &[], None, |bed, agent| {
        let held = open_many(bed, 30)?;
        ensure!(spread(&held).values().all(|flows| *flows == 10), "{:?}", spread(&held));
        let order: Vec<&str> = held.iter().map(Conversation::server).collect();
        ensure!(order.iter().zip(&order[3..]).all(|(one, next)| one == next), "{order:?}");
        agent.cli_good(&["server", "set", "line4/s0", "--weight", "200"])?;
        let held = open_many(bed, 40)?;
        ensure!(
            spread(&held) == [("s0", 20), ("s1", 10), ("s2", 10)].into(),
            "{:?}",
            spread(&held)
        );
        agent.cli_good(&["server", "set", "line4/s0", "--state", "drain"])?;
        let held = open_many(bed, 20)?;
        ensure!(spread(&held) == [("s0", 0), ("s1", 10), ("s2", 10)].into(), "{:?}", spread(&held));
        Ok(())
    })
}

#[test]
fn servers_get_no_more_connections_than_they_may_have_whatever_becomes_of_the_agent() -> Result<()>
{
    const MOST: u32 = 5;
    with_agent("maglev", &[], Some(MOST), |bed, agent| {
        let fill = |held: &mut Vec<Conversation>| -> Result<()> {
            // A connection that overflows looks at 32 places of the ring.
            wait_until("every server to have as many as it may", PATIENCE, || {
                held.push(open(bed)?);
                ensure!(held.len() == 3 * MOST as usize);
                Ok(())
            })?;
            ensure!(spread(held).values().all(|flows| *flows == MOST as usize));
            Ok(())
        };
        let mut held = Vec::new();
        fill(&mut held)?;
        let refused = open(bed).err().context("one more connection")?;
        note(format!("one too many: {refused:#}"));
        ensure!(format!("{refused:#}").contains("refused"), "{refused:#}");
        let shown = agent.server("line4", "s0")?;
        ensure!(shown.max_connections == Some(MOST) && shown.flows_now == u64::from(MOST));
        ensure!(agent.cli_good(&["status"])?.contains("5 of 5"));
        // The limit holds without an agent, and places are free when connections end.
        agent.kill();
        ensure!(open(bed).is_err(), "without an agent");
        held.truncate(9);
        fill(&mut held)?;
        ensure!(open(bed).is_err(), "full again");
        agent.start()?;
        ensure!(open(bed).is_err(), "with the next agent");
        for conversation in &mut held {
            conversation.say()?;
        }
        drop(held);
        wait_for_flows(agent, 0)
    })
}

/// As if an agent had ended between deleting flows and counting them down.
fn leak(agent: &Agent<'_>, flows: u32) -> Result<()> {
    let data = MapData::from_pin(agent.pin_directory().join(map::SERVER_FLOWS))?;
    let mut counts: Array<_, ServerFlows> = Map::Array(data).try_into()?;
    for id in 0..counts.len() {
        let count = counts.get(&id, 0)?;
        if count.generation != 0 {
            counts.set(id, ServerFlows { flows: count.flows.wrapping_add(flows), ..count }, 0)?;
        }
    }
    Ok(())
}

#[test]
fn counts_that_are_wrong_are_put_right_by_the_sweep() -> Result<()> {
    with_agent("round-robin", &[], Some(5), |bed, agent| {
        let held = open_many(bed, 6)?;
        wait_for_flows(agent, 2)?;
        leak(agent, 3)?;
        ensure!(open(bed).is_err(), "the servers seem full");
        wait_for_flows(agent, 2)?;
        let more = open_many(bed, 9)?;
        leak(agent, 1_u32.wrapping_neg())?;
        wait_for_flows(agent, 5)?;
        drop((held, more));
        wait_for_flows(agent, 0)
    })
}

#[test]
fn share_of_a_server_that_comes_back_grows() -> Result<()> {
    let state = |agent: &Agent<'_>, state: &str| {
        agent.cli_good(&["server", "set", "line4/s0", "--state", state]).map(drop)
    };
    with_agent("round-robin", &["slow_start: 1h"], None, |bed, agent| {
        state(agent, "maint")?;
        state(agent, "ready")?;
        let held = open_many(bed, 81)?;
        // A fortieth of the share of the others: 5 of 405, where weights are 200.
        ensure!(spread(&held) == [("s0", 1), ("s1", 40), ("s2", 40)].into(), "{:?}", spread(&held));
        ensure!(agent.server("line4", "s0")?.grown_percent == Some(2));
        ensure!(agent.cli_good(&["status"])?.contains("2 % of 100"));
        Ok(())
    })?;
    with_agent("maglev", &["slow_start: 1s"], None, |bed, agent| {
        let before = open_many(bed, 60)?;
        state(agent, "maint")?;
        state(agent, "ready")?;
        wait_until("the server to have grown", PATIENCE, || {
            ensure!(agent.server("line4", "s0")?.grown_percent.is_none());
            Ok(())
        })?;
        let found = spread(&open_many(bed, 60)?).get("s0").copied().unwrap_or_default();
        ensure!((8..=34).contains(&found), "{found} of 60, {:?} before", spread(&before));
        Ok(())
    })
}
