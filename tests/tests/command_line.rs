//! Options of `pointsman run` that stand above the configuration.

use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    configuration::{Service, TCP_SERVICES},
    process::{Process, wait_until},
};

const PATIENCE: Duration = Duration::from_secs(15);

#[test]
fn interfaces_of_the_command_line_replace_those_of_the_configuration() -> Result<()> {
    let bed = Bed::new(1, Mode::Native)?;
    let agent = Agent::install(&bed)?;
    let service = Service::embedded(&bed, TCP_SERVICES[0], "tcp", Family::V4);
    let mut configuration = agent.configuration(vec![service]);
    configuration.interfaces = vec!["nowhere0".into()];
    agent.configure(&configuration)?;

    let refused = agent.run_to_end()?;
    ensure!(refused.code != Some(0), "an interface that does not exist was accepted");
    ensure!(refused.stderr.contains("nowhere0"), "{}", refused.stderr);

    let mut command = agent.run_command()?;
    for interface in bed.interfaces() {
        command.arg("--interface").arg(interface);
    }
    let log = bed.directory().join("command-line.log");
    let process = Process::start(&mut command, &log)?;
    let attached = || -> Result<Vec<String>> {
        let interfaces = agent.status()?.datapath.interfaces;
        Ok(interfaces.into_iter().map(|interface| interface.name).collect())
    };
    wait_until("the agent to be attached", PATIENCE, || {
        let attached = attached()?;
        ensure!(attached == bed.interfaces(), "attached to {attached:?}");
        Ok(())
    })
    .map_err(|error| error.context(process.last_output()))?;

    agent.reload()?;
    ensure!(attached()? == bed.interfaces(), "a reload took them back");
    Ok(())
}
