//! A member's walk over the slots of a ring: each slot once, in an order of its own.
//!
//! How evenly a leaver's slots fall to the others depends on how evenly *pairs* of walks are
//! mixed: among the slots that one member reaches early, each other member should reach as
//! many early as late. Random walks mix as well as chance allows. Here slots are points of a
//! plane over the field of 257 elements, and a walk goes from line to line of one class of
//! parallels. Two lines of different classes meet in exactly one point (an orthogonal array of
//! strength two; Bush, "Orthogonal Arrays of Index Unity", Ann. Math. Statist. 23, 1952), so
//! walks of different classes mix perfectly, line by line. Those of one class are only as good
//! as chance.

use crate::{abi::RING_SLOTS, address::Address6, hash};

/// Elements of the field: lines in a class, points on a line, and classes. The plane has
/// a few more points than the ring has slots; walks skip those.
pub(super) const LINES: u16 = 257;

/// Points of the plane.
pub(super) const POINTS: u32 = LINES as u32 * LINES as u32;

/// Where a member is on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walk {
    seed: u64,
    /// Slope of the lines.
    class: u16,
    /// Which line is next; the lines come in the order of `1 / turn`, because an order in
    /// equal steps would be in step with those of other members now and then.
    turn: u16,
    turn_step: u16,
    /// The line walked on: its intercept.
    line: u16,
    /// The next point of the line, and the step to the one after it.
    point: u16,
    point_step: u16,
    /// Points of the line yet to come.
    left: u16,
}

impl Walk {
    /// At the start. The class is the seed's remainder.
    pub(super) fn new(seed: u64) -> Self {
        let order = hash::mix(seed);
        Self {
            seed,
            class: remainder(seed),
            turn: remainder(order),
            turn_step: nonzero(order >> 32),
            ..Self::default()
        }
    }

    /// The next slot, or none if the next point of the plane is not one.
    pub(super) fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            self.next_line();
        }
        let column = self.point;
        self.point = add(column, self.point_step);
        self.left -= 1;
        let row = add(self.line, LINES - multiply(self.class, column));
        let slot = u32::from(column) * u32::from(LINES) + u32::from(row);
        (slot < RING_SLOTS).then_some(slot as usize)
    }

    fn next_line(&mut self) {
        self.line = INVERSE.get(usize::from(self.turn)).copied().unwrap_or_default();
        self.turn = add(self.turn, self.turn_step);
        let order = hash::mix(self.seed.wrapping_add(u64::from(self.line) + 1));
        self.point = remainder(order);
        self.point_step = nonzero(order >> 32);
        self.left = LINES;
    }
}

/// The class of a server. Neighbours by address, or by port, have different ones: that is how
/// the servers of a backend are numbered, and what makes its ring better than chance.
pub(super) fn class(address: &Address6, port: u16) -> u16 {
    let (high, low) = address.halves();
    let network = remainder(hash::mix(hash::mix(high).wrapping_add(low >> HOST_BITS)));
    let host = remainder(low & ((1 << HOST_BITS) - 1));
    add(network, add(host, multiply(PORT_STEP, remainder(u64::from(port)))))
}

/// Bits of an address that count servers rather than tell networks apart.
const HOST_BITS: u32 = 16;
/// Sixteen hosts in a row with sixteen ports in a row each are of different classes.
const PORT_STEP: u16 = 16;

/// `1 / n` in the field; 0 for 0.
const INVERSE: [u16; LINES as usize] = inverses();

const fn inverses() -> [u16; LINES as usize] {
    let mut inverses = [0; LINES as usize];
    // Powers of a generator: the inverse of its n-th is the (256 - n)-th.
    let mut powers = [1_u16; LINES as usize];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = multiply(powers[n - 1], GENERATOR);
        n += 1;
    }
    n = 0;
    while n < powers.len() - 1 {
        inverses[powers[n] as usize] = powers[powers.len() - 1 - n];
        n += 1;
    }
    inverses
}

/// Its powers are all elements but 0.
const GENERATOR: u16 = 3;

const fn add(a: u16, b: u16) -> u16 {
    (a + b) % LINES
}

const fn multiply(a: u16, b: u16) -> u16 {
    remainder(a as u64 * b as u64)
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder of 257 fits")]
const fn remainder(number: u64) -> u16 {
    (number % LINES as u64) as u16
}

/// Any element but 0.
#[expect(clippy::cast_possible_truncation, reason = "a remainder of 256 fits")]
const fn nonzero(number: u64) -> u16 {
    1 + (number % (LINES as u64 - 1)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_sees_each_slot_once() {
        for seed in [0, 1, 7, 256, 257, u64::MAX] {
            let mut walk = Walk::new(seed);
            let mut seen = vec![false; RING_SLOTS as usize];
            for slot in (0..POINTS).filter_map(|_| walk.next()) {
                assert!(!core::mem::replace(&mut seen[slot], true), "seed {seed}: {slot} twice");
            }
            assert!(seen.iter().all(|seen| *seen), "seed {seed}");
        }
    }

    #[test]
    fn inverses_are_inverses() {
        for n in 1..LINES {
            assert_eq!(multiply(n, INVERSE[usize::from(n)]), 1);
        }
        assert_eq!(INVERSE[0], 0);
    }

    /// How many of the first `slots` of one walk are among the first `slots` of another.
    fn overlap(one: u64, other: u64, slots: usize) -> usize {
        let first = |seed| -> Vec<bool> {
            let mut walk = Walk::new(seed);
            let mut seen = vec![false; RING_SLOTS as usize];
            (0..POINTS).filter_map(|_| walk.next()).take(slots).for_each(|slot| seen[slot] = true);
            seen
        };
        first(one).iter().zip(&first(other)).filter(|(one, other)| **one && **other).count()
    }

    /// Chance alone would be off by more than 23 slots one time in three, and by 60 now and then.
    /// (Off at all, because the ring lacks a few points of the plane.)
    #[test]
    fn walks_of_different_classes_are_mixed_better_than_chance() {
        let lines = 26;
        for class in 1..100 {
            let overlap = overlap(1000 * 257, 2000 * 257 + class, lines * usize::from(LINES));
            assert!(overlap.abs_diff(lines * lines) <= lines, "class {class}: {overlap}");
        }
    }

    #[test]
    fn neighbours_are_of_different_classes() {
        let mut seen = [false; LINES as usize];
        for host in 1..=16 {
            for port in 8001..=8016 {
                let class =
                    class(&Address6::mapped(crate::address::Address4::new([10, 9, 8, host])), port);
                assert!(!core::mem::replace(&mut seen[usize::from(class)], true));
            }
        }
    }
}
