//! The BPF object of the test bed; not part of the product.
#![no_std]
#![no_main]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Passes every packet. A veth end needs an XDP program before its peer can transmit
/// to it from XDP.
#[xdp]
fn stub(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// GPL-compatible, like the product's object.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No code path reaches this: the verifier would refuse the program.
    loop {}
}
