//! Lists tracked connections for the operator, beside the control loop: a table of a
//! million flows takes longer to read than the loop may stand still.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    admin::{
        api::{FlowQuery, FlowView, FlowsView},
        command::{CommandError, Reply},
        flow_query::FlowSort,
    },
    clock::Moment,
    datapath::{FlowTables, flows},
    model::{
        flow::{Flow, Selection},
        index::NameIndex,
        snapshot::{Protocol, Snapshot},
        state::ServerId,
    },
    proxy::supervisor::Proxy,
};

/// The tables, for one listing at a time.
#[derive(Clone, Debug)]
pub struct FlowLister {
    tables: Arc<Mutex<FlowTables>>,
}

impl FlowLister {
    /// Lists flows of these tables.
    #[must_use]
    pub fn new(tables: FlowTables) -> Self {
        Self { tables: Arc::new(Mutex::new(tables)) }
    }

    /// Answers a query on a thread of its own.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn answer(&self, snapshot: Arc<Snapshot>, query: FlowQuery, reply: Reply<FlowsView>) {
        let tables = Arc::clone(&self.tables);
        tokio::task::spawn_blocking(move || {
            give(reply, list(&tables, &snapshot, query));
        });
    }
}

/// Answers a query for flows that the proxy carries, once its workers have.
///
/// # Panics
/// Outside a tokio runtime.
pub fn answer_in_user_space(
    proxy: &Proxy,
    snapshot: &Arc<Snapshot>,
    query: FlowQuery,
    reply: Reply<FlowsView>,
) {
    let names = Arc::new(NameIndex::new(snapshot));
    let limit = query.limit.unwrap_or(FlowQuery::DEFAULT_LIMIT);
    let now = Moment::now();
    let filter: Arc<dyn Selection + Send + Sync> =
        match Filter::new(query, snapshot, Arc::clone(&names), now) {
            Ok(filter) => Arc::new(filter),
            Err(error) => return give(reply, Err(error)),
        };
    let listed = proxy.list(&filter, limit);
    tokio::spawn(async move {
        let (flows, truncated) = listed.await;
        let flows = flows.iter().map(|flow| view(flow, &names, &now)).collect();
        give(reply, Ok(FlowsView { flows, truncated }));
    });
}

fn give(reply: Reply<FlowsView>, answer: Result<FlowsView, CommandError>) {
    if reply.send(answer).is_err() {
        tracing::debug!("the operator did not wait for the flows");
    }
}

fn list(
    tables: &Mutex<FlowTables>,
    snapshot: &Snapshot,
    query: FlowQuery,
) -> Result<FlowsView, CommandError> {
    let names = Arc::new(NameIndex::new(snapshot));
    let now = Moment::now();
    let limit = query.limit.unwrap_or(FlowQuery::DEFAULT_LIMIT);
    let filter = Filter::new(query, snapshot, Arc::clone(&names), now)?;
    let tables = tables.lock().unwrap_or_else(PoisonError::into_inner);
    let (flows, truncated) = flows::list(&tables, limit, &filter)
        .map_err(|error| CommandError::Datapath(format!("{:#}", anyhow::Error::from(error))))?;
    Ok(FlowsView { flows: flows.iter().map(|flow| view(flow, &names, &now)).collect(), truncated })
}

/// Which flows a query asks for.
struct Filter {
    query: FlowQuery,
    names: Arc<NameIndex>,
    now: Moment,
}

impl Filter {
    fn new(
        query: FlowQuery,
        snapshot: &Snapshot,
        names: Arc<NameIndex>,
        now: Moment,
    ) -> Result<Self, CommandError> {
        let unknown = |what, name: &str| CommandError::Unknown { what, name: name.to_owned() };
        let (frontend, server) = (query.frontend.as_deref(), query.server.as_deref());
        let mut frontends = snapshot.frontends.keys();
        if let Some(wanted) = frontend
            && !frontends.any(|name| name.as_str() == wanted)
        {
            return Err(unknown("frontend", wanted));
        }
        let mut servers = snapshot.backends.iter().flat_map(|(backend, config)| {
            config.servers.keys().map(move |server| (backend.clone(), server.clone()))
        });
        if let Some(wanted) = server
            && !servers.any(|id| is_called(&id, wanted))
        {
            return Err(unknown("server", wanted));
        }
        Ok(Self { query, names, now })
    }

    fn has_port(flow: &Flow, port: u16) -> bool {
        [flow.client, flow.vip, flow.server, flow.snat].iter().any(|end| end.port() == port)
    }
}

impl Selection for Filter {
    fn may_want(&self, flow: &Flow) -> bool {
        let query = &self.query;
        let protocol = protocol_of(flow.protocol);
        let frontend = |wanted: &String| {
            self.names.frontend(flow.vip, protocol).is_some_and(|name| name.as_str() == wanted)
        };
        let server = |wanted: &String| {
            let found = self.names.server(flow.vip, protocol, flow.server);
            found.is_some_and(|id| is_called(&id, wanted))
        };
        // The cheap ones first.
        query.protocol.is_none_or(|wanted| wanted == protocol)
            && query.port.is_none_or(|wanted| Self::has_port(flow, wanted))
            && query.vip.is_none_or(|wanted| wanted.accepts(flow.vip))
            && query.client.is_none_or(|wanted| wanted.accepts(flow.client.ip()))
            && query.frontend.as_ref().is_none_or(frontend)
            && query.server.as_ref().is_none_or(server)
    }

    fn rank(&self, flow: &Flow) -> Option<u64> {
        let state = state_name(flow, protocol_of(flow.protocol));
        if self.query.state.as_ref().is_some_and(|wanted| !wanted.accepts(state)) {
            return None;
        }
        let nanoseconds = |since: u64| self.now.monotonic_ns.saturating_sub(since);
        let rank = match self.query.sort {
            None => return Some(0),
            Some(FlowSort::Age) => nanoseconds(flow.created_ns),
            Some(FlowSort::Idle) => nanoseconds(flow.last_seen_ns),
            Some(FlowSort::Bytes) => flow.forward_bytes.saturating_add(flow.reply_bytes),
            Some(FlowSort::Packets) => flow.forward_packets.saturating_add(flow.reply_packets),
        };
        Some(if self.query.reverse { u64::MAX - rank } else { rank })
    }

    fn is_ordered(&self) -> bool {
        self.query.sort.is_some()
    }
}

/// Whether a server goes by `SERVER` or `BACKEND/SERVER`.
fn is_called((backend, server): &ServerId, wanted: &str) -> bool {
    match wanted.split_once('/') {
        Some(parts) => parts == (backend.as_str(), server.as_str()),
        None => server.as_str() == wanted,
    }
}

fn view(flow: &Flow, names: &NameIndex, now: &Moment) -> FlowView {
    let protocol = protocol_of(flow.protocol);
    let server = names.server(flow.vip, protocol, flow.server);
    FlowView {
        protocol,
        client: flow.client,
        vip: flow.vip,
        frontend: names.frontend(flow.vip, protocol).map(ToString::to_string),
        server: flow.server,
        server_name: server.map(|(backend, server)| format!("{backend}/{server}")),
        snat: flow.snat,
        forward: flow.progress.forward().name().to_owned(),
        state: state_name(flow, protocol).to_owned(),
        age_s: now.since(flow.created_ns).as_secs(),
        idle_s: now.since(flow.last_seen_ns).as_secs(),
        forward_packets: flow.forward_packets,
        forward_bytes: flow.forward_bytes,
        reply_packets: flow.reply_packets,
        reply_bytes: flow.reply_bytes,
    }
}

fn state_name(flow: &Flow, protocol: Protocol) -> &'static str {
    match (protocol, flow.confirmed) {
        (Protocol::Tcp, _) => flow.progress.state().name(),
        (Protocol::Udp, _) if flow.progress.is_one_way() => "one_way",
        (Protocol::Udp, true) => "replied",
        (Protocol::Udp, false) => "unreplied",
    }
}

fn protocol_of(number: u8) -> Protocol {
    if number == Protocol::Udp.number() { Protocol::Udp } else { Protocol::Tcp }
}

#[cfg(test)]
mod tests {
    use lb_common::{flow::Handle, tcp_state::Progress};

    use super::*;
    use crate::{admin::flow_query::StateFilter, model::fixture::snapshot};

    /// To the first server, to the second, one of a frontend that is gone, and UDP.
    fn flows() -> [Flow; 4] {
        let flow = |protocol, client: &str, vip: &str, server: &str, bytes| Flow {
            protocol,
            client: client.parse().expect("an address"),
            vip: vip.parse().expect("an address"),
            server: server.parse().expect("an address"),
            snat: "10.0.1.1:2000".parse().expect("an address"),
            vip_handle: Handle::default(),
            server_handle: Handle::default(),
            progress: Progress(0),
            confirmed: true,
            created_ns: 1_000_000 - bytes,
            last_seen_ns: 1_000_000,
            forward_packets: 1,
            forward_bytes: bytes,
            reply_packets: 1,
            reply_bytes: bytes,
        };
        [
            flow(6, "10.0.0.7:4001", "10.0.0.100:5432", "10.0.1.20:5432", 10),
            flow(6, "10.0.9.7:4002", "10.0.0.100:5432", "10.0.1.21:5432", 30),
            flow(6, "10.0.0.8:4003", "10.0.0.99:5432", "10.0.1.20:5432", 20),
            flow(17, "10.0.0.9:4004", "10.0.0.100:53", "10.0.1.20:53", 40),
        ]
    }

    fn check(query: &str, expected: Result<&[usize], &str>) {
        let snapshot = snapshot(&[("pg1", "10.0.1.20:5432"), ("pg2", "10.0.1.21:5432")]);
        let names = Arc::new(NameIndex::new(&snapshot));
        let query: FlowQuery = serde_urlencoded::from_str(query).expect("a query");
        let now = Moment { monotonic_ns: 2_000_000, ..Moment::now() };
        let got = Filter::new(query.clone(), &snapshot, names, now).map(|filter| {
            let flows = flows();
            let found = flows.iter().enumerate().filter(|(_, flow)| filter.may_want(flow));
            let mut found: Vec<_> =
                found.filter_map(|(at, flow)| Some((filter.rank(flow)?, at))).collect();
            found.sort_by_key(|(rank, at)| (std::cmp::Reverse(*rank), *at));
            found.into_iter().map(|(_, at)| at).collect::<Vec<_>>()
        });
        let got = got.as_deref().map_err(ToString::to_string);
        assert_eq!(got, expected.map_err(str::to_owned), "{query:?}");
    }

    #[test]
    fn a_query_narrows_the_flows() {
        check("", Ok(&[0, 1, 2, 3]));
        check("frontend=postgres", Ok(&[0, 1]));
        check("server=pg2", Ok(&[1]));
        check("frontend=postgres&server=pg/pg1", Ok(&[0]));
        check("client=10.0.0.0/24", Ok(&[0, 2, 3]));
        check("client=10.0.0.7", Ok(&[0]));
        check("vip=10.0.0.100", Ok(&[0, 1, 3]));
        check("vip=10.0.0.100:53", Ok(&[3]));
        check("protocol=udp", Ok(&[3]));
        check("protocol=tcp&port=4003", Ok(&[2]));
        check("port=2000", Ok(&[0, 1, 2, 3]));
        check("state=replied", Ok(&[3]));
        check("state=unreplied", Ok(&[]));
    }

    #[test]
    fn flows_are_sorted_by_what_is_asked_for() {
        check("sort=bytes", Ok(&[3, 1, 2, 0]));
        check("sort=bytes&reverse=true&protocol=tcp", Ok(&[0, 2, 1]));
        check("sort=age", Ok(&[3, 1, 2, 0]));
        check("sort=packets", Ok(&[0, 1, 2, 3]));
    }

    #[test]
    fn every_state_can_be_asked_for() {
        for flow in flows() {
            let state = state_name(&flow, protocol_of(flow.protocol));
            assert!(state.parse::<StateFilter>().is_ok(), "{state}");
        }
        for bits in 0..=u8::MAX {
            let state = Progress(bits.into()).state().name();
            assert!(state.parse::<StateFilter>().is_ok(), "{state}");
        }
    }

    #[test]
    fn a_name_that_is_not_configured_is_an_error_and_not_an_empty_list() {
        check("frontend=mysql", Err("there is no frontend 'mysql'"));
        check("server=pg3", Err("there is no server 'pg3'"));
        check("server=my/pg1", Err("there is no server 'my/pg1'"));
    }
}
