//! What a page of metrics is made of, as values: whoever knows it all fills it in.

use std::time::{Duration, SystemTime};

use lb_common::counters::TrafficCounters;

use super::process::ProcessReading;
use crate::model::{histogram::TimingTotals, name::Name, state::ServerState};

/// Everything that a page says.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The agent.
    pub agent: AgentReading,
    /// The agent's process; none if the kernel does not say.
    pub process: Option<ProcessReading>,
    /// The data plane; none without one.
    pub datapath: Option<DatapathReading>,
    /// Packets dropped, or answered in place of a server, by the name of the reason.
    pub drops: Vec<(&'static str, u64)>,
    /// The VIPs of layer 4.
    pub vips: Vec<VipReading>,
    /// The frontends of the proxy.
    pub frontends: Vec<FrontendReading>,
    /// All backends.
    pub backends: Vec<BackendReading>,
    /// All servers.
    pub servers: Vec<ServerReading>,
}

/// The agent.
#[derive(Clone, Debug)]
pub struct AgentReading {
    /// Its version.
    pub version: &'static str,
    /// When it started.
    pub started: SystemTime,
    /// When the configuration in force was loaded.
    pub configured: SystemTime,
    /// Reloads that were taken, and that were refused.
    pub reloads: [u64; 2],
    /// Whether the last one was taken; so it is before the first.
    pub last_reload_accepted: bool,
    /// Lines of the access log written, and lost.
    pub log_lines: [u64; 2],
}

/// The data plane.
#[derive(Clone, Debug)]
pub struct DatapathReading {
    /// The name of each interface, and how the program is attached: `native`, `generic`, `off`.
    pub interfaces: Vec<(String, &'static str)>,
    /// Whether the maps are what they should be.
    pub up_to_date: bool,
    /// SYNs are answered with cookies.
    pub syn_cookies: bool,
    /// Name, entries at the last sweep, and capacity of each table of flows.
    pub tables: Vec<(&'static str, u64, u64)>,
    /// Sweeps of the tables.
    pub sweeps: u64,
    /// Time the last one took.
    pub sweep_time: Duration,
    /// Flows that sweeps ended because they were silent.
    pub expired: u64,
    /// Those of which one half was left.
    pub stranded: u64,
    /// Networks on lists, those that are blocked, and room for them.
    pub rules: [u64; 3],
}

/// A VIP.
#[derive(Clone, Debug)]
pub struct VipReading {
    /// Its frontend.
    pub frontend: Name,
    /// Address and port.
    pub address: String,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// What it has carried; none if that is not known at the moment.
    pub traffic: Option<TrafficCounters>,
    /// Flows at the last sweep; none if nobody counts them.
    pub flows: Option<u64>,
}

/// A frontend of the proxy.
#[derive(Clone, Debug)]
pub struct FrontendReading {
    /// Its name.
    pub name: Name,
    /// Connections of clients.
    pub connections: u32,
    /// Most of them.
    pub max_connections: u32,
    /// Connections of clients, those not let in too.
    pub accepted: u64,
    /// Those not let in: for their source, for a limit.
    pub refused: [u64; 2],
    /// Its requests and sessions.
    pub requests: Requests,
    /// How long they took.
    pub timings: TimingTotals,
    /// What became of copies of its requests, sent, for too large a body, for too many on their
    /// way, for want of a server, for a body that broke off.
    pub copies: [u64; 5],
}

/// Requests and sessions of the proxy that are over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requests {
    /// By class of the status, 1xx to 5xx from place 1; those without a status in place 0.
    pub by_class: [u64; 6],
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Servers tried after the first; of a server, tries that followed one there.
    pub retries: u64,
    /// Those that did not end well: through the client, the server, the proxy, policy.
    pub faults: [u64; 4],
}

/// A backend.
#[derive(Clone, Debug)]
pub struct BackendReading {
    /// Its name.
    pub name: Name,
    /// Servers that take new flows.
    pub usable: u64,
    /// What the proxy does with it; none if it does nothing.
    pub proxy: Option<ProxyReading>,
    /// How long its requests took; none if the proxy does nothing with it.
    pub timings: Option<TimingTotals>,
}

/// A server.
#[derive(Clone, Debug)]
pub struct ServerReading {
    /// Its backend.
    pub backend: Name,
    /// Its name.
    pub name: Name,
    /// What it is, all things considered.
    pub state: ServerState,
    /// Since when.
    pub since: SystemTime,
    /// The weight in force.
    pub weight: u16,
    /// Used only while no other server is usable.
    pub backup: bool,
    /// Most requests of the proxy, or flows of layer 4, at a time; none without a limit.
    pub max_connections: Option<u32>,
    /// What layer 4 does with it; none if it does nothing.
    pub layer_4: Option<LayerFour>,
    /// What the proxy does with it; none if it does nothing.
    pub proxy: Option<ProxyReading>,
    /// Whether failed requests keep it from getting others; none if the proxy does not use it.
    pub ejected: Option<bool>,
    /// Its checks; none if it has none.
    pub checks: Option<CheckReading>,
}

/// A server as layer 4 has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayerFour {
    /// What it was sent and sent itself.
    pub traffic: TrafficCounters,
    /// Flows it has now.
    pub flows: u32,
}

/// A backend or a server as the proxy has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProxyReading {
    /// Requests and sessions it has now.
    pub active: u32,
    /// Those that wait for it.
    pub queued: u32,
    /// Those that are over.
    pub requests: Requests,
}

/// The checks of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckReading {
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
    /// How long the last one took; none before the first.
    pub last: Option<Duration>,
}
