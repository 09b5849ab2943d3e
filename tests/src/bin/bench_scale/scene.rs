//! The agent with a large configuration, in the balancer's namespace of a bed.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use lb_common::abi::map;
use pointsman::datapath::batch::BatchMap;
use testbed::{
    agent::Agent,
    bed::{Bed, Family},
    process::Process,
    sweep_bench,
};

use crate::Options;

/// How long a start may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(180);

/// Port of the servers.
const SERVER_PORT: u16 = 5432;

/// An agent that may be killed and started again over its pinned maps.
pub(crate) struct Scene<'bed> {
    /// Its files, socket and pins.
    pub(crate) agent: Agent<'bed>,
    process: Option<Process>,
    log: PathBuf,
}

impl<'bed> Scene<'bed> {
    /// Writes the configuration and starts nothing. Servers are behind the one machine that
    /// the bed has, which answers for none of them: nothing is checked.
    ///
    /// # Errors
    /// If a file or a route can not be made.
    pub(crate) fn new(bed: &'bed Bed, options: &Options) -> Result<Self> {
        let mut agent = Agent::install(bed)?;
        agent.without_report();
        let via = Bed::server_address(0, Family::V4).to_string();
        bed.balancer.ip(&["route", "add", "10.100.0.0/16", "via", &via])?;
        let denied = bed.directory().join("denied");
        fs::write(&denied, networks(options.prefixes)).context("write the networks")?;
        agent.configure_text(&configuration(&agent, bed, &denied, options))?;
        let log = bed.directory().join("scale.log");
        Ok(Self { agent, process: None, log })
    }

    /// Starts the agent; how long it took from there until it said that it was ready.
    ///
    /// # Errors
    /// If it ends, or is not ready in time.
    pub(crate) fn start(&mut self) -> Result<Duration> {
        // One log a start.
        let _ = fs::remove_file(&self.log);
        let mut command = self.agent.run_command()?;
        let start = Instant::now();
        let process = self.process.insert(Process::start(&mut command, &self.log)?);
        loop {
            let elapsed = start.elapsed();
            if fs::read_to_string(&self.log)?.lines().any(|line| line.ends_with(" ready")) {
                return Ok(elapsed);
            }
            let ended = process.ended()?;
            ensure!(ended.is_none() && elapsed < PATIENCE, "{}", process.last_output());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills the agent; the data plane stays.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Puts flows into the table of IPv4.
    ///
    /// # Errors
    /// If the table has no room for them.
    pub(crate) fn fill(&self, flows: u32) -> Result<()> {
        sweep_bench::fill(&BatchMap::new(map::FLOWS4, self.map(map::FLOWS4)?)?, flows)
    }

    /// A pinned map.
    ///
    /// # Errors
    /// If it is not there.
    pub(crate) fn map(&self, name: &str) -> Result<MapData> {
        let path = self.agent.pin_directory().join(name);
        MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))
    }

    /// The agent's process id.
    ///
    /// # Errors
    /// If it does not run.
    pub(crate) fn pid(&self) -> Result<i32> {
        Ok(self.process.as_ref().context("the agent does not run")?.pid()?.as_raw())
    }
}

/// The name of a backend, and of its frontends' first.
pub(crate) fn backend(index: u32) -> String {
    format!("b{index}")
}

/// The name of a server.
pub(crate) fn server(index: u32) -> String {
    format!("s{index}")
}

/// The address of a server.
pub(crate) fn address(index: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0x0a64_0000 + index).into(), SERVER_PORT)
}

/// The backend of a server.
pub(crate) fn backend_of(index: u32, options: &Options) -> u32 {
    index % options.backends
}

/// Networks of lengths from 20 to 32, spread over the addresses below 64.0.0.0.
fn networks(count: u32) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        let length = 20 + number % 13;
        let bits = (number.wrapping_mul(0x9e37_79b9) >> 2) & (u32::MAX << (32 - length));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}/{length}", Ipv4Addr::from(bits));
        text
    })
}

fn configuration(agent: &Agent<'_>, bed: &Bed, denied: &Path, options: &Options) -> String {
    let mut text = format!(
        "datapath:\n  interfaces: [{}]\n  mode: {}\n  pin_directory: {}\n  max_flows: {}\n  \
         timeouts: {{udp: 1h}}\n  deny_file: {}\nadmin: {{socket: {}}}\nfrontends:\n",
        bed.interfaces().join(", "),
        bed.mode.name(),
        agent.pin_directory().display(),
        options.flows,
        denied.display(),
        agent.socket().display()
    );
    // Writing to a string does not fail.
    for vip in 0..options.vips {
        let (bind, to) = (Ipv4Addr::from(0xc633_6400 + vip), backend(vip % options.backends));
        let _ = writeln!(text, "  f{vip}: {{mode: l4, bind: [\"{bind}:5432\"], backend: {to}}}");
    }
    text.push_str("backends:\n");
    for index in 0..options.backends {
        let _ = writeln!(text, "  {}:\n    check: false\n    servers:", backend(index));
        for one in (0..options.servers).filter(|one| backend_of(*one, options) == index) {
            let _ = writeln!(text, "      {}: \"{}\"", server(one), address(one));
        }
    }
    text
}
