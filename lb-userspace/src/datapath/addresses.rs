//! Which addresses flows use, as the address filter knows them: by the bit that an address
//! hashes to.

use std::fmt;

use lb_common::{abi::FILTER_WORDS, address::Address, hash};

/// A set of bits of the address filter.
#[derive(Clone, PartialEq, Eq)]
pub struct AddressBits(Box<[u64]>);

impl Default for AddressBits {
    fn default() -> Self {
        Self(vec![0; FILTER_WORDS as usize].into())
    }
}

impl AddressBits {
    /// Adds the bit of an address.
    pub fn insert<A: Address>(&mut self, address: A) {
        let bit = hash::filter_bit(address);
        if let Some(word) = self.0.get_mut(bit as usize / 64) {
            *word |= 1 << (bit % 64);
        }
    }

    /// Whether a bit is in the set.
    #[must_use]
    pub fn contains(&self, bit: u32) -> bool {
        self.0.get(bit as usize / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }
}

/// There may be thousands, which nobody wants to see in a log.
impl fmt::Debug for AddressBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits: u32 = self.0.iter().map(|word| word.count_ones()).sum();
        write!(f, "AddressBits({bits})")
    }
}
