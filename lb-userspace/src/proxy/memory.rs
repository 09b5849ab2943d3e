//! The allocator of the agent, mimalloc, as far as it has to be told something.

/// Gives memory that this thread does not use back to the kernel. mimalloc does so by itself
/// only while it is asked for memory; a crowd that has become quiet asks for none.
pub(super) fn give_back() {
    // SAFETY: it has no arguments that could be wrong, and touches no memory that is in use:
    // it looks at what the calling thread has freed.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
