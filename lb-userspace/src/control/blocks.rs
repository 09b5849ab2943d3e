//! What the operator blocks at run time, until when and why. Pure: time is a parameter.
//!
//! The kernel half ends a block by its own clock, whether an agent runs or not; this book is
//! for people, for the next agent, and for removing what has expired.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use lb_common::access;

use crate::{
    clock::Moment,
    model::{access::Block, name::Name, snapshot::Snapshot},
    reconcile::scopes,
};

/// Most blocks at once. Longer lists belong into `deny`, which may have its networks in files.
pub const MAX_BLOCKS: usize = 16_384;

/// Everything that is blocked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockBook {
    blocks: BTreeMap<BlockId, BlockRecord>,
}

/// Who is blocked, and where: for one frontend, or for all.
pub type BlockId = (Option<Name>, IpNet);

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRecord {
    /// When it was ordered.
    pub since: SystemTime,
    /// When it ends; none until it is taken back.
    pub expiry: Option<Expiry>,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
}

/// The end of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// By the clock of people.
    pub at: SystemTime,
    /// By the data plane's: a second of `CLOCK_MONOTONIC`, not 0.
    pub monotonic_s: u32,
}

impl Expiry {
    /// The end of what ends in this time. The data plane counts whole seconds: up to one
    /// later, never earlier.
    #[must_use]
    pub fn after(now: Moment, time: Duration) -> Self {
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let end_s = now.monotonic_ns.saturating_add(time_ns).div_ceil(1_000_000_000);
        let at = now.wall.checked_add(time).unwrap_or(now.wall);
        Self { at, monotonic_s: u32::try_from(end_s).unwrap_or(u32::MAX).max(1) }
    }

    /// The end that the data plane knows.
    #[must_use]
    pub fn at_second(now: Moment, monotonic_s: u32) -> Self {
        let end = Duration::from_secs(monotonic_s.into());
        let rest = end.saturating_sub(Duration::from_nanos(now.monotonic_ns));
        Self { at: now.wall + rest, monotonic_s: monotonic_s.max(1) }
    }
}

impl BlockBook {
    /// What the maps say is blocked: scope, network and the second when it ends, 0 for never.
    /// For want of a better memory; nobody knows why any more.
    #[must_use]
    pub fn found(
        snapshot: &Snapshot,
        rules: impl Iterator<Item = (u32, IpNet, u32)>,
        now: Moment,
    ) -> Self {
        let scopes = scopes(snapshot.l4_frontends().map(|(name, _)| name));
        let mut book = Self::default();
        for (scope, network, expires_s) in rules {
            let named = scopes.iter().find(|(_, list)| access::blocks_of(**list) == scope);
            if named.is_none() && scope != access::blocks_of(access::NODE_LIST) {
                continue;
            }
            let expiry = (expires_s != 0).then(|| Expiry::at_second(now, expires_s));
            let record = BlockRecord { since: now.wall, expiry, reason: String::new() };
            book.insert((named.map(|(name, _)| (*name).clone()), network), record);
        }
        book
    }

    /// Notes a block, in the place of one of the same network.
    pub fn insert(&mut self, id: BlockId, record: BlockRecord) {
        self.blocks.insert(id, record);
    }

    /// Forgets a block; whether there was one.
    pub fn remove(&mut self, id: &BlockId) -> bool {
        self.blocks.remove(id).is_some()
    }

    /// Whether one more block would be too many.
    #[must_use]
    pub fn is_full_for(&self, id: &BlockId) -> bool {
        self.blocks.len() >= MAX_BLOCKS && !self.blocks.contains_key(id)
    }

    /// Forgets what has expired; those.
    pub fn expire(&mut self, now: Moment) -> Vec<BlockId> {
        let over = |(_, record): &(&BlockId, &BlockRecord)| {
            record.expiry.is_some_and(|expiry| {
                u64::from(expiry.monotonic_s) * 1_000_000_000 <= now.monotonic_ns
            })
        };
        let expired: Vec<BlockId> =
            self.blocks.iter().filter(over).map(|(id, _)| id.clone()).collect();
        for id in &expired {
            self.blocks.remove(id);
        }
        expired
    }

    /// Forgets blocks for frontends that are not configured any more.
    pub fn configure(&mut self, snapshot: &Snapshot) {
        let is_there = |name: &Name| snapshot.frontends.contains_key(name);
        self.blocks.retain(|(frontend, _), _| frontend.as_ref().is_none_or(is_there));
    }

    /// How long until the next block ends; none if none does.
    #[must_use]
    pub fn next_expiry(&self, now: Moment) -> Option<Duration> {
        let ends = self.blocks.values().filter_map(|record| record.expiry);
        let first = ends.map(|expiry| expiry.monotonic_s).min()?;
        Some(
            Duration::from_secs(first.into())
                .saturating_sub(Duration::from_nanos(now.monotonic_ns)),
        )
    }

    /// Every block.
    pub fn iter(&self) -> impl Iterator<Item = (&BlockId, &BlockRecord)> {
        self.blocks.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether nothing is blocked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The blocks as the data plane has them.
    #[must_use]
    pub fn orders(&self) -> Vec<Block> {
        let order = |((frontend, network), record): (&BlockId, &BlockRecord)| Block {
            frontend: frontend.clone(),
            network: *network,
            expires_s: record.expiry.map_or(0, |expiry| expiry.monotonic_s),
        };
        self.blocks.iter().map(order).collect()
    }
}

/// A network in the words of an operator: a single address without the length of its prefix.
#[must_use]
pub fn show(network: &IpNet) -> String {
    let address: IpAddr = network.addr();
    if network.prefix_len() == network.max_prefix_len() {
        address.to_string()
    } else {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture::{name, snapshot};

    const NOW: Moment = Moment { wall: SystemTime::UNIX_EPOCH, monotonic_ns: 5_400_000_000 };

    fn id(frontend: Option<&str>, network: &str) -> BlockId {
        (frontend.map(name), network.parse().unwrap())
    }

    fn record(time_s: Option<u64>) -> BlockRecord {
        let expiry = time_s.map(|time_s| Expiry::after(NOW, Duration::from_secs(time_s)));
        BlockRecord { since: NOW.wall, expiry, reason: String::new() }
    }

    fn at(monotonic_ns: u64) -> Moment {
        Moment { monotonic_ns, ..NOW }
    }

    #[test]
    fn a_block_ends_when_its_time_is_over_and_others_stay() {
        let mut book = BlockBook::default();
        book.insert(id(None, "192.0.2.1/32"), record(Some(10)));
        book.insert(id(None, "192.0.2.2/32"), record(Some(60)));
        book.insert(id(None, "192.0.2.3/32"), record(None));
        assert_eq!(book.next_expiry(NOW), Some(Duration::from_millis(10_600)));
        assert!(book.expire(at(15_999_999_999)).is_empty());
        assert_eq!(book.expire(at(16_000_000_000)), [id(None, "192.0.2.1/32")]);
        assert_eq!(book.len(), 2);
        assert_eq!(book.expire(at(u64::MAX)).len(), 1);
        assert_eq!((book.len(), book.next_expiry(NOW)), (1, None));
    }

    #[test]
    fn blocking_again_replaces_the_time_and_frontends_have_their_own() {
        let mut book = BlockBook::default();
        book.insert(id(None, "10.0.0.0/8"), record(Some(10)));
        book.insert(id(None, "10.0.0.0/8"), record(None));
        book.insert(id(Some("postgres"), "10.0.0.0/8"), record(Some(3)));
        let orders: Vec<u32> = book.orders().iter().map(|block| block.expires_s).collect();
        assert_eq!(orders, [0, 9]);
        assert!(book.remove(&id(None, "10.0.0.0/8")) && !book.remove(&id(None, "10.0.0.0/8")));
        assert_eq!(book.len(), 1);
    }

    #[test]
    fn blocks_go_with_their_frontend() {
        let mut book = BlockBook::default();
        book.insert(id(Some("postgres"), "10.0.0.0/8"), record(None));
        book.insert(id(Some("gone"), "10.0.0.0/8"), record(None));
        book.insert(id(None, "10.0.0.0/8"), record(None));
        book.configure(&snapshot(&[("pg1", "10.0.1.20:5432")]));
        assert_eq!(book.len(), 2);
    }

    #[test]
    fn what_is_blocked_is_found_in_the_maps() {
        let snapshot = snapshot(&[("pg1", "10.0.1.20:5432")]);
        let scope = access::blocks_of(access::list_scope("postgres"));
        let ten: IpNet = "10.0.0.0/8".parse().unwrap();
        let rules = [(1, ten, 0), (scope, ten, 30), (scope ^ 0x40, ten, 0)];
        let book = BlockBook::found(&snapshot, rules.into_iter(), NOW);
        let found: Vec<u32> = book.orders().iter().map(|block| block.expires_s).collect();
        assert_eq!(found, [0, 30]);
    }

    #[test]
    fn the_ends_of_time_are_no_trouble() {
        assert_eq!(Expiry::after(NOW, Duration::MAX).monotonic_s, u32::MAX);
        assert_eq!(Expiry::after(at(0), Duration::ZERO).monotonic_s, 1);
        assert_eq!(Expiry::at_second(NOW, 7).at, NOW.wall + Duration::from_millis(1_600));
        assert_eq!(Expiry::at_second(NOW, 3).at, NOW.wall);
    }

    #[test]
    fn single_addresses_are_shown_without_a_prefix() {
        let shown = |text: &str| show(&text.parse().unwrap());
        assert_eq!(shown("192.0.2.1/32"), "192.0.2.1");
        assert_eq!(shown("2001:db8::/64"), "2001:db8::/64");
    }
}
