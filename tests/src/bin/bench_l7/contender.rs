//! Who stands between load and server, each configured as a sensible operator would: one
//! thread, connections kept open on both sides, the client's address passed on, timeouts
//! set. HAProxy and nginx write no log; pointsman writes its access log to a file.
//! `bare_proxy` has none of that: it is the floor of what a proxy on hyper costs.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use testbed::{
    agent::binary,
    bench::nginx,
    process::{Process, wait_until},
};

use crate::{
    scenario::Scenario,
    site::{HTTP, HTTPS, SERVER, Site, TCP},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Where Debian's packages put it.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    /// HAProxy, the yardstick.
    Haproxy,
    /// The product, next to this program; in release builds `cargo xtask bench` makes it.
    Pointsman,
    /// nginx.
    Nginx,
    /// The least that a proxy on hyper can do, next to this program.
    Bare,
}

impl Contender {
    /// All, in the order of their turns.
    pub(crate) const ALL: [Self; 4] = [Self::Haproxy, Self::Pointsman, Self::Nginx, Self::Bare];

    /// The name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Pointsman => "pointsman",
            Self::Nginx => "nginx",
            Self::Bare => "bare",
        }
    }

    /// Whether it can do what a scenario asks.
    pub(crate) const fn serves(self, scenario: Scenario) -> bool {
        match self {
            Self::Haproxy | Self::Pointsman | Self::Nginx => true,
            Self::Bare => !matches!(scenario, Scenario::TcpLarge),
        }
    }

    /// Starts it; it answers when this returns, and is gone when the result is dropped.
    ///
    /// # Errors
    /// When it can not be started or does not get ready.
    pub(crate) fn begin(self, site: &Site) -> Result<Process> {
        let directory = site.turn_directory()?;
        let mut command = match self {
            Self::Haproxy => {
                let file = written(directory.join("haproxy.cfg"), &haproxy(site))?;
                site.proxy_command("haproxy", &["-db".as_ref(), "-f".as_ref(), file.as_ref()])
            }
            Self::Pointsman => {
                let file = written(directory.join("pointsman.yaml"), &pointsman(site, &directory))?;
                let arguments = ["run".as_ref(), "--config".as_ref(), file.as_ref()];
                site.proxy_command(binary()?, &arguments)
            }
            Self::Nginx => {
                let file = written(directory.join("nginx.conf"), &nginx(site))?;
                let arguments = ["-p".as_ref(), directory.as_ref(), "-c".as_ref(), file.as_ref()];
                site.proxy_command("nginx", &arguments)
            }
            Self::Bare => {
                let mut command = site.proxy_command(binary()?.with_file_name("bare_proxy"), &[]);
                command.arg(format!("--http={HTTP}")).arg(format!("--https={HTTPS}"));
                command.arg(format!("--server={SERVER}"));
                command.arg("--certificate").arg(site.certificate());
                command
            }
        };
        let process = Process::start(&mut command, &directory.join("log"))?;
        for address in self.addresses() {
            let answered = wait_until(self.name(), PATIENCE, || {
                site.namespace.run(|| Ok(TcpStream::connect(address)?))
            });
            answered.map_err(|error| error.context(process.last_output()))?;
        }
        Ok(process)
    }

    /// Where it listens.
    const fn addresses(self) -> &'static [SocketAddr] {
        match self {
            Self::Haproxy | Self::Pointsman | Self::Nginx => &[HTTP, HTTPS, TCP],
            Self::Bare => &[HTTP, HTTPS],
        }
    }
}

/// A configuration file.
fn written(file: PathBuf, text: &str) -> Result<PathBuf> {
    fs::write(&file, text).context("write a configuration")?;
    Ok(file)
}

/// It reserves two descriptors for each connection and would not start under a limit that
/// is enough for idle clients alone, if limits were strict.
fn haproxy(site: &Site) -> String {
    format!(
        "global\n    maxconn 11000\n    no strict-limits\n    nbthread 1\n    ssl-default-bind-options ssl-min-ver TLSv1.2\n\
         defaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n    \
         timeout server 60s\n    timeout http-request 10s\n    timeout http-keep-alive 60s\n\
         frontend web\n    option forwardfor\n    bind {HTTP}\n    bind {HTTPS} ssl crt {certificate} alpn h2,http/1.1\n    \
         default_backend web\n\
         backend web\n    balance roundrobin\n    http-reuse always\n    server s1 {SERVER}\n\
         listen tcp\n    mode tcp\n    bind {TCP}\n    option splice-auto\n    server s1 {SERVER}\n",
        certificate = site.certificate().display()
    )
}

fn pointsman(site: &Site, directory: &Path) -> String {
    let (directory, certificate) = (directory.display(), site.certificate());
    let certificate = certificate.display();
    let limits = "limits: {connections: 20000, connections_per_source: 20000}";
    format!(
        "datapath: {{mode: off}}\nadmin: {{socket: {directory}/admin.sock}}\n\
         log: {{access: {{target: {directory}/access.log}}}}\n\
         defaults: {{timeouts: {{client: 60s, server: 60s}}}}\n\
         frontends:\n  web:\n    mode: http\n    bind: [\"{HTTP}\", \
         {{address: \"{HTTPS}\", tls: {{certificates: {certificate}, alpn: [h2, http/1.1]}}}}]\n    \
         backend: web\n    \
         {limits}\n  tcp:\n    mode: tcp\n    bind: [\"{TCP}\"]\n    backend: web\n    {limits}\n\
         backends:\n  web:\n    balance: round-robin\n    \
         idle_connections: {{most: 1024, timeout: 30s}}\n    servers: {{s1: \"{SERVER}\"}}\n"
    )
}

fn nginx(site: &Site) -> String {
    let certificate = site.certificate();
    let certificate = certificate.display();
    let (main, http) = (nginx::MAIN, nginx::HTTP);
    format!(
        "load_module {STREAM_MODULE};\n{main}http {{\n{http}\
         upstream web {{ server {SERVER}; keepalive 1024; keepalive_requests 1000000000; }}\n\
         ssl_certificate {certificate};\nssl_certificate_key {certificate};\n\
         ssl_protocols TLSv1.2 TLSv1.3;\nssl_session_cache shared:SSL:10m;\n\
         server {{ listen {HTTP} backlog=4096; listen {HTTPS} ssl http2 backlog=4096;\n\
         location / {{ proxy_pass http://web; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         proxy_max_temp_file_size 0;\n}}\n}}\n}}\n\
         stream {{ server {{ listen {TCP} backlog=4096; proxy_pass {SERVER}; }} }}\n"
    )
}
