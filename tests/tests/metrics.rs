//! `GET /metrics`: what a Prometheus server reads is what the test has sent, in both formats as
//! Prometheus's own parsers read them, over a crash of the agent and over reloads.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use testbed::{
    agent::Agent,
    bed::{Bed, Family, Mode},
    clients::{self, Conversation, UdpConversation},
    configuration::{FAST_HTTP_CHECK, Service},
    fleet::Fleet,
    process::wait_until,
    python,
    report::note,
    servers::port,
    web::WebClient,
};

const PATIENCE: Duration = Duration::from_secs(10);
/// Where the agent answers, in its namespace.
const LISTEN: &str = "127.0.0.1:9900";
/// The frontend of the proxy, on the balancer's address.
const SITE: &str = "10.91.0.1:8000";

/// What Prometheus's parser makes of a page.
const PARSE: &str = r#"
import json, sys
if sys.argv[1] == "openmetrics":
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
else:
    from prometheus_client.parser import text_string_to_metric_families as parse
families = list(parse(sys.stdin.read()))
for family in families:
    assert family.documentation and family.type != "unknown", family
print(json.dumps([[one.name, one.labels, one.value] for f in families for one in f.samples]))
"#;

/// The name of samples, labels that they have, and what they come to together.
type Sum<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

/// One page, read.
struct Page(Vec<(String, BTreeMap<String, String>, f64)>);

impl Page {
    fn read(bed: &Bed, format: &str) -> Result<Self> {
        let (accept, kind) = match format {
            "openmetrics" => ("application/openmetrics-text", "application/openmetrics-text; "),
            _ => ("text/plain", "text/plain; version=0.0.4"),
        };
        let mut answer = String::new();
        bed.balancer.run(|| {
            let address: SocketAddr = LISTEN.parse()?;
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(
                stream,
                "GET /metrics HTTP/1.1\r\nhost: a\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
            )?;
            stream.read_to_string(&mut answer)?;
            Ok(())
        })?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
        ensure!(head.contains(&format!("content-type: {kind}")), "{head}");
        let mut parser = Command::new(python::interpreter()?)
            .args(["-c", PARSE, format])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start Python")?;
        parser.stdin.take().context("its input")?.write_all(body.as_bytes())?;
        let output = parser.wait_with_output()?;
        ensure!(output.status.success(), "the parser takes offence at\n{body}");
        Ok(Self(serde_json::from_slice(&output.stdout)?))
    }

    /// The sum of the samples of this name that have these labels; none if there are none.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |found: &BTreeMap<String, String>| {
            labels.iter().all(|(name, value)| found.get(*name).is_some_and(|it| it == value))
        };
        let samples = self.0.iter().filter(|(it, found, _)| it == name && has(found));
        samples.map(|(_, _, value)| *value).reduce(|a, b| a + b)
    }

    fn require(&self, expected: &[Sum<'_>]) -> Result<()> {
        for (name, labels, value) in expected {
            let found = self.sum(name, labels);
            ensure!(found == Some(*value), "{name} {labels:?} is {found:?}, not {value}");
        }
        Ok(())
    }
}

/// A page that says this, as soon as one does: workers and sweeps count a moment later.
fn await_page(bed: &Bed, expected: &[Sum<'_>]) -> Result<Page> {
    let waited = wait_until("the counts", PATIENCE, || {
        let page = Page::read(bed, "text")?;
        page.require(expected)?;
        Ok(page)
    });
    waited.map(|(page, _)| page)
}

/// The configuration: layer 4 for lines and datagrams, the proxy for the web.
fn configuration(agent: &Agent<'_>, services: &[Service]) -> String {
    let mut configuration = agent.configuration(services.to_vec());
    configuration.datapath_options.push("sweep_interval: 1s".into());
    let mut text = configuration.render();
    let admin = format!("admin: {{socket: {}", agent.socket().display());
    text = text.replace(&admin, &format!("{admin}, listen: \"{LISTEN}\""));
    let site = format!("frontends:\n  site: {{mode: http, bind: [\"{SITE}\"], backend: web4}}\n");
    text.replace("frontends:\n", &site)
}

fn services(bed: &Bed) -> Vec<Service> {
    let of = |service, protocol| Service {
        check: FAST_HTTP_CHECK.into(),
        ..Service::embedded(bed, service, protocol, Family::V4)
    };
    vec![
        of(("line", port::LINE, port::LINE), "tcp"),
        of(("udp", port::UDP, port::UDP), "udp"),
        of(("web", 80, port::HTTP), "tcp"),
    ]
}

#[test]
fn what_prometheus_reads_is_what_was_sent() -> Result<()> {
    let bed = Bed::new(2, Mode::Native)?;
    let mut fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    let services = services(&bed);
    agent.configure_text(&configuration(&agent, &services))?;
    agent.start()?;

    send_and_count(&bed)?;
    outlive_the_agent(&bed, &mut agent)?;

    // A dead server.
    fleet.kill(1)?;
    let dead = [("backend", "line4"), ("server", "s1"), ("state", "DOWN")];
    let page = await_page(&bed, &[("pointsman_server_state", &dead, 1.0)])?;
    let server = &dead[..2];
    page.require(&[
        ("pointsman_server_state", server, 1.0),
        ("pointsman_backend_usable_servers", &[("backend", "line4")], 1.0),
    ])?;
    let failed = [server, &[("result", "failed")]].concat();
    let failed = page.sum("pointsman_server_checks_total", &failed);
    ensure!(failed >= Some(2.0), "{failed:?} checks failed");

    // What a reload takes away has no series any more, and is counted.
    agent.configure_text(&configuration(&agent, &services[1..]))?;
    agent.reload()?;
    let page = Page::read(&bed, "text")?;
    page.require(&[("pointsman_reloads_total", &[("result", "accepted")], 1.0)])?;
    for name in ["pointsman_vip_flows_opened_total", "pointsman_server_state"] {
        ensure!(page.0.iter().any(|(it, ..)| it == name), "{name} is gone");
        for label in ["frontend", "backend"] {
            ensure!(page.sum(name, &[(label, "line4")]).is_none(), "{name} of line4 is there");
        }
    }
    agent.configure_text("frontends: 7\n")?;
    ensure!(agent.cli(&["reload"])?.code == Some(1), "a faulty configuration was taken");
    Page::read(&bed, "openmetrics")?.require(&[
        ("pointsman_reloads_total", &[("result", "refused")], 1.0),
        ("pointsman_last_reload_accepted", &[], 0.0),
    ])
}

/// Sends what can be counted exactly.
fn send_and_count(bed: &Bed) -> Result<()> {
    const CONNECTIONS: u32 = 60;
    const DATAGRAMS: u32 = 40;
    const EXPIRED: u32 = 7;
    const REQUESTS: u32 = 25;
    let (line, udp) = (Bed::vip(Family::V4, port::LINE), Bed::vip(Family::V4, port::UDP));
    let tally = bed.client.run(|| Ok(clients::short_connections(line, CONNECTIONS.into(), 4)))?;
    tally.require_all(CONNECTIONS.into())?;
    let tally = bed.client.run(|| Ok(clients::udp_exchanges(udp, DATAGRAMS.into(), 4)))?;
    tally.require_all(DATAGRAMS.into())?;
    let site: SocketAddr = SITE.parse()?;
    bed.client.run(|| {
        let mut client = WebClient::connect(site)?;
        (0..REQUESTS).try_for_each(|_| client.get("/health", "").map(drop))
    })?;

    // Ethernet, IPv4 and UDP headers around `datagram 1 `, and around that with the server's name.
    let (sent, answered) = (14 + 20 + 8 + 11, 14 + 20 + 8 + 14);
    let (datagrams, connections) = (f64::from(DATAGRAMS), f64::from(CONNECTIONS));
    let (out, back) = (("direction", "forward"), ("direction", "reply"));
    let expected: &[Sum<'_>] = &[
        ("pointsman_vip_flows_opened_total", &[("frontend", "line4")], connections),
        ("pointsman_server_flows_opened_total", &[("backend", "line4")], connections),
        ("pointsman_vip_flows_opened_total", &[("frontend", "udp4")], datagrams),
        ("pointsman_vip_packets_total", &[("frontend", "udp4"), out], datagrams),
        ("pointsman_vip_packets_total", &[("protocol", "udp"), back], datagrams),
        ("pointsman_vip_bytes_total", &[("frontend", "udp4"), out], datagrams * f64::from(sent)),
        (
            "pointsman_vip_bytes_total",
            &[("frontend", "udp4"), back],
            datagrams * f64::from(answered),
        ),
        (
            "pointsman_server_flow_bytes_total",
            &[("backend", "udp4"), back],
            datagrams * f64::from(answered),
        ),
        (
            "pointsman_frontend_requests_total",
            &[("frontend", "site"), ("code", "2xx")],
            REQUESTS.into(),
        ),
        ("pointsman_frontend_requests_total", &[("frontend", "site")], REQUESTS.into()),
        ("pointsman_backend_requests_total", &[("backend", "web4")], REQUESTS.into()),
        ("pointsman_server_requests_total", &[("backend", "web4")], REQUESTS.into()),
        ("pointsman_frontend_accepted_connections_total", &[("frontend", "site")], 1.0),
        ("pointsman_frontend_errors_total", &[("frontend", "site")], 0.0),
        (
            "pointsman_frontend_request_duration_seconds_count",
            &[("frontend", "site")],
            REQUESTS.into(),
        ),
        (
            "pointsman_backend_response_duration_seconds_bucket",
            &[("backend", "web4"), ("le", "+Inf")],
            REQUESTS.into(),
        ),
        // The servers close after each response.
        (
            "pointsman_backend_connect_duration_seconds_count",
            &[("backend", "web4")],
            REQUESTS.into(),
        ),
        ("pointsman_frontend_connections", &[("frontend", "site")], 0.0),
        ("pointsman_dropped_packets_total", &[], 0.0),
        ("pointsman_interface_attached", &[("interface", "client0"), ("mode", "native")], 1.0),
        ("pointsman_server_state", &[("state", "UP")], 6.0),
        ("pointsman_maps_up_to_date", &[], 1.0),
    ];
    await_page(bed, expected)?;
    Page::read(bed, "openmetrics")?.require(&expected[..14])?;

    bed.client.run(|| {
        let client = UdpConversation::open(udp)?;
        client.socket().set_ttl(1)?;
        Ok((0..EXPIRED).try_for_each(|_| client.send_unanswered(10))?)
    })?;
    let expired = [("reason", "ttl_expired")];
    let page =
        await_page(bed, &[("pointsman_dropped_packets_total", &expired, f64::from(EXPIRED))])?;
    page.require(&[("pointsman_dropped_packets_total", &[], f64::from(EXPIRED))])
}

/// What the operator says of a server is true for layer 4 and the proxy, which share it.
#[test]
fn a_server_in_maintenance_gets_nothing_from_layer_4_nor_from_the_proxy() -> Result<()> {
    const EACH: u32 = 12;
    let bed = Bed::new(2, Mode::Native)?;
    let _fleet = Fleet::start(&bed)?;
    let mut agent = Agent::install(&bed)?;
    let services = services(&bed);
    agent.configure_text(&configuration(&agent, &services[2..]))?;
    agent.start()?;
    let servers = |name, number: u32| {
        let server = [("backend", "web4"), ("server", name)];
        let sum = |page: &Page, metric| page.sum(metric, &server).unwrap_or(-1.0);
        let page = await_page(
            &bed,
            &[
                ("pointsman_server_flows_opened_total", &server[..1], number.into()),
                ("pointsman_server_requests_total", &server[..1], number.into()),
            ],
        )?;
        let opened = sum(&page, "pointsman_server_flows_opened_total");
        anyhow::Ok([opened, sum(&page, "pointsman_server_requests_total")])
    };
    let visit = || {
        bed.client.run(|| {
            for address in [SITE.parse()?, Bed::vip(Family::V4, 80)] {
                for _ in 0..EACH {
                    WebClient::connect(address)?.get("/health", "")?;
                }
            }
            Ok(())
        })
    };
    visit()?;
    let before = servers("s0", EACH)?;
    agent.cli_good(&["server", "set", "web4/s0", "--state", "maint"])?;
    visit()?;
    let after = servers("s0", 2 * EACH)?;
    ensure!(before == after, "s0 had {before:?}, then {after:?}");
    let other = servers("s1", 2 * EACH)?;
    ensure!(other.iter().all(|count| *count >= f64::from(EACH)), "s1 had {other:?}");
    Ok(())
}

/// The data plane's counters go on where they were, whatever becomes of the agent.
fn outlive_the_agent(bed: &Bed, agent: &mut Agent<'_>) -> Result<()> {
    let vip = Bed::vip(Family::V4, port::LINE);
    let mut conversation = bed.client.run(|| Ok(Conversation::open(vip)?))?;
    let opened = |page: &Page| page.sum("pointsman_vip_flows_opened_total", &[]);
    let swept = [("frontend", "line4")];
    let server = conversation.server().to_owned();
    let flows: &[Sum<'_>] = &[
        ("pointsman_vip_flows", &swept, 1.0),
        ("pointsman_server_flows", &[("backend", "line4"), ("server", &server)], 1.0),
    ];
    let before = await_page(bed, flows)?;
    agent.kill();
    agent.start()?;
    conversation.say()?;
    let after = await_page(bed, flows)?;
    ensure!(opened(&after) == opened(&before), "{:?}, then {:?}", opened(&before), opened(&after));
    let of_proxy = after.sum("pointsman_frontend_requests_total", &[]);
    ensure!(of_proxy == Some(0.0), "the proxy is another one: {of_proxy:?}");
    Ok(())
}

/// The size that layer 4 is made for: the page is there before anybody waits for it, and the
/// agent answers meanwhile.
#[test]
fn a_page_of_4096_servers_is_made_beside_the_loop() -> Result<()> {
    // Each has a ring, which takes time to make.
    const BACKENDS: usize = 8;
    let bed = Bed::new(1, Mode::Native)?;
    let mut agent = Agent::install(&bed)?;
    let mut frontends = String::new();
    let mut backends = String::new();
    for number in 0..512 {
        let (port, backend) = (1024 + number, number % BACKENDS);
        frontends.push_str(&format!(
            "  f{number}: {{mode: l4, bind: [\"203.0.113.1:{port}\"], backend: b{backend}}}\n"
        ));
    }
    let each = 4096 / BACKENDS;
    for number in 0..BACKENDS {
        let server = |index| format!("s{index}: \"10.92.0.2:{}\"", 1024 + number * each + index);
        let servers = (0..each).map(server).collect::<Vec<_>>().join(", ");
        backends.push_str(&format!("  b{number}: {{servers: {{{servers}}}}}\n"));
    }
    let empty = configuration(&agent, &[]);
    let (head, _) = empty.split_once("frontends:\n").context("no frontends")?;
    agent.configure_text(&format!("{head}frontends:\n{frontends}backends:\n{backends}"))?;
    agent.start()?;
    let began = Instant::now();
    let answer = bed.balancer.run(|| {
        let mut stream = TcpStream::connect(LISTEN)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let elapsed = began.elapsed();
    let lines = answer.lines().filter(|line| line.contains("{backend=\"b")).count();
    note(format_args!("{} bytes, {lines} lines of servers in {elapsed:?}", answer.len()));
    // State (five), since, weight, flows and their five counters of two directions.
    ensure!(lines >= 4096 * 14, "{lines} lines");
    // Some 20 times what it takes in a release build.
    ensure!(elapsed < Duration::from_secs(2), "{elapsed:?}");
    Ok(())
}
