//! `balance: least-connections` with real connections: long ones end evenly spread, a server
//! that returns fills up first, and what is shown is what there is.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
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

/// Opens connections and keeps them.
fn open(bed: &Bed, number: usize, held: &mut Vec<Conversation>) -> Result<()> {
    let vip = Bed::vip(Family::V4, port::LINE);
    for _ in 0..number {
        held.push(bed.client.run(|| Ok(Conversation::open(vip)?))?);
    }
    Ok(())
}

/// How many of them each server has.
fn spread(held: &[Conversation]) -> BTreeMap<String, u64> {
    let mut spread = BTreeMap::new();
    for conversation in held {
        *spread.entry(conversation.server().to_owned()).or_default() += 1;
    }
    spread
}

/// Waits until the agent shows as many flows as there are.
fn require_shown(agent: &Agent<'_>, held: &[Conversation]) -> Result<()> {
    let there = spread(held);
    let shown = wait_until("the counts to be right", PATIENCE, || {
        for server in ["s0", "s1", "s2"] {
            let shown = agent.server("line4", server)?.flows_now;
            let there = there.get(server).copied().unwrap_or_default();
            ensure!(shown == there, "{server} has {there} flows, {shown} are shown");
        }
        Ok(())
    });
    shown.map(drop)
}

#[test]
fn long_connections_are_even_and_a_server_that_returns_fills_up_first() -> Result<()> {
    let bed = Bed::new(3, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    let mut configuration = agent.configuration(Service::all_embedded(&bed));
    configuration.datapath_options =
        ["sweep_interval: 200ms", "timeouts: {closed: 500ms, closing: 1s}"]
            .map(str::to_owned)
            .into();
    let text = configuration.render().replace("balance: maglev", "balance: least-connections");
    agent.configure_text(&text)?;
    agent.start()?;
    agent.cli_good(&["server", "set", "line4/s0", "--state", "drain"])?;
    let mut held = Vec::new();
    open(&bed, 60, &mut held)?;
    let first = spread(&held);
    note(format!("without s0: {first:?}"));
    ensure!(first.len() == 2 && first.values().all(|flows| (27..=33).contains(flows)));
    require_shown(&agent, &held)?;
    agent.cli_good(&["server", "set", "line4/s0", "--state", "ready"])?;
    open(&bed, 35, &mut held)?;
    let filling = spread(&held);
    note(format!("of the first 35 after its return: {filling:?}"));
    // Each processor finds it for itself; it then gets all until it has nearly as many.
    let of_first = filling.get("s0").copied().unwrap_or_default();
    ensure!(of_first >= 20, "{filling:?}");
    open(&bed, 85, &mut held)?;
    let all = spread(&held);
    note(format!("after its return: {all:?}"));
    ensure!(all.values().all(|flows| (52..=68).contains(flows)), "{all:?}");
    require_shown(&agent, &held)?;
    held.truncate(40);
    require_shown(&agent, &held)?;
    held.clear();
    require_shown(&agent, &held)
}
