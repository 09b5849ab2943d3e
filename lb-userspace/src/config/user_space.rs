//! What frontends of layer 4 can not have where there is no data plane (`datapath.mode: off`)
//! and the proxy serves them, and what they can have only there.

use super::{
    address::judge_proxied,
    fault::{Refusal, Sink},
    frontend::{RawFrontend, RawMode},
    schema::NamedItems,
};
use crate::model::{
    address::ServerAddress,
    snapshot::{Bind, Protocol},
};

/// Whether the proxy can listen there for a frontend of layer 4.
pub(super) fn judge_vip(vip: Bind) -> Result<(), Refusal> {
    let Bind { address, protocol } = vip;
    if protocol == Protocol::Udp {
        let refusal = Refusal::new(format!("{address}/udp needs the data plane"));
        return Err(refusal.hint("with `datapath.mode: off` there is TCP alone"));
    }
    // What is no server's address is no VIP, either; this host's loopback is good for both.
    judge_proxied(address.into()).map_err(|_| {
        let refusal = Refusal::new(format!("{address} can not be a VIP"));
        refusal.hint("a VIP is one address that clients connect to")
    })
}

/// Whether the proxy can connect to a server for a frontend of layer 4.
pub(super) fn judge_server(address: ServerAddress) -> Result<(), Refusal> {
    match address {
        ServerAddress::Ip(_) => judge_proxied(address),
        ServerAddress::Unix(_) => super::address::judge_server(address),
    }
}

/// What is counted packet by packet, and rates of flows, only the data plane can limit.
pub(super) fn judge_limits(frontends: &NamedItems<RawFrontend>, sink: &Sink) {
    for frontend in frontends.values() {
        let mode = frontend.value.as_ref().and_then(|frontend| frontend.mode.as_ref());
        let Some(RawMode::L4(layer_4)) = mode else { continue };
        let Some(limits) = layer_4.limits else { continue };
        if limits.flow_rate.is_some() || limits.packet_rate.is_some() {
            let refusal = Refusal::new("limits new_flows or packets, which needs the data plane");
            let hint = "with `datapath.mode: off` there is connections_per_source";
            sink.fault(&frontend.place, refusal.hint(hint));
        }
    }
}
