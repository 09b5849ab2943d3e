//! The servers: one nginx in each server's namespace, with an answer of a few bytes, so
//! that what is measured is connections and packets.

use std::net::SocketAddr;

use anyhow::Result;
use testbed::{
    bed::{Bed, Family},
    bench::nginx,
    namespace::Namespace,
    process::Process,
};

use crate::direct;

/// Where nginx listens, and the port of the VIPs in front of it.
pub(crate) const PORT: u16 = 8080;

/// Where the nginx of a server answers.
pub(crate) const fn address(server: u8) -> SocketAddr {
    SocketAddr::new(Bed::server_address(server, Family::V4), PORT)
}

/// Starts one nginx process in every server's namespace, and as many in the first server's
/// for the direct link. The work is divided between the same number of processes in every
/// turn, or a machine with few processors would favour the turn with fewer.
///
/// # Errors
/// When one does not get ready.
pub(crate) fn start(bed: &Bed) -> Result<Vec<Process>> {
    let mut running = Vec::new();
    let direct = SocketAddr::new(direct::SERVER_ADDRESS, PORT);
    for (index, server) in (0_u8..).zip(&bed.servers) {
        running.push(launch(bed, server, address(index), &format!("nginx{index}"))?);
        running.push(launch(bed, bed.server(0)?, direct, &format!("direct{index}"))?);
    }
    Ok(running)
}

fn launch(bed: &Bed, namespace: &Namespace, address: SocketAddr, name: &str) -> Result<Process> {
    let wrap = |program: &str| namespace.command(program);
    nginx::start(namespace, wrap, address, &bed.directory().join(name))
}
