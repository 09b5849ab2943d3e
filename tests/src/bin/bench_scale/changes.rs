//! How long it takes until a change of one server is in the maps.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_common::{
    abi::map,
    address::{Address4, Address6},
    server::{ServerEntry, state},
};
use pointsman::{
    admin::{api::ServerSet, client::Client},
    datapath::batch::BatchMap,
    model::state::AdminState,
};
use serde_json::Value;

use crate::{
    Options,
    figure::Figure,
    scene::{self, Scene},
};

/// Drains servers and makes them ready again, one after the other, over the admin socket.
///
/// # Errors
/// If the agent refuses, or says that it is done when the maps do not say so.
pub(crate) fn measure(scene: &Scene<'_>, options: &Options) -> Result<Vec<Figure>> {
    let servers = BatchMap::<u32, ServerEntry>::new(map::SERVERS, scene.map(map::SERVERS)?)?;
    let client = Client::new(&scene.agent.socket());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut times = Vec::new();
    for change in 0..options.changes {
        // Every other one puts right what the one before it did.
        let index = (change / 2).wrapping_mul(0x9e37_79b1) % options.servers;
        let (wanted, expected) = match change % 2 {
            0 => (AdminState::Drain, state::DRAIN),
            _ => (AdminState::Ready, state::UP),
        };
        let backend = scene::backend(scene::backend_of(index, options));
        let target = format!("/v1/servers/{backend}/{}", scene::server(index));
        let set = ServerSet { state: Some(wanted), weight: None };
        let start = Instant::now();
        runtime.block_on(client.post::<Value>(&target, &set))?;
        times.push(start.elapsed());
        let found = entry(&servers, index)?.state;
        ensure!(found == expected, "server {index} is in state {found}, expected {expected}");
    }
    let (median, worst) = median_and_worst(times);
    let (backend, server) = (scene::backend(0), scene::server(0));
    let mut commands = Vec::new();
    for word in ["drain", "ready", "drain", "ready", "drain", "ready"] {
        let start = Instant::now();
        scene.agent.cli_good(&[
            "server",
            "set",
            &format!("{backend}/{server}"),
            "--state",
            word,
        ])?;
        commands.push(start.elapsed());
    }
    let (command, _) = median_and_worst(commands);
    Ok(vec![
        Figure::milliseconds("change of one server, median", median),
        Figure::milliseconds("change of one server, worst", worst).goal(50.0),
        Figure::milliseconds("`pointsman server set`, median", command),
    ])
}

fn median_and_worst(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    (median, times.last().copied().unwrap_or_default())
}

/// What the map has of a server.
fn entry(servers: &BatchMap<u32, ServerEntry>, index: u32) -> Result<ServerEntry> {
    let std::net::IpAddr::V4(address) = scene::address(index).ip() else {
        anyhow::bail!("servers have IPv4 addresses")
    };
    let wanted = Address6::mapped(Address4::new(address.octets()));
    let (mut keys, mut entries) = (Vec::new(), Vec::new());
    let mut batches = servers.batches();
    while batches.next_into(&mut keys, &mut entries)? {
        if let Some(entry) = entries.iter().find(|entry| entry.address == wanted) {
            return Ok(*entry);
        }
    }
    None.with_context(|| format!("server {index} is not in the map"))
}
