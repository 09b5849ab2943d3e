//! The layer-4 examples of configs/, each with the addresses that are written in it: a machine
//! for its clients, one for its servers where they are behind another interface, and traffic
//! through every VIP.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use pointsman::{
    config,
    model::{
        frontend::L4Frontend,
        name::Name,
        snapshot::{HashBy, Protocol, Snapshot},
        state::ServerState,
    },
};
use testbed::{
    agent::Agent,
    bed::{Bed, Mode},
    namespace::{Namespace, output, write_sysctl},
    process::wait_until,
    stub::Stub,
};

/// Connections and datagrams to each VIP: enough that a server with a sixth of them gets one.
const EXCHANGES: usize = 120;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one that is kept out waits before that is believed.
const SILENCE: Duration = Duration::from_millis(400);

/// Suites that serve the others: a file is named there.
const ELSEWHERE: [&str; 3] = [
    include_str!("unix_servers.rs"),
    include_str!("../../lb-userspace/tests/rules/examples.rs"),
    include_str!("../../lb-userspace/tests/rules/plain.rs"),
];

/// Examples whose servers take packets out of tunnels, which this bed's do not. The suite
/// `forwarding` serves what is in them, with addresses of its own.
const NOT_SERVED: [&str; 1] = ["direct-return.yaml"];

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

#[test]
fn every_example_is_served_by_a_test() -> Result<()> {
    let own = include_str!("examples.rs");
    for entry in fs::read_dir(configs())? {
        let name = entry?.file_name().into_string().ok().context("a name in UTF-8")?;
        if NOT_SERVED.contains(&name.as_str()) {
            let text = fs::read_to_string(configs().join(&name))?;
            let parsed = config::parse(&text, &name);
            parsed.map_err(|faults| anyhow::anyhow!("{name}: {faults}"))?;
            continue;
        }
        let quoted = format!("\"{name}\"");
        let is_served = ELSEWHERE.into_iter().chain([own]).any(|text| text.contains(&quoted));
        ensure!(is_served, "no test serves {name}");
    }
    Ok(())
}

#[test]
fn the_least_that_works() -> Result<()> {
    Example::build("minimal.yaml")?.serve(every_vip)
}

#[test]
fn the_configuration_of_the_readme() -> Result<()> {
    Example::build("quickstart.yaml")?.serve(every_vip)
}

#[test]
fn databases_and_a_broker() -> Result<()> {
    Example::build("databases.yaml")?.serve(every_vip)
}

#[test]
fn dns_over_both_families_and_both_protocols() -> Result<()> {
    Example::build("dual-stack.yaml")?.serve(every_vip)
}

#[test]
fn web_servers_that_are_asked_how_they_are() -> Result<()> {
    Example::build("http-checks.yaml")?.serve(|example| {
        example.exchange()?;
        // Every server is asked and says what its check wants to hear.
        let checked = wait_until("every server to be asked", PATIENCE, || {
            for backend in example.agent.status()?.backends {
                for server in backend.servers {
                    let is_good =
                        server.state == ServerState::Up && server.reason.starts_with("status 200");
                    ensure!(is_good, "{}: {server:?}", backend.name);
                }
            }
            Ok(())
        });
        checked.map(drop)
    })
}

#[test]
fn only_the_office_reaches_the_database_that_is_guarded() -> Result<()> {
    let bed = Example::build("guarded.yaml")?;
    for address in ["10.20.0.5/8", "10.20.99.5/8", "10.30.7.9/8", "198.51.100.7/24"] {
        bed.bed.client.ip(&["addr", "add", address, "dev", "eth0"])?;
    }
    bed.bed.balancer.ip(&["route", "add", "198.51.100.0/24", "dev", "eth0"])?;
    bed.serve(|example| {
        let database: SocketAddr = "10.0.0.100:5432".parse()?;
        let resolver: SocketAddr = "10.0.0.53:53".parse()?;
        for (source, may_in) in
            [("10.20.0.5", true), ("10.30.7.9", true), ("10.20.99.5", false), ("10.0.0.2", false)]
        {
            let answer = example.ask_from(source, database);
            ensure!(answer.is_ok() == may_in, "{source}: {answer:?}");
        }
        ensure!(example.ask_udp_from("10.0.0.2", resolver).is_ok(), "the resolver is public");
        ensure!(example.ask_udp_from("198.51.100.7", resolver).is_err(), "it is denied everywhere");
        Ok(())
    })
}

#[test]
fn servers_that_lack_the_vip_are_found_by_the_way_of_traffic() -> Result<()> {
    let bed = Example::build("direct-return-checks.yaml")?;
    let servers = bed.far.as_ref().context("servers are behind eth1")?;
    let vip: SocketAddr = "203.0.113.10:80".parse()?;
    // Their answers to the client go through the balancer's kernel, the only router here.
    servers.ip(&["route", "add", "default", "via", "10.0.1.1"])?;
    bed.bed.balancer.run(|| {
        write_sysctl("net/ipv4/ip_forward", "1")?;
        ["all", "eth1"]
            .iter()
            .try_for_each(|name| write_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0"))
    })?;
    bed.serve(|example| {
        // They run, and answer at their own addresses.
        example.wait_for_servers(ServerState::Down)?;
        servers.ip(&["addr", "add", "203.0.113.10/32", "dev", "lo"])?;
        servers.run(|| start_server(vip, "downloads/both"))?;
        example.wait_for_servers(ServerState::Up)?;
        let answers = example.answers(vip, false)?;
        ensure!(answers.keys().eq(["downloads/both"]), "{answers:?}");
        servers.ip(&["addr", "del", "203.0.113.10/32", "dev", "lo"])?;
        example.wait_for_servers(ServerState::Down)
    })
}

/// Traffic through every VIP.
fn every_vip(served: &Served<'_>) -> Result<()> {
    served.exchange()
}

/// An example in a bed of its own.
struct Example {
    bed: Bed,
    snapshot: Snapshot,
    text: String,
    /// The machine with the servers: the client's, if they are behind the same interface.
    far: Option<Namespace>,
    _stubs: Vec<Stub>,
}

/// One that is served.
struct Served<'a> {
    example: &'a Example,
    agent: &'a Agent<'a>,
}

impl Example {
    /// The machines, their links and addresses.
    fn build(file: &str) -> Result<Self> {
        let text = fs::read_to_string(configs().join(file)).context("read the example")?;
        let snapshot = config::parse(&text, file).map_err(|faults| anyhow::anyhow!("{faults}"))?;
        let snapshot = snapshot.snapshot;
        let bed = Bed::unwired(0, Mode::from_environment()?)?;
        let mut stubs = Vec::new();
        connect(&bed.balancer, &bed.client, "eth0")?;
        for (namespace, last) in [(&bed.balancer, "1"), (&bed.client, "2")] {
            add(namespace, "eth0", &format!("10.0.0.{last}/8"))?;
            add(namespace, "eth0", &format!("2001:db8::{last}/64"))?;
        }
        // Sources of several networks on one interface.
        bed.client.run(|| write_sysctl("net/ipv4/conf/all/rp_filter", "0"))?;
        stubs.push(Stub::attach(&bed.client, "eth0")?);
        let far = match &snapshot.datapath.interfaces[..] {
            [one] if one == "eth0" => None,
            [one, two] if one == "eth0" && two == "eth1" => {
                let far = Namespace::create("servers")?;
                connect(&bed.balancer, &far, "eth1")?;
                add(&bed.balancer, "eth1", "10.0.1.1/24")?;
                add(&bed.balancer, "eth1", "2001:db8:1::1/64")?;
                stubs.push(Stub::attach(&far, "eth0")?);
                Some(far)
            }
            other => bail!("{file} has interfaces {other:?}"),
        };
        let example = Self { bed, snapshot, text, far, _stubs: stubs };
        let machine = example.far.as_ref().unwrap_or(&example.bed.client);
        let mut placed = BTreeSet::new();
        for backend in example.snapshot.backends.values() {
            for server in backend.servers.values() {
                let ip = server.address.ip().context("a server of layer 4 has an address")?;
                let length = if ip.is_ipv4() { 24 } else { 64 };
                if placed.insert(ip) {
                    add(machine, "eth0", &format!("{ip}/{length}"))?;
                }
            }
        }
        // Addresses that the agent does not put on its interface are routed to it.
        if !example.snapshot.datapath.manage_addresses {
            for (_, frontend) in example.snapshot.l4_frontends() {
                for bind in &frontend.bind {
                    let vip = bind.address.ip();
                    let gateway = if vip.is_ipv4() { "10.0.0.1" } else { "2001:db8::1" };
                    let route = ["route", "replace", &vip.to_string(), "via", gateway];
                    example.bed.client.ip(&route)?;
                }
            }
        }
        Ok(example)
    }

    /// Starts servers and the agent and does what `test` says.
    fn serve(&self, test: impl FnOnce(&Served<'_>) -> Result<()>) -> Result<()> {
        let machine = self.far.as_ref().unwrap_or(&self.bed.client);
        let mut started = BTreeSet::new();
        for (backend, config) in &self.snapshot.backends {
            for (name, server) in &config.servers {
                let address = server.address.socket().context("a server of layer 4 has one")?;
                if started.insert(address) {
                    machine.run(|| start_server(address, &format!("{backend}/{name}")))?;
                }
            }
        }
        let mut agent = Agent::install(&self.bed)?;
        agent.configure_text(&self.with_places(&agent)?)?;
        agent.start()?;
        test(&Served { example: self, agent: &agent })
    }

    /// The text with files of this test in it, and nothing else changed.
    fn with_places(&self, agent: &Agent<'_>) -> Result<String> {
        let pins = agent.pin_directory().display();
        let socket = agent.socket().display().to_string();
        let log = agent.access_log().display().to_string();
        ensure!(self.text.contains("\ndatapath:\n"), "no section datapath");
        let mode = self.bed.mode.name();
        let places = format!("\ndatapath:\n  pin_directory: {pins}\n");
        let text = self.text.replace("\ndatapath:\n", &places);
        let text = text.replace("mode: auto ", &format!("mode: {mode} "));
        let text = text.replace("/run/pointsman/admin.sock", &socket);
        let text = text.replace("/var/log/pointsman/access.log", &log);
        let text = text.replace("target: journald", "target: stderr");
        match text.contains(&socket) {
            true => Ok(text),
            false => Ok(format!("{text}\nadmin: {{socket: {socket}}}\n")),
        }
    }
}

impl Served<'_> {
    /// Asks every VIP until each server that should answer has, and nobody else.
    fn exchange(&self) -> Result<()> {
        for (name, frontend) in self.example.snapshot.l4_frontends() {
            for bind in &frontend.bind {
                let is_udp = bind.protocol == Protocol::Udp;
                let answers = self.answers(bind.address, is_udp)?;
                self.judge(name, frontend, &answers)
                    .with_context(|| format!("{name} at {}: {answers:?}", bind.address))?;
            }
        }
        Ok(())
    }

    /// Waits until all servers are in a state.
    fn wait_for_servers(&self, state: ServerState) -> Result<()> {
        let waited = wait_until("every server to be so", PATIENCE, || {
            for backend in self.agent.status()?.backends {
                for server in backend.servers {
                    ensure!(server.state == state, "{}: {server:?}, not {state:?}", backend.name);
                }
            }
            Ok(())
        });
        waited.map(drop)
    }

    fn answers(&self, vip: SocketAddr, is_udp: bool) -> Result<BTreeMap<String, usize>> {
        let mut answers = BTreeMap::new();
        for _ in 0..EXCHANGES {
            let answer = self.example.bed.client.run(|| match is_udp {
                true => ask_udp(None, vip),
                false => ask(None, vip),
            });
            let server = answer.with_context(|| format!("ask {vip}"))?;
            *answers.entry(server).or_default() += 1;
        }
        Ok(answers)
    }

    fn judge(
        &self,
        name: &Name,
        frontend: &L4Frontend,
        answers: &BTreeMap<String, usize>,
    ) -> Result<()> {
        let backend = &self.example.snapshot.backends[&frontend.backend];
        let main = backend.servers.iter().filter(|(_, server)| !server.backup);
        let expected: BTreeSet<String> =
            main.map(|(server, _)| format!("{}/{server}", frontend.backend)).collect();
        let found: BTreeSet<String> = answers.keys().cloned().collect();
        ensure!(found.is_subset(&expected), "{name}: somebody else answers");
        match backend.hash {
            // One client is with one server.
            HashBy::Source => ensure!(found.len() == 1, "{name}: not one server"),
            HashBy::Tuple => ensure!(found == expected, "{name}: not all answer"),
        }
        Ok(())
    }

    fn ask_from(&self, source: &str, vip: SocketAddr) -> Result<String> {
        let source = source.parse()?;
        self.example.bed.client.run(|| ask(Some(source), vip))
    }

    fn ask_udp_from(&self, source: &str, vip: SocketAddr) -> Result<String> {
        let source = source.parse()?;
        self.example.bed.client.run(|| ask_udp(Some(source), vip))
    }
}

/// A link between the balancer's `device` and a machine's `eth0`, as [`Bed`] makes them.
fn connect(balancer: &Namespace, machine: &Namespace, device: &str) -> Result<()> {
    let create = ["link", "add", device, "type", "veth", "peer", "name", "eth0"];
    balancer.ip(&[create.as_slice(), &["netns", machine.name()]].concat())?;
    for (namespace, device) in [(balancer, device), (machine, "eth0")] {
        output(namespace.command("ethtool").args(["-K", device, "tx", "off"]))?;
        namespace.ip(&["link", "set", device, "up"])?;
    }
    Ok(())
}

fn add(namespace: &Namespace, device: &str, address: &str) -> Result<()> {
    let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
    namespace.ip(&[&["addr", "add", address, "dev", device], nodad].concat())
}

/// A server that tells its name over HTTP and over UDP; its threads end with the process.
fn start_server(address: SocketAddr, name: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let socket = UdpSocket::bind(address).with_context(|| format!("bind {address}"))?;
    let own = name.to_owned();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let name = own.clone();
            thread::spawn(move || {
                // A check by TCP says nothing.
                let mut request = [0; 1024];
                let Ok(length @ 1..) = stream.read(&mut request) else { return };
                let body = format!("{{\"state\": \"ready\", \"server\": \"{name}\"}}\n");
                let shown = if request[..length].starts_with(b"HEAD ") { "" } else { &body };
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len());
                // Whoever asked may have left.
                let _ = write!(stream, "{head}Connection: close\r\n\r\n{shown}");
            });
        }
    });
    let own = name.to_owned();
    thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut datagram) {
            // As above.
            let _ = socket.send_to(own.as_bytes(), client);
        }
    });
    Ok(())
}

/// Asks over TCP who answers.
fn ask(source: Option<IpAddr>, vip: SocketAddr) -> Result<String> {
    let patience = if source.is_some() { SILENCE } else { PATIENCE };
    let domain = socket2::Domain::for_address(vip);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect_timeout(&vip.into(), patience)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, server) = answer.split_once("\"server\": \"").context("no server's name")?;
    Ok(server.split('"').next().unwrap_or_default().to_owned())
}

/// Asks over UDP who answers; a datagram may be lost while a neighbour is looked for.
fn ask_udp(source: Option<IpAddr>, vip: SocketAddr) -> Result<String> {
    let any = if vip.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind((source.map_or(any.into(), |ip| ip.to_string()), 0))?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.connect(vip)?;
    for _ in 0..3 {
        socket.send(b"who?")?;
        let mut answer = [0; 64];
        match socket.recv(&mut answer) {
            Ok(length) => return Ok(String::from_utf8_lossy(&answer[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("no answer from {vip}")
}
