//! The table of half-open flows as user space reads it: never written here, because a place
//! belongs to the data plane, which takes it back by itself when its flow has been silent
//! for too long.
//!
//! It is read without the data plane's lock, so a flow that is being written at that moment
//! may come out as a mixture of two. People look at it; nothing is decided by it.

use aya::{Pod, maps::MapData};
use lb_common::{
    address::Address,
    flow::{Direction, FlowEntry, FlowKey},
    half_open::{self, Bucket, FLOWS_PER_BUCKET, HalfOpenFlow, Place, WAYS},
    hash,
};

use super::{
    batch::BatchMap,
    error::MapAccessError,
    tables::{Half, Table},
};
use crate::clock::Moment;

/// `HALF_OPEN4` or `HALF_OPEN6`.
pub(crate) struct HalfOpenTable<A> {
    buckets: BatchMap<u32, Bucket<A>>,
    count: u32,
}

/// A flow as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found<A> {
    pub(crate) flow: HalfOpenFlow<A>,
    /// When a packet last came, nanoseconds of `CLOCK_MONOTONIC_COARSE`, to a millisecond.
    pub(crate) last_seen_ns: u64,
}

impl<A: Address> HalfOpenTable<A>
where
    Bucket<A>: Pod,
{
    /// # Errors
    /// If the map has another layout.
    pub(crate) fn new(name: &'static str, data: MapData) -> Result<Self, MapAccessError> {
        let buckets = BatchMap::new(name, data)?;
        let count = buckets.capacity();
        Ok(Self { buckets, count })
    }

    /// Flows it has room for.
    pub(crate) fn capacity(&self) -> u32 {
        self.count.saturating_mul(FLOWS_PER_BUCKET)
    }

    /// The flow whose packets of either direction have this tuple.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn get(&self, key: &FlowKey<A>) -> Result<Option<Found<A>>, MapAccessError> {
        let hash = hash::tuple_hash(key);
        let Some(own) = self.buckets.get(&half_open::bucket_index(hash, self.count))? else {
            return Ok(None);
        };
        if let Some(Place { bucket, way }) =
            Place::from_hint(own.hints[half_open::hint_index(hash)])
            && let Some(bucket) = self.buckets.get(&bucket)?
            && let Some(found) = Found::at(&bucket, way as usize, now_ns())
            && found.flow.from_client == *key
        {
            return Ok(Some(found));
        }
        let ways = (0..WAYS).filter_map(|way| Found::at(&own, way, now_ns()));
        Ok(ways.into_iter().find(|found| found.flow.from_server == *key))
    }

    /// Calls `each` with every flow, a batch of buckets at a time; `pause` in between.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn for_each(
        &self,
        mut each: impl FnMut(Found<A>),
        mut pause: impl FnMut(),
    ) -> Result<(), MapAccessError> {
        let (mut indices, mut buckets) = (Vec::new(), Vec::new());
        let mut batches = self.buckets.batches();
        while batches.next_into(&mut indices, &mut buckets)? {
            let now_ns = now_ns();
            for bucket in &buckets {
                (0..WAYS).filter_map(|way| Found::at(bucket, way, now_ns)).for_each(&mut each);
            }
            pause();
        }
        Ok(())
    }
}

impl<A: Address> Found<A> {
    fn at(bucket: &Bucket<A>, way: usize, now_ns: u64) -> Option<Self> {
        let (tag, seen_ms) = (bucket.tags.get(way)?, bucket.seen_ms.get(way)?);
        if *tag == 0 {
            return None;
        }
        let age_ms = half_open::age_ms(half_open::milliseconds(now_ns), *seen_ms);
        let last_seen_ns = now_ns.saturating_sub(u64::from(age_ms) * 1_000_000);
        Some(Self { flow: *bucket.flows.get(way)?, last_seen_ns })
    }

    /// One of its halves, as it would be in the table of confirmed flows.
    pub(crate) fn half(&self, direction: Direction) -> Half<A>
    where
        FlowEntry<A>: Default,
    {
        let mut entry = FlowEntry::default();
        self.flow.write_entry(direction, self.last_seen_ns, &mut entry);
        let key = match direction {
            Direction::Forward => self.flow.from_client,
            Direction::Reply => self.flow.from_server,
        };
        Half { key, entry, table: Table::HalfOpen }
    }
}

fn now_ns() -> u64 {
    Moment::now().monotonic_ns
}
