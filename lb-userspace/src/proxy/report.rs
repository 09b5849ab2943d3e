//! How the proxy is doing, for the operator.

use std::{collections::BTreeMap, time::Instant};

use super::plan::Plan;
use crate::{
    balance::{Copied, MemberReport, Pools, Totals},
    model::{histogram::TimingTotals, name::Name},
};

/// How the proxy is doing.
#[derive(Clone, Debug, Default)]
pub struct ProxyReport {
    /// Its frontends.
    pub frontends: BTreeMap<Name, FrontendReport>,
    /// The backends that it uses.
    pub backends: BTreeMap<Name, BackendReport>,
}

/// How one frontend is doing.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrontendReport {
    /// Connections of clients.
    pub connections: u32,
    /// What its requests or sessions came to.
    pub totals: Totals,
    /// How long they took.
    pub timings: TimingTotals,
    /// What became of copies of its requests, in the order of [`Copied::ALL`].
    pub copies: [u64; Copied::ALL.len()],
}

/// How one backend is doing.
#[derive(Clone, Debug, Default)]
pub struct BackendReport {
    /// Requests and sessions that wait.
    pub waiting: u32,
    /// What its requests and sessions came to.
    pub totals: Totals,
    /// How long they took.
    pub timings: TimingTotals,
    /// Its servers.
    pub servers: Vec<MemberReport>,
}

/// How all of it is doing now.
pub(super) fn report(plan: &Plan, pools: &Pools, names: &[Name]) -> ProxyReport {
    let http = plan.http.iter().map(|(name, http)| {
        let (connections, totals) = (http.connections.total(), http.counters.totals());
        let (timings, copies) = (http.timings.totals(), http.copies.totals());
        (name.clone(), FrontendReport { connections, totals, timings, copies })
    });
    let tcp = plan.tcp.frontends.iter().map(|(name, tcp)| {
        let (connections, totals) = (tcp.connections.total(), tcp.counters.totals());
        let timings = tcp.timings.totals();
        (name.clone(), FrontendReport { connections, totals, timings, ..Default::default() })
    });
    let now = Instant::now();
    let backends = names.iter().filter_map(|name| {
        let pool = pools.get(name)?;
        let (waiting, totals) = (pool.waiting(), pool.counters().totals());
        let (timings, servers) = (pool.timings().totals(), pool.report(now));
        Some((name.clone(), BackendReport { waiting, totals, timings, servers }))
    });
    ProxyReport { frontends: http.chain(tcp).collect(), backends: backends.collect() }
}
