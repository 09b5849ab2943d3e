//! Requests and answers of the admin interface as they stand in JSON.
//!
//! The agent writes them, the command line and everybody's `curl | jq` read them, so
//! fields are added but never change their meaning. Names carry units: `_s` seconds.

use std::{fmt, net::SocketAddr};

use lb_common::counters::TrafficCounters;
use serde::{Deserialize, Serialize};

pub use super::flow_query::FlowQuery;
use crate::model::{
    address::ServerAddress,
    snapshot::{AttachMode, HashBy, OnDown, Protocol},
    state::{AdminState, Health, ServerState},
};

/// Answer to `GET /v1/status`: everything about the agent at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// The agent itself.
    pub agent: AgentView,
    /// The kernel half.
    pub datapath: DatapathView,
    /// What an operator should look at, one sentence each; empty when all is well.
    pub warnings: Vec<String>,
    /// Every VIP of every frontend.
    pub vips: Vec<VipView>,
    /// Every frontend of the proxy.
    #[serde(default)]
    pub frontends: Vec<FrontendView>,
    /// Every backend with its servers.
    pub backends: Vec<BackendView>,
}

/// The agent process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// Version of the binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// The configuration file in force.
    pub configuration: String,
    /// When that configuration was loaded, RFC 3339, UTC.
    pub configured_at: String,
    /// The last reload; none if there was none since the start.
    pub last_reload: Option<LastReload>,
    /// Lines of the access log; none if it is off.
    pub access_log: Option<AccessLogView>,
}

/// How the last reload went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReload {
    /// When, RFC 3339, UTC.
    pub at: String,
    /// Whether the new configuration was taken.
    pub accepted: bool,
    /// How many faults it had; 0 if it was taken.
    pub faults: usize,
}

/// What became of the lines of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLogView {
    /// Lines written.
    pub written: u64,
    /// Lines lost because the disk was too slow or refused them.
    pub lost: u64,
}

/// The kernel half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatapathView {
    /// What the configuration asks for.
    pub mode: AttachMode,
    /// Directory of the pins.
    pub pin_directory: String,
    /// Where the program is attached.
    pub interfaces: Vec<InterfaceView>,
    /// How full the tables of flows are.
    pub tables: Vec<TableView>,
    /// Rules for sources of packets.
    pub rules: RulesView,
    /// Whether so many SYNs come that they are answered with cookies.
    pub syn_cookies: bool,
    /// Why the maps are not what they should be; none if they are.
    pub apply_error: Option<String>,
}

/// How many rules there are for sources of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesView {
    /// Networks on lists of the configuration.
    pub listed: usize,
    /// Networks that the operator blocks.
    pub blocked: usize,
    /// Most rules of each family.
    pub capacity: u64,
}

/// One interface the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Name of the interface.
    pub name: String,
    /// How the program is attached: `native` or `generic`; `off` if it is not.
    pub mode: AttachMode,
}

/// One table of flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableView {
    /// Name of the pinned map.
    pub name: String,
    /// Entries at the last sweep; a flow has two.
    pub entries: u64,
    /// Most entries the table can hold.
    pub capacity: u64,
}

/// Traffic of one VIP or server since the data plane was loaded, all CPUs added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Flows created.
    pub flows: u64,
    /// Packets client to server.
    pub forward_packets: u64,
    /// Bytes of those packets, Ethernet header included.
    pub forward_bytes: u64,
    /// Packets server to client.
    pub reply_packets: u64,
    /// Bytes of those packets, Ethernet header included.
    pub reply_bytes: u64,
    /// Clients answered with a RST because no server could have them.
    pub resets: u64,
}

impl From<TrafficCounters> for Traffic {
    fn from(counters: TrafficCounters) -> Self {
        Self {
            flows: counters.flows,
            forward_packets: counters.forward_packets,
            forward_bytes: counters.forward_bytes,
            reply_packets: counters.reply_packets,
            reply_bytes: counters.reply_bytes,
            resets: counters.resets,
        }
    }
}

/// One VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipView {
    /// The frontend it belongs to.
    pub frontend: String,
    /// Address and port.
    pub address: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The backend its flows go to.
    pub backend: String,
    /// How packets reach its servers: `nat`, `dsr`, `ipip` or `gue`.
    pub forward: String,
    /// Servers see the balancer's address as their client's. False with half NAT, and where
    /// `forward` is another one than `nat`.
    pub snat: bool,
    /// Its traffic.
    pub traffic: Traffic,
}

/// Requests of `mode: http`, or sessions of `mode: tcp`, that are over; since the frontend,
/// backend or server came into the configuration of this agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyTraffic {
    /// All of them.
    pub requests: u64,
    /// Those whose client was sent a status of this class.
    pub status_1xx: u64,
    /// 200 to 299.
    pub status_2xx: u64,
    /// 300 to 399.
    pub status_3xx: u64,
    /// 400 to 499.
    pub status_4xx: u64,
    /// 500 to 599.
    pub status_5xx: u64,
    /// Bytes from clients: of bodies, or of sessions.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Servers tried after the first.
    pub retries: u64,
}

/// One frontend of the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendView {
    /// Its name.
    pub name: String,
    /// `http` or `tcp`.
    pub mode: String,
    /// Where it listens, as it is configured.
    pub listen: Vec<String>,
    /// The backend of what no rule sends elsewhere.
    pub backend: String,
    /// Connections of clients.
    pub connections: u32,
    /// Most of them.
    pub max_connections: u32,
    /// What requests and sessions came to.
    pub traffic: ProxyTraffic,
}

/// What the proxy does with a backend or a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyLoad {
    /// Requests and sessions it has now.
    pub active: u32,
    /// Those that wait: for the server alone, or for any of the backend.
    pub queued: u32,
    /// What those that are over came to.
    pub traffic: ProxyTraffic,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendView {
    /// Its name.
    pub name: String,
    /// What selects the server of a new flow.
    pub hash: HashBy,
    /// What happens to the flows of a dead server.
    pub on_down: OnDown,
    /// The kind of check: `tcp`, `http`; `none` if its servers are not checked.
    pub check: String,
    /// How many of its servers take new flows.
    pub usable: usize,
    /// What the proxy does with it; none if it does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyLoad>,
    /// Its servers.
    pub servers: Vec<ServerView>,
}

/// One server. Also the answer to `POST /v1/servers/{backend}/{server}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: ServerAddress,
    /// What it is, all things considered, as the data plane's maps have it.
    pub state: ServerState,
    /// What it is known to be while the maps do not have that yet; none if they do.
    pub applying: Option<ServerState>,
    /// What the operator asked for.
    pub admin: AdminState,
    /// What the checks found.
    pub health: Health,
    /// Why `health` is what it is.
    pub reason: String,
    /// When `state` last changed, RFC 3339, UTC.
    pub since: String,
    /// Seconds since then.
    pub state_s: u64,
    /// The weight in force, 0 to 256.
    pub weight: u16,
    /// The weight of the configuration.
    pub configured_weight: u16,
    /// Share of its weight that it has meanwhile, in percent, if it has come back and grows
    /// (`slow_start`); none if it has all of it. Of layer 4 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grown_percent: Option<u32>,
    /// Used only while no other server is usable.
    pub backup: bool,
    /// Most requests of the proxy, or flows of layer 4, that it may have at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Flows of layer 4 that it has at the moment, confirmed by both sides and not over.
    #[serde(default)]
    pub flows_now: u64,
    /// Its traffic in the data plane.
    pub traffic: Traffic,
    /// What the proxy does with it; none if it does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyLoad>,
    /// Why requests of the proxy that failed keep it from getting others; none if they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected: Option<String>,
}

/// Answer to `GET /v1/flows`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsView {
    /// The flows, in the order that was asked for, or in none.
    pub flows: Vec<FlowView>,
    /// There are more than these.
    pub truncated: bool,
}

/// One tracked connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowView {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The client.
    pub client: SocketAddr,
    /// The VIP.
    pub vip: SocketAddr,
    /// The frontend of that VIP; none if it is no longer configured.
    pub frontend: Option<String>,
    /// The server.
    pub server: SocketAddr,
    /// Its name, `BACKEND/SERVER`; none if it is no longer configured.
    pub server_name: Option<String>,
    /// The address the server sees as the client.
    pub snat: SocketAddr,
    /// How its packets reach the server: `nat`, `dsr`, `ipip` or `gue`.
    pub forward: String,
    /// TCP: the name of the state. UDP: `replied`, `unreplied`, or `one_way` if replies do not
    /// pass through the balancer.
    pub state: String,
    /// Seconds since the flow was created.
    pub age_s: u64,
    /// Seconds since its last packet.
    pub idle_s: u64,
    /// Packets client to server.
    pub forward_packets: u64,
    /// Bytes of those packets.
    pub forward_bytes: u64,
    /// Packets server to client.
    pub reply_packets: u64,
    /// Bytes of those packets.
    pub reply_bytes: u64,
}

/// Answer to `GET /v1/drops`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropsView {
    /// Every reason, those that never occurred too.
    pub drops: Vec<DropView>,
}

/// How often packets were dropped for one reason since the data plane was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropView {
    /// The stable name of the reason.
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// One sentence for people.
    pub description: String,
}

/// Body of `POST /v1/servers/{backend}/{server}`; at least one field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSet {
    /// What the operator wants of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AdminState>,
    /// The weight to use in place of the configured one, 0 to [`ServerSet::MAX_WEIGHT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
}

impl ServerSet {
    /// Greatest weight of a server.
    pub const MAX_WEIGHT: u16 = 256;
}

/// Body of `POST /v1/block`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockSet {
    /// An address or a network: `192.0.2.7`, `2001:db8::/32`.
    pub source: String,
    /// Seconds until it ends by itself; none until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_s: Option<u64>,
    /// A frontend; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
    /// Why, for those who look at it later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl BlockSet {
    /// Longest time of a block, seconds; longer ones have no end.
    pub const MAX_SECONDS: u64 = 366 * 86_400;
    /// Longest reason, bytes.
    pub const MAX_REASON: usize = 256;
}

/// Body of `POST /v1/unblock`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnblockSet {
    /// What was blocked.
    pub source: String,
    /// The frontend that it was blocked for, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
}

/// Answer to `GET /v1/blocks` and `POST /v1/unblock`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlocksView {
    /// Everything that is blocked.
    pub blocks: Vec<BlockView>,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockView {
    /// An address or a network.
    pub source: String,
    /// The frontend; none if it is blocked for all.
    pub frontend: Option<String>,
    /// When it was ordered, RFC 3339, UTC.
    pub since: String,
    /// When it ends by itself; none if it does not.
    pub expires: Option<String>,
    /// Seconds until then.
    pub left_s: Option<u64>,
    /// Why; may be empty.
    pub reason: String,
}

/// Answer to `POST /v1/reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadResult {
    /// Whether the new configuration was taken. If not, the old one stays in force.
    pub accepted: bool,
    /// Everything wrong with it; empty if it was taken.
    pub faults: Vec<FaultView>,
    /// What will only take effect after a restart, and the like.
    pub warnings: Vec<String>,
}

/// One fault of a configuration. Also what `pointsman check --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultView {
    /// The file.
    pub file: String,
    /// Line in the file, from 1; none if the fault is not in the file itself.
    pub line: Option<usize>,
    /// Column, from 1, in characters.
    pub column: Option<usize>,
    /// Path of the key, such as `backends.pg.servers.pg1.weight`; may be empty.
    pub path: String,
    /// The value at fault, if there is one.
    pub value: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for FaultView {
    /// `FILE:LINE: PATH: MESSAGE`, and the hint on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n    hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    pub hint: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_fields_of_a_request_are_left_out() {
        let set = ServerSet { state: Some(AdminState::Drain), weight: None };
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"{"state":"drain"}"#);
    }
}
