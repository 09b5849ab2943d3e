//! The live flows, for people: forward halves joined with their partners.

use std::net::SocketAddr;

use aya::Pod;
use lb_common::{
    address::{Address, Be16},
    flow::{Direction, FlowEntry, FlowKey, Handle},
    tcp_state::Progress,
};

use super::{
    error::MapAccessError,
    tables::{Family, FlowTables, Half, Table, flow_end},
};
use crate::model::index::plain_address;

/// One live flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// The client.
    pub client: SocketAddr,
    /// The VIP.
    pub vip: SocketAddr,
    /// The server.
    pub server: SocketAddr,
    /// The client as the server sees it.
    pub snat: SocketAddr,
    /// The VIP's id when the flow was made.
    pub vip_handle: Handle,
    /// The server's id when the flow was made.
    pub server_handle: Handle,
    /// What was seen of it; nothing for UDP.
    pub progress: Progress,
    /// Both sides have confirmed it.
    pub confirmed: bool,
    /// Creation, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub created_ns: u64,
    /// Last packet of either direction, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub last_seen_ns: u64,
    /// Packets client to server.
    pub forward_packets: u64,
    /// Bytes client to server.
    pub forward_bytes: u64,
    /// Packets server to client.
    pub reply_packets: u64,
    /// Bytes server to client.
    pub reply_bytes: u64,
}

/// Lists up to `limit` flows that `wanted` accepts, in the order of the tables, which is
/// none; and whether there are more. `wanted` sees a flow before its partner is looked up:
/// counts and times of the reply are then still those of nothing.
///
/// # Errors
/// If a table can not be read.
pub fn list(
    tables: &FlowTables,
    limit: usize,
    mut wanted: impl FnMut(&Flow) -> bool,
) -> Result<(Vec<Flow>, bool), MapAccessError> {
    let mut flows = Vec::new();
    let truncated = list_family(&tables.four, limit, &mut wanted, &mut flows)?
        || list_family(&tables.six, limit, &mut wanted, &mut flows)?;
    Ok((flows, truncated))
}

/// Whether there are more than `limit`.
fn list_family<A: Address>(
    family: &Family<A>,
    limit: usize,
    wanted: &mut impl FnMut(&Flow) -> bool,
    flows: &mut Vec<Flow>,
) -> Result<bool, MapAccessError>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let (mut keys, mut entries) = (Vec::new(), Vec::new());
    for table in [Table::Confirmed, Table::HalfOpen] {
        let mut batches = family.table(table).batches();
        while batches.next_into(&mut keys, &mut entries)? {
            for (key, entry) in keys.iter().zip(&entries) {
                let half = Half { key: *key, entry: *entry, table };
                if entry.direction() != Direction::Forward || !wanted(&flow(&half, None)) {
                    continue;
                }
                if flows.len() >= limit {
                    return Ok(true);
                }
                let partner = family.find(entry.partner_key(), table)?;
                flows.push(flow(&half, partner.as_ref()));
            }
        }
    }
    Ok(false)
}

fn flow<A: Address>(forward: &Half<A>, reply: Option<&Half<A>>) -> Flow {
    let entry = &forward.entry;
    let record = flow_end(forward, reply, 0, 0);
    let end = |address, port: Be16| SocketAddr::new(plain_address(address), port.get());
    Flow {
        protocol: record.protocol,
        client: end(record.client, record.client_port),
        vip: end(record.vip_address, record.vip_port),
        server: end(record.server_address, record.server_port),
        snat: end(entry.source.to_common(), record.snat_port),
        vip_handle: entry.vip,
        server_handle: entry.server,
        progress: Progress(record.progress),
        confirmed: forward.table == Table::Confirmed,
        created_ns: entry.created_ns,
        last_seen_ns: reply.map_or(0, |half| half.entry.last_seen_ns).max(entry.last_seen_ns),
        forward_packets: record.forward_packets,
        forward_bytes: record.forward_bytes,
        reply_packets: record.reply_packets,
        reply_bytes: record.reply_bytes,
    }
}
