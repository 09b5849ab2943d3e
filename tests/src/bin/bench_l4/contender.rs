//! What stands between client and servers: nothing, pointsman, HAProxy, nftables. Each is
//! set up for its turn and gone after it, so that none pays for another.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use lb_common::forward::Forward;
use testbed::{
    agent::Agent,
    bed::{Bed, Family},
    configuration::{Service, quoted},
    namespace::{Namespace, output},
    process::{Process, wait_until},
};

use crate::{
    direct,
    server::{self, PORT},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Contender {
    /// A link of its own from the client to the first server.
    Direct,
    /// The product, in native mode.
    Pointsman,
    /// HAProxy in TCP mode.
    Haproxy,
    /// nftables: DNAT to the servers in turn, masquerade on the way out.
    Nftables,
}

impl Contender {
    /// All, in the order of their turns.
    pub(crate) const ALL: [Self; 4] =
        [Self::Direct, Self::Pointsman, Self::Haproxy, Self::Nftables];

    /// The name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Pointsman => "pointsman",
            Self::Haproxy => "haproxy",
            Self::Nftables => "nftables",
        }
    }

    /// Where the client connects to.
    pub(crate) const fn target(self) -> SocketAddr {
        match self {
            Self::Direct => SocketAddr::new(direct::SERVER_ADDRESS, PORT),
            _ => Bed::vip(Family::V4, PORT),
        }
    }

    /// Sets it up; it works when this returns, and is gone when the result is dropped.
    ///
    /// # Errors
    /// When a program can not be started or does not get ready.
    pub(crate) fn begin(self, bed: &Bed) -> Result<Turn<'_>> {
        let turn = match self {
            Self::Direct => Turn::Nothing,
            Self::Pointsman => Turn::Pointsman { agent: pointsman(bed)? },
            Self::Haproxy => haproxy(bed)?,
            Self::Nftables => nftables(bed)?,
        };
        let target = self.target();
        let answered = wait_until(self.name(), PATIENCE, || {
            bed.client.run(|| Ok(TcpStream::connect_timeout(&target, Duration::from_secs(1))?))
        });
        answered.map_err(|error| error.context(turn.last_output()))?;
        Ok(turn)
    }
}

/// A contender at work.
#[derive(Debug)]
pub(crate) enum Turn<'bed> {
    /// Nothing to take down.
    Nothing,
    /// The agent; dropping it takes the data plane down too.
    Pointsman { agent: Agent<'bed> },
    /// The process, and the address it listens on.
    Haproxy { process: Process, balancer: &'bed Namespace },
    /// The rules.
    Nftables { balancer: &'bed Namespace },
}

impl Turn<'_> {
    fn last_output(&self) -> String {
        match self {
            Self::Haproxy { process, .. } => process.last_output(),
            Self::Pointsman { agent } => agent.log(),
            Self::Nothing | Self::Nftables { .. } => "no answer".into(),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // The bed goes soon after; what is left behind shows in the next turn's figures.
        match self {
            Self::Nothing | Self::Pointsman { .. } => {}
            Self::Haproxy { process, balancer } => {
                process.kill();
                let _ = balancer.ip(&["addr", "del", &vip_prefix(), "dev", "lo"]);
            }
            Self::Nftables { balancer } => {
                let _ = output(balancer.command("nft").args(["delete", "table", "ip", TABLE]));
            }
        }
    }
}

const TABLE: &str = "bench";

fn pointsman(bed: &Bed) -> Result<Agent<'_>> {
    let servers = (0_u8..).zip(servers(bed));
    let service = Service {
        name: "web".into(),
        vip: Contender::Pointsman.target(),
        protocol: "tcp",
        forward: Forward::Nat,
        frontend_options: Vec::new(),
        options: Vec::new(),
        check: "{type: tcp}".into(),
        servers: servers.map(|(index, server)| (format!("s{index}"), quoted(server))).collect(),
    };
    let mut agent = Agent::install(bed)?;
    agent.without_report();
    // The others write no line for each connection either.
    let text = agent.configuration(vec![service]).render();
    let lines = text.lines().filter(|line| !line.starts_with("log:"));
    agent.configure_text(&lines.collect::<Vec<_>>().join("\n"))?;
    agent.start()?;
    Ok(agent)
}

fn haproxy(bed: &Bed) -> Result<Turn<'_>> {
    let servers: String = servers(bed)
        .enumerate()
        .map(|(index, server)| format!("    server s{index} {server}\n"))
        .collect();
    let target = Contender::Haproxy.target();
    let text = format!(
        "global\n    maxconn 2000\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n\
         frontend web\n    bind {target}\n    default_backend web\n\
         backend web\n    balance roundrobin\n{servers}"
    );
    let file = write(bed, "haproxy.cfg", &text)?;
    bed.balancer.ip(&["addr", "add", &vip_prefix(), "dev", "lo"])?;
    let mut command = bed.balancer.command("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let process = Process::start(&mut command, &bed.directory().join("haproxy.log"))?;
    Ok(Turn::Haproxy { process, balancer: &bed.balancer })
}

fn nftables(bed: &Bed) -> Result<Turn<'_>> {
    let target = Contender::Nftables.target();
    let servers: Vec<String> = servers(bed).map(|server| server.ip().to_string()).collect();
    let map: Vec<String> =
        servers.iter().enumerate().map(|(index, ip)| format!("{index} : {ip}")).collect();
    let text = format!(
        "table ip {TABLE} {{\n\
         chain in {{ type nat hook prerouting priority dstnat;\n\
         ip daddr {} tcp dport {} dnat to numgen inc mod {} map {{ {} }}\n}}\n\
         chain out {{ type nat hook postrouting priority srcnat;\n\
         ip daddr {{ {} }} masquerade\n}}\n}}\n",
        target.ip(),
        target.port(),
        servers.len(),
        map.join(", "),
        servers.join(", ")
    );
    let file = write(bed, "rules.nft", &text)?;
    output(bed.balancer.command("nft").arg("-f").arg(&file))?;
    Ok(Turn::Nftables { balancer: &bed.balancer })
}

fn servers(bed: &Bed) -> impl Iterator<Item = SocketAddr> {
    (0_u8..).zip(&bed.servers).map(|(index, _)| server::address(index))
}

fn vip_prefix() -> String {
    format!("{}/32", testbed::bed::vip(Family::V4))
}

fn write(bed: &Bed, name: &str, text: &str) -> Result<PathBuf> {
    let file: PathBuf = Path::join(bed.directory(), name);
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}
