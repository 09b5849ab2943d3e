//! The BPF object of the product: the XDP program `pointsman`, the stages that it hands packets
//! on to, and `settle`, which the agent runs.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the macro's calling convention")]

use aya_ebpf::{macros::xdp, programs::XdpContext};
use lb_ebpf::{balance, context::Context};

/// Every packet of an interface begins here.
#[xdp]
fn pointsman(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::entry)
}

/// Packets of half-open flows, IPv4.
#[xdp]
fn half_open4(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::half_open4)
}

/// Packets of half-open flows, IPv6.
#[xdp]
fn half_open6(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::half_open6)
}

/// Packets of no flow, IPv4.
#[xdp]
fn admit4(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::admit4)
}

/// Packets of no flow, IPv6.
#[xdp]
fn admit6(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::admit6)
}

/// Answers with a RST, IPv4.
#[xdp]
fn reset4(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::reset4)
}

/// Answers with a RST, IPv6.
#[xdp]
fn reset6(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::reset6)
}

/// ICMP messages.
#[xdp]
fn icmp4(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::icmp4)
}

/// ICMPv6 messages.
#[xdp]
fn icmp6(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::icmp6)
}

/// Echo requests, IPv4.
#[xdp]
fn echo4(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::echo4)
}

/// Echo requests, IPv6.
#[xdp]
fn echo6(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::echo6)
}

/// Fragments, IPv4.
#[xdp]
fn fragment4(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::fragment4)
}

/// Fragments, IPv6.
#[xdp]
fn fragment6(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::fragment6)
}

/// Packets that come back from another stage.
#[xdp]
fn again(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::again)
}

/// Packets to servers that answer clients themselves.
#[xdp]
fn one_way(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::one_way)
}

/// Packets that do not fit once they are encapsulated, IPv4.
#[xdp]
fn too_big4(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::too_big4)
}

/// Packets that do not fit once they are encapsulated, IPv6.
#[xdp]
fn too_big6(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::too_big6)
}

/// SYN cookies, IPv4.
#[xdp]
fn cookie4(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::cookie4)
}

/// SYN cookies, IPv6.
#[xdp]
fn cookie6(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::cookie6)
}

/// Packets of half-open flows behind SYN cookies, IPv4.
#[xdp]
fn splice4(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::splice4)
}

/// Packets of half-open flows behind SYN cookies, IPv6.
#[xdp]
fn splice6(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::splice6)
}

/// Packets of confirmed flows behind SYN cookies, IPv4.
#[xdp]
fn shift4(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::shift4)
}

/// Packets of confirmed flows behind SYN cookies, IPv6.
#[xdp]
fn shift6(ctx: XdpContext) -> u32 {
    stage(&ctx, balance::shift6)
}

/// Counts down what ended outside of the data plane; attached to nothing.
#[xdp]
fn settle(ctx: XdpContext) -> u32 {
    // SAFETY: the kernel's own argument.
    lb_ebpf::settle::settle(unsafe { Context::new(ctx.ctx) })
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

/// GPL-only helpers are used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No code path reaches this: the verifier would refuse the program.
    loop {}
}
