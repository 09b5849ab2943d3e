//! SYN cookies with the kernel's own TCP on both sides, and a flood of SYNs from addresses that
//! nobody has.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pointsman::admin::api::DropsView;
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    bpftool,
    clients::{self, Conversation, Flood, PATIENCE},
    configuration::{FAST_TCP_CHECK, Service},
    fleet::Fleet,
    packet::Mac,
    process::wait_until,
    report::note,
    servers::port,
};

/// Room for half-open flows: the least that can be configured, so that a flood fills it.
const ROOM: u64 = 1024;
/// Longer than SYNs are answered with cookies after a flood.
const RECOVERY: Duration = Duration::from_secs(40);

/// Honest connections during a flood, which leaves them the processor for some tens a second.
const CONNECTIONS: u64 = 250;
/// Names another number of them.
const CONNECTIONS_VARIABLE: &str = "POINTSMAN_FLOOD_CONNECTIONS";
/// From this number on the flood is the long one: recovery is waited for in both families.
const LONG: u64 = 1000;
/// Bytes of the transfers during a flood, for each of those connections.
const BYTES_PER_CONNECTION: u64 = 100_000;

fn connections() -> Result<u64> {
    match std::env::var(CONNECTIONS_VARIABLE) {
        Err(_) => Ok(CONNECTIONS),
        Ok(text) => text.parse().with_context(|| format!("{CONNECTIONS_VARIABLE} is {text:?}")),
    }
}

fn packets(agent: &Agent<'_>, reason: &str) -> Result<u64> {
    let view: DropsView = serde_json::from_str(&agent.cli_good(&["drops", "--json"])?)?;
    let found = view.drops.iter().find(|drop| drop.reason == reason);
    Ok(found.with_context(|| format!("no reason {reason}"))?.packets)
}

/// A ready agent with these options of `datapath`.
fn agent<'bed>(bed: &'bed Bed, services: Vec<Service>, options: &[&str]) -> Result<Agent<'bed>> {
    let mut agent = Agent::install(bed)?;
    let mut configuration = agent.configuration(services);
    configuration.datapath_options.extend(options.iter().map(|option| (*option).to_owned()));
    agent.configure(&configuration)?;
    agent.start()?;
    Ok(agent)
}

/// The MAC address of the balancer's interface towards the client.
fn balancer_mac(bed: &Bed) -> Result<Mac> {
    bed.balancer.run(|| {
        // The thread's `/sys` is that of another namespace.
        let links = testbed::namespace::output(
            std::process::Command::new("ip").args(["-j", "link", "show", "client0"]),
        )?;
        let links: serde_json::Value = serde_json::from_str(&links)?;
        let text = links[0]["address"].as_str().context("no address")?;
        let octets: Vec<u8> =
            text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<Result<_, _>>()?;
        Ok(octets.as_slice().try_into()?)
    })
}

#[test]
fn connections_behind_cookies_work_like_others() -> Result<()> {
    const CONNECTIONS: u64 = 500;
    const BYTES: u64 = 30_000_000;
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let agent = agent(&bed, Service::all_embedded(&bed), &["syn_cookies: always"])?;
    for family in Family::BOTH {
        let vip = |port| Bed::vip(family, port);
        bed.client.run(|| {
            let tally = clients::short_connections(vip(port::LINE), CONNECTIONS, 8);
            note(format!("{}: {tally}, {} a second", family.name(), tally.per_second()));
            tally.require_all(CONNECTIONS)?;
            clients::download(vip(port::SOURCE), BYTES)?;
            clients::download_half_closed(vip(port::SOURCE), BYTES)?;
            clients::upload(vip(port::DIGEST), BYTES)?;
            Ok(())
        })?;
    }
    let (sent, valid) = (packets(&agent, "syn_cookie")?, packets(&agent, "syn_cookie_valid")?);
    let expected = 2 * (CONNECTIONS + 3);
    ensure!(sent >= expected && valid >= expected, "{sent} cookies sent, {valid} came back");
    ensure!(packets(&agent, "syn_cookie_invalid")? == 0, "a cookie was refused");
    Ok(())
}

#[test]
fn a_server_may_speak_first_or_refuse() -> Result<()> {
    const PORT: u16 = 7100;
    const CLOSED: u16 = 7101;
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let fleet = Fleet::start(&bed)?;
    let mut services = Service::all_embedded(&bed);
    for (name, port) in [("banner", PORT), ("closed", CLOSED)] {
        let mut service = Service::embedded(&bed, (name, port, port), "tcp", Family::V4);
        service.check = FAST_TCP_CHECK.into();
        if port == CLOSED {
            // The check asks where somebody answers.
            service.check = testbed::configuration::FAST_HTTP_CHECK.into();
        }
        services.push(service);
    }
    let listener = bed.server(0)?.run(|| Ok(TcpListener::bind(("0.0.0.0", PORT))?))?;
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        loop {
            let (mut stream, _) = listener.accept()?;
            stream.write_all(b"220 ready\r\n")?;
            let mut end = Vec::new();
            // A check closes at once.
            if stream.read_to_end(&mut end).is_ok_and(|_| end == b"QUIT") {
                return Ok(());
            }
        }
    });
    let _agent = agent(&bed, services, &["syn_cookies: always"])?;
    bed.client.run(|| {
        let target = Bed::vip(Family::V4, PORT);
        let mut stream =
            TcpStream::connect_timeout(&target, PATIENCE).context("connect to the banner")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut banner = [0; 11];
        stream.read_exact(&mut banner).context("wait for the server's word")?;
        ensure!(&banner == b"220 ready\r\n", "{banner:?}");
        stream.write_all(b"QUIT").context("say good-bye")?;
        // The handshake with the balancer is over before the server refuses.
        let refused = TcpStream::connect_timeout(&Bed::vip(Family::V4, CLOSED), PATIENCE);
        let outcome = refused.and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.read(&mut banner)
        });
        let outcome = outcome.expect_err("nobody is there");
        ensure!(outcome.kind() == std::io::ErrorKind::ConnectionReset, "{outcome}");
        Ok(())
    })?;
    drop(fleet);
    server.join().expect("the server does not panic")?;
    Ok(())
}

/// What a map of half-open flows takes of the kernel's memory.
fn memory(agent: &Agent<'_>, family: Family) -> Result<u64> {
    let name = if family == Family::V4 { "HALF_OPEN4" } else { "HALF_OPEN6" };
    let map = bpftool::json(&["map", "show", "pinned"], &agent.pin_directory().join(name))?;
    map["bytes_memlock"].as_u64().with_context(|| format!("no size in {map}"))
}

/// The flood. Whether SYNs are answered with cookies is one state for both families.
fn flood(family: Family, recover: bool) -> Result<()> {
    let connections = connections()?;
    let bytes = connections * BYTES_PER_CONNECTION;
    let bed = Bed::new(2, Mode::from_environment()?)?;
    let _fleet = Fleet::start(&bed)?;
    let options = [
        // Cookies are the default.
        &format!("max_half_open: {ROOM}"),
        "timeouts: {half_open: 2s}",
        "sweep_interval: 500ms",
    ];
    let agent = agent(&bed, Service::all_embedded(&bed), &options)?;
    let vip = |port| Bed::vip(family, port);
    let open = || -> Result<Conversation> { Ok(Conversation::open(vip(port::LINE))?) };
    let mut kept = bed.client.run(|| (0..20).map(|_| open()).collect::<Result<Vec<_>>>())?;
    ensure!(packets(&agent, "syn_cookie")? == 0, "cookies before the flood");
    let memory_before = memory(&agent, family)?;
    let transfer = |upload: bool| {
        let target = vip(if upload { port::DIGEST } else { port::SOURCE });
        let act = if upload { clients::upload } else { clients::download };
        bed.client.spawn("transfer", move || Ok(act(target, bytes)?))
    };
    let flood = Flood::start(&bed.client, "eth0", balancer_mac(&bed)?, vip(port::LINE))?;
    let transfers = [transfer(false)?, transfer(true)?];
    wait_until("SYNs to be answered with cookies", PATIENCE, || {
        let sent = packets(&agent, "syn_cookie")?;
        ensure!(sent > 1000, "{sent} cookies");
        Ok(())
    })?;
    wait_until("the operator to be told", PATIENCE, || {
        let status = agent.status()?;
        ensure!(status.datapath.syn_cookies, "the status does not say so");
        let told = status.warnings.iter().any(|line| line.contains("SYN cookies"));
        ensure!(told, "no warning: {:?}", status.warnings);
        Ok(())
    })?;
    let tally =
        bed.client.run(|| Ok(clients::short_connections(vip(port::LINE), connections, 4)))?;
    for (index, conversation) in kept.iter_mut().enumerate() {
        conversation.say().with_context(|| format!("established connection {index}"))?;
    }
    for transfer in transfers {
        let transfer = transfer.join().expect("a transfer does not panic");
        transfer.context("a transfer during the flood")?;
    }
    let valid = packets(&agent, "syn_cookie_valid")?;
    let cookies = packets(&agent, "syn_cookie")?;
    let sent = flood.stop()?;
    note(format!(
        "{}: {sent} SYNs sent, {cookies} answered with cookies, {valid} came back; new \
         connections meanwhile: {tally}, {} a second",
        family.name(),
        tally.per_second()
    ));
    ensure!(tally.succeeded() * 100 >= connections * 99, "{tally}");
    ensure!(valid >= connections * 9 / 10, "only {valid} connections began with cookies");
    ensure!(memory(&agent, family)? == memory_before, "the table has grown");
    if recover || connections >= LONG {
        wait_for_recovery(&agent, || bed.client.run(open).map(drop))?;
    }
    for conversation in &mut kept {
        conversation.say()?;
    }
    Ok(())
}

/// Waits until SYNs are answered by servers.
fn wait_for_recovery(agent: &Agent<'_>, connect: impl Fn() -> Result<()>) -> Result<()> {
    wait_until("SYNs to reach servers again", RECOVERY, || {
        let before = packets(agent, "syn_cookie")?;
        connect()?;
        let after = packets(agent, "syn_cookie")?;
        ensure!(before == after, "still answered with cookies");
        Ok(())
    })
    .map(drop)
}

#[test]
fn a_flood_costs_established_connections_nothing_and_new_ones_get_through() -> Result<()> {
    flood(Family::V4, true)
}

#[test]
fn a_flood_over_ipv6_is_no_different() -> Result<()> {
    flood(Family::V6, false)
}
