//! Flows as people see them, whoever carries them, and which of them to list. Pure.

use std::{cmp::Ordering, collections::BinaryHeap, net::SocketAddr};

use lb_common::{flow::Handle, tcp_state::Progress};

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

/// The flows of highest rank so far.
#[derive(Debug)]
pub struct Best {
    limit: usize,
    ordered: bool,
    /// The least of them on top.
    kept: BinaryHeap<Ranked>,
    /// How many were wanted.
    seen: u64,
}

#[derive(Debug)]
struct Ranked {
    rank: u64,
    /// Of equal ranks the first one found comes first.
    turn: u64,
    flow: Flow,
}

impl Best {
    /// None yet, and never more than `limit`. Without an order the first found are taken.
    #[must_use]
    pub const fn new(limit: usize, ordered: bool) -> Self {
        Self { limit, ordered, kept: BinaryHeap::new(), seen: 0 }
    }

    /// The flows, and whether there were more.
    #[must_use]
    pub fn into_flows(self) -> (Vec<Flow>, bool) {
        let truncated = self.seen > self.limit as u64;
        let kept = self.kept.into_sorted_vec();
        (kept.into_iter().map(|ranked| ranked.flow).collect(), truncated)
    }

    /// Takes the flow if it is wanted; whether any more make no difference.
    pub fn judge(&mut self, selection: &(impl Selection + ?Sized), flow: &Flow) -> bool {
        selection.may_want(flow) && selection.rank(flow).is_some_and(|rank| self.take(rank, *flow))
    }

    /// Takes what another one has found.
    pub fn merge(&mut self, other: Self) {
        self.seen += other.seen - other.kept.len() as u64;
        for Ranked { rank, flow, .. } in other.kept.into_sorted_vec() {
            self.take(rank, flow);
        }
    }

    /// Takes a flow; whether any more make no difference.
    pub fn take(&mut self, rank: u64, flow: Flow) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(limit: usize, ordered: bool, ranks: &[u64]) -> (Vec<u64>, u64) {
        let mut best = Best::new(limit, ordered);
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
