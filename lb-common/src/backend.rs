//! `BACKENDS`: what the agent remembers of backends.

/// What the agent needs to recognise a backend after a restart. The data plane does not
/// read it: `VIPS` names the ring, the ring names the servers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    /// The backend's configured name, padded with zeros; all zero if the id is not in use.
    pub name: [u8; 64],
    /// Signature of the members the ring was built from ([`crate::maglev`]); 0 if the
    /// backend has no ring.
    pub ring_signature: u64,
    /// Generation of this id; 0 if it was never used.
    pub generation: u32,
    /// Servers in the ring.
    pub ring_members: u32,
}

/// Longest name of a backend, in bytes.
pub const NAME_BYTES: usize = 64;

impl Default for BackendEntry {
    fn default() -> Self {
        Self { name: [0; NAME_BYTES], ring_signature: 0, generation: 0, ring_members: 0 }
    }
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<BackendEntry>() == 80);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), no padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::BackendEntry {}
}
