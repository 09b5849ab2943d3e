//! The way to each server.

use super::super::facts::{ServerFacts, Way};
use crate::{
    model::snapshot::Snapshot,
    network::{self, Handle, Reach},
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
