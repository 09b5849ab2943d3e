//! Flows that fall silent leave every table, of either family, and are told of in the log.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use pointsman::admin::api::FlowsView;
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    clients::UdpConversation,
    configuration::Service,
    fleet::Fleet,
    process::wait_until,
    servers::port,
};

const HALF_OPEN: Duration = Duration::from_secs(2);
const UDP: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(15);
/// A port of the VIPs and of the server on which nobody answers.
const SILENT: u16 = 7900;

/// Flows of UDP as `flows` has them.
fn flows(agent: &Agent<'_>) -> Result<FlowsView> {
    Ok(serde_json::from_str(&agent.cli_good(&["flows", "--json", "--protocol", "udp"])?)?)
}

#[test]
fn silent_flows_leave_every_table_after_their_timeout() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    let mut services = Service::all_embedded(&bed);
    for family in Family::BOTH {
        let mut silent = Service::embedded(&bed, ("silent", SILENT, SILENT), "udp", family);
        silent.check = String::new();
        services.push(silent);
    }
    let mut configuration = agent.configuration(services);
    configuration.datapath_options = vec![
        "sweep_interval: 200ms".into(),
        format!("timeouts: {{half_open: {}s, udp: {}s}}", HALF_OPEN.as_secs(), UDP.as_secs()),
    ];
    agent.configure(&configuration)?;
    agent.start()?;

    // Somebody takes the datagrams and says nothing; without, the kernel would refuse them.
    let hear = |family| SocketAddr::new(Bed::server_address(0, family), SILENT);
    let server = bed.server(0)?;
    let _ears = Family::BOTH.map(|family| server.run(|| Ok(UdpSocket::bind(hear(family))?)));
    let start = Instant::now();
    for family in Family::BOTH {
        bed.client.run(|| {
            let unanswered = UdpConversation::open(Bed::vip(family, SILENT))?;
            unanswered.send_unanswered(16)?;
            let mut answered = UdpConversation::open(Bed::vip(family, port::UDP))?;
            answered.say(16)?;
            Ok(())
        })?;
    }
    // One flow in each of FLOWS4, FLOWS6, HALF_OPEN4 and HALF_OPEN6.
    let before = flows(&agent)?.flows;
    let of = |state: &str, port, family| {
        let vip = Bed::vip(family, port);
        before.iter().filter(|flow| flow.state == state && flow.vip == vip).count()
    };
    for family in Family::BOTH {
        ensure!(of("unreplied", SILENT, family) == 1, "{before:?}");
        ensure!(of("replied", port::UDP, family) == 1, "{before:?}");
    }
    let left_after = |state: &'static str| {
        let what = format!("no {state} flow");
        wait_until(&what, PATIENCE, || {
            let left = flows(&agent)?.flows;
            ensure!(left.iter().all(|flow| flow.state != state), "{left:?}");
            Ok(())
        })?;
        anyhow::Ok(start.elapsed())
    };
    let (half_open, udp) = (left_after("unreplied")?, left_after("replied")?);
    // The coarse clock is a tick behind.
    let early = Duration::from_millis(50);
    ensure!(half_open + early >= HALF_OPEN, "unreplied flows left after {half_open:?}");
    ensure!(udp + early >= UDP, "replied flows left after {udp:?}");

    let lines = wait_until("four lines of the log", PATIENCE, || {
        let text = std::fs::read_to_string(agent.access_log())?;
        let lines: Vec<serde_json::Value> =
            text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let udp = lines.into_iter().filter(|line| line["protocol"] == "udp");
        let lines: Vec<_> = udp.filter(|line| line["end"] == "timeout").collect();
        ensure!(lines.len() == 4, "{text}");
        Ok(())
    });
    lines.map(drop)
}
