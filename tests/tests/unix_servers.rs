//! Servers on unix sockets: configs/unix-sockets.yaml before Node.js, nginx and Redis. On
//! loopback, without privilege.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use pointsman::model::state::ServerState;
use testbed::{
    loopback::{Loopback, PATIENCE, free, text},
    process::wait_until,
};

/// An HTTP server on the socket it is told of; its answer is its name.
const APPLICATION: &str = "
const [path, name] = process.argv.slice(-2);
require('http').createServer((request, response) => response.end(name)).listen(path);
";

/// The example before its servers.
struct Host {
    place: Loopback,
    /// Its frontends and backends.
    sections: String,
    web: SocketAddr,
    cache: SocketAddr,
    /// The process of `app1`.
    first: usize,
}

impl Host {
    fn start() -> Result<Self> {
        let mut place = Loopback::new()?;
        let (web, cache) = (free()?, free()?);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
        let example = fs::read_to_string(path.join("unix-sockets.yaml"))?;
        let start = example.find("frontends:").context("the example has frontends")?;
        let mut sections = example[start..].replace("interval: 2s", "interval: 200ms");
        let mut first = 0;
        for (socket, own) in [
            ("/run/app/1.sock", "1.sock"),
            ("/run/app/2.sock", "2.sock"),
            ("/run/nginx/files.sock", "files.sock"),
            ("/run/redis/redis.sock", "redis.sock"),
        ] {
            let own = place.path(own);
            ensure!(sections.contains(socket), "the example has no {socket}");
            sections = sections.replace(socket, &text(&own));
            let mut command = server(&place, socket, &own)?;
            let number = place.beside_once(&mut command, || Ok(UnixStream::connect(&own)?))?;
            if socket.ends_with("/1.sock") {
                first = number;
            }
        }
        sections = sections.replace("0.0.0.0:80", &web.to_string());
        sections = sections.replace("0.0.0.0:6379", &cache.to_string());
        place.start(&sections)?;
        Ok(Self { place, sections, web, cache, first })
    }

    fn ask(&self, path: &str, lines: &str) -> Result<(String, String, SocketAddr)> {
        ask(self.web, path, lines)
    }

    /// Waits until a server of `app` has a state, and its reason has a part.
    fn wait_for(&self, name: &str, state: ServerState, reason: &str) -> Result<()> {
        let waited = wait_until("the check to find out", PATIENCE, || {
            let status = self.place.status()?;
            let backend = status.backends.iter().find(|backend| backend.name == "app");
            let servers = &backend.context("app is a backend")?.servers;
            let server =
                servers.iter().find(|server| server.name == name).context(name.to_owned())?;
            ensure!(server.state == state && server.reason.contains(reason), "{server:?}");
            Ok(())
        });
        waited.map(drop)
    }
}

/// What is answered to a request with these header lines, and who asked.
fn ask(web: SocketAddr, path: &str, lines: &str) -> Result<(String, String, SocketAddr)> {
    let mut stream = TcpStream::connect(web)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    Ok((head.to_owned(), body.to_owned(), stream.local_addr()?))
}

/// The command of the server that the example has at `socket`.
fn server(place: &Loopback, socket: &str, own: &Path) -> Result<Command> {
    Ok(match socket {
        "/run/nginx/files.sock" => {
            let who = "$proxy_protocol_addr:$proxy_protocol_port";
            let section = format!(
                "listen unix:{} proxy_protocol; location / {{ return 200 \"{who}\"; }}",
                own.display()
            );
            place.nginx_command("files", &section)?
        }
        "/run/redis/redis.sock" => {
            let mut redis = Command::new("redis-server");
            redis.args(["--port", "0", "--save", "", "--unixsocket"]).arg(own);
            redis.arg("--dir").arg(place.path(""));
            redis
        }
        application => {
            let mut node = Command::new("node");
            node.args(["-e", APPLICATION, "--"]).arg(own).arg(application);
            node
        }
    })
}

#[test]
fn the_example_is_served() -> Result<()> {
    let host = Host::start()?;
    for server in ["app1", "app2"] {
        host.wait_for(server, ServerState::Up, "status 200")?;
    }
    let status = host.place.status()?;
    let addresses: BTreeSet<String> = status
        .backends
        .iter()
        .flat_map(|backend| &backend.servers)
        .map(|server| server.address.to_string())
        .collect();
    let own = format!("unix@{}", text(&host.place.path("1.sock")));
    ensure!(addresses.len() == 4 && addresses.contains(&own), "{addresses:?}");

    let (_, who, client) = host.ask("/static/x", "")?;
    ensure!(who == client.to_string(), "nginx was told of {who}, and {client} asked");

    let mut cache = TcpStream::connect(host.cache)?;
    cache.set_read_timeout(Some(PATIENCE))?;
    cache.write_all(b"PING\r\n")?;
    let mut pong = [0; 7];
    cache.read_exact(&mut pong)?;
    ensure!(&pong == b"+PONG\r\n", "{pong:?}");
    drop(cache);

    let logged = host.place.log(2)?;
    let of = |name: &str| logged.iter().find(|line| line["frontend"] == name);
    let files = format!("unix@{}", text(&host.place.path("files.sock")));
    let line = of("web").context("the request is logged")?;
    ensure!(line["server"] == "nginx" && line["server_address"] == files.as_str(), "{line}");
    let line = of("cache").context("the session is logged")?;
    ensure!(line["server"] == "redis" && line["bytes_down"] == 7, "{line}");
    Ok(())
}

#[test]
fn a_cookie_names_the_server_by_its_path_over_a_restart() -> Result<()> {
    let mut host = Host::start()?;
    let mut owned = Vec::new();
    for _ in 0..8 {
        let (head, server, _) = host.ask("/", "")?;
        let lines = head.lines().filter_map(|line| line.strip_prefix("set-cookie: "));
        let cookie = lines.filter_map(|line| line.split(';').next()).next();
        owned.push((cookie.context("a cookie")?.to_owned(), server));
    }
    let servers: BTreeSet<_> = owned.iter().map(|(_, server)| server).collect();
    ensure!(servers.len() == 2, "one server got them all: {owned:?}");
    host.place.restart(&host.sections.clone())?;
    for (cookie, server) in &owned {
        let (_, now, _) = host.ask("/", &format!("Cookie: {cookie}\r\n"))?;
        ensure!(now == *server, "{cookie} named {server}, now {now}");
    }
    Ok(())
}

#[test]
fn a_server_that_is_gone_is_found_out_and_gets_nothing() -> Result<()> {
    let host = Host::start()?;
    host.wait_for("app1", ServerState::Up, "status 200")?;
    host.place.signal_beside(host.first, Signal::SIGKILL)?;
    host.wait_for("app1", ServerState::Down, "refused")?;
    for _ in 0..6 {
        ensure!(host.ask("/", "")?.1 == "/run/app/2.sock");
    }
    Ok(())
}

#[test]
fn tls_and_http2_go_over_sockets_of_the_host_too() -> Result<()> {
    let (mut place, web) = (Loopback::new()?, free()?);
    let own = rcgen::generate_simple_self_signed(["inside.test".to_owned()])?;
    let (certificate, key) = (place.path("own.pem"), place.path("own.key"));
    fs::write(&certificate, own.cert.pem())?;
    fs::write(&key, own.signing_key.serialize_pem())?;
    let (certificate, key) = (text(&certificate), text(&key));
    let [encrypted, both, clear] =
        ["encrypted.sock", "both.sock", "clear.sock"].map(|name| text(&place.path(name)));
    let section = format!(
        "listen unix:{encrypted} ssl; listen unix:{both} ssl http2; listen unix:{clear} http2;\n\
         ssl_protocols TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key};\n\
         location / {{ return 200 \"$server_protocol $ssl_protocol $ssl_server_name\"; }}"
    );
    let mut command = place.nginx_command("sockets", &section)?;
    place.beside_once(&mut command, || Ok(UnixStream::connect(&clear)?))?;
    let rules = ["both", "clear", "other"]
        .map(|name| format!("{{if: {{path_prefix: /{name}/}}, backend: {name}}}"));
    let tls = |name: &str| format!("tls: {{ca: {certificate}, sni: {name}}}");
    let (tls, other) = (tls("inside.test"), tls("other.test"));
    place.start(&format!(
        "frontends: {{f: {{mode: http, bind: [\"{web}\"], backend: encrypted, rules: [{}]}}}}\n\
         backends:\n  \
           encrypted: {{{tls}, servers: {{s: \"unix@{encrypted}\"}}}}\n  \
           both: {{protocol: http2, {tls}, servers: {{s: \"unix@{both}\"}}}}\n  \
           clear: {{protocol: http2, servers: {{s: \"unix@{clear}\"}}}}\n  \
           other: {{{other}, servers: {{s: \"unix@{encrypted}\"}}}}\n",
        rules.join(", ")
    ))?;
    // The second time perhaps over the connection of the first.
    for _ in 0..2 {
        for (path, expected) in [
            ("/", "HTTP/1.1 TLSv1.3 inside.test"),
            ("/both/", "HTTP/2.0 TLSv1.3 inside.test"),
            ("/clear/", "HTTP/2.0  "),
        ] {
            let (_, said, _) = ask(web, path, "")?;
            ensure!(said == expected, "{path}: {said}");
        }
    }
    // There, too, it must be who it should be.
    let refused = ask(web, "/other/", "").expect_err("the certificate has another name");
    ensure!(refused.to_string().starts_with("HTTP/1.1 502 "), "{refused}");
    let logged = place.log(7)?;
    let address = |line: &serde_json::Value| line["server_address"].as_str().map(str::to_owned);
    let all = logged.iter().all(|line| address(line).is_some_and(|it| it.starts_with("unix@/")));
    ensure!(all, "{logged:?}");
    Ok(())
}
