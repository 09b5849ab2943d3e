//! Copies by words of eight octets.
//!
//! The compiler copies what has no alignment (MAC addresses, addresses in headers) octet by
//! octet, and what may overlap, as far as it can tell, by a call of `memmove`, which is a loop
//! over octets. Where that is on the way of many packets, it is done here
//! (0043 in docs/decisions).

/// Copies a value of a whole number of words, 14 at most, that has no padding but what is named.
#[inline(always)]
pub fn copy<T: Copy>(from: &T, to: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && size_of::<T>() <= 14 * 8) };
    let (from, to) = ((&raw const *from).cast::<u64>(), (&raw mut *to).cast::<u64>());
    // Written out: the compiler would make a call of a loop.
    macro_rules! words {
        ($($index:literal)+) => {
            $(
                if $index < size_of::<T>() / 8 {
                    // SAFETY: within both values, and every octet of `T` is one of a field's.
                    unsafe { to.add($index).write_unaligned(from.add($index).read_unaligned()) };
                }
            )+
        };
    }
    words!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
}
