//! The flows of one worker: found by client and VIP, in order of their last datagram, so that
//! what has been idle for longest is at hand. Pure: time is a parameter; `F` is a flow.
//!
//! Flows are in one of two queues, like those of the data plane in one of two tables: those
//! that were never answered, and those that were. All flows of a queue have the same idle
//! timeout, so the first of a queue is the next to end, and nothing else needs a timer.

use std::{collections::HashMap, net::SocketAddr};

/// Which flow: where its client sends from, and the number of the VIP it sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) client: SocketAddr,
    pub(super) vip: u32,
}

/// A place in the table, and which of the flows that were there one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) place: u32,
    pub(super) turn: u32,
}

/// Whether a flow was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// No reply yet.
    Unreplied = 0,
    /// Datagrams went both ways.
    Replied = 1,
}

/// The flows of one worker.
#[derive(Debug)]
pub(super) struct Table<F> {
    places: Vec<Place<F>>,
    free: Vec<u32>,
    found: HashMap<Key, u32>,
    queues: [Ends; 2],
}

#[derive(Debug)]
struct Place<F> {
    turn: u32,
    held: Option<Held<F>>,
}

#[derive(Debug)]
struct Held<F> {
    flow: F,
    key: Key,
    /// Nanoseconds of whatever clock the caller has.
    last_seen_ns: u64,
    queue: Queue,
    before: u32,
    after: u32,
}

/// The first and the last of a queue.
#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
    count: u32,
}

/// No place.
const NONE: u32 = u32::MAX;

impl<F> Default for Table<F> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            found: HashMap::new(),
            queues: [Ends { first: NONE, last: NONE, count: 0 }; 2],
        }
    }
}

impl<F> Table<F> {
    /// The flow of a key.
    pub(super) fn find(&self, key: &Key) -> Option<Id> {
        let place = *self.found.get(key)?;
        Some(Id { place, turn: self.places.get(place as usize)?.turn })
    }

    /// A flow, if it is still there.
    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut F> {
        Some(&mut self.held_mut(id)?.flow)
    }

    /// The key of a flow, if that is still there.
    pub(super) fn key(&self, id: Id) -> Option<Key> {
        let place = self.places.get(id.place as usize).filter(|place| place.turn == id.turn)?;
        place.held.as_ref().map(|held| held.key)
    }

    /// When a flow last had a datagram, and whether it was answered.
    pub(super) fn seen(&self, id: Id) -> Option<(u64, Queue)> {
        let place = self.places.get(id.place as usize).filter(|place| place.turn == id.turn)?;
        place.held.as_ref().map(|held| (held.last_seen_ns, held.queue))
    }

    /// The place that the next flow will have.
    pub(super) fn next(&self) -> Id {
        match self.free.last() {
            Some(place) => {
                let turn = self.places.get(*place as usize).map_or(0, |place| place.turn);
                Id { place: *place, turn }
            }
            // Memory ends long before that number does.
            None => Id { place: u32::try_from(self.places.len()).unwrap_or(NONE), turn: 0 },
        }
    }

    /// Adds a flow that was not answered yet, in the place of [`Self::next`]. Its key is new.
    pub(super) fn insert(&mut self, key: Key, flow: F, now_ns: u64) -> Id {
        let id = self.next();
        if self.free.pop().is_none() {
            self.places.push(Place { turn: id.turn, held: None });
        }
        let queue = Queue::Unreplied;
        let held = Held { flow, key, last_seen_ns: now_ns, queue, before: NONE, after: NONE };
        if let Some(place) = self.places.get_mut(id.place as usize) {
            place.held = Some(held);
        }
        self.found.insert(key, id.place);
        self.append(id.place, queue);
        id
    }

    /// Notes a datagram of a flow; from the server if it `is_reply`. Whether it is the first
    /// reply.
    pub(super) fn touch(&mut self, id: Id, is_reply: bool, now_ns: u64) -> bool {
        let Some(held) = self.held_mut(id) else { return false };
        held.last_seen_ns = now_ns;
        let was = held.queue;
        let queue = if is_reply { Queue::Replied } else { was };
        self.unlink(id.place);
        self.append(id.place, queue);
        was != queue
    }

    /// Takes a flow out.
    pub(super) fn remove(&mut self, id: Id) -> Option<F> {
        self.held_mut(id)?;
        self.unlink(id.place);
        let place = self.places.get_mut(id.place as usize)?;
        // Who still has the old number finds nobody.
        place.turn = place.turn.wrapping_add(1) & TURNS;
        let held = place.held.take()?;
        self.found.remove(&held.key);
        self.free.push(id.place);
        Some(held.flow)
    }

    /// The flow of a queue that had no datagram for longest, and when it had the last.
    pub(super) fn oldest(&self, queue: Queue) -> Option<(Id, u64)> {
        let place = self.queues[queue as usize].first;
        let Place { turn, held } = self.places.get(place as usize)?;
        Some((Id { place, turn: *turn }, held.as_ref()?.last_seen_ns))
    }

    /// How many flows a queue has.
    #[cfg(test)]
    pub(super) fn count(&self, queue: Queue) -> u32 {
        self.queues[queue as usize].count
    }

    /// Every flow.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &Key, &F)> {
        (0..).zip(&self.places).filter_map(|(number, place)| {
            let held = place.held.as_ref()?;
            Some((Id { place: number, turn: place.turn }, &held.key, &held.flow))
        })
    }

    fn held_mut(&mut self, id: Id) -> Option<&mut Held<F>> {
        let place = self.places.get_mut(id.place as usize)?;
        place.held.as_mut().filter(|_| place.turn == id.turn)
    }

    fn at(&mut self, place: u32) -> Option<&mut Held<F>> {
        self.places.get_mut(place as usize)?.held.as_mut()
    }

    fn append(&mut self, place: u32, queue: Queue) {
        let ends = &mut self.queues[queue as usize];
        let last = std::mem::replace(&mut ends.last, place);
        ends.count += 1;
        if last == NONE {
            ends.first = place;
        }
        if let Some(last) = self.at(last) {
            last.after = place;
        }
        if let Some(held) = self.at(place) {
            (held.queue, held.before, held.after) = (queue, last, NONE);
        }
    }

    fn unlink(&mut self, place: u32) {
        let Some(held) = self.at(place) else { return };
        let (queue, before, after) = (held.queue, held.before, held.after);
        let ends = &mut self.queues[queue as usize];
        ends.count -= 1;
        if ends.first == place {
            ends.first = after;
        }
        if ends.last == place {
            ends.last = before;
        }
        if let Some(before) = self.at(before) {
            before.after = after;
        }
        if let Some(after) = self.at(after) {
            after.before = before;
        }
    }
}

/// Turns are counted in 31 bits: an event names place and turn in 63.
pub(super) const TURNS: u32 = u32::MAX >> 1;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u16) -> Key {
        Key { client: ([192, 0, 2, 1], number).into(), vip: 0 }
    }

    #[test]
    fn the_oldest_of_a_queue_is_who_was_silent_for_longest() {
        let mut table = Table::default();
        let [a, b, c] = [1, 2, 3].map(|n| table.insert(key(n), n, u64::from(n)));
        assert_eq!(table.oldest(Queue::Unreplied), Some((a, 1)));
        assert!(!table.touch(a, false, 4), "a datagram of the client is no reply");
        assert!(table.touch(b, true, 5) && !table.touch(b, true, 6), "the first reply");
        assert_eq!(table.oldest(Queue::Unreplied), Some((c, 3)));
        assert_eq!(table.oldest(Queue::Replied), Some((b, 6)));
        assert_eq!(table.remove(c), Some(3));
        assert_eq!(table.oldest(Queue::Unreplied), Some((a, 4)));
        // The place is used again, and is not who was there.
        let next = table.next();
        let d = table.insert(key(3), 9, 7);
        assert_eq!((d, d.place), (next, c.place));
        assert_eq!((table.remove(c), table.get_mut(c)), (None, None));
        assert_eq!(table.get_mut(d), Some(&mut 9));
        assert_eq!(table.find(&key(3)), Some(d));
    }

    /// What docs/decisions/0028 says of memory.
    #[test]
    fn a_flow_is_as_large_as_is_said() {
        assert_eq!(size_of::<Place<super::super::flow::Flow>>(), 208);
        assert_eq!(size_of::<(Key, u32)>(), 40);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Like a map and a search for the least would do it.
        #[test]
        fn it_behaves_as_a_plain_map_does(steps in prop::collection::vec((0..12_u16, 0..4_u8), 1..200)) {
            let mut table = Table::default();
            let mut plain: BTreeMap<u16, (u64, bool)> = BTreeMap::new();
            for (now, (number, step)) in (1..).zip(steps) {
                match (table.find(&key(number)), step) {
                    (None, _) => {
                        table.insert(key(number), number, now);
                        plain.insert(number, (now, false));
                    }
                    (Some(id), 0) => {
                        prop_assert_eq!(table.remove(id), Some(number));
                        plain.remove(&number);
                    }
                    (Some(id), _) => {
                        let replied = step == 1;
                        let known = plain.get_mut(&number).unwrap();
                        prop_assert_eq!(table.touch(id, replied, now), replied && !known.1);
                        *known = (now, known.1 || replied);
                    }
                }
                for (queue, wanted) in [(Queue::Unreplied, false), (Queue::Replied, true)] {
                    let of = || plain.iter().filter(|(_, (_, replied))| *replied == wanted);
                    let oldest = of().min_by_key(|(_, (last, _))| *last);
                    let got = table.oldest(queue).map(|(id, last)| (*table.get_mut(id).unwrap(), last));
                    prop_assert_eq!(got, oldest.map(|(number, (last, _))| (*number, *last)));
                    prop_assert_eq!(table.count(queue) as usize, of().count());
                }
                prop_assert_eq!(table.iter().count(), plain.len());
            }
        }
    }
}
