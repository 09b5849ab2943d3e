//! The BPF object of the product: the XDP program `pointsman`, the stages that it hands packets
//! on to, and `settle`, `expire4` and `expire6`, which the agent runs.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the macro's calling convention")]

use aya_ebpf::{macros::xdp, programs::XdpContext};
use lb_ebpf::{
    balance,
    context::Context,
    family::{V4, V6},
};

/// Every packet of an interface begins here.
#[xdp]
fn pointsman(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::entry)
}

lb_ebpf::stages!(stage);

// Attached to nothing:

/// Puts counts of servers' flows right.
#[xdp]
fn settle(ctx: XdpContext) -> u32 {
    // SAFETY: the kernel's own argument.
    lb_ebpf::settle::settle(unsafe { Context::new(ctx.ctx) })
}

/// Removes IPv4 flows that the agent found idle.
#[xdp]
fn expire4(ctx: XdpContext) -> u32 {
    // SAFETY: the kernel's own argument.
    lb_ebpf::expire::expire::<V4>(unsafe { Context::new(ctx.ctx) })
}

/// Removes IPv6 flows that the agent found idle.
#[xdp]
fn expire6(ctx: XdpContext) -> u32 {
    // SAFETY: the kernel's own argument.
    lb_ebpf::expire::expire::<V6>(unsafe { Context::new(ctx.ctx) })
}

/// Runs a stage and does what it says.
#[inline(always)]
fn stage(ctx: &XdpContext, stage: impl FnOnce(Context) -> u32) -> u32 {
    // SAFETY: the kernel's own argument.
    let context = unsafe { Context::new(ctx.ctx) };
    let code = stage(context);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "interface {}: code {}", ctx.ingress_ifindex(), code);
    balance::conclude(context, code)
}

lb_ebpf::object!();
