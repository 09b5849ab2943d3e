//! The BPF object of the benchmark; not part of the product.
#![no_std]
#![no_main]

/// GPL-compatible, like the product's object.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No code path reaches this: the verifier would refuse the program.
    loop {}
}
