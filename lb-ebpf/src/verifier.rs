//! Making the verifier forget.
//!
//! The verifier walks every path with everything it knows of each value, and walks the
//! rest of the program again for each combination of constants that reaches it. A value
//! that has been to a map and back is just a number to it, so paths that differ only in
//! such values are walked once.

use crate::maps::SCRATCH;

/// The same value, of which the verifier knows nothing. Costs a store and a load; for
/// paths that are not hot.
#[inline(always)]
#[must_use]
pub fn forget(value: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the value belongs to this CPU; volatile, or the compiler would see through it.
    unsafe {
        let cell = &raw mut (*scratch).forgotten;
        cell.write_volatile(value);
        cell.read_volatile()
    }
}

/// Bytes from one pointer into the packet to another, in an instruction of 64 bits: the compiler
/// would take one of 32 where the result has no more, which the verifier refuses for pointers.
#[inline(always)]
#[must_use]
pub fn distance(start: usize, end: usize) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut bytes = end as u64;
        // SAFETY: a subtraction of two registers.
        unsafe {
            core::arch::asm!(
                "{bytes} -= {start}",
                bytes = inout(reg) bytes,
                start = in(reg) start as u64,
            );
        }
        bytes
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (end - start) as u64
    }
}
