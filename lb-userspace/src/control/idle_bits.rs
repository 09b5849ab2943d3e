//! When bits of the address filter may go. Pure.
//!
//! Flows outlive the VIP that they came through and the address by which their server knows
//! their client. Their packets pass the filter before anything else is asked, so a bit stays
//! until sweeps of the flow tables find no flow that needs it.

use std::collections::BTreeMap;

use crate::{datapath::AddressBits, reconcile::Actual};

/// Sweeps in a row that have to find no flow with such an address. The first may have begun
/// before the address went out of use; during the second, a flow may have left the half-open
/// table, which is read last, for the other, which is read first; the third finds it there.
const SWEEPS: u32 = 3;

/// Bits of the filter that nothing but flows needs, each with the sweeps in a row that found no
/// flow that does.
#[derive(Debug, Default)]
pub(super) struct IdleBits {
    sweeps: BTreeMap<u32, u32>,
}

impl IdleBits {
    /// Follows the maps as they are now.
    pub(super) fn follow(&mut self, actual: &Actual) {
        let needed = actual.needed_filter();
        let mut sweeps = BTreeMap::new();
        for (index, word) in &actual.filter {
            let spare = word & !needed.get(index).copied().unwrap_or(0);
            for bit in (0..64).filter(|bit| spare >> bit & 1 == 1).map(|bit| index * 64 + bit) {
                sweeps.insert(bit, self.sweeps.get(&bit).copied().unwrap_or(0));
            }
        }
        self.sweeps = sweeps;
    }

    /// Takes note of the addresses that a sweep found in use.
    pub(super) fn note_sweep(&mut self, used: &AddressBits) {
        for (bit, sweeps) in &mut self.sweeps {
            *sweeps = if used.contains(*bit) { 0 } else { sweeps.saturating_add(1) };
        }
    }

    /// The bits that may go, in words of the filter by index.
    #[must_use]
    pub(super) fn words(&self) -> BTreeMap<u32, u64> {
        let mut words = BTreeMap::new();
        for (bit, _) in self.sweeps.iter().filter(|(_, sweeps)| **sweeps >= SWEEPS) {
            *words.entry(bit / 64).or_default() |= 1_u64 << (bit % 64);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{address::Address4, hash};

    use super::*;

    const OLD: Address4 = Address4::new([10, 0, 0, 7]);

    fn used(addresses: &[Address4]) -> AddressBits {
        let mut bits = AddressBits::default();
        addresses.iter().for_each(|address| bits.insert(*address));
        bits
    }

    fn filter() -> BTreeMap<u32, u64> {
        let bit = hash::filter_bit(OLD);
        [(bit / 64, 1 << (bit % 64))].into()
    }

    #[test]
    fn a_bit_may_go_when_three_sweeps_in_a_row_found_no_flow_that_needs_it() {
        let actual = Actual { filter: filter(), ..Actual::default() };
        let mut idle = IdleBits::default();
        idle.follow(&actual);
        for sweep in [used(&[]), used(&[]), used(&[OLD]), used(&[]), used(&[])] {
            idle.note_sweep(&sweep);
            idle.follow(&actual);
            assert!(idle.words().is_empty());
        }
        idle.note_sweep(&used(&[Address4::new([10, 0, 0, 8])]));
        assert_eq!(idle.words(), filter());
    }

    #[test]
    fn a_bit_that_is_needed_meanwhile_begins_anew() {
        let mut actual = Actual { filter: filter(), ..Actual::default() };
        let mut idle = IdleBits::default();
        idle.follow(&actual);
        (0..3).for_each(|_| idle.note_sweep(&used(&[])));
        assert_eq!(idle.words(), filter());
        let server = lb_common::server::ServerEntry {
            state: lb_common::server::state::UP,
            snat_address: lb_common::address::Address6::mapped(OLD),
            ..lb_common::server::ServerEntry::default()
        };
        actual.servers.insert(1, server);
        idle.follow(&actual);
        assert!(idle.words().is_empty());
        actual.servers.clear();
        idle.follow(&actual);
        assert!(idle.words().is_empty());
    }
}
