//! The live flows, for people: forward halves joined with their partners.

use std::net::SocketAddr;

use aya::Pod;
use lb_common::{
    address::{Address, Be16},
    flow::{Direction, FlowEntry, FlowKey},
    half_open::Bucket,
    tcp_state::Progress,
};

use super::{
    error::MapAccessError,
    half_open::Found,
    tables::{Family, FlowTables, Half, Table, flow_end},
};
use crate::{
    clock::Moment,
    model::{
        flow::{Best, Flow, Selection},
        index::plain_address,
    },
};

/// Lists the `limit` flows of highest rank, and whether there are more. Without an order,
/// flows come in that of the tables, which is none.
///
/// # Errors
/// If a table can not be read.
pub fn list(
    tables: &FlowTables,
    limit: usize,
    selection: &impl Selection,
) -> Result<(Vec<Flow>, bool), MapAccessError> {
    let half_open_ns = tables.half_open_ns()?;
    let mut best = Best::new(limit, selection.is_ordered());
    if !list_family(tables, &tables.four, half_open_ns, selection, &mut best)? {
        list_family(tables, &tables.six, half_open_ns, selection, &mut best)?;
    }
    Ok(best.into_flows())
}

/// Whether more flows would make no difference.
fn list_family<A: Address>(
    tables: &FlowTables,
    family: &Family<A>,
    half_open_ns: u64,
    selection: &impl Selection,
    best: &mut Best,
) -> Result<bool, MapAccessError>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod + Default,
    Bucket<A>: Pod,
{
    let (mut keys, mut entries) = (Vec::new(), Vec::new());
    let mut batches = family.confirmed.batches();
    while batches.next_into(&mut keys, &mut entries)? {
        for (key, entry) in keys.iter().zip(&entries) {
            let half = Half { key: *key, entry: *entry, table: Table::Confirmed };
            let forward = entry.direction() == Direction::Forward;
            if !forward || !selection.may_want(&flow(tables, &half, None)) {
                continue;
            }
            let partner = family.find(entry.partner_key(), Table::Confirmed)?;
            let flow = flow(tables, &half, partner.as_ref());
            if let Some(rank) = selection.rank(&flow)
                && best.take(rank, flow)
            {
                return Ok(true);
            }
        }
    }
    let now = Moment::now();
    let mut enough = false;
    let list = |found: Found<A>| {
        let timed_out = now.since(found.last_seen_ns).as_nanos() >= u128::from(half_open_ns);
        if timed_out || enough {
            return;
        }
        let (forward, reply) = (found.half(Direction::Forward), found.half(Direction::Reply));
        let flow = flow(tables, &forward, Some(&reply));
        if !selection.may_want(&flow) {
            return;
        }
        if let Some(rank) = selection.rank(&flow) {
            enough = best.take(rank, flow);
        }
    };
    family.half_open.for_each(list, || {})?;
    Ok(enough)
}

fn flow<A: Address>(tables: &FlowTables, forward: &Half<A>, reply: Option<&Half<A>>) -> Flow {
    let entry = &forward.entry;
    let record = tables.servers().complete(flow_end(forward, reply, 0, 0));
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
