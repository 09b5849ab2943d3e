//! The allocator of the agent: mimalloc, asked in the way that is cheap for it.
//!
//! The `mimalloc` crate asks for an alignment each time. Blocks of mimalloc are aligned as
//! malloc's are without being asked; asked, it looks whether the block at hand happens to be,
//! asks for a larger one if not, and has to find the block's beginning when it is freed: three
//! times the instructions, for nearly every allocation of a request
//! (docs/decisions/0029-cost-of-a-request.md).

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc,
    mi_zalloc_aligned,
};

/// What blocks are aligned to that are at least as large, in bytes: that of `max_align_t`
/// (`MI_MAX_ALIGN_SIZE` of mimalloc).
const USUAL: usize = 16;

/// A request is many small pieces that live for microseconds on one thread.
#[derive(Debug)]
pub struct Allocator;

/// Whether a block of so many bytes has that alignment without being asked for it.
const fn is_usual(size: usize, alignment: usize) -> bool {
    alignment <= USUAL && alignment <= size
}

// SAFETY: each block comes from mimalloc and goes back to it, which does not unwind; it has
// at least the size of its layout, and its alignment: mimalloc's malloc gives that of
// max_align_t, as C demands, to all blocks that are large enough for a value of such alignment.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size and any power of two will do.
        unsafe {
            match is_usual(layout.size(), layout.align()) {
                true => mi_malloc(layout.size()).cast(),
                false => mi_malloc_aligned(layout.size(), layout.align()).cast(),
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe {
            match is_usual(layout.size(), layout.align()) {
                true => mi_zalloc(layout.size()).cast(),
                false => mi_zalloc_aligned(layout.size(), layout.align()).cast(),
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller promises that the block is one of ours.
        unsafe { mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the block is one of ours, and what is copied is the
        // smaller of both sizes.
        unsafe {
            match is_usual(size, layout.align()) {
                true => mi_realloc(block.cast(), size).cast(),
                false => mi_realloc_aligned(block.cast(), size, layout.align()).cast(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_size_and_alignment_asked_for() {
        for alignment in (0..=12).map(|power| 1_usize << power) {
            for size in [1, 7, 8, 9, 15, 16, 17, 24, 40, 100, 1000, 1500, 5000, 70_000] {
                let layout = Layout::from_size_align(size, alignment).unwrap();
                // SAFETY: the layout has a size, every block is written to within its size and
                // freed once, with the layout that it has then.
                unsafe {
                    let blocks: Vec<_> = (0..20).map(|_| Allocator.alloc(layout)).collect();
                    let zeroed = Allocator.alloc_zeroed(layout);
                    assert_eq!(std::slice::from_raw_parts(zeroed, size), vec![0; size]);
                    Allocator.dealloc(zeroed, layout);
                    for block in blocks {
                        assert!(!block.is_null() && block.addr() % alignment == 0, "{layout:?}");
                        block.write_bytes(7, size);
                        let block = Allocator.realloc(block, layout, 2 * size);
                        assert!(block.addr() % alignment == 0, "{layout:?}");
                        assert_eq!(std::slice::from_raw_parts(block, size), vec![7; size]);
                        let larger = Layout::from_size_align(2 * size, alignment).unwrap();
                        Allocator.dealloc(block, larger);
                    }
                }
            }
        }
    }
}
