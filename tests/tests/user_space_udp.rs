//! VIPs of UDP without a data plane (`datapath.mode: off`): served in user space, by an agent
//! that has no privilege at all. On loopback, against servers that echo.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pointsman::admin::api::{DropsView, FlowsView};
use testbed::{
    loopback::{Loopback, PATIENCE},
    ports::free,
    process::wait_until,
};

/// How long a client waits for an answer that may not come.
const SHORT: Duration = Duration::from_millis(300);

/// A server that answers each datagram with its name and what it got, and takes TCP
/// connections so that it can be checked. Gone when it is dropped.
struct Echo {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _checked: TcpListener,
}

impl Echo {
    fn start(name: &'static str, address: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind(address)?;
        let address = socket.local_addr()?;
        let checked = TcpListener::bind(address)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stopping = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopping);
        let answer = move || {
            let mut buffer = vec![0; 1 << 16];
            while !flag.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let answer = [name.as_bytes(), &buffer[..length]].concat();
                    let _ = socket.send_to(&answer, from);
                }
            }
        };
        let thread = Some(thread::spawn(answer));
        Ok(Self { address, stopping, thread, _checked: checked })
    }

    fn new(name: &'static str, host: IpAddr) -> Result<Self> {
        Self::start(name, free(host))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn host(text: &str) -> Result<IpAddr> {
    Ok(text.parse()?)
}

/// A client whose socket takes answers of the VIP alone.
fn client(vip: SocketAddr) -> Result<UdpSocket> {
    client_at(if vip.is_ipv4() { "127.0.0.1" } else { "::1" }, vip)
}

/// The same from another address.
fn client_at(own: &str, vip: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((own, 0))?;
    socket.connect(vip)?;
    socket.set_read_timeout(Some(SHORT))?;
    Ok(socket)
}

/// Says something; who answers, if somebody does and repeats it.
fn ask(client: &UdpSocket, said: &[u8]) -> Result<Option<String>> {
    client.send(said)?;
    let mut buffer = vec![0; 1 << 16];
    match client.recv(&mut buffer) {
        Ok(length) => {
            ensure!(buffer[1..length] == *said, "{length} bytes in answer to {}", said.len());
            Ok(Some(char::from(buffer[0]).to_string()))
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The same as often as it takes.
fn ask_until(vip: SocketAddr, wanted: &str) -> Result<UdpSocket> {
    let found = wait_until("an answer", PATIENCE, || {
        let client = client(vip)?;
        let answer = ask(&client, b"who")?;
        ensure!(answer.as_deref() == Some(wanted), "{answer:?}");
        Ok(client)
    });
    Ok(found?.0)
}

fn sections(vip: SocketAddr, servers: &[&Echo], frontend: &str, backend: &str) -> String {
    let servers =
        servers.iter().zip('a'..).map(|(echo, name)| format!("{name}: \"{}\"", echo.address));
    let servers = servers.collect::<Vec<_>>().join(", ");
    format!(
        "frontends: {{dns: {{mode: l4, bind: [\"{vip}/udp\"], backend: dns{frontend}}}}}\n\
         backends: {{dns: {{servers: {{{servers}}}{backend}}}}}\n"
    )
}

fn drops(place: &Loopback) -> Result<BTreeMap<String, u64>> {
    let view: DropsView = serde_json::from_str(&place.command(&["drops", "--json"])?)?;
    let occurred = view.drops.into_iter().filter(|drop| drop.packets > 0);
    Ok(occurred.map(|drop| (drop.reason, drop.packets)).collect())
}

fn flows(place: &Loopback, more: &[&str]) -> Result<FlowsView> {
    let arguments = [&["flows", "--json"], more].concat();
    Ok(serde_json::from_str(&place.command(&arguments)?)?)
}

/// Many clients: each keeps its server, all servers have some, and everything is counted.
fn serves_many_clients(local: &str) -> Result<()> {
    const CLIENTS: usize = 200;
    let local = host(local)?;
    let (a, b) = (Echo::new("a", local)?, Echo::new("b", local)?);
    let vip = free(local);
    let mut place = Loopback::unprivileged()?;
    place.datapath = ", timeouts: {udp: 2s, half_open: 2s}".into();
    place.start(&sections(vip, &[&a, &b], "", ""))?;
    let clients = (0..CLIENTS).map(|_| client(vip)).collect::<Result<Vec<_>>>()?;
    let mut servers = BTreeSet::new();
    let sizes = [0, 1, 1400, 9000];
    let mut first = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        for (index, client) in clients.iter().enumerate() {
            let server = ask(client, &vec![b'x'; size])?.context("no answer")?;
            match number {
                0 => first.push(server.clone()),
                _ => ensure!(first[index] == server, "{server} after {}", first[index]),
            }
            servers.insert(server);
        }
    }
    ensure!(servers == ["a".to_owned(), "b".to_owned()].into(), "{servers:?}");

    let listed = flows(&place, &["--limit", "1000"])?;
    ensure!(listed.flows.len() == CLIENTS && !listed.truncated, "{}", listed.flows.len());
    let own = clients[7].local_addr()?;
    let flow = listed.flows.iter().find(|flow| flow.client == own).context("of this client")?;
    ensure!((flow.vip, &*flow.state) == (vip, "replied"), "{flow:?}");
    ensure!(flow.server_name.as_deref() == Some(&format!("dns/{}", first[7])), "{flow:?}");
    let bytes: usize = sizes.iter().sum();
    ensure!(flow.forward_packets == 4 && flow.forward_bytes == bytes as u64, "{flow:?}");
    ensure!(flow.reply_packets == 4 && flow.reply_bytes == bytes as u64 + 4, "{flow:?}");
    let few = flows(&place, &["--limit", "3", "--sort", "bytes"])?;
    ensure!(few.flows.len() == 3 && few.truncated, "{few:?}");
    let port = own.port().to_string();
    ensure!(flows(&place, &["--port", &port])?.flows.len() == 1, "one has that port");

    let view = place.status()?;
    let counted = view.vips.first().context("the VIP is shown")?;
    ensure!((counted.address, &*counted.forward) == (vip, "proxy"), "{counted:?}");
    let packets = (CLIENTS * sizes.len()) as u64;
    ensure!(counted.traffic.flows == CLIENTS as u64, "{counted:?}");
    ensure!(counted.traffic.forward_packets == packets, "{counted:?}");
    ensure!(counted.traffic.reply_packets == packets, "{counted:?}");
    let servers = &view.backends[0].servers;
    ensure!(servers.iter().map(|server| server.traffic.flows).sum::<u64>() == CLIENTS as u64);
    ensure!(servers.iter().map(|server| server.flows_now).sum::<u64>() == CLIENTS as u64);
    ensure!(drops(&place)?.is_empty(), "{:?}", drops(&place)?);

    // When both sides have been silent for two seconds, all of them are over, and logged.
    let lines = place.log(CLIENTS)?;
    let line = lines.iter().find(|line| line["client"] == own.to_string()).context("its line")?;
    ensure!(line["protocol"] == "udp" && line["end"] == "timeout", "{line}");
    ensure!(line["vip"] == vip.to_string() && line["frontend"] == "dns", "{line}");
    ensure!(line["server"] == format!("dns/{}", first[7]), "{line}");
    ensure!(line["forward_packets"] == 4 && line["reply_bytes"] == bytes + 4, "{line}");
    ensure!(flows(&place, &[])?.flows.is_empty());
    let view = place.status()?;
    let frontend = view.frontends.first().context("the frontend is shown")?;
    ensure!((frontend.connections, frontend.traffic.requests) == (0, CLIENTS as u64));
    Ok(())
}

#[test]
fn many_clients_have_a_server_each_over_ipv4() -> Result<()> {
    serves_many_clients("127.0.0.1")
}

#[test]
fn many_clients_have_a_server_each_over_ipv6() -> Result<()> {
    serves_many_clients("::1")
}

#[test]
fn clients_of_a_server_that_dies_have_another_and_it_is_used_again() -> Result<()> {
    // One port on two addresses, so that what is checked is what serves.
    let a = Echo::new("a", host("127.0.0.1")?)?;
    let b = Echo::start("b", SocketAddr::new(host("127.0.0.2")?, a.address.port()))?;
    let vip = free(host("127.0.0.1")?);
    let mut place = Loopback::unprivileged()?;
    let check = ", check: {type: tcp, interval: 100ms, fall: 2, rise: 1}";
    place.start(&sections(vip, &[&a, &b], "", check))?;
    let held = ask_until(vip, "a")?;
    let address = a.address;
    drop(a);
    wait_until("the client to have the other server", PATIENCE, || {
        let answer = ask(&held, b"still")?;
        ensure!(answer.as_deref() == Some("b"), "{answer:?}");
        Ok(())
    })?;
    let told = || {
        let lines = place.log(1)?;
        let of = |client: &UdpSocket| Some(client.local_addr().ok()?.to_string());
        let own = |line: &&serde_json::Value| line["client"].as_str() == of(&held).as_deref();
        let line = lines.iter().find(own).context("a line of the client")?;
        // Whichever came first: the server's host saying so, or the checks.
        let ends = ["server_reset", "server_down"];
        ensure!(ends.iter().any(|end| line["end"] == *end), "{line}");
        Ok(())
    };
    wait_until("its old flow to be logged", PATIENCE, told)?;
    let a = Echo::start("a", address)?;
    ask_until(vip, "a")?;
    // Who moved stays where he is.
    ensure!(ask(&held, b"and now")?.as_deref() == Some("b"));
    drop((a, b));
    let view = || {
        ensure!(ask(&held, b"nobody").unwrap_or(None).is_none(), "somebody still answers");
        ensure!(drops(&place)?.contains_key("no_server"), "{:?}", drops(&place)?);
        Ok(())
    };
    wait_until("datagrams to be counted that nobody takes", PATIENCE, view)?;
    Ok(())
}

#[test]
fn a_server_that_drains_keeps_its_clients_and_one_in_maintenance_does_not() -> Result<()> {
    let local = host("127.0.0.1")?;
    let (a, b) = (Echo::new("a", local)?, Echo::new("b", local)?);
    let vip = free(local);
    let mut place = Loopback::unprivileged()?;
    place.start(&sections(vip, &[&a, &b], "", ""))?;
    let held = ask_until(vip, "a")?;
    place.command(&["server", "set", "dns/a", "--state", "drain"])?;
    for _ in 0..20 {
        let answer = ask(&client(vip)?, b"new")?;
        ensure!(answer.as_deref() == Some("b"), "{answer:?} to a new client");
    }
    ensure!(ask(&held, b"old")?.as_deref() == Some("a"), "it drains, and keeps its clients");
    place.command(&["server", "set", "dns/a", "--state", "maint"])?;
    ensure!(ask(&held, b"old")?.as_deref() == Some("b"), "its client has the other server");

    place.command(&["server", "set", "dns/a", "--state", "ready"])?;
    place.reload(&sections(vip, &[&a, &b], "", ", on_down: keep"))?;
    let held = ask_until(vip, "a")?;
    place.command(&["server", "set", "dns/a", "--state", "maint"])?;
    ensure!(ask(&held, b"old")?.as_deref() == Some("a"), "its clients are kept");

    // One that is taken out of the configuration has no clients any more.
    place.reload(&sections(vip, &[&a, &b], "", ""))?;
    place.command(&["server", "set", "dns/a", "--state", "ready"])?;
    let held = ask_until(vip, "b")?;
    place.reload(&sections(vip, &[&a], "", ""))?;
    ensure!(ask(&held, b"old")?.as_deref() == Some("a"));
    // And a VIP that is taken out is served by nobody.
    let other = free(local);
    place.reload(&sections(other, &[&a], "", ""))?;
    ask_until(other, "a")?;
    wait_until("the host to say that nobody listens", PATIENCE, || {
        ensure!(ask(&held, b"old").is_err(), "somebody does");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn sources_are_blocked_and_limited_at_run_time() -> Result<()> {
    let local = host("127.0.0.1")?;
    let a = Echo::new("a", local)?;
    let vip = free(local);
    let mut place = Loopback::unprivileged()?;
    place.start(&sections(vip, &[&a], "", ""))?;
    let held = ask_until(vip, "a")?;
    place.command(&["block", "127.0.0.1", "--reason", "test"])?;
    ensure!(ask(&held, b"blocked")?.is_none(), "one that is in is cut off");
    ensure!(ask(&client(vip)?, b"blocked")?.is_none(), "a new one is kept out");
    ensure!(drops(&place)? == [("blocked".to_owned(), 2)].into(), "{:?}", drops(&place)?);
    place.command(&["unblock", "127.0.0.1"])?;
    ensure!(ask(&held, b"back")?.as_deref() == Some("a"), "it has its server again");

    place.command(&["access", "deny", "127.0.0.0/8", "--frontend", "dns"])?;
    ensure!(ask(&held, b"denied")?.is_none());
    place.command(&["access", "reset", "127.0.0.0/8", "--frontend", "dns"])?;
    ensure!(ask(&held, b"back")?.as_deref() == Some("a"));

    place.reload(&sections(vip, &[&a], ", limits: {connections_per_source: 1}", ""))?;
    ensure!(ask(&client(vip)?, b"second")?.is_none(), "a second flow of the source");
    ensure!(ask(&held, b"first")?.as_deref() == Some("a"));
    let limits = ", limits: {new_flows: {rate: 1, burst: 3}, packets: {rate: 2, burst: 20}}";
    place.reload(&sections(vip, &[&a], limits, ""))?;
    // Three at once, and one for each second that this takes.
    let others = (0..30).map(|_| client(vip)).collect::<Result<Vec<_>>>()?;
    for client in &others {
        client.send(b"another flow")?;
    }
    for _ in 0..40 {
        held.send(b"another packet")?;
    }
    let dropped = wait_until("packets beyond the rate to be dropped", PATIENCE, || {
        let dropped = drops(&place)?;
        ensure!(dropped.contains_key("packet_rate"), "{dropped:?}");
        Ok(dropped)
    })?;
    for reason in ["denied", "flows_per_source", "new_rate"] {
        ensure!(dropped.0.contains_key(reason), "{reason} in {dropped:?}");
    }
    Ok(())
}

fn wait_for_unreplied(place: &Loopback, count: usize) -> Result<()> {
    let waited = wait_until(&format!("{count} flows without an answer"), PATIENCE, || {
        let listed = flows(place, &["--state", "unreplied"])?.flows.len();
        ensure!(listed == count, "{listed}");
        Ok(())
    });
    waited.map(drop)
}

/// In a full table, too: nobody gives way to a flow that is refused in the end.
#[test]
fn a_source_that_has_all_it_may_have_pushes_nobody_out() -> Result<()> {
    let a = Echo::new("a", host("127.0.0.1")?)?;
    let vip = free(host("127.0.0.1")?);
    let mut place = Loopback::unprivileged()?;
    place.datapath = ", max_flows: 16".into();
    place.start(&sections(vip, &[&a], ", limits: {connections_per_source: 8}", ""))?;
    // Nobody answers, so that all could give way.
    let address = a.address;
    drop(a);
    let _silent = UdpSocket::bind(address)?;
    let begin = |own: &str, count: usize| {
        let clients = (0..count).map(|_| client_at(own, vip)).collect::<Result<Vec<_>>>()?;
        clients.iter().try_for_each(|client| client.send(b"x").map(drop))?;
        anyhow::Ok(clients)
    };
    let (_first, _second) = (begin("127.0.0.1", 8)?, begin("127.0.0.2", 8)?);
    wait_for_unreplied(&place, 16)?;
    let _more = begin("127.0.0.2", 40)?;
    wait_until("all of them to be refused", PATIENCE, || {
        let dropped = drops(&place)?;
        ensure!(dropped.get("flows_per_source") == Some(&40), "{dropped:?}");
        Ok(())
    })?;
    let listed = flows(&place, &["--client", "127.0.0.1"])?.flows.len();
    ensure!(listed == 8, "{listed} flows of the first");
    Ok(())
}

#[test]
fn a_full_table_keeps_those_who_are_in_and_forgets_those_who_were_never_answered() -> Result<()> {
    let local = host("127.0.0.1")?;
    let a = Echo::new("a", local)?;
    let vip = free(local);
    let mut place = Loopback::unprivileged()?;
    place.datapath = ", max_flows: 16".into();
    place.start(&sections(vip, &[&a], "", ""))?;
    let address = a.address;
    // Sixteen that nobody answers: they make room for sixteen that somebody does.
    drop(a);
    let silent = UdpSocket::bind(address)?;
    let unanswered = (0..16).map(|_| client(vip)).collect::<Result<Vec<_>>>()?;
    for client in &unanswered {
        client.send(b"x")?;
    }
    wait_for_unreplied(&place, 16)?;
    drop(silent);
    let a = Echo::start("a", address)?;
    let held: Vec<_> = (0..16).map(|_| ask_until(vip, "a")).collect::<Result<_>>()?;
    // A worker whose flows were all answered has none that makes room, so some were dropped.
    let full = || Ok::<_, anyhow::Error>(drops(&place)?.remove("flow_table_full").unwrap_or(0));
    let before = full()?;
    ensure!(ask(&client(vip)?, b"one too many")?.is_none());
    ensure!(full()? == before + 1, "{:?}", drops(&place)?);
    for client in &held {
        ensure!(ask(client, b"in")?.as_deref() == Some("a"));
    }
    ensure!(place.log(16)?.iter().any(|line| line["end"] == "recycled"));
    // Until they have been silent for long enough.
    place.datapath = ", max_flows: 16, timeouts: {udp: 1s}".into();
    place.reload(&sections(vip, &[&a], "", ""))?;
    ask_until(vip, "a")?;
    drop(a);
    Ok(())
}
