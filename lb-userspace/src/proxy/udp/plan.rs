//! VIPs of UDP as workers use them. A reload makes the next plan, which takes over the counters
//! of what is still there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::room::{Most, Room};
use crate::{
    balance::Counters,
    model::{
        frontend::Listen,
        snapshot::{Bind, Snapshot},
    },
    proxy::{
        gate::Gate,
        limits::Connections,
        listen::SocketKey,
        tcp::{plan::TcpPlans, reach::Backend},
        traffic::Traffic,
        worker::Shared,
    },
};

/// Every VIP of UDP.
#[derive(Debug, Default)]
pub struct UdpPlans {
    /// By socket.
    pub sites: BTreeMap<SocketKey, Arc<Site>>,
    /// The flows there are; kept over reloads.
    pub room: Arc<Room>,
    /// How many there may be.
    pub(super) most: Most,
    /// How long the client of a flow that was never answered may be silent.
    pub(super) unreplied: Duration,
    /// How long both sides of a flow may be silent.
    pub(super) replied: Duration,
}

/// A VIP.
#[derive(Debug)]
pub struct Site {
    pub(super) vip: Bind,
    pub(super) backend: Arc<Backend>,
    pub(super) gate: Gate,
    /// The flows of the frontend, with its sessions of TCP; kept over reloads.
    pub(super) connections: Arc<Connections>,
    /// What flows of the frontend came to; kept over reloads.
    pub(super) counters: Arc<Counters>,
    /// What the VIP has carried; kept over reloads.
    pub(super) traffic: Arc<Traffic>,
}

impl UdpPlans {
    /// The plans of a snapshot. `tcp` has its frontends and backends.
    #[must_use]
    pub fn new(snapshot: &Snapshot, shared: &Shared, tcp: &TcpPlans, before: &Self) -> Self {
        let datapath = &snapshot.datapath;
        let layer_4 = snapshot.l4_frontends().filter(|_| snapshot.is_in_user_space());
        let sites = layer_4.flat_map(|(name, frontend)| {
            let plan = tcp.frontends.get(name).zip(tcp.backend(&frontend.backend));
            frontend.datagram_vips().filter_map(move |vip| {
                let (plan, backend) = plan?;
                let site = Site {
                    vip: *vip,
                    backend: Arc::clone(backend),
                    gate: Gate::new(Arc::clone(&shared.gate), name.clone()),
                    connections: Arc::clone(&plan.connections),
                    counters: Arc::clone(&plan.counters),
                    traffic: shared.ledger.vip(*vip),
                };
                Some((SocketKey::of(&Listen::on_vip(vip)), Arc::new(site)))
            })
        });
        let sites: BTreeMap<_, _> = sites.collect();
        let most = match sites.is_empty() {
            true => Most::default(),
            false => Most::new(datapath.max_flows, datapath.max_half_open),
        };
        Self {
            sites,
            most,
            room: Arc::clone(&before.room),
            unreplied: datapath.timeouts.half_open,
            replied: datapath.timeouts.udp,
        }
    }
}
