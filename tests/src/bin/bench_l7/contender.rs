//! Who stands between load and server, each configured as a sensible operator would: one
//! thread, connections kept open on both sides, the client's address passed on, timeouts
//! set. HAProxy and nginx write no log; pointsman writes its access log to a file.

use std::{fs, net::TcpStream, path::Path, time::Duration};

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
}

impl Contender {
    /// All, in the order of their turns.
    pub(crate) const ALL: [Self; 3] = [Self::Haproxy, Self::Pointsman, Self::Nginx];

    /// The name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Pointsman => "pointsman",
            Self::Nginx => "nginx",
        }
    }

    /// Whether it can do what a scenario asks.
    pub(crate) const fn serves(self, scenario: Scenario) -> bool {
        use Scenario::{H1Close, H1Kilobyte, H1Large, H1Small, Idle};
        match self {
            Self::Haproxy | Self::Nginx => true,
            Self::Pointsman => {
                matches!(scenario, H1Small | H1Kilobyte | H1Close | H1Large | Idle)
            }
        }
    }

    /// Starts it; it answers when this returns, and is gone when the result is dropped.
    ///
    /// # Errors
    /// When it can not be started or does not get ready.
    pub(crate) fn begin(self, site: &Site) -> Result<Process> {
        let directory = site.turn_directory()?;
        let (file, text) = match self {
            Self::Haproxy => (directory.join("haproxy.cfg"), haproxy(site)),
            Self::Pointsman => (directory.join("pointsman.yaml"), pointsman(&directory)),
            Self::Nginx => (directory.join("nginx.conf"), nginx(site)),
        };
        fs::write(&file, text).context("write a configuration")?;
        let process = match self {
            Self::Haproxy => {
                let mut command = site.proxy_command("haproxy");
                Process::start(command.arg("-db").arg("-f").arg(&file), &directory.join("log"))?
            }
            Self::Pointsman => {
                let binary = binary()?;
                let mut command = site.proxy_command(binary.to_str().context("a path")?);
                command.args(["run", "--config"]).arg(&file);
                Process::start(&mut command, &directory.join("log"))?
            }
            Self::Nginx => {
                let command = site.proxy_command("nginx");
                nginx::run(&site.namespace, command, &directory, &file, HTTP)?
            }
        };
        let all = [HTTP, HTTPS, TCP];
        for address in if self == Self::Pointsman { &all[..1] } else { &all[..] } {
            let answered = wait_until(self.name(), PATIENCE, || {
                site.namespace.run(|| Ok(TcpStream::connect(address)?))
            });
            answered.map_err(|error| error.context(process.last_output()))?;
        }
        Ok(process)
    }
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

fn pointsman(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "datapath: {{mode: off}}\nadmin: {{socket: {directory}/admin.sock}}\n\
         log: {{access: {{target: {directory}/access.log}}}}\n\
         defaults: {{timeouts: {{client: 60s, server: 60s}}}}\n\
         frontends:\n  web:\n    mode: http\n    bind: [\"{HTTP}\"]\n    backend: web\n    \
         limits: {{connections: 20000, connections_per_source: 20000}}\n\
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
