//! The live flows, for people: forward halves joined with their partners.

use std::{cmp::Ordering, collections::BinaryHeap, net::SocketAddr};

use aya::Pod;
use lb_common::{
    address::{Address, Be16},
    flow::{Direction, FlowEntry, FlowKey, Handle},
    half_open::Bucket,
    tcp_state::Progress,
};

use super::{
    error::MapAccessError,
    half_open::Found,
    tables::{Family, FlowTables, Half, Table, flow_end},
};
use crate::{clock::Moment, model::index::plain_address};

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
    /// What was seen of it, for UDP nothing, and how its packets reach the server.
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

/// Which flows to list.
pub trait Selection {
    /// Whether a flow may be wanted, asked before its partner is looked up: counts, times
    /// and progress of the reply are still those of nothing.
    fn may_want(&self, flow: &Flow) -> bool;

    /// Whether a flow is wanted, and where in the list: the greatest first. If all are
    /// equal, listing ends when enough are found.
    fn rank(&self, flow: &Flow) -> Option<u64>;

    /// Ranks differ, so that every flow has to be seen.
    fn is_ordered(&self) -> bool;
}

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
    let mut best =
        Best { limit, ordered: selection.is_ordered(), kept: BinaryHeap::new(), seen: 0 };
    if !list_family(tables, &tables.four, half_open_ns, selection, &mut best)? {
        list_family(tables, &tables.six, half_open_ns, selection, &mut best)?;
    }
    let truncated = best.seen > limit as u64;
    let kept = best.kept.into_sorted_vec();
    Ok((kept.into_iter().map(|ranked| ranked.flow).collect(), truncated))
}

/// The flows of highest rank so far; the least of them on top.
struct Best {
    limit: usize,
    ordered: bool,
    kept: BinaryHeap<Ranked>,
    /// How many were wanted.
    seen: u64,
}

struct Ranked {
    rank: u64,
    /// Of equal ranks the first one found comes first.
    turn: u64,
    flow: Flow,
}

impl Best {
    /// Takes a flow; whether any more make no difference.
    fn take(&mut self, rank: u64, flow: Flow) -> bool {
        self.seen += 1;
        let full = self.kept.len() >= self.limit;
        if full && !self.ordered {
            return true;
        }
        let ranked = Ranked { rank, turn: self.seen, flow };
        if !full {
            self.kept.push(ranked);
        } else if let Some(mut least) = self.kept.peek_mut()
            && ranked < *least
        {
            *least = ranked;
        }
        false
    }
}

/// A flow of higher rank is less: it comes first in a sorted list.
impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        other.rank.cmp(&self.rank).then(self.turn.cmp(&other.turn))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(limit: usize, ordered: bool, ranks: &[u64]) -> (Vec<u64>, u64) {
        let mut best = Best { limit, ordered, kept: BinaryHeap::new(), seen: 0 };
        for rank in ranks {
            let nowhere = SocketAddr::new([0, 0, 0, 0].into(), 0);
            let flow = Flow {
                protocol: 6,
                client: nowhere,
                vip: nowhere,
                server: nowhere,
                snat: nowhere,
                vip_handle: Handle::default(),
                server_handle: Handle::default(),
                progress: Progress(0),
                confirmed: true,
                created_ns: *rank,
                last_seen_ns: 0,
                forward_packets: 0,
                forward_bytes: 0,
                reply_packets: 0,
                reply_bytes: 0,
            };
            if best.take(if ordered { *rank } else { 0 }, flow) {
                break;
            }
        }
        let kept = best.kept.into_sorted_vec();
        (kept.into_iter().map(|ranked| ranked.flow.created_ns).collect(), best.seen)
    }

    #[test]
    fn the_greatest_come_first_and_the_rest_is_forgotten() {
        assert_eq!(listed(3, true, &[5, 1, 9, 9, 2, 7]), (vec![9, 9, 7], 6));
        assert_eq!(listed(9, true, &[5, 1, 9]), (vec![9, 5, 1], 3));
        assert_eq!(listed(2, true, &[]), (vec![], 0));
    }

    #[test]
    fn without_an_order_the_first_found_are_enough() {
        assert_eq!(listed(2, false, &[5, 1, 9, 9]), (vec![5, 1], 3));
    }
}
