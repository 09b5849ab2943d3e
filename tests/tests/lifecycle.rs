//! The agent comes and goes, crashes, reloads and replaces the program, and no connection
//! notices: zero failures, counted.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_common::abi;
use nix::sys::signal::Signal;
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    bpftool,
    clients::{self, Conversation, Kind, Traffic},
    configuration::{Configuration, Service},
    fleet::Fleet,
    process::wait_until,
    report::note,
    servers::port,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn line_vip(family: Family) -> SocketAddr {
    Bed::vip(family, port::LINE)
}

/// Traffic of every kind in both families, and connections that were there before.
struct Load {
    streams: Vec<(String, Traffic)>,
    kept: Vec<Conversation>,
}

impl Load {
    fn start(bed: &Bed) -> Result<Self> {
        let mut load = Self { streams: Vec::new(), kept: Vec::new() };
        for family in Family::BOTH {
            let udp = Bed::vip(family, port::UDP);
            for (kind, target, workers) in [
                (Kind::ShortTcp, line_vip(family), 2),
                (Kind::LongTcp, line_vip(family), 2),
                (Kind::Udp, udp, 1),
            ] {
                let traffic = Traffic::start(&bed.client, kind, target, workers)?;
                load.streams.push((format!("{kind:?} {}", family.name()), traffic));
            }
            for _ in 0..10 {
                let vip = line_vip(family);
                load.kept.push(bed.client.run(|| Ok(Conversation::open(vip)?))?);
            }
        }
        // Everything is on its way before anything is disturbed.
        thread::sleep(Duration::from_millis(300));
        Ok(load)
    }

    /// Ends it; not one exchange may have failed, and there must have been plenty.
    fn require_undisturbed(mut self) -> Result<()> {
        for conversation in &mut self.kept {
            conversation.say()?;
        }
        for (what, traffic) in self.streams {
            let tally = traffic.stop();
            note(format!("{what}: {tally}"));
            ensure!(tally.failed() == 0, "{what}: {tally}");
            ensure!(tally.succeeded() > 100, "{what}: too little to prove anything: {tally}");
        }
        Ok(())
    }
}

fn program_id(agent: &Agent<'_>) -> Result<u64> {
    bpftool::program_id(&agent.pin_directory().join("program"))
}

#[test]
fn a_crash_of_the_agent_and_its_restart_lose_nothing() -> Result<()> {
    let bed = Bed::new(3, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    let load = Load::start(&bed)?;
    let first = program_id(&agent)?;
    let flows = agent.cli_good(&["flows", "--json", "--limit", "100000"])?;
    ensure!(flows.contains("198.51.100.10"), "no flows before the crash: {flows:.200}");
    let mut running = first;
    for restart in ["same", "upgrade", "same"] {
        agent.kill();
        // Without an agent: the data plane is on its own.
        thread::sleep(Duration::from_millis(500));
        if restart == "upgrade" {
            // What tells an agent that it would load just what runs.
            fs::remove_file(agent.pin_directory().join("origin"))?;
        }
        agent.start()?;
        let found = program_id(&agent)?;
        ensure!(
            (found == running) == (restart == "same"),
            "{restart}: program {running} before, {found} after"
        );
        running = found;
        thread::sleep(Duration::from_millis(300));
    }
    load.require_undisturbed()
}

#[test]
fn an_orderly_stop_leaves_the_data_plane_forwarding() -> Result<()> {
    let bed = Bed::new(3, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    let load = Load::start(&bed)?;
    agent.stop()?;
    for family in Family::BOTH {
        let vip = line_vip(family);
        bed.client.run(|| clients::short_connections(vip, 500, 4).require_all(500))?;
    }
    agent.start()?;
    load.require_undisturbed()
}

#[test]
fn detach_on_exit_takes_everything_away() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    agent.configure(&agent.configuration(Service::all_embedded(&bed)))?;
    agent.start_with(&["--detach-on-exit"])?;
    let vip = line_vip(Family::V4);
    bed.client.run(|| clients::short_connections(vip, 50, 2).require_all(50))?;
    agent.stop()?;
    let left: Vec<_> = fs::read_dir(agent.pin_directory()).into_iter().flatten().collect();
    ensure!(left.is_empty(), "pins are left: {left:?}");
    let links = bed.balancer.command("ip").args(["-brief", "link", "show"]).output()?;
    let shown = String::from_utf8_lossy(&links.stdout).into_owned();
    ensure!(!shown.contains("xdp"), "a program is left: {shown}");
    let answer = bed.client.run(|| Ok(clients::ask(vip)))?;
    ensure!(answer.is_err(), "the VIP still answers: {answer:?}");
    Ok(())
}

#[test]
fn reloads_that_add_and_drain_and_weigh_lose_nothing() -> Result<()> {
    let bed = Bed::new(3, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let services = Service::all_embedded(&bed);
    let mut agent = Agent::install(&bed)?;
    // The third server is not there yet.
    let full = agent.configuration(services);
    let mut small = full.clone();
    for service in &mut small.services {
        service.servers.truncate(2);
    }
    agent.configure(&small)?;
    agent.start()?;
    let load = Load::start(&bed)?;

    agent.configure(&full)?;
    agent.reload()?;
    wait_until("the new server to be used", PATIENCE, || {
        let vip = line_vip(Family::V4);
        let tally = bed.client.run(|| Ok(clients::short_connections(vip, 100, 2)))?;
        ensure!(tally.answers.contains_key("s2"), "{tally}");
        Ok(())
    })?;

    // A weight, another check, a VIP more: by signal this time.
    let mut changed = full.clone();
    let mut extra = changed.service("line4").clone();
    extra.name = "extra".into();
    extra.vip = Bed::vip(Family::V4, 7777);
    changed.services.push(extra);
    let weighted = changed.service("line6");
    for (_, value) in weighted.servers.iter_mut().take(1) {
        *value = format!("{{address: {value}, weight: 10}}");
    }
    agent.configure(&changed)?;
    agent.signal(Signal::SIGHUP)?;
    let added = Bed::vip(Family::V4, 7777);
    wait_until("the new VIP to answer", PATIENCE, || bed.client.run(|| Ok(clients::ask(added)?)))?;

    // And away again: the other VIPs on the same address go on.
    agent.configure(&full)?;
    agent.reload()?;
    wait_until("the VIP to be gone", PATIENCE, || {
        let answer = bed.client.run(|| Ok(clients::ask(added)))?;
        ensure!(answer.is_err(), "{answer:?}");
        Ok(())
    })?;
    load.require_undisturbed()
}

/// A change of the configuration that leaves a fault in it, and words that say so.
type Fault = (fn(&mut Configuration), &'static [&'static str]);

/// Faults of every kind, each beside a change that would show in the maps.
const FAULTS: [Fault; 5] = [
    (
        |file| {
            file.service("line4").options.push("blance: maglev".into());
            file.service("udp6").servers.push(("broken".into(), "\"10.92.0.2\"".into()));
        },
        &["backends.line4.blance", "balance", "backends.udp6.servers.broken", "2 faults"],
    ),
    // The same address and port once more.
    (
        |file| {
            let mut twin = file.service("line4").clone();
            twin.name = "twin".into();
            file.services.push(twin);
        },
        &["198.51.100.10:7000", "frontends.twin.bind"],
    ),
    // What is missing is outside of the file.
    (
        |file| {
            file.datapath_options = vec!["deny_file: /nowhere/denied.txt".into()];
        },
        &["datapath.deny_file", "/nowhere/denied.txt"],
    ),
    (
        |file| {
            file.service("web6").frontend_options.push("limits: {new_flows: {rate: 0}}".into());
        },
        &["frontends.web6.limits.new_flows.rate"],
    ),
    // Very different, and well but for the last line.
    (
        |file| {
            file.services.truncate(1);
            let service = &mut file.services[0];
            service.vip.set_port(7999);
            service.servers.truncate(1);
            service.servers.push(("last".into(), "{address: \"10.92.0.2:1\", weight: -1}".into()));
        },
        &["servers.last.weight"],
    ),
];

#[test]
fn a_faulty_reload_changes_nothing() -> Result<()> {
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    let mut good = agent.configuration(Service::all_embedded(&bed));
    // Something in every map that can be configured.
    good.datapath_options.push("deny: [192.0.2.0/24, \"2001:db8:ff::/48\"]".into());
    let limits = "limits: {new_flows: {rate: 100000}, connections_per_source: 100000}";
    good.service("line4").frontend_options.push(limits.into());
    agent.configure(&good)?;
    agent.start()?;
    agent.cli_good(&["block", "198.51.100.66"])?;
    let load = Load::start(&bed)?;
    let before = configured_maps(&agent)?;
    for (name, dumped) in &before {
        ensure!(dumped.len() > 2, "{name} is empty, so nothing is shown of it");
    }

    for (fault, words) in FAULTS {
        let mut faulty = good.clone();
        fault(&mut faulty);
        require_refusal(&agent, &faulty.render(), words)?;
    }
    require_refusal(&agent, "frontends: [", &["pointsman.yaml"])?;
    require_refusal(&agent, "", &["the file is empty"])?;

    let mut faulty = good.clone();
    let (fault, _) = FAULTS[0];
    fault(&mut faulty);
    agent.configure(&faulty)?;
    agent.signal(Signal::SIGHUP)?;
    wait_until("the refusal of the signal", PATIENCE, || {
        let reload = agent.status()?.agent.last_reload;
        let refused = reload.as_ref().is_some_and(|reload| !reload.accepted && reload.faults == 2);
        ensure!(refused, "{reload:?}");
        Ok(())
    })?;
    agent.require_alive()?;
    let after = configured_maps(&agent)?;
    for (name, dumped) in &before {
        ensure!(after.get(name) == Some(dumped), "{name} changed");
    }
    ensure!(after.len() == before.len(), "other rings: {:?}, {:?}", after.keys(), before.keys());
    load.require_undisturbed()
}

fn require_refusal(agent: &Agent<'_>, text: &str, words: &[&str]) -> Result<()> {
    agent.configure_text(text)?;
    let finished = agent.cli(&["reload"])?;
    ensure!(finished.code == Some(1), "{words:?}: {finished:?}");
    let said = format!("{}{}", finished.stdout, finished.stderr);
    for word in words {
        ensure!(said.contains(word), "the reload did not say {word:?}: {said}");
    }
    Ok(())
}

/// Everything that follows from configuration, checks and the operator, byte for byte as
/// `bpftool` prints it: by name of the map, and rings by the ids of backend and map.
fn configured_maps(agent: &Agent<'_>) -> Result<BTreeMap<String, String>> {
    const NAMES: [&str; 9] = [
        abi::map::SETTINGS,
        abi::map::ADDRESS_FILTER,
        abi::map::VIPS,
        abi::map::BACKENDS,
        abi::map::SERVERS,
        abi::map::RINGS,
        abi::map::ACCESS4,
        abi::map::ACCESS6,
        abi::map::ADMISSION,
    ];
    let mut dumps = BTreeMap::new();
    for name in NAMES {
        let pin = agent.pin_directory().join(name);
        let pin = pin.to_str().context("a path in UTF-8")?;
        let entries = bpftool::raw_entries(&["pinned", pin])?;
        if name == abi::map::RINGS {
            for entry in &entries {
                let id = entry.id()?.to_string();
                let slots = bpftool::raw_dump(&["id", &id])?;
                dumps.insert(format!("{name} {:?}: map {id}", entry.key), slots);
            }
        }
        let shown = entries.iter().map(|entry| format!("{entry:?}\n")).collect();
        dumps.insert(name.to_owned(), shown);
    }
    Ok(dumps)
}

/// What checks and the operator said is remembered over a restart: a drained server stays
/// drained, and a dead one is not taken to be well until it is checked.
#[test]
fn a_restart_does_not_send_traffic_to_servers_that_were_out() -> Result<()> {
    let bed = Bed::new(3, Mode::from_environment()?)?;
    let mut fleet = Fleet::start(&bed)?;
    let mut agent = Agent::launch(&bed, Service::all_embedded(&bed))?;
    fleet.kill(0)?;
    agent.wait_for_state("s0", pointsman::model::state::ServerState::Down)?;
    agent.cli_good(&["server", "set", "line4/s1", "--state", "drain"])?;
    thread::sleep(Duration::from_millis(300));
    let traffic = Traffic::start(&bed.client, Kind::ShortTcp, line_vip(Family::V4), 2)?;
    let start = Instant::now();
    agent.kill();
    agent.start()?;
    thread::sleep(Duration::from_millis(500));
    let tally = traffic.since(start);
    ensure!(tally.failed() == 0, "{tally}");
    let names: Vec<&String> = tally.answers.keys().collect();
    ensure!(names == ["s2"], "{tally}");
    Ok(())
}
