//! How many flows there may be, over all workers. A flow counts until its [`Stay`] is dropped.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use crate::descriptors;

/// The flows of all workers.
#[derive(Debug, Default)]
pub struct Room {
    all: AtomicU32,
    unreplied: AtomicU32,
}

/// Most flows at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Most {
    /// In all.
    pub(super) all: u32,
    /// Of those, that were not answered.
    pub(super) unreplied: u32,
}

/// A flow that counts.
#[derive(Debug)]
pub(super) struct Stay {
    room: Arc<Room>,
    is_replied: bool,
}

impl Most {
    /// As many as are configured and the process has descriptors for: each needs one, and a
    /// quarter is left for everything else.
    pub(super) fn new(max_flows: u32, max_half_open: u32) -> Self {
        let most = u32::try_from(descriptors::raise() / 4 * 3).unwrap_or(u32::MAX);
        Self { all: max_flows.min(most), unreplied: max_half_open.min(most) }
    }
}

impl Room {
    /// How many flows there are.
    #[must_use]
    pub fn flows(&self) -> u32 {
        self.all.load(Ordering::Relaxed)
    }

    /// Whether there are as many as there may be that were not answered.
    pub(super) fn is_full_of_unreplied(&self, most: &Most) -> bool {
        self.unreplied.load(Ordering::Relaxed) >= most.unreplied
    }

    /// Counts a flow that was not answered yet; none if there are as many as there may be.
    pub(super) fn enter(self: &Arc<Self>, most: &Most) -> Option<Stay> {
        self.unreplied.fetch_add(1, Ordering::Relaxed);
        let before = self.all.fetch_add(1, Ordering::Relaxed);
        // From here on dropping it takes it back.
        let stay = Stay { room: Arc::clone(self), is_replied: false };
        (before < most.all).then_some(stay)
    }
}

impl Stay {
    /// The flow was answered.
    pub(super) fn reply(&mut self) {
        if !std::mem::replace(&mut self.is_replied, true) {
            self.room.unreplied.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.reply();
        self.room.all.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_makes_room() {
        let room = Arc::<Room>::default();
        let most = Most { all: 2, unreplied: 1 };
        let mut first = room.enter(&most).unwrap();
        assert!(room.is_full_of_unreplied(&most));
        first.reply();
        first.reply();
        assert!(!room.is_full_of_unreplied(&most));
        let second = room.enter(&most).unwrap();
        assert!(room.enter(&most).is_none());
        drop((first, second));
        assert_eq!(room.flows(), 0);
        assert!(room.enter(&most).is_some() && !room.is_full_of_unreplied(&most));
    }

    #[test]
    fn a_part_of_the_descriptors_is_left_for_others() {
        let most = Most::new(u32::MAX, 10);
        assert!(u64::from(most.all) <= descriptors::raise() / 4 * 3 && most.unreplied <= 10);
        assert_eq!(Most::new(16, 1024).all, 16);
    }
}
