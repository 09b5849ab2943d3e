//! Options of `pointsman run` that stand above the configuration, and `cargo xtask run`, which
//! builds the agent first.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    clients,
    configuration::{Service, TCP_SERVICES},
    fleet::Fleet,
    process::{Process, wait_until},
    servers::port,
};

const PATIENCE: Duration = Duration::from_secs(15);
/// As long as it may take Cargo to build what was not built yet.
const BUILT_WITHIN: Duration = Duration::from_secs(300);

/// Waits until the agent is attached to all interfaces of the bed and ready.
fn wait_until_attached(
    bed: &Bed,
    agent: &Agent<'_>,
    process: &mut Process,
    patience: Duration,
) -> Result<()> {
    let mut ended = None;
    let attached = wait_until("the agent to be attached", patience, || {
        ended = process.ended()?;
        if ended.is_some() {
            return Ok(());
        }
        let datapath = agent.status()?.datapath;
        let names: Vec<_> = datapath.interfaces.into_iter().map(|view| view.name).collect();
        ensure!(names == bed.interfaces(), "attached to {names:?}");
        ensure!(datapath.apply_error.is_none(), "{:?}", datapath.apply_error);
        Ok(())
    });
    attached.map_err(|error| error.context(process.last_output()))?;
    ensure!(ended.is_none(), "it ended with {ended:?}: {}", process.last_output());
    Ok(())
}

/// An agent whose configuration names an interface that does not exist.
fn install(bed: &Bed) -> Result<Agent<'_>> {
    let agent = Agent::install(bed)?;
    let service = Service::embedded(bed, TCP_SERVICES[0], "tcp", Family::V4);
    let mut configuration = agent.configuration(vec![service]);
    configuration.interfaces = vec!["nowhere0".into()];
    agent.configure(&configuration)?;
    Ok(agent)
}

#[test]
fn interfaces_of_the_command_line_replace_those_of_the_configuration() -> Result<()> {
    let bed = Bed::new(1, Mode::Native)?;
    let agent = install(&bed)?;
    let refused = agent.run_to_end()?;
    ensure!(refused.code != Some(0), "an interface that does not exist was accepted");
    ensure!(refused.stderr.contains("nowhere0"), "{}", refused.stderr);

    let mut command = agent.run_command()?;
    for interface in bed.interfaces() {
        command.arg("--interface").arg(interface);
    }
    let log = bed.directory().join("command-line.log");
    let mut process = Process::start(&mut command, &log)?;
    wait_until_attached(&bed, &agent, &mut process, PATIENCE)?;
    agent.reload()?;
    wait_until_attached(&bed, &agent, &mut process, PATIENCE).context("a reload took them back")
}

#[test]
fn xtask_builds_an_agent_and_balances_on_the_interfaces_it_is_given() -> Result<()> {
    let bed = Bed::new(1, Mode::Native)?;
    let _fleet = Fleet::start(&bed)?;
    let agent = install(&bed)?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = bed.balancer.command(&cargo);
    command
        .args(["xtask", "run", "--debug"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    for interface in bed.interfaces() {
        command.arg("--iface").arg(interface);
    }
    command.arg("--config").arg(agent.configuration_file()).args(["--", "--detach-on-exit"]);
    let mut process = Process::start(&mut command, &bed.directory().join("xtask.log"))?;
    wait_until_attached(&bed, &agent, &mut process, BUILT_WITHIN)?;
    let vip = Bed::vip(Family::V4, port::LINE);
    let server = bed.client.run(|| Ok(clients::ask(vip)?))?;
    ensure!(server == "s0", "{server} answered");

    // A signal reaches the agent, which had an argument of its own.
    process.signal(Signal::SIGTERM)?;
    let status = process.wait(PATIENCE)?;
    ensure!(status.success(), "it ended with {status}: {}", process.last_output());
    let left: Vec<_> = fs::read_dir(agent.pin_directory())?.collect();
    ensure!(left.is_empty(), "pins are left: {left:?}");

    let mut nowhere = Command::new(cargo);
    nowhere.args(["xtask", "run", "--config", "pointsman.yaml"]);
    let refused = nowhere.output()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && said.contains("--iface"), "{said}");
    Ok(())
}
