//! Connections that are idle when their server dies: both ends learn it within a second of the
//! eviction, and neither has to say anything first.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd as _,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use pointsman::model::state::ServerState;
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    clients::Conversation,
    configuration::Service,
    fleet::Fleet,
    process::wait_until,
    report::note,
    servers::port,
};

/// How long after the eviction both ends have learned it.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// Connections of each family; how many stand at once is what a machine has threads for.
const CONNECTIONS: usize = 400;
/// Names another number.
const CONNECTIONS_VARIABLE: &str = "POINTSMAN_TEST_IDLE_CONNECTIONS";

/// Two servers, of which the first gets most, and idle connections to both.
struct Crowd {
    /// To the first server.
    first: Vec<Conversation>,
    /// To the other one.
    other: Vec<Conversation>,
}

impl Crowd {
    fn open(bed: &Bed, count: usize) -> Result<Self> {
        let found = Mutex::new(Vec::new());
        let open = |family| -> Result<()> {
            let target: SocketAddr = Bed::vip(family, port::LINE);
            for _ in 0..count {
                let conversation = bed.client.run(|| Ok(Conversation::open(target)?))?;
                found.lock().expect("no panic holds it").push(conversation);
            }
            Ok(())
        };
        thread::scope(|scope| {
            let openers = Family::BOTH.map(|family| scope.spawn(move || open(family)));
            openers.into_iter().try_for_each(|opener| opener.join().expect("no panic"))
        })?;
        let all = found.into_inner().expect("no panic holds it");
        let (first, other): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|conversation| conversation.server() == "s0");
        ensure!(first.len() > count && other.len() > 4, "{} and {}", first.len(), other.len());
        Ok(Self { first, other })
    }

    /// Waits until every connection of the first server is at its end; how long that took.
    fn wait_for_ends(&self, patience: Duration) -> Result<Duration> {
        let start = Instant::now();
        let mut open: Vec<&TcpStream> = self.first.iter().map(Conversation::stream).collect();
        while !open.is_empty() {
            let left = patience.checked_sub(start.elapsed());
            let left = left.with_context(|| format!("{} were not told", open.len()))?;
            let mut events: Vec<_> =
                open.iter().map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)).collect();
            poll(&mut events, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))?;
            let told: Vec<bool> = events.iter().map(|event| event.any() == Some(true)).collect();
            let mut told = told.into_iter();
            open.retain(|_| told.next() == Some(false));
        }
        Ok(start.elapsed())
    }

    fn require_resets(&self) -> Result<()> {
        for conversation in &self.first {
            let read = conversation.stream().read(&mut [0; 16]).map_err(|error| error.kind());
            ensure!(read == Err(ErrorKind::ConnectionReset), "{read:?}");
        }
        Ok(())
    }

    fn require_others_to_work(&mut self) -> Result<()> {
        self.other.iter_mut().try_for_each(|conversation| Ok(conversation.say()?))
    }
}

fn connections() -> Result<usize> {
    match std::env::var(CONNECTIONS_VARIABLE) {
        Ok(number) => Ok(number.parse()?),
        Err(_) => Ok(CONNECTIONS),
    }
}

/// What the unit that is shipped leaves of root's capabilities: `net_raw`.
fn capabilities_of_the_unit() -> Result<Vec<String>> {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/dist/pointsman.service");
    let text = fs::read_to_string(unit)?;
    let set = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=CAP_"));
    let set = set.context("the unit has no bounding set")?;
    Ok(set.split(" CAP_").map(str::to_ascii_lowercase).collect())
}

fn with_a_crowd(
    options: &[&str],
    test: impl FnOnce(&Bed, &Fleet<'_>, &Agent<'_>, Crowd) -> Result<()>,
) -> Result<()> {
    // Each connection has both of its ends in this process, and the server's a second time.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let fleet = Fleet::start(&bed)?;
    let line = ("line", port::LINE, port::LINE);
    let mut services =
        Family::BOTH.map(|family| Service::embedded(&bed, line, "tcp", family)).to_vec();
    for service in &mut services {
        service.options = options.iter().map(|option| (*option).to_owned()).collect();
        for (name, value) in &mut service.servers {
            let weight = if name == "s1" { 15 } else { 100 };
            *value = format!("{{address: {value}, weight: {weight}}}");
        }
    }
    let mut agent = Agent::install(&bed)?;
    agent.configure(&agent.configuration(services))?;
    agent.start_confined(&capabilities_of_the_unit()?)?;
    let crowd = Crowd::open(&bed, connections()?)?;
    test(&bed, &fleet, &agent, crowd)
}

/// Connections of the first server that its kernel takes to be open.
fn open_at_server(bed: &Bed) -> Result<usize> {
    bed.server(0)?.run(|| {
        let mut open = 0;
        for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            let ours = format!(":{:04X}", port::LINE);
            let text = fs::read_to_string(table)?;
            let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            // Local address, state.
            open += lines
                .filter(|columns| {
                    columns.get(1).is_some_and(|local| local.ends_with(&ours))
                        && columns.get(3) == Some(&"01")
                })
                .count();
        }
        Ok(open)
    })
}

/// No FIN, no RST comes from the machine.
#[test]
fn idle_clients_of_a_dead_machine_are_reset() -> Result<()> {
    with_a_crowd(&[], |bed, _, agent, mut crowd| {
        bed.cut(0)?;
        agent.wait_for_state("s0", ServerState::Down)?;
        let took = crowd.wait_for_ends(TOLD_WITHIN)?;
        note(format!("{} idle clients reset {took:?} after the eviction", crowd.first.len()));
        crowd.require_resets()?;
        crowd.require_others_to_work()
    })
}

/// The check says no, but the server's kernel lives: its half of each connection ends too.
#[test]
fn a_server_that_fails_its_check_is_told_of_its_idle_connections() -> Result<()> {
    with_a_crowd(&[], |bed, fleet, agent, mut crowd| {
        let before = open_at_server(bed)?;
        ensure!(before >= crowd.first.len(), "{before} of {}", crowd.first.len());
        fleet.server(0)?.set_healthy(false);
        agent.wait_for_state("s0", ServerState::Down)?;
        let start = Instant::now();
        crowd.wait_for_ends(TOLD_WITHIN)?;
        wait_until("the server's half to end", TOLD_WITHIN, || {
            let open = open_at_server(bed)?;
            ensure!(open == 0, "{open} of {before} are open");
            Ok(())
        })?;
        note(format!("{before} connections gone at the server {:?} later", start.elapsed()));
        crowd.require_resets()?;
        crowd.require_others_to_work()
    })
}

/// Out of the configuration: the kernel finds the way to the server.
#[test]
fn idle_connections_of_a_removed_server_are_reset_at_both_ends() -> Result<()> {
    with_a_crowd(&[], |bed, _, agent, mut crowd| {
        let text = fs::read_to_string(agent.configuration_file())?;
        let kept = text.lines().filter(|line| !line.trim_start().starts_with("s0:"));
        let kept: Vec<_> = kept.collect();
        ensure!(kept.len() + 2 == text.lines().count(), "one line a server is expected: {text}");
        agent.configure_text(&(kept.join("\n") + "\n"))?;
        agent.reload()?;
        crowd.wait_for_ends(TOLD_WITHIN)?;
        wait_until("the server's half to end", TOLD_WITHIN, || {
            let open = open_at_server(bed)?;
            ensure!(open == 0, "{open} are open");
            Ok(())
        })?;
        crowd.require_resets()?;
        crowd.require_others_to_work()
    })
}

/// RSTs that do not arrive: the client has another MAC address by now. The question that follows
/// takes the kernel's way, and its answer shows the data plane the new one.
#[test]
fn a_client_that_did_not_get_its_reset_is_asked() -> Result<()> {
    const MAC: &str = "02:00:00:00:91:02";
    with_a_crowd(&[], |bed, _, agent, mut crowd| {
        bed.client.ip(&["link", "set", "eth0", "address", MAC])?;
        for family in Family::BOTH {
            let address = Bed::client_address(family).to_string();
            bed.balancer.ip(&["neigh", "replace", &address, "lladdr", MAC, "dev", "client0"])?;
        }
        bed.cut(0)?;
        agent.wait_for_state("s0", ServerState::Down)?;
        let took = crowd.wait_for_ends(TOLD_WITHIN)?;
        note(format!("{} clients asked and reset after {took:?}", crowd.first.len()));
        crowd.require_resets()?;
        crowd.require_others_to_work()
    })
}

/// Flows of a backend that wants them kept are left alone.
#[test]
fn idle_connections_are_left_alone_if_they_are_to_be_kept() -> Result<()> {
    with_a_crowd(&["on_down: keep"], |bed, _, agent, mut crowd| {
        bed.cut(0)?;
        agent.wait_for_state("s0", ServerState::Down)?;
        let told = crowd.wait_for_ends(TOLD_WITHIN);
        ensure!(told.is_err(), "they were told after {told:?}");
        bed.reconnect(0)?;
        agent.wait_for_state("s0", ServerState::Up)?;
        crowd
            .first
            .iter_mut()
            .try_for_each(|conversation| Ok::<_, anyhow::Error>(conversation.say()?))?;
        crowd.require_others_to_work()
    })
}
