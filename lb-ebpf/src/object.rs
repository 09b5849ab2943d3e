//! What every BPF object of the data plane has. That of the test bed writes it itself: whoever
//! names this crate has its maps.

/// The licence, which helpers for GPL programs ask for, and the panic handler.
#[macro_export]
macro_rules! object {
    () => {
        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            // No code path reaches this: the verifier would refuse the program.
            loop {}
        }
    };
}
