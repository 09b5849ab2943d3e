//! Time as the data plane sees it.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;

/// Nanoseconds of `CLOCK_MONOTONIC_COARSE`: a few milliseconds coarse and six times
/// cheaper than the exact clock.
#[inline(always)]
#[must_use]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes no arguments and has no effects.
    unsafe { bpf_ktime_get_coarse_ns() }
}
