//! The context the kernel hands to an XDP program.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext, bindings::xdp_md};

/// A context that is valid for the run of the program.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Context(*mut xdp_md);

impl Context {
    /// Takes over the kernel's word for the pointer.
    ///
    /// # Safety
    /// `raw` is the argument of an XDP program, or of a BPF function called with it.
    #[inline(always)]
    #[must_use]
    pub const unsafe fn new(raw: *mut xdp_md) -> Self {
        Self(raw)
    }

    /// The pointer, for helpers and BPF functions.
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> *mut xdp_md {
        self.0
    }

    /// Where the packet starts and ends. Volatile keeps the two loads in the form that
    /// the verifier recognises as packet pointers.
    #[inline(always)]
    #[must_use]
    pub fn data(self) -> (usize, usize) {
        // SAFETY: the pointer is valid by construction.
        unsafe {
            (
                (&raw const (*self.0).data).read_volatile() as usize,
                (&raw const (*self.0).data_end).read_volatile() as usize,
            )
        }
    }

    /// The interface the packet came in by.
    #[inline(always)]
    #[must_use]
    pub fn ingress_ifindex(self) -> u32 {
        // SAFETY: the pointer is valid by construction.
        unsafe { (*self.0).ingress_ifindex }
    }
}

impl EbpfContext for Context {
    #[inline(always)]
    fn as_ptr(&self) -> *mut c_void {
        self.0.cast()
    }
}
