//! The demo with real servers: every chosen kind on each of the three machines.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pointsman::model::state::ServerState;

use super::{
    Account, Interruption,
    account::Lines,
    embedded::{build, launch},
    explore,
};
use crate::{
    agent::Agent,
    bed::{Bed, Family},
    configuration::{FAST_TCP_CHECK, Service},
    fleet,
    process::{Process, wait_until},
    real::{Installation, Kind, Load},
};

const LOAD: Load = Load { connections: 8, operations: 500 };
/// New connections to see who answers.
const ASKED: u32 = 12;

/// The running servers by machine and kind. The namespaces end the processes.
type Processes = BTreeMap<(u8, &'static str), Process>;

pub(super) fn run(
    account: &mut Account,
    kinds: &[Kind],
    keep: bool,
    interruption: &Interruption,
) -> Result<()> {
    let bed = account.step("Build the bed out of network namespaces", build)?;
    let names: Vec<_> = kinds.iter().map(ToString::to_string).collect();
    let mut processes = Processes::new();
    let title = format!("Start {} on each of the three machines", names.join(", "));
    let installations = account.step(&title, |lines| {
        let install = |kind: &Kind| Ok((*kind, Installation::prepare(*kind, bed.directory())?));
        let installations: Vec<_> = kinds.iter().map(install).collect::<Result<_>>()?;
        for machine in 0..3 {
            start(&bed, &installations, machine, &mut processes)?;
        }
        for machine in 0..3 {
            wait(&bed, &installations, machine, &mut processes, lines)?;
        }
        Ok(installations)
    })?;
    let agent = account.step("Start pointsman on the balancer", |lines| {
        let services = kinds.iter().flat_map(|kind| {
            Family::BOTH.map(|family| {
                let ports = (kind.name(), kind.port(), kind.port());
                let mut service = Service::embedded(&bed, ports, "tcp", family);
                service.check = FAST_TCP_CHECK.into();
                service
            })
        });
        launch(&bed, services.collect(), lines)
    })?;
    account.step("Load through the VIPs", |lines| load(&bed, kinds, &Family::BOTH, lines))?;
    account.step("Who answers new connections", |lines| {
        who_answers(&bed, kinds, &["s0", "s1", "s2"], lines)
    })?;
    account.step("Kill everything on machine s0 (SIGKILL)", |lines| {
        kill(&bed, &agent, kinds, lines)
    })?;
    account.step("Load through the VIPs with two machines", |lines| {
        load(&bed, kinds, &[Family::V4], lines)
    })?;
    account.step("Start the servers on s0 again", |lines| {
        start(&bed, &installations, 0, &mut processes)?;
        wait(&bed, &installations, 0, &mut processes, lines)?;
        let start = Instant::now();
        agent.wait_for_state("s0", ServerState::Up)?;
        lines.add(format_args!("UP {} ms later", start.elapsed().as_millis()));
        who_answers(&bed, kinds, &["s0", "s1", "s2"], lines)
    })?;
    account.step("Load through the VIPs with three machines again", |lines| {
        load(&bed, kinds, &Family::BOTH, lines)
    })?;
    account.step("Look inside: pointsman status", |lines| {
        lines.block(&agent.cli_good(&["status"])?);
        Ok(())
    })?;
    if keep {
        let by_hand = |kind: &Kind| kind.by_hand(Bed::vip(Family::V4, kind.port()));
        let requests: Vec<String> = kinds.iter().map(by_hand).collect::<Result<_>>()?;
        explore::keep(&bed, &agent, &requests, interruption)?;
    }
    Ok(())
}

fn start(
    bed: &Bed,
    installations: &[(Kind, Installation)],
    machine: u8,
    processes: &mut Processes,
) -> Result<()> {
    for (kind, installation) in installations {
        let process = installation.start(bed.server(machine)?, &fleet::name(machine))?;
        processes.insert((machine, kind.name()), process);
    }
    Ok(())
}

fn wait(
    bed: &Bed,
    installations: &[(Kind, Installation)],
    machine: u8,
    processes: &mut Processes,
    lines: &mut Lines,
) -> Result<()> {
    let name = fleet::name(machine);
    for (kind, installation) in installations {
        let address = SocketAddr::new(Bed::server_address(machine, Family::V4), kind.port());
        let process = processes.get_mut(&(machine, kind.name())).context("a started server")?;
        installation.wait(bed.server(machine)?, &name, address, process)?;
        lines.add(format_args!("{name}: {kind} answers at {address}"));
    }
    Ok(())
}

fn load(bed: &Bed, kinds: &[Kind], families: &[Family], lines: &mut Lines) -> Result<()> {
    for kind in kinds {
        for family in families {
            let done = kind.load(&bed.client, Bed::vip(*family, kind.port()), LOAD)?;
            lines.add(format_args!("{kind}, {}: {done}", family.name()));
        }
    }
    Ok(())
}

/// Asks until all of `expected` have answered; nobody else may.
fn who_answers(bed: &Bed, kinds: &[Kind], expected: &[&str], lines: &mut Lines) -> Result<()> {
    for kind in kinds {
        let vip = Bed::vip(Family::V4, kind.port());
        let mut answers: BTreeMap<String, u32> = BTreeMap::new();
        wait_until("every server to answer", Duration::from_secs(20), || {
            let name = kind.identify(&bed.client, vip)?;
            *answers.entry(name).or_default() += 1;
            let enough = answers.values().sum::<u32>() >= ASKED;
            ensure!(enough && answers.len() >= expected.len(), "so far {answers:?}");
            Ok(())
        })?;
        let strangers = answers.keys().find(|name| !expected.contains(&name.as_str()));
        ensure!(strangers.is_none(), "{answers:?}, expected {expected:?}");
        let shown: Vec<_> = answers.iter().map(|(name, count)| format!("{name} {count}")).collect();
        lines.add(format_args!("{kind}: {}", shown.join(", ")));
    }
    Ok(())
}

fn kill(bed: &Bed, agent: &Agent<'_>, kinds: &[Kind], lines: &mut Lines) -> Result<()> {
    let start = Instant::now();
    bed.server(0)?.kill_processes()?;
    agent.wait_for_state("s0", ServerState::Down)?;
    lines.add(format_args!("s0 is DOWN in every backend after {} ms", start.elapsed().as_millis()));
    who_answers(bed, kinds, &["s1", "s2"], lines)
}
