//! The one atomic operation the data plane needs.
//!
//! On this target `core`'s atomics lack 32-bit types and some of their operations
//! miscompile, so the instruction is written out (docs/decisions).

/// Or-s bits into a number that other CPUs may change at the same time.
///
/// # Safety
/// `target` points to four valid, aligned bytes of a map value.
#[inline(always)]
pub unsafe fn or32(target: *mut u32, bits: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one locked instruction on memory the caller vouches for.
    unsafe {
        core::arch::asm!(
            "lock *(u32 *)({target} + 0) |= {bits}",
            target = in(reg) target,
            bits = in(wreg) bits,
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: host builds only type-check this; the caller vouches for the memory.
    unsafe {
        *target |= bits;
    }
}
