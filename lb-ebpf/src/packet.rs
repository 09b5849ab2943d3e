//! Bounds-checked access to the bytes of a packet.

use crate::context::Context;

/// The linear part of a packet. Invalid after the packet was resized.
#[derive(Clone, Copy)]
pub struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    /// The packet of a program's context.
    #[inline(always)]
    #[must_use]
    pub fn new(ctx: Context) -> Self {
        let (start, end) = ctx.data();
        Self { start, end }
    }

    /// The header of type `T` at an offset; none if the packet ends before it does.
    ///
    /// `T` is aligned to 2 at most, as every header of an Ethernet frame is, and takes at
    /// least 2 bytes (the verifier loses the range of 1-byte checks at variable offsets).
    #[inline(always)]
    #[must_use]
    pub fn at<T>(&self, offset: usize) -> Option<*mut T> {
        const { assert!(align_of::<T>() <= 2 && size_of::<T>() >= 2) };
        let header = self.start + offset;
        (header + size_of::<T>() <= self.end).then_some(header as *mut T)
    }

    /// The header of type `T` at a pointer into the packet; none if the packet ends before
    /// it does. For headers behind one whose bounds were checked: the verifier knows the
    /// pointer, while an offset computed again would be a stranger to it.
    #[inline(always)]
    #[must_use]
    pub fn at_pointer<T>(&self, pointer: *mut u8) -> Option<*mut T> {
        const { assert!(align_of::<T>() <= 2 && size_of::<T>() >= 2) };
        let header = pointer as usize;
        (header + size_of::<T>() <= self.end).then_some(header as *mut T)
    }

    /// Bytes from an offset to the end; zero if the offset is beyond it.
    #[inline(always)]
    #[must_use]
    pub fn remaining(&self, offset: usize) -> usize {
        (self.end - self.start).saturating_sub(offset)
    }

    /// Length in bytes, Ethernet header included.
    #[inline(always)]
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there are no bytes at all.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }
}
