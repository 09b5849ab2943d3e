//! SYN cookies: when SYNs are answered with them, and the numbers of connections behind them.
//!
//! The cookie is the kernel's own (`net/ipv4/syncookies.c`, by helpers that Linux has since
//! 6.0). It holds one of four segment sizes and no other option, so such connections have
//! neither window scaling nor selective acknowledgements.
//!
//! How full the table of half-open flows is follows from samples: a SYN looks at the bucket of
//! its own tuple, which is any bucket. Time is a parameter.

use crate::{
    checksum,
    half_open::{FLOWS_PER_BUCKET, age_ms},
    settings::Settings,
};

/// For how long after the last cause for it SYNs are answered with cookies, nanoseconds.
pub const HOLD_NS: u64 = 10_000_000_000;
/// For how long a cookie that was sent may come back, nanoseconds: the kernel's
/// `MAX_SYNCOOKIE_AGE`.
pub const LIFE_NS: u64 = 120_000_000_000;
/// Words of [`Cookies`] are written again only after this time, nanoseconds, so that processors
/// do not take them from each other.
pub const REFRESH_NS: u64 = 500_000_000;
/// Everything, in the unit of [`Settings::cookie_level`].
pub const FULL: u32 = 1 << 16;

/// One sample moves the estimate by this part of the difference.
const WEIGHT: u32 = 64;
/// Without samples the estimate halves in this time, milliseconds.
const HALF_LIFE_MS: u32 = 250;
/// For how long SYNs without an answer are counted, milliseconds.
const WINDOW_MS: u32 = 1000;

/// The one value of `COOKIES`. Any processor writes either word; the later write wins, and both
/// are right.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cookies {
    /// Until when SYNs are answered with cookies, nanoseconds of `CLOCK_MONOTONIC_COARSE`; 0
    /// if never.
    pub active_until_ns: u64,
    /// When a cookie was sent, about, nanoseconds of `CLOCK_MONOTONIC_COARSE`; 0 if never.
    pub sent_ns: u64,
}

impl Cookies {
    /// Whether SYNs are answered with cookies.
    #[inline(always)]
    #[must_use]
    pub const fn is_active(&self, now_ns: u64) -> bool {
        now_ns < self.active_until_ns
    }

    /// Whether a cookie that was sent may still come back.
    #[inline(always)]
    #[must_use]
    pub const fn may_return(&self, now_ns: u64) -> bool {
        self.sent_ns != 0 && now_ns < self.sent_ns.wrapping_add(LIFE_NS)
    }

    /// Goes on answering with cookies for [`HOLD_NS`].
    #[inline(always)]
    pub fn hold(&mut self, now_ns: u64) {
        if self.active_until_ns < now_ns + HOLD_NS - REFRESH_NS {
            self.active_until_ns = now_ns + HOLD_NS;
        }
    }

    /// A cookie is sent.
    #[inline(always)]
    pub fn send(&mut self, now_ns: u64) {
        if self.sent_ns + REFRESH_NS <= now_ns {
            self.sent_ns = now_ns;
        }
    }
}

/// What one processor knows of the pressure of SYNs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Estimated share of places in use, in 65,536ths.
    pub level: u32,
    /// When the last sample was taken, milliseconds of the coarse clock, low 32 bits.
    pub sampled_ms: u32,
    /// Since when SYNs are counted, milliseconds of the coarse clock, low 32 bits.
    pub window_ms: u32,
    /// Cookies sent since then, without those that came back.
    pub unanswered: u32,
}

impl Pressure {
    /// Takes a sample: `live` places of a bucket are in use. Gives the new estimate.
    #[inline(always)]
    pub const fn sample(&mut self, live: u32, now_ms: u32) -> u32 {
        let mut halvings = age_ms(now_ms, self.sampled_ms) / HALF_LIFE_MS;
        if halvings > 16 {
            halvings = 16;
        }
        let level = (self.level & 0x1_ffff) >> halvings;
        self.level = level - level / WEIGHT + live * (FULL / FLOWS_PER_BUCKET / WEIGHT);
        self.sampled_ms = now_ms;
        self.level
    }

    /// Counts a cookie. Whether as many flows as would fill the table to the configured level
    /// until they time out have remained without an answer: then the flood goes on, although
    /// the table has emptied.
    #[inline(always)]
    pub const fn send(&mut self, now_ms: u32, settings: &Settings) -> bool {
        if age_ms(now_ms, self.window_ms) >= WINDOW_MS {
            (self.window_ms, self.unanswered) = (now_ms, 0);
        }
        self.unanswered = self.unanswered.saturating_add(1);
        let places = settings.half_open_buckets as u64 * FLOWS_PER_BUCKET as u64;
        let limit = (places * settings.cookie_level as u64) >> 16;
        self.unanswered as u64 * settings.half_open_ms as u64 >= limit * WINDOW_MS as u64
    }

    /// A cookie came back.
    #[inline(always)]
    pub const fn receive(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }
}

/// The sequence number that a cookie is made of in place of a client's own. The kernel's cookies
/// of two numbers that follow each other differ by one, as do those of two segment sizes, so
/// that it takes the one for the other; here it matters which number a client began with.
#[inline(always)]
#[must_use]
pub const fn cookie_sequence(sequence: u32) -> u32 {
    // An odd factor: nothing is lost.
    sequence.wrapping_mul(0x9e37_79b1)
}

/// How many segment sizes a cookie can tell apart.
pub const SEGMENT_SIZES: u32 = 4;

/// The four of IPv4 (`msstab` of `net/ipv4/syncookies.c`), smallest lowest.
const SIZES4: u64 = 536 | 1300 << 16 | 1440 << 32 | 1460 << 48;
/// The four of IPv6 (`net/ipv6/syncookies.c`).
const SIZES6: u64 = 1220 | 1420 << 16 | 1440 << 32 | 8940 << 48;

/// The segment sizes that a cookie can hold, smallest first; `index` is 0 to 3. By arithmetic,
/// because BPF objects have no place for the compiler's own tables.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the sizes have 16 bits each")]
pub const fn segment_size(is_v6: bool, index: u32) -> u16 {
    let sizes = if is_v6 { SIZES6 } else { SIZES4 };
    (sizes >> (16 * (index & 3))) as u16
}

/// What changing one 32-bit number of a packet adds to its checksums, memory order. Numbers in
/// host byte order.
#[inline(always)]
#[must_use]
pub const fn number_delta(before: u32, after: u32) -> u16 {
    let (before, after) = (before.to_be(), after.to_be());
    checksum::delta((before & 0xffff) + (before >> 16), (after & 0xffff) + (after >> 16))
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<Cookies>() == 16);
    assert!(size_of::<Pressure>() == 16);
};

// SAFETY: repr(C), no padding, every bit pattern is valid, no pointers.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Cookies {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn the_estimate_follows_the_table_up_and_forgets_without_samples() {
        let mut pressure = Pressure::default();
        let count = (1..).find(|_| pressure.sample(4, 1000) > FULL / 2).expect("it rises");
        assert!((30..60).contains(&count), "{count} samples");
        for _ in 0..1000 {
            pressure.sample(1, 1000);
        }
        assert!(pressure.level.abs_diff(FULL / 4) < FULL / 50, "{}", pressure.level);
        assert!(pressure.sample(0, 3000) < FULL / 500);
    }

    #[test]
    fn a_flood_that_would_fill_the_table_is_told_from_clients_that_answer() {
        let settings = Settings { cookie_level: FULL / 2, ..Settings::default() };
        let (mut flood, mut clients) = (Pressure::default(), Pressure::default());
        // 32,768 places over 30 seconds.
        let sends = (1..).find(|_| flood.send(5000, &settings));
        assert_eq!(sends, Some(1093));
        for _ in 0..100_000 {
            assert!(!clients.send(5000, &settings));
            clients.receive();
        }
        assert!(!flood.send(6000, &settings), "a new second");
    }

    #[test]
    fn cookies_are_sent_for_a_while_after_the_last_cause_and_come_back_for_longer() {
        let mut cookies = Cookies::default();
        assert!(!cookies.is_active(0) && !cookies.may_return(0));
        cookies.hold(SECOND_NS);
        cookies.send(SECOND_NS);
        let written = cookies;
        cookies.hold(SECOND_NS + REFRESH_NS - 1);
        cookies.send(SECOND_NS + REFRESH_NS - 1);
        assert_eq!(cookies, written, "written again too soon");
        assert!(cookies.is_active(10 * SECOND_NS) && !cookies.is_active(11 * SECOND_NS));
        assert!(cookies.may_return(120 * SECOND_NS) && !cookies.may_return(121 * SECOND_NS));
    }

    #[test]
    fn neighbours_have_cookies_far_apart() {
        let distance = cookie_sequence(8).wrapping_sub(cookie_sequence(7));
        // More than two of the kernel's minutes, which are its highest octet, either way.
        assert!((3..=252).contains(&(distance >> 24)), "{distance:#x}");
    }

    #[test]
    fn segment_sizes_grow() {
        for is_v6 in [false, true] {
            let sizes = [0, 1, 2, 3].map(|index| segment_size(is_v6, index));
            assert!(sizes.is_sorted() && sizes[0] >= 536, "{sizes:?}");
        }
    }

    proptest! {
        #[test]
        fn the_estimate_is_a_share(samples in prop::collection::vec((0_u32..=4, any::<u32>()), 0..50)) {
            let mut pressure = Pressure::default();
            for (live, now_ms) in samples {
                prop_assert!(pressure.sample(live, now_ms) <= FULL + WEIGHT);
            }
        }

        #[test]
        fn a_number_may_change_without_the_rest_being_summed(
            mut bytes in prop::collection::vec(any::<u8>(), 20), after: u32,
        ) {
            bytes[0] |= 1;
            let before = u32::from_be_bytes(*bytes[4..].first_chunk().expect("four bytes"));
            let sum = checksum::header_checksum(&bytes);
            let changed = checksum::apply(sum, number_delta(before, after));
            bytes[4..8].copy_from_slice(&after.to_be_bytes());
            prop_assert_eq!(changed, checksum::header_checksum(&bytes));
        }
    }
}
