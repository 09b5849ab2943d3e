//! The BPF object of the product: the XDP program `pointsman`, and `settle`, which the agent
//! runs.
#![no_std]
#![no_main]

use aya_ebpf::{macros::xdp, programs::XdpContext};
use lb_ebpf::{balance::balance, context::Context};

/// Handles every packet of an interface.
#[xdp]
#[cfg_attr(
    not(feature = "log"),
    expect(clippy::needless_pass_by_value, reason = "the macro's calling convention")
)]
fn pointsman(ctx: XdpContext) -> u32 {
    // SAFETY: the kernel's own argument.
    let action = balance(unsafe { Context::new(ctx.ctx) });
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(&ctx, "interface {}: action {}", ctx.ingress_ifindex(), action);
    action
}

/// Counts down what ended outside of the data plane; attached to nothing.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the macro's calling convention")]
fn settle(ctx: XdpContext) -> u32 {
    // SAFETY: the kernel's own argument.
    lb_ebpf::settle::settle(unsafe { Context::new(ctx.ctx) })
}

/// GPL-only helpers are used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No code path reaches this: the verifier would refuse the program.
    loop {}
}
