//! The BPF object of `cargo xtask bench datapath` and `bench flood`; not part of the product.
//!
//! `BPF_PROG_TEST_RUN` repeats `drive`, which restores the packet from a template, varies its
//! tuple, and hands it by tail call to what is measured: the product's own program as the
//! agent loads it, or one of the two below. The figures include all that; `floor` is its cost.
#![no_std]
#![no_main]
#![expect(clippy::cast_possible_truncation, reason = "frames are short")]

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, LruHashMap, PerCpuArray, ProgramArray},
    helpers::generated::{bpf_ktime_get_ns, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::bench::{CalibrationKey, FRAME_BYTES, Measurement, Order};
use lb_ebpf::{context::Context, packet::Packet, verifier};
use network_types::{eth::EthHdr, ip::Ipv4Hdr, tcp::TcpHdr};

/// What to measure; written by user space before each run.
#[btf_map]
static ORDER: Array<Order, 1> = Array::new();

/// What was measured; read by user space after each run.
#[btf_map]
static MEASUREMENT: Array<Measurement, 1> = Array::new();

/// The program that is measured; set by user space.
#[btf_map]
static MEASURED: ProgramArray<1> = ProgramArray::new();

/// The table of the `calibration` scenario.
#[btf_map]
static CALIBRATION: LruHashMap<CalibrationKey, u64, 2_097_152> = LruHashMap::new();

/// Frames that came to the far end of the link.
#[btf_map]
static ARRIVED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Prepares one packet for what is measured. The run after the last packet takes the time.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the macro's calling convention")]
fn drive(ctx: XdpContext) -> u32 {
    let (Some(order), Some(measurement)) = (ORDER.get_ptr(0), MEASUREMENT.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the kernel's own argument, and live map values that no other program writes.
    unsafe {
        let (order, measurement) = (&*order, &mut *measurement);
        if measurement.packets == 0 {
            measurement.start_ns = bpf_ktime_get_ns();
            measurement.number = order.first;
        }
        if measurement.packets == order.iterations {
            measurement.end_ns = bpf_ktime_get_ns();
            return xdp_action::XDP_PASS;
        }
        let number = measurement.number;
        measurement.packets += 1;
        // Consecutive packets belong to distant flows, as they do on a wire.
        measurement.number = order.after(number);
        let context = Context::new(ctx.ctx);
        if shrink(context) && restore(&Packet::new(context), order, number) {
            MEASURED.tail_call(&ctx, 0);
        }
    }
    xdp_action::XDP_ABORTED
}

/// Scenario `floor`: nothing.
#[xdp]
fn floor(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Scenario `generate_drop`: the frame is over.
#[xdp]
fn discard(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Scenario `generate_send`: the frame is sent as it is.
#[xdp]
fn bounce(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// The far end of the link: counts frames and drops them.
#[xdp]
fn sink(_ctx: XdpContext) -> u32 {
    if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: a live map value of this processor; programs of one do not interrupt each other.
        unsafe { *arrived += 1 };
    }
    xdp_action::XDP_DROP
}

/// Scenario `floor_resized`: makes room for an outer IPv4 header, which `drive` takes back.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the macro's calling convention")]
fn floor_resized(ctx: XdpContext) -> u32 {
    // SAFETY: the kernel's own argument; no packet pointer is used afterwards.
    let failed = unsafe { bpf_xdp_adjust_head(ctx.ctx, -20) } != 0;
    if failed { xdp_action::XDP_ABORTED } else { xdp_action::XDP_PASS }
}

/// Scenario `calibration`: parses, and looks a 16-byte key up in an LRU hash.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "the macro's calling convention")]
fn calibration(ctx: XdpContext) -> u32 {
    // SAFETY: the kernel's own argument.
    calibrate(&Packet::new(unsafe { Context::new(ctx.ctx) })).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Takes back what the packet before was encapsulated in, or what was cut off its end.
#[inline(always)]
fn shrink(context: Context) -> bool {
    let (start, end) = context.data();
    let grown = (verifier::distance(start, end) as i32).wrapping_sub(FRAME_BYTES as i32);
    if grown < 0 {
        // SAFETY: as below.
        return unsafe { bpf_xdp_adjust_tail(context.raw(), grown.wrapping_neg()) == 0 };
    }
    // SAFETY: the context is valid; no packet pointer is used afterwards.
    grown == 0 || unsafe { bpf_xdp_adjust_head(context.raw(), grown) == 0 }
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

lb_ebpf::object!();
