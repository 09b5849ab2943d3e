//! What frontends of layer 4 can have where there is no data plane (`datapath.mode: off`) and
//! the proxy serves them.

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

/// Whether the proxy can serve a VIP of layer 4.
pub(super) fn judge_vip(vip: Bind) -> Result<(), Refusal> {
    let Bind { address, .. } = vip;
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

/// Nobody remembers clients there.
pub(super) fn no_affinity() -> Refusal {
    let refusal = Refusal::new("does nothing with `datapath.mode: off`");
    refusal.hint("`hash: source` still sends a client to one server while the servers are the same")
}

/// Keys of frontends that the proxy can not honour. Packets of a TCP connection and its SYN are
/// the kernel's.
pub(super) fn judge_frontends(frontends: &NamedItems<RawFrontend>, sink: &Sink) {
    for frontend in frontends.values() {
        let Some(frontend_read) = frontend.value.as_ref() else { continue };
        let Some(RawMode::L4(layer_4)) = frontend_read.mode.as_ref() else { continue };
        if matches!(layer_4.syn_cookies, Some(Some(_))) {
            let refusal = Refusal::new("`syn_cookies` does nothing with `datapath.mode: off`");
            let hint = "the kernel's are in force: sysctl net.ipv4.tcp_syncookies";
            sink.warn(&frontend.place, refusal.hint(hint));
        }
        let vips = frontend_read.vips().into_iter().flatten();
        let has_tcp = vips.filter_map(|bind| bind.value).any(|vip| vip.protocol == Protocol::Tcp);
        if has_tcp && layer_4.limits.is_some_and(|limits| limits.packet_rate.is_some()) {
            let refusal = Refusal::new("limits packets, which holds for UDP alone");
            let hint = "with `datapath.mode: off` TCP has connections_per_source and new_flows";
            sink.warn(&frontend.place, refusal.hint(hint));
        }
    }
}
