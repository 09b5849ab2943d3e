//! Whether a layer-4 frontend can send its packets to the servers of its backend.

use super::{
    backend::RawBackend,
    fault::{Place, Refusal, Sink},
    frontend::RawL4,
    resolve::family,
};

/// A layer-4 frontend against its servers: families, and ports that nobody translates.
pub(super) fn judge(frontend: &RawL4, backend: &RawBackend, place: &Place, sink: &Sink) {
    let Some(forward) = frontend.forward else { return };
    let servers = backend
        .servers
        .iter()
        .filter_map(|(name, server)| Some((name, server.value.as_ref()?.address()?.socket()?)));
    let vips = || frontend.vips.iter().filter_map(|bind| Some(bind.value?.address));
    let (Some(vip), Some((_, server))) = (vips().next(), servers.clone().next()) else { return };
    if !forward.encapsulates() && vip.is_ipv4() != server.is_ipv4() {
        let (own, theirs) = (family(vip), family(server));
        let message = format!("its servers are {theirs}, the frontend's VIPs are {own}");
        let hint = "give each family its own frontend and its own backend";
        sink.fault(place, Refusal::new(message).hint(hint));
    }
    if !forward.is_one_way() {
        return;
    }
    for vip in vips() {
        let other = servers.clone().find(|(_, address)| address.port() != vip.port());
        if let Some((name, address)) = other {
            let message = format!(
                "`forward: {}` leaves ports as they are, but its server {name} has port {} and \
                 the VIP {vip} another",
                forward.name(),
                address.port(),
            );
            let hint = "give the servers the VIP's port, or use `forward: nat`";
            sink.fault(place, Refusal::new(message).hint(hint));
            return;
        }
    }
}
