//! Who may be a client of layer 4, with real connections: lists, blocks, rates, caps.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pointsman::admin::api::{BlocksView, DropsView};
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    configuration::Service,
    fleet::Fleet,
    process::wait_until,
    report::note,
    servers::port,
};

/// How long a client that is kept out waits before that is believed.
const SILENCE: Duration = Duration::from_millis(400);
/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Another address of the client, and its first.
const OTHER: &str = "10.91.0.3";
const FIRST: &str = "10.91.0.2";

/// A bed with one server and an agent whose frontends and `datapath` say more.
fn with_rules(
    frontend: &str,
    datapath: &[&str],
    test: impl FnOnce(&Bed, &Fleet<'_>, &mut Agent<'_>) -> Result<()>,
) -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    bed.client.ip(&["addr", "add", &format!("{OTHER}/24"), "dev", "eth0"])?;
    let fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    configure(&bed, &agent, frontend, datapath)?;
    agent.start()?;
    test(&bed, &fleet, &mut agent)
}

fn configure(bed: &Bed, agent: &Agent<'_>, frontend: &str, datapath: &[&str]) -> Result<()> {
    let mut configuration = agent.configuration(Service::all_embedded(bed));
    configuration.datapath_options = datapath.iter().map(|option| (*option).to_owned()).collect();
    for name in ["line4", "line6", "udp4", "udp6"] {
        let options = Some(frontend.to_owned()).filter(|option| !option.is_empty());
        configuration.service(name).frontend_options.extend(options);
    }
    agent.configure(&configuration)
}

/// The source of the client's IPv4 packets from now on.
fn be(bed: &Bed, source: &str) -> Result<()> {
    bed.client.ip(&["route", "replace", "default", "via", "10.91.0.1", "src", source])
}

fn line() -> SocketAddr {
    Bed::vip(Family::V4, port::LINE)
}

fn connect(bed: &Bed, target: SocketAddr, within: Duration) -> Result<TcpStream> {
    bed.client.run(|| Ok(TcpStream::connect_timeout(&target, within)?))
}

/// Whether a connection comes to be.
fn gets_in(bed: &Bed, target: SocketAddr) -> Result<bool> {
    match bed.client.run(|| Ok(TcpStream::connect_timeout(&target, SILENCE)))? {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(false),
        Err(error) => Err(error).context("neither in nor kept out"),
    }
}

/// Whether a line that is sent is answered in this time.
fn answers(stream: &mut TcpStream, within: Duration) -> Result<bool> {
    stream.set_read_timeout(Some(within))?;
    stream.write_all(b"hello\n")?;
    let mut answer = [0; 256];
    match stream.read(&mut answer) {
        Ok(0) => anyhow::bail!("the connection was closed"),
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn dropped(agent: &Agent<'_>, reason: &str) -> Result<u64> {
    let view: DropsView = serde_json::from_str(&agent.cli_good(&["drops", "--json"])?)?;
    let found = view.drops.iter().find(|drop| drop.reason == reason);
    Ok(found.with_context(|| format!("no reason {reason}"))?.packets)
}

fn blocks(agent: &Agent<'_>) -> Result<BlocksView> {
    Ok(serde_json::from_str(&agent.cli_good(&["blocks", "--json"])?)?)
}

#[test]
fn denied_source_gets_nothing_while_another_works() -> Result<()> {
    with_rules("", &[&format!("deny: [{FIRST}, \"fd91::/64\"]")], |bed, _, agent| {
        ensure!(!gets_in(bed, line())?, "a denied address got in");
        ensure!(!gets_in(bed, Bed::vip(Family::V6, port::LINE))?, "a denied network got in");
        ensure!(dropped(agent, "denied")? >= 2);
        be(bed, OTHER)?;
        ensure!(gets_in(bed, line())?, "another address is kept out");
        let status = agent.status()?;
        ensure!(status.datapath.rules.listed == 2, "{:?}", status.datapath.rules);
        Ok(())
    })
}

#[test]
fn lists_of_files_change_by_a_reload_and_cut_off_flows() -> Result<()> {
    with_rules("", &[], |bed, _, agent| {
        let mut held = connect(bed, line(), PATIENCE)?;
        ensure!(answers(&mut held, PATIENCE)?);
        let file = bed.directory().join("deny.txt");
        std::fs::write(&file, format!("# denied\n{FIRST} # the client\n192.0.2.0/24\n"))?;
        configure(bed, agent, &format!("deny_file: {}", file.display()), &[])?;
        agent.reload()?;
        ensure!(!answers(&mut held, SILENCE)?, "a flow of a denied source goes on");
        ensure!(!gets_in(bed, line())?);
        std::fs::write(&file, "192.0.2.0/24\n")?;
        agent.reload()?;
        ensure!(gets_in(bed, line())?);
        held.set_read_timeout(Some(PATIENCE))?;
        let mut answer = [0; 256];
        ensure!(held.read(&mut answer)? > 0, "the flow does not go on");
        std::fs::remove_file(&file)?;
        ensure!(agent.cli(&["reload"])?.code == Some(1), "a missing file is refused");
        ensure!(gets_in(bed, line())?, "what was in force stays so");
        Ok(())
    })
}

#[test]
fn only_who_is_allowed_gets_in() -> Result<()> {
    with_rules(&format!("allow: [{OTHER}, \"fd91::2\"]"), &[], |bed, _, agent| {
        // A list has the networks of both families, whatever the VIPs are.
        ensure!(!gets_in(bed, line())?);
        ensure!(dropped(agent, "not_allowed")? >= 1);
        ensure!(gets_in(bed, Bed::vip(Family::V6, port::LINE))?);
        ensure!(gets_in(bed, Bed::vip(Family::V4, port::DIGEST))?, "another frontend's list");
        be(bed, OTHER)?;
        ensure!(gets_in(bed, line())?);
        Ok(())
    })
}

#[test]
fn block_stops_flows_survives_a_crash_of_the_agent_and_expires() -> Result<()> {
    with_rules("", &[], |bed, _, agent| {
        let mut held = connect(bed, line(), PATIENCE)?;
        ensure!(answers(&mut held, PATIENCE)?);
        let start = Instant::now();
        agent.cli_good(&["block", "10.91.0.2/31", "--for", "6s", "--reason", "a test"])?;
        ensure!(!answers(&mut held, SILENCE)?, "a flow of a blocked source goes on");
        ensure!(!gets_in(bed, line())?);
        ensure!(dropped(agent, "blocked")? >= 2);
        let listed = blocks(agent)?.blocks;
        ensure!(listed.len() == 1 && listed[0].reason == "a test", "{listed:?}");
        agent.kill();
        ensure!(!gets_in(bed, line())?, "a block ends with the agent");
        agent.start()?;
        ensure!(!gets_in(bed, line())? || start.elapsed() > Duration::from_secs(6));
        let listed = blocks(agent)?.blocks;
        ensure!(
            start.elapsed() > Duration::from_secs(5) || listed.len() == 1,
            "the next agent knows nothing of it: {listed:?}"
        );
        let ((), _) = wait_until("the block to end", PATIENCE, || {
            ensure!(gets_in(bed, line())?, "it is still blocked");
            Ok(())
        })?;
        let lasted = start.elapsed();
        ensure!(lasted >= Duration::from_millis(5900), "it lasted {lasted:?}");
        note(format!("a block of 6 s lasted {lasted:?}"));
        wait_until("it to leave the list", PATIENCE, || {
            ensure!(blocks(agent)?.blocks.is_empty());
            Ok(())
        })?;
        held.set_read_timeout(Some(PATIENCE))?;
        ensure!(held.read(&mut [0; 256])? > 0, "the flow does not go on");
        Ok(())
    })
}

#[test]
fn block_of_a_frontend_leaves_others_alone_and_can_be_taken_back() -> Result<()> {
    with_rules("", &[], |bed, _, agent| {
        let digest = Bed::vip(Family::V4, port::DIGEST);
        agent.cli_good(&["block", FIRST, "--frontend", "line4"])?;
        ensure!(!gets_in(bed, line())? && gets_in(bed, digest)?);
        ensure!(agent.cli(&["unblock", FIRST])?.code == Some(1), "it is not blocked for all");
        agent.cli_good(&["unblock", FIRST, "--frontend", "line4"])?;
        ensure!(gets_in(bed, line())?);
        for refused in
            [["block", FIRST, "--frontend", "nobody"].as_slice(), &["unblock", "192.0.2.1"]]
        {
            let finished = agent.cli(refused)?;
            ensure!(finished.code == Some(1), "{refused:?}: {finished:?}");
        }
        Ok(())
    })
}

#[test]
fn rate_of_packets_holds_within_a_tenth() -> Result<()> {
    const RATE: u32 = 500;
    const BURST: u32 = 50;
    let limits = format!("limits: {{packets: {{rate: {RATE}, burst: {BURST}}}}}");
    with_rules(&limits, &[], |bed, fleet, agent| {
        for family in Family::BOTH {
            let before = fleet.server(0)?.datagrams();
            let start = Instant::now();
            bed.client.run(|| flood(Bed::vip(family, port::UDP), Duration::from_secs(3)))?;
            let seconds = start.elapsed().as_secs_f64();
            let passed = (fleet.server(0)?.datagrams() - before) as f64;
            let expected = f64::from(RATE) * seconds + f64::from(BURST);
            note(format!("{}: {passed} datagrams, expected {expected:.0}", family.name()));
            ensure!((passed / expected - 1.0).abs() < 0.1, "{passed} datagrams in {seconds} s");
        }
        ensure!(dropped(agent, "packet_rate")? > 1000);
        Ok(())
    })
}

/// Sends on four flows, several times as fast as is allowed.
fn flood(vip: SocketAddr, time: Duration) -> Result<()> {
    let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sockets: Vec<UdpSocket> =
        (0..4).map(|_| Ok(UdpSocket::bind(any)?)).collect::<Result<_>>()?;
    let start = Instant::now();
    while start.elapsed() < time {
        for socket in &sockets {
            // What is answered is counted by the server.
            socket.send_to(b"flood", vip)?;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[test]
fn rate_of_new_flows_holds_within_a_tenth() -> Result<()> {
    const RATE: u32 = 100;
    const BURST: u32 = 20;
    let limits = format!("limits: {{new_flows: {{rate: {RATE}, burst: {BURST}}}}}");
    with_rules(&limits, &[], |bed, fleet, agent| {
        let before = fleet.server(0)?.datagrams();
        let vip = Bed::vip(Family::V4, port::UDP);
        let start = Instant::now();
        bed.client.run(|| {
            while start.elapsed() < Duration::from_secs(3) {
                UdpSocket::bind("0.0.0.0:0")?.send_to(b"one flow", vip)?;
                thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        })?;
        let seconds = start.elapsed().as_secs_f64();
        let passed = (fleet.server(0)?.datagrams() - before) as f64;
        let expected = f64::from(RATE) * seconds + f64::from(BURST);
        note(format!("{passed} flows, expected {expected:.0}"));
        ensure!((passed / expected - 1.0).abs() < 0.1, "{passed} flows in {seconds} s");
        ensure!(dropped(agent, "new_rate")? > 100);
        Ok(())
    })
}

#[test]
fn source_has_only_so_many_flows_and_gets_room_when_some_end() -> Result<()> {
    let datapath = ["sweep_interval: 200ms", "timeouts: {closed: 500ms, closing: 1s}"];
    with_rules("limits: {connections_per_source: 3}", &datapath, |bed, _, agent| {
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut stream = connect(bed, line(), PATIENCE)?;
            ensure!(answers(&mut stream, PATIENCE)?);
            held.push(stream);
        }
        ensure!(!gets_in(bed, line())?, "a fourth flow got in");
        ensure!(dropped(agent, "flows_per_source")? >= 1);
        be(bed, OTHER)?;
        ensure!(gets_in(bed, line())?, "another source is kept out");
        be(bed, FIRST)?;
        drop(held.pop());
        wait_until("room for another flow", PATIENCE, || {
            ensure!(gets_in(bed, line())?, "there is none");
            Ok(())
        })?;
        for stream in &mut held {
            ensure!(answers(stream, PATIENCE)?, "a flow within the cap was cut off");
        }
        Ok(())
    })
}

#[test]
fn lists_and_limits_change_without_a_reload_and_outlive_the_agent() -> Result<()> {
    with_rules("", &[], |bed, _fleet, agent| {
        let vip = Bed::vip(Family::V4, port::LINE);
        let may_in = |bed: &Bed, source: &str| -> Result<bool> {
            be(bed, source)?;
            bed.client.run(|| Ok(TcpStream::connect_timeout(&vip, SILENCE).is_ok()))
        };
        ensure!(may_in(bed, FIRST)? && may_in(bed, OTHER)?, "both may in at first");
        agent.cli_good(&["access", "deny", OTHER, "--frontend", "line4"])?;
        ensure!(may_in(bed, FIRST)? && !may_in(bed, OTHER)?, "one is denied");
        // What would lock everybody else out has to be meant.
        let refused = agent.cli(&["access", "allow", FIRST, "--frontend", "line4"])?;
        ensure!(refused.code == Some(1) && refused.stderr.contains("--force"), "{refused:?}");
        agent.cli_good(&["access", "reset", OTHER, "--frontend", "line4"])?;
        agent.cli_good(&["access", "allow", FIRST, "--frontend", "line4", "--force"])?;
        ensure!(may_in(bed, FIRST)? && !may_in(bed, OTHER)?, "one is allowed");
        // The next agent goes on where this one stops, and a reload changes nothing of it.
        agent.stop()?;
        agent.start()?;
        agent.reload()?;
        ensure!(may_in(bed, FIRST)? && !may_in(bed, OTHER)?, "it is remembered");
        let shown = agent.cli_good(&["access", "list"])?;
        ensure!(shown.contains("10.91.0.2") && shown.contains("line4"), "{shown}");
        agent.cli_good(&["access", "reset", FIRST, "--frontend", "line4", "--force"])?;
        ensure!(may_in(bed, OTHER)?, "all is as configured");
        // One new flow, and none for a long while.
        agent.cli_good(&["access", "limit", "line4", "--new-flows", "1/1"])?;
        let mut in_time = 0;
        for _ in 0..5 {
            in_time += u32::from(may_in(bed, FIRST)?);
        }
        ensure!((1..5).contains(&in_time), "{in_time} of 5 new flows came through");
        agent.cli_good(&["access", "limit", "line4", "--new-flows", "configured"])?;
        for _ in 0..5 {
            ensure!(may_in(bed, FIRST)?, "there is no limit again");
        }
        Ok(())
    })
}
