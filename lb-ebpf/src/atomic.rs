//! The atomic operations that the data plane needs.
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

/// Or-s bits into a number that other CPUs may change at the same time; the number before that.
///
/// # Safety
/// `target` points to four valid, aligned bytes of a map value.
#[inline(always)]
pub unsafe fn fetch_or32(target: *mut u32, bits: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one locked instruction on memory the caller vouches for.
    unsafe {
        let mut bits = bits;
        core::arch::asm!(
            "{bits} = atomic_fetch_or((u32 *)({target} + 0), {bits})",
            target = in(reg) target,
            bits = inout(wreg) bits,
        );
        bits
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: host builds only type-check this; the caller vouches for the memory.
    unsafe {
        target.replace(*target | bits)
    }
}

/// Adds to a number that other CPUs may change at the same time; the number before that.
///
/// # Safety
/// `target` points to four valid, aligned bytes of a map value.
#[inline(always)]
pub unsafe fn add32(target: *mut u32, value: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one locked instruction on memory the caller vouches for.
    unsafe {
        let mut value = value;
        core::arch::asm!(
            "{value} = atomic_fetch_add((u32 *)({target} + 0), {value})",
            target = in(reg) target,
            value = inout(wreg) value,
        );
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: host builds only type-check this; the caller vouches for the memory.
    unsafe {
        target.replace((*target).wrapping_add(value))
    }
}

/// Replaces a number that other CPUs may change at the same time, if it is `old`.
///
/// # Safety
/// `target` points to four valid, aligned bytes of a map value.
#[inline(always)]
pub unsafe fn replace32(target: *mut u32, old: u32, new: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one locked instruction on memory the caller vouches for; its operand is r0.
    unsafe {
        core::arch::asm!(
            "w0 = cmpxchg32_32({target} + 0, w0, {new})",
            target = in(reg) target,
            new = in(wreg) new,
            inout("w0") old => _,
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: host builds only type-check this; the caller vouches for the memory.
    unsafe {
        if *target == old {
            *target = new;
        }
    }
}

/// Tries of [`lock`]: some dozen microseconds, where a lock is held for less than one.
const TRIES: u32 = 512;

/// Takes a lock that is 0 while it is free. False if it stays taken: its holder's processor
/// is a virtual one that does not run at the moment.
///
/// Programs are not interrupted by others of their kind (XDP runs in softirq context), so
/// the holder goes on elsewhere and waiting for it is short. The kernel's `bpf_spin_lock`
/// costs more than most of what is done under this one.
///
/// # Safety
/// `lock` points to four valid, aligned bytes of a map value.
#[inline(always)]
#[must_use]
pub unsafe fn lock(lock: *mut u32) -> bool {
    take_lock(lock) != 0
}

/// A function of its own, so that the verifier walks the tries once. It knows of the pointer
/// that four bytes are there, if it is not null.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_lock(lock: *mut u32) -> u32 {
    if lock.is_null() {
        return 0;
    }
    for _ in 0..TRIES {
        // Who waits only looks, so that the holder keeps the cache line.
        // SAFETY: the promise of the caller of `lock`.
        if unsafe { lock.read_volatile() == 0 && exchange32(lock, 1) == 0 } {
            return 1;
        }
    }
    0
}

/// Gives a lock back.
///
/// # Safety
/// The caller holds the lock.
#[inline(always)]
pub unsafe fn unlock(lock: *mut u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise. The instruction is a barrier for the compiler, and
    // x86-64 does not reorder a store with what stands before it.
    unsafe {
        core::arch::asm!("*(u32 *)({lock} + 0) = {free}", lock = in(reg) lock, free = in(wreg) 0);
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise.
    unsafe {
        lock.write(0);
    }
}

/// Exchanges a number for another; the old one.
///
/// # Safety
/// `target` points to four valid, aligned bytes of a map value.
#[inline(always)]
pub unsafe fn exchange32(target: *mut u32, value: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one locked instruction on memory the caller vouches for. It is a barrier for
    // the compiler too, because it may touch memory.
    unsafe {
        let mut value = value;
        core::arch::asm!(
            "{value} = xchg32_32({target} + 0, {value})",
            target = in(reg) target,
            value = inout(wreg) value,
        );
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: host builds only type-check this; the caller vouches for the memory.
    unsafe {
        target.replace(value)
    }
}
