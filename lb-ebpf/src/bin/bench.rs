//! The BPF object of `cargo xtask bench datapath`; not part of the product.
//!
//! Each program times many packets within one `BPF_PROG_TEST_RUN`: a `bpf_loop` that
//! restores the packet from a template, varies its tuple, and calls what is measured. The
//! figures include the loop's own cost; `floor` is that cost.
#![no_std]
#![no_main]

use core::ffi::c_void;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, LruHashMap},
    helpers::generated::{bpf_ktime_get_ns, bpf_loop},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::bench::{CalibrationKey, FRAME_BYTES, Measurement, Order};
use lb_ebpf::{balance::balance, context::Context, packet::Packet};
use network_types::{eth::EthHdr, ip::Ipv4Hdr, tcp::TcpHdr};

/// What to measure; written by user space before each run.
#[btf_map]
static ORDER: Array<Order, 1> = Array::new();

/// What was measured; read by user space after each run.
#[btf_map]
static MEASUREMENT: Array<Measurement, 1> = Array::new();

/// The table of the `calibration` scenario.
#[btf_map]
static CALIBRATION: LruHashMap<CalibrationKey, u64, 2_097_152> = LruHashMap::new();

/// What the loop hands to each of its iterations; no more, because what is measured needs
/// nearly all of the stack.
struct Loop {
    context: Context,
    /// Flow of the next packet.
    number: u32,
}

/// Scenario `floor`: returns `XDP_PASS`.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the macro's calling convention")]
fn floor(ctx: XdpContext) -> u32 {
    run(&ctx, floor_iteration as *const () as *mut c_void)
}

/// Scenario `calibration`: parses, and looks a 16-byte key up in an LRU hash.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the macro's calling convention")]
fn calibration(ctx: XdpContext) -> u32 {
    run(&ctx, calibration_iteration as *const () as *mut c_void)
}

/// Every other scenario: the product's own entry function.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the macro's calling convention")]
fn balancer(ctx: XdpContext) -> u32 {
    run(&ctx, balancer_iteration as *const () as *mut c_void)
}

extern "C" fn floor_iteration(_index: u64, state: *mut Loop) -> i64 {
    iterate(state, |_| xdp_action::XDP_PASS)
}

extern "C" fn calibration_iteration(_index: u64, state: *mut Loop) -> i64 {
    iterate(state, |context| calibrate(&Packet::new(context)).unwrap_or(xdp_action::XDP_ABORTED))
}

extern "C" fn balancer_iteration(_index: u64, state: *mut Loop) -> i64 {
    iterate(state, balance)
}

/// Times `order.iterations` iterations.
#[inline(always)]
fn run(ctx: &XdpContext, iteration: *mut c_void) -> u32 {
    let (Some(order), Some(measurement)) = (ORDER.get_ptr(0), MEASUREMENT.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the kernel's own argument, and live map values.
    unsafe {
        let context = Context::new(ctx.ctx);
        let mut state = Loop { context, number: (*order).first };
        let start = bpf_ktime_get_ns();
        bpf_loop((*order).iterations, iteration, (&raw mut state).cast(), 0);
        (*measurement).elapsed_ns = bpf_ktime_get_ns() - start;
    }
    xdp_action::XDP_PASS
}

/// Restores the packet, measures one call, and counts its verdict.
#[inline(always)]
fn iterate(state: *mut Loop, measured: impl Fn(Context) -> u32) -> i64 {
    let (Some(order), Some(measurement)) = (ORDER.get_ptr(0), MEASUREMENT.get_ptr_mut(0)) else {
        return 1;
    };
    // SAFETY: `run` passes its own state, and the pointers are live map values.
    unsafe {
        let state = &mut *state;
        let order = &*order;
        if !restore(&Packet::new(state.context), order, state.number) {
            return 1;
        }
        // Consecutive packets belong to distant flows, as they do on a wire.
        state.number = order.after(state.number);
        let verdict = measured(state.context);
        let verdicts = &mut (*measurement).verdicts;
        if let Some(count) = verdicts.get_mut((verdict & 7) as usize) {
            *count += 1;
        }
    }
    0
}

/// Copies the template over the packet and writes the tuple of a flow into it.
#[inline(always)]
fn restore(packet: &Packet, order: &Order, number: u32) -> bool {
    let (Some(frame), Some(varied_address), Some(varied_port)) = (
        packet.at::<[u8; FRAME_BYTES]>(0),
        packet.at::<[u8; 4]>((order.address_offset & 0x3f) as usize),
        packet.at::<[u8; 2]>((order.port_offset & 0x3f) as usize),
    ) else {
        return false;
    };
    let (address, port) = order.tuple(number);
    // SAFETY: `at` checked the bounds.
    unsafe {
        // A frame starts at a multiple of eight bytes.
        *frame.cast::<[u64; FRAME_BYTES / 8]>() = order.frame;
        *varied_address = address.to_be_bytes();
        *varied_port = port.to_be_bytes();
    }
    true
}

/// The yardstick: the parsing that any balancer does, and one lookup.
#[inline(always)]
fn calibrate(packet: &Packet) -> Option<u32> {
    let ethernet = packet.at::<EthHdr>(0)?;
    let ip = packet.at::<Ipv4Hdr>(EthHdr::LEN)?;
    // SAFETY: `at` checked the bounds.
    let (ether_type, version_length, protocol) =
        unsafe { ((*ethernet).ether_type, (*ip).vihl, (*ip).proto) };
    let header_bytes = usize::from(version_length & 0x0f) * 4;
    if ether_type != 0x0800_u16.to_be() || header_bytes < Ipv4Hdr::LEN || protocol != 6 {
        return None;
    }
    let tcp = packet.at::<TcpHdr>(EthHdr::LEN + header_bytes)?;
    // SAFETY: `at` checked the bounds; this machine reads words anywhere.
    let key: CalibrationKey = unsafe {
        let addresses = (&raw const (*ip).src_addr).cast::<u32>();
        [*addresses, *addresses.add(1), *tcp.cast::<u32>(), u32::from(protocol)]
    };
    // SAFETY: the reference is not kept.
    unsafe { CALIBRATION.get(key) }.map(|_| xdp_action::XDP_TX)
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
