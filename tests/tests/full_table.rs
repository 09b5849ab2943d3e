//! More connections than the table of flows has room for: all of them work, the ones in
//! the table lose nothing, and the operator is told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pointsman::admin::api::DropsView;
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    clients::{self, Conversation},
    configuration::Service,
    fleet::Fleet,
    process::wait_until,
    servers::port,
};

const PATIENCE: Duration = Duration::from_secs(15);
/// Flows that have room.
const ROOM: usize = 64;
/// Flows there are.
const FLOWS: usize = 200;

fn packets(agent: &Agent<'_>, reason: &str) -> Result<u64> {
    let view: DropsView = serde_json::from_str(&agent.cli_good(&["drops", "--json"])?)?;
    let found = view.drops.iter().find(|drop| drop.reason == reason);
    Ok(found.with_context(|| format!("no reason {reason}"))?.packets)
}

fn warned(agent: &Agent<'_>) -> Result<bool> {
    let warnings = agent.status()?.warnings;
    Ok(warnings.iter().any(|warning| {
        warning.starts_with("FLOWS4 holds ") && warning.contains("datapath.max_flows")
    }))
}

#[test]
fn connections_beyond_the_table_work_and_the_operator_is_told() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    let mut configuration = agent.configuration(Service::all_embedded(&bed));
    let options = [
        format!("max_flows: {ROOM}"),
        "sweep_interval: 200ms".to_owned(),
        "timeouts: {closed: 1s}".to_owned(),
    ];
    configuration.datapath_options.extend(options);
    agent.configure(&configuration)?;
    agent.start()?;
    let vip = Bed::vip(Family::V4, port::LINE);
    let mut kept = Vec::new();
    for _ in 0..FLOWS {
        kept.push(bed.client.run(|| Ok(Conversation::open(vip)?))?);
    }
    let all_talk = |kept: &mut [Conversation]| -> Result<()> {
        for (index, conversation) in kept.iter_mut().enumerate() {
            conversation.say().with_context(|| format!("connection {index} of {FLOWS}"))?;
        }
        Ok(())
    };
    all_talk(&mut kept)?;
    ensure!(packets(&agent, "flow_table_full")? > 0, "nothing says that the table is full");
    wait_until("the status to warn", PATIENCE, || {
        ensure!(warned(&agent)?, "{:?}", agent.status()?.warnings);
        Ok(())
    })?;
    let warnings = agent.log().matches("FLOWS4 holds ").count();
    ensure!(warnings == 1, "the log warns {warnings} times: {}", agent.log());
    // New ones come and go while it is full, and cost the old ones nothing.
    bed.client.run(|| clients::short_connections(vip, 500, 4).require_all(500))?;
    all_talk(&mut kept)?;
    ensure!(packets(&agent, "half_open_table_full")? == 0, "a half-open flow gave way");
    // The other family has a table of its own.
    let six = Bed::vip(Family::V6, port::LINE);
    bed.client.run(|| clients::short_connections(six, 50, 2).require_all(50))?;

    kept.truncate(10);
    wait_until("room in the table", PATIENCE, || {
        ensure!(!warned(&agent)?, "{:?}", agent.status()?.warnings);
        ensure!(agent.log().contains("FLOWS4 has room again"), "{}", agent.log());
        Ok(())
    })?;
    all_talk(&mut kept)?;
    let before = packets(&agent, "flow_table_full")?;
    bed.client.run(|| clients::short_connections(vip, 20, 1).require_all(20))?;
    ensure!(packets(&agent, "flow_table_full")? == before, "the table is said to be full still");
    Ok(())
}
