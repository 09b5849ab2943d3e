//! Connections that are over leave their table while no agent runs.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use lb_common::{abi::map, drop_reason::DropReason};
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    bpftool,
    clients::{self, Conversation},
    configuration::Service,
    fleet::Fleet,
    process::wait_until,
    servers::port,
};

const PATIENCE: Duration = Duration::from_secs(20);
const CLOSED: Duration = Duration::from_millis(300);

/// A bed with an agent that configures the data plane and is killed.
fn without_agent(
    options: &[String],
    test: impl FnOnce(&Bed, &mut Agent<'_>) -> Result<()>,
) -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    let mut configuration = agent.configuration(Service::all_embedded(&bed));
    configuration.datapath_options.extend_from_slice(options);
    agent.configure(&configuration)?;
    agent.start()?;
    agent.kill();
    test(&bed, &mut agent)
}

fn entries(agent: &Agent<'_>, family: Family) -> Result<usize> {
    let name = match family {
        Family::V4 => map::FLOWS4,
        Family::V6 => map::FLOWS6,
    };
    Ok(bpftool::formatted_entries(&agent.pin_directory().join(name))?.len())
}

fn drops(agent: &Agent<'_>, reason: DropReason) -> Result<u64> {
    let counters = bpftool::formatted_entries(&agent.pin_directory().join(map::DROP_COUNTERS))?;
    let values = counters[reason as usize]["values"].as_array().cloned().unwrap_or_default();
    Ok(values.iter().filter_map(|value| value["value"]["packets"].as_u64()).sum())
}

#[test]
fn a_small_table_takes_any_number_of_connections() -> Result<()> {
    const FLOWS: usize = 1024;
    const CONNECTIONS: u64 = 8000;
    // Nothing times out: it is only the size of the rings that makes room.
    let options = [
        format!("max_flows: {FLOWS}"),
        "timeouts: {closed: 1h}".to_owned(),
        "sweep_interval: 1h".to_owned(),
    ];
    without_agent(&options, |bed, agent| {
        for family in Family::BOTH {
            let vip = Bed::vip(family, port::LINE);
            let mut kept = bed.client.run(|| Ok(Conversation::open(vip)?))?;
            let tally = bed.client.run(|| Ok(clients::short_connections(vip, CONNECTIONS, 4)))?;
            tally.require_all(CONNECTIONS)?;
            kept.say()?;
            let found = entries(agent, family)?;
            // Half the table, what is open, and what its processor lost to another one's end.
            ensure!(found <= FLOWS + 100, "{family:?}: {found} entries");
        }
        ensure!(drops(agent, DropReason::FlowTableFull)? == 0, "the table was full");
        ensure!(drops(agent, DropReason::Internal)? == 0, "something went wrong");
        Ok(())
    })
}

#[test]
fn connections_leave_after_their_timeout() -> Result<()> {
    const CONNECTIONS: u64 = 800;
    const MORE: u64 = 200;
    let options = [
        format!("timeouts: {{closed: {}ms}}", CLOSED.as_millis()),
        "sweep_interval: 1h".to_owned(),
    ];
    without_agent(&options, |bed, agent| {
        for family in Family::BOTH {
            let vip = Bed::vip(family, port::LINE);
            let mut kept = bed.client.run(|| Ok(Conversation::open(vip)?))?;
            bed.client
                .run(|| clients::short_connections(vip, CONNECTIONS, 4).require_all(CONNECTIONS))?;
            // Each connection that ends takes out two whose time has come, on its processor.
            wait_until("the last connections to be all there are", PATIENCE, || {
                thread::sleep(CLOSED);
                bed.client.run(|| clients::short_connections(vip, MORE, 4).require_all(MORE))?;
                let found = u64::try_from(entries(agent, family)?)?;
                ensure!(found <= 2 * MORE + 200, "{family:?}: {found} entries");
                Ok(())
            })?;
            kept.say()?;
        }
        Ok(())
    })
}
