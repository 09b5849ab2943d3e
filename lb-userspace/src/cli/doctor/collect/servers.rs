//! The way to each server.

use std::net::SocketAddr;

use super::super::facts::{ServerFacts, TunnelFacts, Way};
use crate::{
    model::{name::Name, snapshot::Snapshot},
    network::{self, Handle, Reach, links::links},
};

/// What is known of the way to each server of layer 4.
pub(super) async fn facts(handle: &Handle, snapshot: &Snapshot) -> Vec<ServerFacts> {
    let mut found = Vec::new();
    for name in snapshot.l4_backends() {
        let Some(backend) = snapshot.backends.get(name) else { continue };
        for (server_name, server) in &backend.servers {
            let Some(address) = server.address.socket() else { continue };
            let way = match network::reach(handle, address.ip()).await {
                Ok(Reach::Known) => Way::Known,
                Ok(Reach::Unresolved(hop)) => Way::Unresolved(hop.to_string()),
                Ok(Reach::Failed(hop)) => Way::Failed(hop.to_string()),
                Err(error) => Way::None(format!("{:#}", anyhow::Error::from(error))),
            };
            let name = format!("{name}/{server_name}");
            found.push(ServerFacts { name, address, way });
        }
    }
    found
}

/// Where the packets of frontends that encapsulate leave, once each.
pub(super) async fn tunnels(handle: &Handle, snapshot: &Snapshot) -> Vec<TunnelFacts> {
    let mut found = Vec::new();
    let links = links(handle).await.unwrap_or_default();
    for (name, frontend) in snapshot.l4_frontends() {
        if !frontend.forward.encapsulates() {
            continue;
        }
        for server in addresses(snapshot, &frontend.backend) {
            let Ok(route) = network::route_to(handle, server.ip()).await else { continue };
            let Some(link) = links.get(&route.ifindex) else { continue };
            let tunnel = TunnelFacts {
                frontend: name.to_string(),
                forward: frontend.forward.name(),
                overhead: frontend.forward.overhead(server.is_ipv6()),
                interface: link.name.clone(),
                mtu: link.mtu,
            };
            if !found.contains(&tunnel) {
                found.push(tunnel);
            }
        }
    }
    found
}

fn addresses(snapshot: &Snapshot, backend: &Name) -> Vec<SocketAddr> {
    let servers = snapshot.backends.get(backend).map(|backend| backend.servers.values());
    servers.into_iter().flatten().filter_map(|server| server.address.socket()).collect()
}
