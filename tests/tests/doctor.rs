//! `pointsman doctor` against machines that something was done to, in namespaces: each ill
//! is found, named, and told how to mend, and a bed that works has no problem.

use anyhow::{Context, Result, ensure};
use lb_common::forward::Forward;
use pointsman::model::state::ServerState;
use serde_json::Value;
use testbed::{
    agent::Agent,
    bed::{Bed, Mode},
    configuration::Service,
    fleet::Fleet,
    namespace::{output, write_sysctl},
    process::wait_until,
    stub::Stub,
};

/// What the doctor said.
struct Diagnosis {
    code: Option<i32>,
    report: Value,
}

impl Diagnosis {
    fn of(bed: &Bed, agent: &Agent<'_>) -> Result<Self> {
        let binary = testbed::agent::binary()?;
        let mut command = bed.balancer.command(binary.to_str().context("a path in UTF-8")?);
        command.args(["doctor", "--json", "--config"]).arg(agent.configuration_file());
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!said.contains("panicked"), "{said}");
        let report = serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())?;
        Ok(Self { code: output.status.code(), report })
    }

    /// The one finding of this level about a subject whose text or remedy has these words.
    fn require(&self, level: &str, subject: &str, words: &[&str]) -> Result<()> {
        let findings = self.report["findings"].as_array().context("findings")?;
        let about =
            findings.iter().filter(|one| one["subject"] == subject && one["level"] == level);
        let found =
            about.filter(|one| words.iter().all(|word| one.to_string().contains(word))).count();
        ensure!(found == 1, "{found} times {level} of {subject} with {words:?}: {:#}", self.report);
        let expected = if self.report["problems"] == 0 { 0 } else { 1 };
        ensure!(self.code == Some(expected), "exit code {:?}: {:#}", self.code, self.report);
        Ok(())
    }
}

#[test]
fn a_bed_that_works_has_no_problem() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    wait_until("a clean bill of health", std::time::Duration::from_secs(10), || {
        let diagnosis = Diagnosis::of(&bed, &agent)?;
        ensure!(diagnosis.report["problems"] == 0, "{:#}", diagnosis.report);
        ensure!(diagnosis.code == Some(0), "exit code {:?}", diagnosis.code);
        diagnosis.require("good", "agent", &["pid"])?;
        let attached = format!("attached, {}", bed.mode.name());
        diagnosis.require("good", "interface client0", &[&attached])
    })?;
    // For people: each subject on a line, and the sum at the end.
    let mut command = bed.balancer.command(testbed::agent::binary()?.to_str().context("UTF-8")?);
    command.args(["doctor", "--config"]).arg(agent.configuration_file());
    let printed = String::from_utf8(command.output()?.stdout)?;
    ensure!(printed.contains("ok       bpffs ") && printed.contains("0 problems"), "{printed}");
    Ok(())
}

#[test]
fn what_was_done_to_a_machine_is_found() -> Result<()> {
    let bed = Bed::new(2, Mode::Native)?;
    let agent = Agent::install(&bed)?;
    agent.configure(&agent.configuration(Service::all_embedded(&bed)))?;
    bed.balancer.run(|| {
        write_sysctl("net/ipv4/ip_local_port_range", "20000 60999")?;
        write_sysctl("net/ipv4/conf/server1/rp_filter", "1")?;
        write_sysctl("net/ipv4/ip_forward", "0")
    })?;
    bed.balancer.ip(&["link", "set", "client0", "mtu", "1400"])?;
    bed.unplug_server(0)?;
    let _other = Stub::attach(&bed.balancer, "server1")?;
    let diagnosis = Diagnosis::of(&bed, &agent)?;
    diagnosis.require("problem", "ports", &["20000-60999", "ip_local_port_range"])?;
    diagnosis.require("notice", "interface server1", &["rp_filter=2"])?;
    diagnosis.require("notice", "forwarding", &["net.ipv4.ip_forward=1"])?;
    diagnosis.require("notice", "MTU", &["1400", "ip link set dev server1 mtu 1400"])?;
    diagnosis.require("problem", "interface server0", &["ip -brief link"])?;
    diagnosis.require("problem", "interface server1", &["(stub)", "not ours", "xdp off"])?;
    diagnosis.require("problem", "server line4/s0", &["no route", "ip route get 10.92.0.2"])?;
    diagnosis.require("notice", "agent", &["no agent answers", "systemctl start"])?;
    bed.balancer.ip(&["link", "set", "server1", "down"])?;
    let diagnosis = Diagnosis::of(&bed, &agent)?;
    diagnosis.require("problem", "interface server1", &["ip link set dev server1 up"])
}

#[test]
fn what_another_agent_left_is_found() -> Result<()> {
    let bed = Bed::new(1, Mode::Native)?;
    let mut before = Agent::launch(&bed, Service::all_embedded(&bed))?;
    before.kill();
    let agent = Agent::install(&bed)?;
    agent.configure(&agent.configuration(Service::all_embedded(&bed)))?;
    let diagnosis = Diagnosis::of(&bed, &agent)?;
    let remedy = format!("rm -r {}", before.pin_directory().display());
    diagnosis.require("notice", "bpffs", &["client0, server0 forwards by it", &remedy])?;
    diagnosis.require("problem", "interface client0", &["not ours"])?;
    // Those of an agent that lives are its own business.
    before.start()?;
    let diagnosis = Diagnosis::of(&bed, &agent)?;
    ensure!(!diagnosis.report.to_string().contains(&remedy), "{:#}", diagnosis.report);
    Ok(())
}

#[test]
fn a_pair_that_loses_packets_is_mended_by_what_is_said() -> Result<()> {
    let bed = Bed::new(1, Mode::Native)?;
    let agent = Agent::install(&bed)?;
    let mut configuration = agent.configuration(Service::all_embedded(&bed));
    configuration.interfaces.push("near".into());
    agent.configure(&configuration)?;
    bed.balancer.ip(&["link", "add", "near", "type", "veth", "peer", "name", "far"])?;
    for end in ["near", "far"] {
        bed.balancer.ip(&["link", "set", end, "up"])?;
    }
    let tc =
        |arguments: &str| output(bed.balancer.command("tc").args(arguments.split(' '))).map(drop);
    tc("qdisc add dev near clsact")?;
    tc("filter add dev near ingress protocol ip u32 match u32 0 0 flowid 1:1")?;
    let diagnosis = Diagnosis::of(&bed, &agent)?;
    let remedy = "ethtool -K far gro on tx off";
    diagnosis.require("problem", "interface near", &["takes no frames", remedy])?;
    diagnosis.require("notice", "interface near", &["ingress u32", "tc filter show dev near"])?;
    // The client is in another namespace.
    diagnosis.require("notice", "interface client0", &["elsewhere", "gro on tx off"])?;
    output(bed.balancer.command("sh").args(["-c", remedy]))?;
    let diagnosis = Diagnosis::of(&bed, &agent)?;
    ensure!(!diagnosis.report.to_string().contains(remedy), "{:#}", diagnosis.report);
    Ok(())
}

#[test]
fn room_for_what_is_put_in_front_is_missed() -> Result<()> {
    let bed = Bed::new(1, Mode::Native)?;
    let agent = Agent::install(&bed)?;
    let mut services = Service::all_embedded(&bed);
    services.truncate(1);
    services.first_mut().context("a service")?.forward = Forward::Ipip;
    agent.configure(&agent.configuration(services))?;
    let words = ["line4", "1480 bytes", "ip link set dev server0 mtu 1520"];
    Diagnosis::of(&bed, &agent)?.require("notice", "MTU", &words)?;
    bed.balancer.ip(&["link", "set", "server0", "mtu", "1520"])?;
    let report = Diagnosis::of(&bed, &agent)?.report.to_string();
    ensure!(!report.contains("once encapsulated"), "{report}");
    Ok(())
}

#[test]
fn the_configuration_is_a_patient_too() -> Result<()> {
    let bed = Bed::new(1, Mode::Native)?;
    let agent = Agent::install(&bed)?;
    let mut services = Service::all_embedded(&bed);
    services.truncate(1);
    let service = services.first_mut().context("a service")?;
    service.frontend_options.push("snat: false".into());
    agent.configure(&agent.configuration(services))?;
    bed.balancer.run(|| {
        write_sysctl("net/ipv4/ip_forward", "0")?;
        write_sysctl("net/ipv6/conf/all/forwarding", "0")?;
        write_sysctl("net/ipv4/ip_local_port_range", "20000 60999")?;
        write_sysctl("net/ipv4/ip_local_reserved_ports", "1024-32767")
    })?;
    let diagnosis = Diagnosis::of(&bed, &agent)?;
    // No server has an IPv6 address.
    diagnosis.require("notice", "forwarding", &["IPv4", "the servers of line4"])?;
    // Reserved ports are nobody's.
    diagnosis.require("good", "ports", &["1024-32767"])?;
    diagnosis.require("good", "SYN cookies", &["the kernel makes them"])?;
    diagnosis.require("good", "memory", &["the maps take"])
}

#[test]
fn a_server_that_went_silent_and_a_pool_without_servers_are_found() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    bed.cut(0)?;
    agent.wait_for_state("s0", ServerState::Down)?;
    wait_until("the neighbour to fail", std::time::Duration::from_secs(20), || {
        let diagnosis = Diagnosis::of(&bed, &agent)?;
        diagnosis.require("notice", "status", &["backend line4 has no usable server"])?;
        diagnosis.require("problem", "interface server0", &["no carrier"])
    })
    .map(drop)
}

#[test]
fn a_configuration_that_is_faulty_or_missing_is_no_patient() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let agent = Agent::install(&bed)?;
    let binary = testbed::agent::binary()?;
    let examine = || -> Result<(Option<i32>, String)> {
        let mut command = bed.balancer.command(binary.to_str().context("a path in UTF-8")?);
        command.args(["doctor", "--config"]).arg(agent.configuration_file());
        let output = command.output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (code, said) = examine()?;
    ensure!(code == Some(3) && said.contains("pointsman.yaml"), "{code:?}: {said}");
    agent.configure_text("frontends: {web: {}}")?;
    let (code, said) = examine()?;
    ensure!(code == Some(1) && said.contains("frontends.web"), "{code:?}: {said}");
    Ok(())
}
