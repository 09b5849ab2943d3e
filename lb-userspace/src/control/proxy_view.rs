//! What the operator sees of the proxy. Pure.

use std::collections::HashMap;

use super::view::TrafficBook;
use crate::{
    admin::api::{BackendView, FrontendView, ProxyLoad, ProxyTraffic},
    balance::Totals,
    model::{frontend::Frontend, name::Name, snapshot::Snapshot},
    proxy::{report::ProxyReport, supervisor::Proxy},
};

/// Every frontend of the proxy.
pub(super) fn frontends(snapshot: &Snapshot, report: &ProxyReport) -> Vec<FrontendView> {
    let views = snapshot.frontends.iter().filter_map(|(name, frontend)| {
        let (mode, max_connections) = limits(snapshot, frontend)?;
        let vips = frontend.as_l4().into_iter().flat_map(|layer_4| &layer_4.bind);
        let vips = vips.map(|bind| bind.address.to_string());
        let listens = frontend.listen().iter().map(|listen| listen.address.to_string());
        let now = report.frontends.get(name).copied().unwrap_or_default();
        Some(FrontendView {
            name: name.to_string(),
            mode: mode.into(),
            listen: listens.chain(vips).collect(),
            backend: frontend.backend().to_string(),
            connections: now.connections,
            max_connections,
            traffic: traffic(&now.totals),
        })
    });
    views.collect()
}

/// The frontends of the proxy, with most connections of each.
pub(super) fn frontend_limits(snapshot: &Snapshot) -> impl Iterator<Item = (&Name, u32)> {
    snapshot
        .frontends
        .iter()
        .filter_map(|(name, frontend)| Some((name, limits(snapshot, frontend)?.1)))
}

/// The mode of a frontend of the proxy, and most connections; none of another one.
fn limits(snapshot: &Snapshot, frontend: &Frontend) -> Option<(&'static str, u32)> {
    let (mode, limits) = match frontend {
        Frontend::L4(layer_4) if snapshot.is_in_user_space() => {
            ("l4", layer_4.in_user_space(&snapshot.datapath).connections)
        }
        Frontend::L4(_) => return None,
        Frontend::Tcp(tcp) => ("tcp", tcp.connections),
        Frontend::Http(http) => ("http", http.connections),
    };
    Some((mode, limits.total))
}

/// What VIPs and servers of layer 4 have carried in user space, and carry now.
pub(super) fn traffic_of(snapshot: &Snapshot, proxy: &Proxy) -> TrafficBook {
    let ledger = proxy.ledger();
    let mut flows = HashMap::new();
    for (name, backend) in proxy.report(snapshot).backends {
        let Some(known) = snapshot.backends.get(&name) else { continue };
        for member in backend.servers {
            if let Some(server) = known.servers.get(&member.name) {
                flows.insert((name.clone(), server.address), member.active);
            }
        }
    }
    let vips = ledger.vips().into_iter().map(|(vip, carried)| (vip, carried.into()));
    let servers = ledger.servers().into_iter().map(|(place, carried)| (place, carried.into()));
    TrafficBook {
        vips: vips.collect(),
        servers: servers.collect(),
        flows,
        ..TrafficBook::default()
    }
}

/// Adds what the proxy does with backends and servers to what is known of them.
pub(super) fn add_loads(backends: &mut [BackendView], report: &ProxyReport) {
    for view in backends {
        let known = report.backends.iter().find(|(name, _)| name.as_str() == view.name);
        let Some((_, backend)) = known else { continue };
        view.proxy = Some(ProxyLoad {
            active: backend.servers.iter().map(|server| server.active).sum(),
            queued: backend.waiting,
            traffic: traffic(&backend.totals),
        });
        for server in &mut view.servers {
            let mut members = backend.servers.iter();
            let Some(member) = members.find(|member| member.name.as_str() == server.name) else {
                continue;
            };
            server.proxy = Some(ProxyLoad {
                active: member.active,
                queued: member.waiting,
                traffic: traffic(&member.totals),
            });
            server.ejected = member.out.as_ref().map(|(reason, left)| match left {
                Some(left) => format!("{reason}; back in {} s", left.as_secs().max(1)),
                None => reason.clone(),
            });
        }
    }
}

fn traffic(totals: &Totals) -> ProxyTraffic {
    let [_, status_1xx, status_2xx, status_3xx, status_4xx, status_5xx] = totals.requests;
    ProxyTraffic {
        requests: totals.requests.iter().sum(),
        status_1xx,
        status_2xx,
        status_3xx,
        status_4xx,
        status_5xx,
        bytes_in: totals.bytes_in,
        bytes_out: totals.bytes_out,
        retries: totals.retries,
    }
}
