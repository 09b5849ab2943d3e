//! Lists tracked connections for the operator, beside the control loop: a table of a
//! million flows takes longer to read than the loop may stand still.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    admin::{
        api::{FlowQuery, FlowView, FlowsView},
        command::{CommandError, Reply},
    },
    clock::Moment,
    datapath::{
        FlowTables,
        flows::{self, Flow},
    },
    model::{
        index::NameIndex,
        snapshot::{Protocol, Snapshot},
        state::ServerId,
    },
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
            let answer = list(&tables, &snapshot, &query);
            if reply.send(answer).is_err() {
                tracing::debug!("the operator did not wait for the flows");
            }
        });
    }
}

fn list(
    tables: &Mutex<FlowTables>,
    snapshot: &Snapshot,
    query: &FlowQuery,
) -> Result<FlowsView, CommandError> {
    let names = NameIndex::new(snapshot);
    let filter = Filter::new(query, snapshot, &names)?;
    let limit = query.limit.unwrap_or(FlowQuery::DEFAULT_LIMIT);
    let tables = tables.lock().unwrap_or_else(PoisonError::into_inner);
    let (flows, truncated) =
        flows::list(&tables, limit, |flow| filter.wants(flow.protocol, flow.vip, flow.server))
            .map_err(|error| CommandError::Datapath(format!("{:#}", anyhow::Error::from(error))))?;
    let now = Moment::now();
    Ok(FlowsView { flows: flows.iter().map(|flow| view(flow, &names, &now)).collect(), truncated })
}

/// Which flows a query asks for.
struct Filter<'a> {
    names: &'a NameIndex,
    frontend: Option<&'a str>,
    server: Option<&'a str>,
}

impl<'a> Filter<'a> {
    fn new(
        query: &'a FlowQuery,
        snapshot: &Snapshot,
        names: &'a NameIndex,
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
        Ok(Self { names, frontend, server })
    }

    fn wants(&self, protocol: u8, vip: SocketAddr, server: SocketAddr) -> bool {
        let protocol = protocol_of(protocol);
        let frontend_fits = self.frontend.is_none_or(|wanted| {
            self.names.frontend(vip, protocol).is_some_and(|name| name.as_str() == wanted)
        });
        frontend_fits
            && self.server.is_none_or(|wanted| {
                let found = self.names.server(vip, protocol, server);
                found.is_some_and(|id| is_called(&id, wanted))
            })
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
        (Protocol::Udp, true) => "replied",
        (Protocol::Udp, false) => "unreplied",
    }
}

fn protocol_of(number: u8) -> Protocol {
    if number == Protocol::Udp.number() { Protocol::Udp } else { Protocol::Tcp }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture::snapshot;

    fn check(frontend: Option<&str>, server: Option<&str>, expected: Result<[bool; 3], &str>) {
        let snapshot = snapshot(&[("pg1", "10.0.1.20:5432"), ("pg2", "10.0.1.21:5432")]);
        let names = NameIndex::new(&snapshot);
        let query = FlowQuery {
            limit: None,
            frontend: frontend.map(str::to_owned),
            server: server.map(str::to_owned),
        };
        let got = Filter::new(&query, &snapshot, &names).map(|filter| {
            // To the first server, to the second, and one of a frontend that is gone.
            let wants = |vip: &str, server: &str| {
                filter.wants(6, vip.parse().expect("an address"), server.parse().expect("one too"))
            };
            [
                wants("10.0.0.100:5432", "10.0.1.20:5432"),
                wants("10.0.0.100:5432", "10.0.1.21:5432"),
                wants("10.0.0.99:5432", "10.0.1.20:5432"),
            ]
        });
        assert_eq!(got.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn a_query_narrows_the_flows() {
        check(None, None, Ok([true, true, true]));
        check(Some("postgres"), None, Ok([true, true, false]));
        check(None, Some("pg2"), Ok([false, true, false]));
        check(Some("postgres"), Some("pg/pg1"), Ok([true, false, false]));
    }

    #[test]
    fn a_name_that_is_not_configured_is_an_error_and_not_an_empty_list() {
        check(Some("mysql"), None, Err("there is no frontend 'mysql'"));
        check(None, Some("pg3"), Err("there is no server 'pg3'"));
        check(None, Some("my/pg1"), Err("there is no server 'my/pg1'"));
    }
}
