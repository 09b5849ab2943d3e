//! The test bed itself: what it makes it removes, and its clients and servers tell the
//! truth when nothing is between them.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    panic,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};
use testbed::{
    bed::{Bed, Family, Mode},
    clients::{self, Conversation, FailureKind, HttpAnswer},
    namespace::Namespace,
    process::wait_until,
    servers::{Embedded, port},
};

fn v4(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

fn v6(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)
}

#[test]
fn a_namespace_and_its_processes_go_with_a_panic() -> Result<()> {
    let namespace = Namespace::create("panic")?;
    let path = namespace.path();
    let mut sleeper = namespace.command("sleep").arg("60").spawn()?;
    let caught = panic::catch_unwind(panic::AssertUnwindSafe(move || {
        namespace.run::<()>(|| panic!("on purpose"))
    }));
    ensure!(caught.is_err(), "the panic did not reach the caller");
    ensure!(!Path::new(&path).exists(), "{} is still there", path.display());
    ensure!(!sleeper.wait()?.success(), "the process inside ended by itself");
    Ok(())
}

#[test]
fn leftovers_of_a_dead_process_are_swept_and_others_are_not() -> Result<()> {
    let ours = Namespace::create("kept")?;
    // A process id that was ours to give and is free again.
    let mut ended = Command::new("true").spawn()?;
    let name = format!("pmt-{}-0-stale", ended.id());
    ended.wait()?;
    ensure!(Command::new("ip").args(["netns", "add", &name]).status()?.success());
    let directory = std::env::temp_dir().join(format!("pmt-{}-1-stale", ended.id()));
    fs::create_dir(&directory)?;
    fs::write(directory.join("agent.log"), "words")?;
    testbed::namespace::sweep_stale()?;
    testbed::namespace::sweep_stale_directories()?;
    ensure!(!Path::new("/run/netns").join(&name).exists(), "{name} was not swept");
    ensure!(!directory.exists(), "{} was not swept", directory.display());
    ensure!(ours.path().exists(), "the namespace of a running process was swept");
    Ok(())
}

#[test]
fn clients_and_servers_agree_when_nothing_is_between_them() -> Result<()> {
    let namespace = Namespace::create("direct")?;
    let server = Embedded::start(&namespace, "alone")?;
    namespace.run(|| {
        clients::short_connections(v4(port::LINE), 1000, 4).require_all(1000)?;
        clients::short_connections(v6(port::LINE), 1000, 4).require_all(1000)?;
        clients::udp_exchanges(v4(port::UDP), 1000, 4).require_all(1000)?;
        clients::udp_exchanges(v6(port::UDP), 1000, 4).require_all(1000)?;
        let down = clients::download(v4(port::SOURCE), 3_000_001)?;
        let half = clients::download_half_closed(v6(port::SOURCE), 3_000_001)?;
        let up = clients::upload(v4(port::DIGEST), 3_000_001)?;
        ensure!(down.fingerprint == up.fingerprint && down.fingerprint == half.fingerprint);
        Ok(())
    })?;
    ensure!(server.accepted() == 2003 && server.datagrams() == 2000, "{server:?}");
    Ok(())
}

#[test]
fn health_is_switched_and_the_server_closes_first() -> Result<()> {
    let namespace = Namespace::create("health")?;
    let server = Embedded::start(&namespace, "alone")?;
    let local = v4(40_000);
    for (healthy, status) in [(true, 200), (false, 503), (true, 200)] {
        server.set_healthy(healthy);
        // The same local port each time: it is free only if the server closed first.
        let answer = namespace.run(|| {
            let stream = clients::connect_from(local, v4(port::HTTP))?;
            Ok(clients::get(stream, "/health")?)
        })?;
        ensure!(answer.status == status, "{answer:?}");
    }
    let root =
        namespace.run(|| Ok(clients::get(clients::connect_from(local, v4(port::HTTP))?, "/")?))?;
    ensure!(root == HttpAnswer { status: 200, body: "alone".into() }, "{root:?}");
    Ok(())
}

#[test]
fn a_killed_server_ends_connections_and_refuses_new_ones() -> Result<()> {
    let namespace = Namespace::create("killed")?;
    let server = Embedded::start(&namespace, "alone")?;
    let mut conversation = namespace.run(|| Ok(Conversation::open(v4(port::LINE))?))?;
    conversation.say()?;
    drop(server);
    let kind = conversation.say().map_err(|failure| failure.kind);
    ensure!(matches!(kind, Err(FailureKind::Closed | FailureKind::Reset)), "{kind:?}");
    let kind =
        namespace.run(|| Ok(clients::ask(v4(port::LINE)).map_err(|failure| failure.kind)))?;
    ensure!(kind == Err(FailureKind::Refused), "{kind:?}");
    // And starts again at once on the same ports.
    let _again = Embedded::start(&namespace, "again")?;
    let name = namespace.run(|| Ok(clients::ask(v4(port::LINE))?))?;
    ensure!(name == "again", "{name}");
    Ok(())
}

#[test]
fn a_bed_is_wired_and_leaves_nothing_behind() -> Result<()> {
    let bed = Bed::new(3, Mode::Native)?;
    let directory = bed.directory().to_owned();
    let namespace = bed.balancer.path();
    for index in 0..3 {
        let _server = Embedded::start(bed.server(index)?, "direct")?;
        // From the balancer itself: servers have no route beyond their link.
        for family in Family::BOTH {
            let target = SocketAddr::new(Bed::server_address(index, family), port::LINE);
            bed.balancer.run(|| clients::short_connections(target, 100, 2).require_all(100))?;
        }
    }
    let unserved = bed.client.run(|| Ok(clients::ask(Bed::vip(Family::V4, port::LINE))))?;
    ensure!(unserved.is_err(), "a VIP answers without a balancer: {unserved:?}");
    drop(bed);
    ensure!(!namespace.exists() && !directory.exists(), "{namespace:?} or {directory:?} is left");
    Ok(())
}

#[test]
fn a_cut_server_is_silent_until_it_is_reconnected() -> Result<()> {
    let bed = Bed::new(1, Mode::Native)?;
    let _server = Embedded::start(bed.server(0)?, "cut")?;
    let targets =
        Family::BOTH.map(|family| SocketAddr::new(Bed::server_address(0, family), port::LINE));
    let ask_all = || targets.map(|target| bed.balancer.run(|| Ok(clients::ask(target)?)).is_ok());
    ensure!(ask_all() == [true, true]);
    bed.cut(0)?;
    ensure!(ask_all() == [false, false]);
    bed.reconnect(0)?;
    wait_until("the link to be back", Duration::from_secs(5), || {
        ensure!(ask_all() == [true, true]);
        Ok(())
    })?;
    Ok(())
}
