//! What each processor remembers of sources that were not let in, so that the next SYN of a
//! flood costs neither the lookup of its VIP nor those of its source on the lists.
//!
//! A slot holds one judgement: a source, the address and port that it sent to, and the reason.
//! It is in force while the lists are those it was made by, which their time of change says,
//! and until the block behind it ends. Another source with the same slot takes it over.

/// Slots of a processor; a power of two.
pub const SLOTS: u32 = 512;

/// What a packet is judged by: addresses in memory order as words, and what tells families
/// and ports apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The source; an IPv4 address is the second word.
    pub source: [u64; 2],
    /// The destination, the same.
    pub destination: [u64; 2],
    /// The destination's port in network byte order, and [`V6`].
    pub port: u64,
}

/// The bit of [`Question::port`] that IPv6 has.
pub const V6: u64 = 1 << 16;

/// One slot of `DENIALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// What was asked.
    pub question: Question,
    /// `Settings::access_changed_ns` of the lists that it was judged by.
    pub changed_ns: u64,
    /// The reason as a number that is not 0; 0 if the slot is empty.
    pub code: u32,
    /// When it ends, seconds of `CLOCK_MONOTONIC`; 0 for as long as the lists stand.
    pub expires_s: u32,
}

impl Question {
    /// Which slot it has.
    #[inline(always)]
    #[must_use]
    pub const fn slot(&self) -> u32 {
        let [high, low] = self.source;
        let [to_high, to_low] = self.destination;
        let bits = (high ^ to_high.rotate_left(7)).wrapping_mul(ODD)
            ^ low
            ^ to_low.rotate_left(19)
            ^ self.port.rotate_left(40);
        // The high bits of a product depend on all bits below them; there are few of them.
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        let slot = (bits.wrapping_mul(ODD) >> (64 - SLOTS.ilog2())) as u32;
        slot
    }
}

impl Denial {
    /// The reason, if this is an answer to a question now.
    #[inline(always)]
    #[must_use]
    pub fn code_for(
        &self,
        question: &Question,
        changed_ns: u64,
        now_s: impl FnOnce() -> u32,
    ) -> Option<u32> {
        if self.code == 0 || self.changed_ns != changed_ns || self.question != *question {
            return None;
        }
        (self.expires_s == 0 || now_s() < self.expires_s).then_some(self.code)
    }
}

/// 2^64 over the golden ratio (Knuth, "The Art of Computer Programming", volume 3, 6.4).
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
const _: () = assert!(SLOTS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Question = Question { source: [0, 7], destination: [0, 9], port: 80 };

    fn denial() -> Denial {
        Denial { question: ASKED, changed_ns: 5, code: 3, expires_s: 0 }
    }

    #[test]
    fn a_denial_answers_its_own_question_alone_while_lists_stand_and_until_it_ends() {
        let never = || -> u32 { panic!("the clock was read for nothing") };
        assert_eq!(denial().code_for(&ASKED, 5, never), Some(3));
        assert_eq!(denial().code_for(&ASKED, 6, never), None);
        for other in [
            Question { source: [0, 8], ..ASKED },
            Question { source: [1, 7], ..ASKED },
            Question { destination: [0, 8], ..ASKED },
            Question { destination: [1, 9], ..ASKED },
            Question { port: 81, ..ASKED },
            Question { port: 80 | V6, ..ASKED },
        ] {
            assert_eq!(denial().code_for(&other, 5, never), None, "{other:?}");
        }
        assert_eq!(Denial::default().code_for(&Question::default(), 0, never), None);
        let ends = Denial { expires_s: 10, ..denial() };
        assert_eq!(ends.code_for(&ASKED, 5, || 9), Some(3));
        assert_eq!(ends.code_for(&ASKED, 5, || 10), None);
    }

    #[test]
    fn sources_of_one_network_spread_over_the_slots() {
        // As a little-endian machine reads 10.0.x.y from memory, and the last bytes of IPv6.
        let v4 = |n: u64| [0, 10 | (n & 0xff) << 24 | (n >> 8) << 16];
        let v6 = |n: u64| [0x20, (n & 0xff) << 56 | (n >> 8) << 48];
        for question in [&v4 as &dyn Fn(u64) -> [u64; 2], &v6] {
            let mut slots: Vec<u32> =
                (0..256).map(|n| Question { source: question(n), ..ASKED }.slot()).collect();
            assert!(slots.iter().all(|slot| *slot < SLOTS));
            slots.sort_unstable();
            slots.dedup();
            // By chance it would be 201.
            assert!(slots.len() > 160, "{} of 256 are distinct", slots.len());
        }
    }
}
