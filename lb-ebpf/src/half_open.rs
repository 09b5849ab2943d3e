//! The table of half-open flows: finding, claiming, noting and leaving a place
//! (`lb_common::half_open` says how it is laid out).
//!
//! A bucket changes under its lock, which is held for some dozen instructions, or for the two
//! insertions by which a flow leaves for the other table.

use lb_common::{
    address::Address,
    drop_reason::DropReason,
    flow::{Direction, FlowKey, Hop},
    half_open::{self, Bucket, HalfOpenFlow, Place, WAYS},
    hash,
    settings::Settings,
    tcp_state::{Progress, TcpFlags},
};

use crate::{atomic, counters, family::Family, maps::Draft, words};

/// A place in the table as BPF code holds it.
pub struct Found<A: 'static> {
    bucket: *mut Bucket<A>,
    way: usize,
}

/// The present and what follows from it.
#[derive(Clone, Copy)]
pub struct Now {
    /// The coarse clock, nanoseconds.
    pub ns: u64,
    ms: u32,
    limit_ms: u32,
}

impl Now {
    /// Together with the configured patience with silent flows.
    #[inline(always)]
    #[must_use]
    pub fn new(ns: u64, settings: &Settings) -> Self {
        Self { ns, ms: half_open::milliseconds(ns), limit_ms: settings.half_open_ms }
    }
}

/// Where the flow of a tuple is, and which way its packets travel; none if it is not
/// half-open. `hash` is that of the tuple. A look without the lock: whoever acts on it
/// makes sure under the lock.
#[inline(always)]
pub fn find<F: Family>(
    key: &FlowKey<F::Address>,
    hash: u64,
    settings: &Settings,
) -> Option<(Found<F::Address>, Direction)> {
    let own = bucket::<F>(half_open::bucket_index(hash, settings.half_open_buckets))?;
    // SAFETY: array elements are never freed, and any bits are valid while others write.
    let (hint, tags) = unsafe { ((*own).hints[half_open::hint_index(hash)], (*own).tags) };
    if let Some(place) = Place::from_hint(hint)
        && let Some(bucket) = bucket::<F>(place.bucket)
    {
        let way = place.way as usize % WAYS;
        // SAFETY: as above.
        if unsafe { (*bucket).tags[way] != 0 && (*bucket).flows[way].from_client.is(key) } {
            return Some((Found { bucket, way }, Direction::Forward));
        }
    }
    for (way, tag) in tags.into_iter().enumerate() {
        // SAFETY: as above.
        let flow = unsafe { &(*own).flows[way] };
        if tag == half_open::tag(hash)
            && flow.from_server.is(key)
            && !Progress(flow.progress).is_one_way()
        {
            return Some((Found { bucket: own, way }, Direction::Reply));
        }
    }
    None
}

/// What came of claiming a source port.
pub enum Claim<A: 'static> {
    /// The flow has its place.
    Granted(Found<A>),
    /// Another flow has the port.
    Taken,
    /// This very flow is there already.
    Known,
    /// The lock of the bucket can not be had.
    Busy,
}

/// Writes a flow to the table unless its server's tuple belongs to another flow. If there is no
/// room, the flow that was silent for longest gives way, which is counted.
/// `client_hash` is the hash of its client's tuple.
///
/// Another processor may be opening the same flow, with another server: of two that exchange
/// the hint for theirs, the later one sees the place of the earlier one there, and yields.
#[inline(always)]
pub fn claim<F: Family>(
    flow: &HalfOpenFlow<F::Address>,
    client_hash: u64,
    now: Now,
    settings: &Settings,
) -> Option<Claim<F::Address>> {
    let hash = hash::tuple_hash(&flow.from_server);
    let tag = half_open::tag(hash);
    let index = half_open::bucket_index(hash, settings.half_open_buckets);
    let pointer = bucket::<F>(index)?;
    let Some(bucket) = lock(pointer) else { return Some(Claim::Busy) };
    let (mut taken, mut known, mut way, mut crowded) = (false, false, 0, false);
    for (index, there) in bucket.flows.iter().enumerate() {
        if bucket.tags[index] == tag
            && there.from_server.is(&flow.from_server)
            && bucket.is_live(index as u32, now.ms, now.limit_ms)
        {
            known = there.from_client.is(&flow.from_client);
            (taken, way) = (!known, index);
        }
    }
    if !taken && !known {
        way = bucket.room(now.ms) as usize % WAYS;
        crowded = bucket.is_live(way as u32, now.ms, now.limit_ms);
        copy(flow, &mut bucket.flows[way]);
        bucket.tags[way] = tag;
        bucket.seen_ms[way] = now.ms;
    }
    unlock(bucket);
    if crowded {
        counters::count_drop(DropReason::HalfOpenTableFull);
    }
    if taken {
        return Some(Claim::Taken);
    }
    let hint = hint::<F>(client_hash, settings)?;
    let new = Place { bucket: index, way: way as u32 }.to_hint();
    // SAFETY: a hint is one aligned word.
    let old = unsafe { atomic::exchange32(hint, new) };
    if known {
        return Some(Claim::Known);
    }
    let found = Found { bucket: pointer, way };
    if old != new
        && leads_to_client::<F>(old, &flow.from_client, now)
        && found.give_way::<F>(flow, old, now)
    {
        // SAFETY: as above.
        unsafe { atomic::replace32(hint, new, old) };
        return Some(Claim::Known);
    }
    Some(Claim::Granted(found))
}

/// What lets the packets of a client find the place of their flow.
#[inline(always)]
fn hint<F: Family>(hash: u64, settings: &Settings) -> Option<*mut u32> {
    let bucket = bucket::<F>(half_open::bucket_index(hash, settings.half_open_buckets))?;
    // SAFETY: array elements are never freed.
    Some(unsafe { &raw mut (*bucket).hints[half_open::hint_index(hash)] })
}

/// Whether a hint leads to a live flow of this client. A look without the lock.
#[inline(always)]
fn leads_to_client<F: Family>(hint: u32, client: &FlowKey<F::Address>, now: Now) -> bool {
    let Some(place) = Place::from_hint(hint) else { return false };
    let Some(bucket) = bucket::<F>(place.bucket) else { return false };
    // SAFETY: array elements are never freed, and any bits are valid while others write.
    let bucket = unsafe { &*bucket };
    bucket.is_live(place.way, now.ms, now.limit_ms)
        && bucket.flows[place.way as usize % WAYS].from_client.is(client)
}

/// What became of a flow that was to enter the table of confirmed flows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It is there.
    Yes,
    /// It is not, and may try again.
    No,
    /// Its client has a confirmed flow already.
    Beaten,
}

/// Lets the flow of a draft, read from its place before, leave that by `enter`, which gets the
/// draft with everything that was noted until now. True if it has entered the other table.
///
/// All that under the lock, so that a packet is noted either in the place before that or in the
/// other table after it: a flow has one end.
#[inline(always)]
pub fn leave_by<F: Family>(
    draft: &mut Draft<F::Address>,
    settings: &Settings,
    enter: impl FnOnce(&Draft<F::Address>) -> Entered,
) -> bool {
    let hash = hash::tuple_hash(&draft.flow.from_server);
    let index = half_open::bucket_index(hash, settings.half_open_buckets);
    let Some(bucket) = bucket::<F>(index).and_then(lock) else {
        return false;
    };
    let way = draft.way as usize % WAYS;
    let mut entered = Entered::No;
    if is_same(bucket, way, &draft.flow) && !Progress(bucket.flows[way].progress).is_over() {
        draft.catch_up(&bucket.flows[way]);
        entered = enter(draft);
        if entered != Entered::No {
            bucket.tags[way] = 0;
        }
    }
    unlock(bucket);
    entered == Entered::Yes
}

/// What became of a packet that was to be noted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It is the flow's; `ends` if it is its last word.
    Seen {
        /// The flow is over now and was not before.
        ends: bool,
    },
    /// It opens a new connection on the tuple of this one, which is over and has left.
    Recycles,
    /// The flow is not there any more.
    Gone,
}

/// What a packet says of its flow.
pub struct Note {
    /// Which way it travels.
    pub direction: Direction,
    /// Its TCP flags; none if it is no TCP segment.
    pub flags: Option<TcpFlags>,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
    /// Where it came from, if it came from the client.
    pub hop: Hop,
    /// Its sequence number, host byte order; of meaning in flows behind cookies.
    pub sequence: u32,
}

impl<A: Address> Found<A> {
    /// Copies the flow, without the lock: [`Self::note`] tells whether the copy was good.
    #[inline(always)]
    pub fn read(&self, draft: &mut Draft<A>) {
        draft.way = self.way as u64;
        // SAFETY: array elements are never freed, and any bits are valid while others write.
        copy(unsafe { &(*self.bucket).flows[self.way % WAYS] }, &mut draft.flow);
    }

    /// Copies the flow under the lock, if it is the one of a tuple and has not timed out.
    #[inline(always)]
    pub fn read_whole(&self, key: &FlowKey<A>, draft: &mut Draft<A>, now: Now) -> bool {
        let way = self.way % WAYS;
        let Some(bucket) = lock(self.bucket) else { return false };
        let flow = &bucket.flows[way];
        let there = bucket.is_live(way as u32, now.ms, now.limit_ms)
            && (flow.from_client.is(key) || flow.from_server.is(key));
        if there {
            copy(flow, &mut draft.flow);
        }
        unlock(bucket);
        there
    }

    /// Takes note of a packet if the flow is still the one that was read, and brings the
    /// copy up to date.
    #[inline(always)]
    pub fn note(&self, note: &Note, draft: &mut Draft<A>, now: Now) -> Noted {
        let way = self.way % WAYS;
        let Some(bucket) = lock(self.bucket) else { return Noted::Gone };
        let noted = if !is_same(bucket, way, &draft.flow) {
            Noted::Gone
        } else if !bucket.is_live(way as u32, now.ms, now.limit_ms) {
            bucket.tags[way] = 0;
            Noted::Gone
        } else {
            let noted = bucket.flows[way].observe(note);
            if noted == Noted::Recycles {
                bucket.tags[way] = 0;
            } else {
                bucket.seen_ms[way] = now.ms;
            }
            let flow = &bucket.flows[way];
            draft.flow.progress = flow.progress;
            words::copy(&flow.client_hop, &mut draft.flow.client_hop);
            draft.flow.sequence_shift = flow.sequence_shift;
            draft.flow.forward_packets = flow.forward_packets;
            draft.flow.forward_bytes = flow.forward_bytes;
            draft.flow.reply_packets = flow.reply_packets;
            draft.flow.reply_bytes = flow.reply_bytes;
            noted
        };
        unlock(bucket);
        noted
    }

    /// Adds bits to the flow's progress. False if it is not there any more.
    #[inline(always)]
    pub fn mark(&self, bits: u32, draft: &mut Draft<A>) -> bool {
        let way = self.way % WAYS;
        let Some(bucket) = lock(self.bucket) else { return false };
        let there = is_same(bucket, way, &draft.flow);
        if there {
            draft.flow.progress = bucket.flows[way].progress;
            bucket.flows[way].progress |= bits;
        }
        unlock(bucket);
        there
    }

    /// Frees a place that was just claimed if a hint still leads to another one of its client;
    /// whether it does.
    ///
    /// The hint may be what the last flow of this tuple has left, and be right again by chance:
    /// then whoever wrote the flow there has yet to exchange it, and may give way as well. It
    /// frees its place before it has a packet noted here, and that takes the lock: who has the
    /// lock after it finds the other place free, and stays. If both find each other, nothing was
    /// noted in either place, and the client sends once more.
    #[inline(always)]
    fn give_way<F: Family<Address = A>>(
        &self,
        flow: &HalfOpenFlow<A>,
        hint: u32,
        now: Now,
    ) -> bool {
        let way = self.way % WAYS;
        let Some(bucket) = lock(self.bucket) else { return true };
        let gives_way = leads_to_client::<F>(hint, &flow.from_client, now);
        if gives_way && is_same(bucket, way, flow) {
            bucket.tags[way] = 0;
        }
        unlock(bucket);
        gives_way
    }

    /// Frees a place that was just claimed.
    #[inline(always)]
    pub fn withdraw(&self, flow: &HalfOpenFlow<A>) {
        let way = self.way % WAYS;
        let Some(bucket) = lock(self.bucket) else { return };
        if is_same(bucket, way, flow) {
            bucket.tags[way] = 0;
        }
        unlock(bucket);
    }

    /// Frees the place. The copy's progress is the flow's then. False if it is not there any
    /// more.
    #[inline(always)]
    pub fn leave(&self, draft: &mut Draft<A>) -> bool {
        let way = self.way % WAYS;
        let Some(bucket) = lock(self.bucket) else { return false };
        let there = is_same(bucket, way, &draft.flow);
        if there {
            bucket.tags[way] = 0;
            draft.flow.progress = bucket.flows[way].progress;
        }
        unlock(bucket);
        there
    }
}

/// Whether the place still holds the flow that `copy` is of.
#[inline(always)]
fn is_same<A: Address>(bucket: &Bucket<A>, way: usize, copy: &HalfOpenFlow<A>) -> bool {
    let there = &bucket.flows[way % WAYS];
    bucket.tags[way % WAYS] != 0
        && there.created_ns == copy.created_ns
        && there.from_server.is(&copy.from_server)
        && there.from_client.is(&copy.from_client)
}

trait Observe {
    fn observe(&mut self, note: &Note) -> Noted;
}

impl<A: Address> Observe for HalfOpenFlow<A> {
    /// Adds a packet to what was seen of the flow, unless it opens a new one.
    #[inline(always)]
    fn observe(&mut self, note: &Note) -> Noted {
        let before = Progress(self.progress);
        let mut ends = false;
        if let Some(flags) = note.flags {
            // Nobody at the other end of a cookie's flow knows a client that begins anew.
            if flags.is_fresh_syn()
                && note.direction == Direction::Forward
                && (before.recyclable() || before.awaits_server())
            {
                return Noted::Recycles;
            }
            if before.awaits_server() && flags.is_syn_ack() && note.direction == Direction::Reply {
                self.sequence_shift = self.sequence_shift.wrapping_sub(note.sequence);
            }
            let after = Progress(before.0 | before.observe(note.direction, flags));
            ends = after.is_over() && !before.is_over() && before.0 & Progress::REPORTED == 0;
            self.progress = after.0 | if ends { Progress::REPORTED } else { 0 };
        }
        match note.direction {
            Direction::Forward => {
                self.forward_packets = self.forward_packets.wrapping_add(1);
                self.forward_bytes += note.bytes;
                words::copy(&note.hop, &mut self.client_hop);
            }
            Direction::Reply => {
                self.reply_packets = self.reply_packets.wrapping_add(1);
                self.reply_bytes += note.bytes;
            }
        }
        Noted::Seen { ends }
    }
}

/// Takes the lock of a bucket; none if it can not be had.
#[inline(always)]
fn lock<A>(bucket: *mut Bucket<A>) -> Option<&'static mut Bucket<A>> {
    // SAFETY: array elements are never freed, and the lock is one of its fields.
    unsafe { atomic::lock(&raw mut (*bucket).lock).then(|| &mut *bucket) }
}

/// Gives it back.
#[inline(always)]
fn unlock<A>(bucket: &mut Bucket<A>) {
    // SAFETY: whoever has the reference has the lock.
    unsafe { atomic::unlock(&raw mut bucket.lock) };
}

#[inline(always)]
fn bucket<F: Family>(index: u32) -> Option<*mut Bucket<F::Address>> {
    F::half_open().get_ptr_mut(index)
}

/// Copies between map values word by word, without a detour over the stack.
#[inline(always)]
fn copy<A: Copy>(from: &HalfOpenFlow<A>, to: &mut HalfOpenFlow<A>) {
    words::copy(&from.from_client, &mut to.from_client);
    words::copy(&from.from_server, &mut to.from_server);
    to.created_ns = from.created_ns;
    to.forward_bytes = from.forward_bytes;
    to.reply_bytes = from.reply_bytes;
    to.forward_packets = from.forward_packets;
    to.reply_packets = from.reply_packets;
    words::copy(&from.client_hop, &mut to.client_hop);
    to.server = from.server;
    to.vip = from.vip;
    to.progress = from.progress;
    to.header_delta = from.header_delta;
    to.transport_delta = from.transport_delta;
    to.sequence_shift = from.sequence_shift;
    to.client_sequence = from.client_sequence;
}
