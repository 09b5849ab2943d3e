//! Time as the data plane sees it.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};

use crate::maps::SCRATCH;

/// The coarse clock when it was last read on a CPU.
#[repr(C)]
pub struct Tick {
    /// The kernel's count of ticks then.
    jiffies: u64,
    /// What the clock said, nanoseconds.
    now_ns: u64,
}

/// Nanoseconds of `CLOCK_MONOTONIC_COARSE`: a few milliseconds coarse and six times
/// cheaper than the exact clock.
///
/// That clock moves with the kernel's tick, which the JIT turns into one load, so it is
/// called once a tick and CPU and not for every packet.
#[inline(always)]
#[must_use]
pub fn now_ns() -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return coarse_ns();
    };
    // SAFETY: the value belongs to this CPU.
    let tick = unsafe { &mut (*scratch).tick };
    // SAFETY: the helper takes no arguments and has no effects.
    let jiffies = unsafe { bpf_jiffies64() };
    if tick.jiffies != jiffies {
        *tick = Tick { jiffies, now_ns: coarse_ns() };
    }
    tick.now_ns
}

#[inline(always)]
fn coarse_ns() -> u64 {
    // SAFETY: the helper takes no arguments and has no effects.
    unsafe { bpf_ktime_get_coarse_ns() }
}
