//! What the agent refuses, and how it says so: a clear message that names the culprit and
//! what to do, the documented exit code, and whatever was forwarding goes on.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, process::Command};

use anyhow::{Context, Result, ensure};
use lb_common::abi;
use serde_json::Value;
use testbed::{
    agent::{self, Agent, Finished},
    bed::{Bed, Family, Mode},
    bpftool,
    clients::{self, Conversation},
    configuration::{Configuration, Service},
    fleet::Fleet,
    namespace::output,
    servers::port,
    stub::Stub,
};

/// An invalid configuration.
const NO: i32 = 1;
/// Could not: the machine, privileges, what is pinned.
const COULD_NOT: i32 = 3;

fn require(finished: &Finished, code: i32, words: &[&str]) -> Result<()> {
    ensure!(finished.code == Some(code), "expected exit code {code}: {finished:?}");
    for word in words {
        ensure!(finished.stderr.contains(word), "does not say {word:?}: {}", finished.stderr);
    }
    ensure!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    Ok(())
}

/// Starts an agent with a changed configuration and expects it to give up.
fn refused(bed: &Bed, change: impl FnOnce(&mut Configuration)) -> Result<Finished> {
    let agent = Agent::install(bed)?;
    let mut configuration = agent.configuration(Service::all_embedded(bed));
    change(&mut configuration);
    agent.configure(&configuration)?;
    agent.run_to_end()
}

#[test]
fn interfaces_that_do_not_exist() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let finished = refused(&bed, |file| file.interfaces = vec!["nowhere0".into()])?;
    require(&finished, COULD_NOT, &["no interface nowhere0", "ip -brief link"])
}

#[test]
fn another_xdp_program_on_the_interface() -> Result<()> {
    let bed = Bed::new(1, Mode::Native)?;
    let _other = Stub::attach(&bed.balancer, "client0")?;
    let finished = refused(&bed, |_| {})?;
    require(&finished, COULD_NOT, &["client0 already has XDP program", "bpftool net show"])?;
    // The other program is still there.
    let shown = output(bed.balancer.command("ip").args(["link", "show", "client0"]))?;
    ensure!(shown.contains("prog/xdp"), "{shown}");
    Ok(())
}

/// An agent that is started again over what it left forwarding, with what it can not take:
/// it says why, keeps every map and every link, and old and new connections go on.
#[test]
fn what_was_forwarding_goes_on_whatever_the_next_start_refuses() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    bed.balancer.ip(&["link", "add", "taken0", "type", "veth", "peer", "name", "taken1"])?;
    bed.balancer.ip(&["link", "set", "taken0", "up"])?;
    let _other = Stub::attach(&bed.balancer, "taken0")?;
    let mut agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    let mut kept = Vec::new();
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::LINE);
        kept.push(bed.client.run(|| Ok(Conversation::open(vip)?))?);
    }
    agent.kill();
    let good = agent.configuration(Service::all_embedded(&bed));
    let pinned = pinned(&agent)?;
    let mut require_forwarding = |after: &str| -> Result<()> {
        let now = self::pinned(&agent)?;
        ensure!(now == pinned, "{after}: {pinned:?} became {now:?}");
        for conversation in &mut kept {
            conversation.say().with_context(|| format!("{after}: an open connection"))?;
        }
        for family in Family::BOTH {
            let vip = Bed::vip(family, port::LINE);
            let tally = bed.client.run(|| Ok(clients::short_connections(vip, 100, 4)))?;
            tally.require_all(100).with_context(|| format!("{after}: new connections"))?;
        }
        Ok(())
    };
    let mut refuses = |change: &dyn Fn(&mut Configuration), code, words: &[&str]| -> Result<()> {
        let mut changed = good.clone();
        change(&mut changed);
        agent.configure(&changed)?;
        require(&agent.run_to_end()?, code, words)?;
        require_forwarding(&format!("{words:?}"))
    };
    refuses(
        &|file| file.interfaces = vec!["nowhere0".into()],
        COULD_NOT,
        &["no interface nowhere0", "ip -brief link"],
    )?;
    refuses(
        &|file| {
            file.interfaces.retain(|name| name != "client0");
            file.interfaces.push("taken0".into());
        },
        COULD_NOT,
        &["taken0 already has XDP program"],
    )?;
    refuses(&|file| file.datapath_options.push("max_flows: 1".into()), NO, &["max_flows"])?;
    refuses(
        &|file| {
            let mut twin = file.service("line4").clone();
            twin.name = "twin".into();
            file.services.push(twin);
        },
        NO,
        &["198.51.100.10:7000", "frontends.twin.bind", "line4"],
    )?;
    let elsewhere = bed.directory().join("not-bpffs");
    refuses(
        &|file| file.pin_directory.clone_from(&elsewhere),
        COULD_NOT,
        &["is not on a BPF file system", "mount -t bpf"],
    )?;
    require(&run_as_nobody(&bed, &good)?, COULD_NOT, NO_PRIVILEGE)?;
    require_forwarding("without privilege")?;
    agent.configure(&good)?;
    agent.start()?;
    for conversation in &mut kept {
        conversation.say()?;
    }
    Ok(())
}

/// What is pinned: maps and links by their ids in the kernel. The programs, and the stages that
/// go with them, may be replaced by new ones of the same kind.
fn pinned(agent: &Agent<'_>) -> Result<BTreeMap<String, Option<u64>>> {
    let mut pinned = BTreeMap::new();
    for entry in fs::read_dir(agent.pin_directory())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = match name.as_str() {
            "program" => None,
            run if abi::RUN_BY_AGENT.contains(&run) => None,
            stages if stages.starts_with("stages-") => continue,
            link if link.starts_with("link-") => Some("link"),
            _ => Some("map"),
        };
        let id = match kind {
            Some(kind) => {
                let shown = bpftool::json(&[kind, "show", "pinned"], &path)?;
                let id = shown.get("id").and_then(Value::as_u64);
                Some(id.with_context(|| format!("no id: {shown}"))?)
            }
            None => None,
        };
        pinned.insert(name, id);
    }
    Ok(pinned)
}

#[test]
fn a_pin_directory_outside_a_bpf_file_system() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let elsewhere = bed.directory().join("not-bpffs");
    let finished = refused(&bed, |file| file.pin_directory.clone_from(&elsewhere))?;
    let words = ["is not on a BPF file system", "mount -t bpf"];
    require(&finished, COULD_NOT, &words)
}

/// What is said without privilege.
const NO_PRIVILEGE: &[&str] = &["CAP_BPF", "CAP_NET_ADMIN", "root"];

/// Runs an agent as a user who may do nothing, to its end.
fn run_as_nobody(bed: &Bed, configuration: &Configuration) -> Result<Finished> {
    // Somewhere `nobody` can read the binary and the configuration, and make a socket.
    let directory = bed.directory().join("unprivileged");
    fs::create_dir(&directory)?;
    for open in [bed.directory(), &directory] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o777))?;
    }
    let binary = directory.join("pointsman");
    fs::copy(agent::binary()?, &binary)?;
    let file = directory.join("pointsman.yaml");
    let mut configuration = configuration.clone();
    configuration.socket = directory.join("admin.sock");
    configuration.access_log = directory.join("access.log");
    fs::write(&file, configuration.render())?;
    let mut command = bed.balancer.command("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=-all"]);
    command.arg(&binary).args(["run", "--config"]).arg(&file);
    Ok(Finished::from(command.output()?))
}

#[test]
fn no_privilege() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let agent = Agent::install(&bed)?;
    let configuration = agent.configuration(Service::all_embedded(&bed));
    require(&run_as_nobody(&bed, &configuration)?, COULD_NOT, NO_PRIVILEGE)
}

#[test]
fn a_vip_configured_twice() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let finished = refused(&bed, |file| {
        let mut twin = file.service("line4").clone();
        twin.name = "twin".into();
        file.services.push(twin);
    })?;
    require(&finished, NO, &["198.51.100.10:7000", "frontends.twin.bind", "line4"])
}

/// `pointsman check` finds the same faults without touching anything.
#[test]
fn check_lists_all_faults_at_once() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let agent = Agent::install(&bed)?;
    let mut configuration = agent.configuration(Service::all_embedded(&bed));
    configuration.service("line4").check = "{type: tpc, interval: 2}".into();
    configuration.service("udp6").options.push("on_down: ignore".into());
    agent.configure(&configuration)?;
    let mut command = Command::new(agent::binary()?);
    command.arg("check").arg(agent.configuration_file());
    let finished = Finished::from(command.output()?);
    ensure!(finished.code == Some(NO), "{finished:?}");
    let said = format!("{}{}", finished.stdout, finished.stderr);
    let places =
        ["backends.line4.check.type", "backends.line4.check.interval", "backends.udp6.on_down"];
    for place in places {
        ensure!(said.contains(place), "does not name {place}: {said}");
    }
    agent.configure(&agent.configuration(Service::all_embedded(&bed)))?;
    let mut command = Command::new(agent::binary()?);
    command.arg("check").arg(agent.configuration_file());
    let finished = Finished::from(command.output()?);
    ensure!(finished.code == Some(0), "{finished:?}");
    Ok(())
}

/// Maps of another version are neither read nor written, and their program goes on.
#[test]
fn pins_of_a_foreign_abi() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    agent.kill();
    set_abi_version(&agent, abi::ABI_VERSION + 6)?;
    let foreign = (abi::ABI_VERSION + 6).to_string();
    let finished = agent.run_to_end()?;
    let pins = agent.pin_directory().display().to_string();
    require(&finished, COULD_NOT, &["ABI", &foreign, &pins])?;
    for family in Family::BOTH {
        let vip = Bed::vip(family, port::LINE);
        bed.client.run(|| clients::short_connections(vip, 300, 4).require_all(300))?;
    }
    // With its own version back, it adopts them.
    set_abi_version(&agent, abi::ABI_VERSION)?;
    agent.start()
}

/// `abi_version` is the first field of the one value of `SETTINGS`.
fn set_abi_version(agent: &Agent<'_>, version: u32) -> Result<()> {
    let pin = agent.pin_directory().join(abi::map::SETTINGS);
    let dumped = testbed::bpftool::json(&["map", "dump", "pinned"], &pin)?;
    let bytes = dumped.pointer("/0/value").and_then(|value| value.as_array().cloned());
    let bytes = bytes.ok_or_else(|| anyhow::anyhow!("no bytes in {dumped}"))?;
    let kept = bytes.iter().skip(4).filter_map(|byte| byte.as_str().map(str::to_owned));
    let version = version.to_ne_bytes().into_iter().map(|byte| format!("{byte:#04x}"));
    let mut command = Command::new("bpftool");
    command.args(["map", "update", "pinned"]).arg(&pin).args(["key", "0", "0", "0", "0", "value"]);
    output(command.args(version.chain(kept))).map(drop)
}

/// The command line without an agent says so, and with which exit code.
#[test]
fn asking_where_no_agent_is() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let agent = Agent::install(&bed)?;
    for command in [["status", "--json"], ["drops", "--json"], ["reload", "--json"]] {
        let finished = agent.cli(&command)?;
        require(&finished, COULD_NOT, &["admin.sock"])?;
    }
    Ok(())
}

/// A second agent would fight the first over the maps.
#[test]
fn a_second_agent() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    require(&agent.run_to_end()?, COULD_NOT, &["another agent", "admin.sock"])?;
    // With a socket of its own, it still finds the pins taken.
    let mut configuration = agent.configuration(Service::all_embedded(&bed));
    configuration.socket = bed.directory().join("second.sock");
    agent.configure(&configuration)?;
    let pins = agent.pin_directory().display().to_string();
    require(&agent.run_to_end()?, COULD_NOT, &["another agent", &pins])?;
    agent.require_alive()?;
    let vip = Bed::vip(Family::V4, port::LINE);
    bed.client.run(|| clients::short_connections(vip, 100, 2).require_all(100))
}
