//! Giving out ids that never lie. An id is an index into a map; its generation goes up each
//! time the index is given to something else, so whoever still holds the old handle (a
//! flow, a ring, an event in flight) can be told apart.

use std::collections::BTreeMap;

use lb_common::flow::Handle;

/// Ids of one kind.
#[derive(Clone, Debug)]
pub(super) struct Ids {
    capacity: u16,
    /// The last generation of each id that was ever used.
    generations: BTreeMap<u16, u16>,
    /// Ids that may be given out, those used least often first; filled on first use.
    free: Option<Vec<u16>>,
    /// Ids that may not be given out in this round.
    taken: Vec<bool>,
}

impl Ids {
    /// Ids from 0 to one less than `capacity`, of which those in `generations` have been
    /// used and those in `taken` hold something, or held it when this round began.
    pub(super) fn new(
        capacity: u32,
        generations: BTreeMap<u16, u16>,
        taken: impl IntoIterator<Item = u16>,
    ) -> Self {
        let capacity = u16::try_from(capacity).unwrap_or(u16::MAX);
        let mut slots = vec![false; usize::from(capacity)];
        for id in taken {
            if let Some(slot) = slots.get_mut(usize::from(id)) {
                *slot = true;
            }
        }
        Self { capacity, generations, free: None, taken: slots }
    }

    /// A handle that nobody ever had; none if every id is taken. Of the free ids the ones
    /// used least often come first, which is also to say: those freed longest ago, as far
    /// as the maps remember.
    pub(super) fn allocate(&mut self) -> Option<Handle> {
        let free = self.free.get_or_insert_with(|| {
            let mut free: Vec<u16> = (0..self.capacity)
                .filter(|id| self.taken.get(usize::from(*id)) == Some(&false))
                .collect();
            free.sort_by_key(|id| {
                std::cmp::Reverse((self.generations.get(id).copied().unwrap_or(0), *id))
            });
            free
        });
        let id = free.pop()?;
        let generation = next(self.generations.get(&id).copied().unwrap_or(0));
        self.generations.insert(id, generation);
        Some(Handle { id, generation })
    }
}

/// The generation after this one; never 0, which means "never used".
const fn next(generation: u16) -> u16 {
    if generation == u16::MAX { 1 } else { generation + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(id: u16, generation: u16) -> Option<Handle> {
        Some(Handle { id, generation })
    }

    #[test]
    fn a_fresh_id_comes_before_a_used_one_and_a_used_one_changes_generation() {
        let generations = BTreeMap::from([(0, 7), (1, 3), (2, 1)]);
        let mut ids = Ids::new(4, generations, [2]);
        assert_eq!(ids.allocate(), handle(3, 1));
        assert_eq!(ids.allocate(), handle(1, 4));
        assert_eq!(ids.allocate(), handle(0, 8));
        assert_eq!(ids.allocate(), None);
    }

    #[test]
    fn generations_wrap_without_zero() {
        let mut ids = Ids::new(1, BTreeMap::from([(0, u16::MAX)]), []);
        assert_eq!(ids.allocate(), handle(0, 1));
    }
}
