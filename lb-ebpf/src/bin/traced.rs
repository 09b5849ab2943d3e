//! The data plane once more, as it is while `pointsman trace` looks: the same stages, around which
//! each packet is noted as it came and, if it is wanted, told with what became of it. It takes the
//! place of the object `pointsman` for that time, over the same maps, so that the latter pays
//! nothing.
//!
//! Entry and end of a packet are on one CPU, and no other packet comes between them.
#![no_std]
#![no_main]
#![expect(clippy::cast_possible_truncation, reason = "lengths of packets are short")]
#![expect(clippy::needless_pass_by_value, reason = "the macro's calling convention")]

use aya_ebpf::{
    bindings::xdp_md,
    btf_maps::{Array, PerCpuArray, RingBuf},
    helpers::generated::{
        bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_ringbuf_output, bpf_xdp_load_bytes,
    },
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    address::{Address6, Be16},
    drop_reason::DropReason,
    trace::{Filter, MOST_BYTES, NO_REASON, RecordHead, Tuple},
};
use lb_ebpf::{balance, context::Context, maps::DROP_COUNTERS, verifier};

/// Bytes that hold the headers of a packet.
const HEAD: usize = 256;
const REASONS: usize = DropReason::COUNT as usize;

/// What is wanted; written by user space.
#[btf_map]
static TRACE_FILTER: Array<Filter, 1> = Array::new();

/// What was found.
#[btf_map]
static TRACE_RECORDS: RingBuf<u64, 4_194_304> = RingBuf::new();

/// The packet that this CPU has in hand.
#[btf_map]
static TRACE_SLOT: PerCpuArray<Slot, 1> = PerCpuArray::new();

/// A packet in hand.
#[repr(C)]
struct Slot {
    head: RecordHead,
    /// As it came.
    frame: [u8; MOST_BYTES + 1],
    /// Its headers as it left.
    left: [u8; HEAD],
    /// What was counted when it came.
    drops: [u64; REASONS],
    /// Records of this CPU that there was no room for since the last that there was.
    lost: u64,
}

/// Every packet of an interface begins here.
#[xdp]
fn pointsman(ctx: XdpContext) -> u32 {
    trace_enter(ctx.ctx);
    stage(&ctx, balance::entry)
}

lb_ebpf::stages!(stage);

/// Runs a stage, and tells the packet if it ends there.
#[inline(always)]
fn stage(ctx: &XdpContext, stage: impl FnOnce(Context) -> u32) -> u32 {
    // SAFETY: the kernel's own argument.
    let context = unsafe { Context::new(ctx.ctx) };
    let action = balance::conclude(context, stage(context));
    trace_leave(ctx.ctx, action);
    action
}

// These functions keep their C names: `bpftool prog` and verifier logs show them.

/// Notes a packet that comes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trace_enter(raw: *mut xdp_md) -> u32 {
    // SAFETY: the caller passes its own context on.
    u32::from(enter(unsafe { Context::new(raw) }).is_some())
}

/// Tells a packet that leaves.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trace_leave(raw: *mut xdp_md, action: u32) -> u32 {
    // SAFETY: the caller passes its own context on.
    u32::from(leave(unsafe { Context::new(raw) }, action).is_some())
}

#[inline(always)]
fn enter(ctx: Context) -> Option<()> {
    let filter = TRACE_FILTER.get_ptr(0)?;
    let slot = TRACE_SLOT.get_ptr_mut(0)?;
    // SAFETY: the slot belongs to this CPU, and live map values stay mapped.
    let (filter, slot) = unsafe { (&*filter, &mut *slot) };
    slot.head.bytes = 0;
    // SAFETY: the helper takes nothing.
    if filter.sample > 1 && unsafe { bpf_get_prandom_u32() } % filter.sample != 0 {
        return None;
    }
    // SAFETY: as above.
    let now = unsafe { bpf_ktime_get_ns() };
    if now > filter.until_ns {
        return None;
    }
    let length = length(ctx);
    let known = length.min(HEAD as u32);
    load(ctx, &mut slot.frame, known)?;
    read(&mut slot.head.before, slot.frame.first_chunk()?, known as usize);
    if !filter.may_want(&slot.head.before) {
        return None;
    }
    let captured = length.min(filter.snap);
    if captured > known {
        load(ctx, &mut slot.frame, captured)?;
    }
    for reason in 0..DropReason::COUNT {
        *slot.drops.get_mut(reason as usize)? = counted(reason)?;
    }
    slot.head.time_ns = now;
    slot.head.ifindex = ctx.ingress_ifindex();
    slot.head.captured = captured;
    slot.head.bytes = length;
    Some(())
}

#[inline(always)]
fn leave(ctx: Context, action: u32) -> Option<()> {
    let filter = TRACE_FILTER.get_ptr(0)?;
    let slot = TRACE_SLOT.get_ptr_mut(0)?;
    // SAFETY: the slot belongs to this CPU, and live map values stay mapped.
    let (filter, slot) = unsafe { (&*filter, &mut *slot) };
    if slot.head.bytes == 0 {
        return None;
    }
    let known = length(ctx).min(HEAD as u32);
    load(ctx, &mut slot.left, known)?;
    read(&mut slot.head.after, &slot.left, known as usize);
    if !filter.wants(&slot.head.before, &slot.head.after) {
        return None;
    }
    slot.head.action = action;
    slot.head.reason = NO_REASON;
    for reason in 0..DropReason::COUNT {
        if counted(reason)? != *slot.drops.get(reason as usize)? {
            slot.head.reason = reason;
        }
    }
    slot.head.lost = slot.lost as u32;
    let bytes = size_of::<RecordHead>() + (slot.head.captured as usize & MOST_BYTES);
    // SAFETY: head and frame follow each other in the slot, and `bytes` is within both.
    let refused = unsafe {
        bpf_ringbuf_output(
            (&raw const TRACE_RECORDS).cast_mut().cast(),
            (&raw mut slot.head).cast(),
            bytes as u64,
            0,
        )
    };
    slot.lost = if refused == 0 { 0 } else { slot.lost + 1 };
    Some(())
}

/// Bytes of a packet.
#[inline(always)]
fn length(ctx: Context) -> u32 {
    let (start, end) = ctx.data();
    verifier::distance(start, end) as u32
}

/// Packets that this CPU has counted for a reason.
#[inline(always)]
fn counted(reason: u32) -> Option<u64> {
    let counter = DROP_COUNTERS.get_ptr(reason)?;
    // SAFETY: a live map value of this CPU.
    Some(unsafe { (*counter).packets })
}

/// Copies the first bytes of a packet.
#[inline(always)]
fn load<const N: usize>(ctx: Context, to: &mut [u8; N], bytes: u32) -> Option<()> {
    const { assert!(N.is_power_of_two()) };
    // 1 to N, in a form that leaves the verifier no doubt. Of a packet of no bytes, that is more
    // than there are.
    let bytes = (verifier::forget(bytes.wrapping_sub(1)) & (N as u32 - 1)) + 1;
    // SAFETY: there is room for that many; the helper checks that the packet has them.
    let failed = unsafe { bpf_xdp_load_bytes(ctx.raw(), 0, to.as_mut_ptr().cast(), bytes) };
    (failed == 0).then_some(())
}

/// Reads the five fields from headers of which `known` bytes are this packet's. Extension headers
/// are not looked through. In place, because stages leave little of the stack.
#[inline(always)]
fn read(tuple: &mut Tuple, head: &[u8; HEAD], known: usize) {
    let byte = |at: usize| head[at & (HEAD - 1)];
    *tuple = Tuple::default();
    let mut offset = 14;
    for _ in 0..2 {
        if matches!((byte(offset - 2), byte(offset - 1)), (0x81, 0) | (0x88, 0xa8)) {
            offset += 4;
        }
    }
    let (ports, first) = match (byte(offset - 2), byte(offset - 1)) {
        (8, 0) if known >= offset + 20 => {
            map_into(&mut tuple.source, head, offset + 12);
            map_into(&mut tuple.destination, head, offset + 16);
            tuple.protocol = byte(offset + 9);
            let later = byte(offset + 6) & 0x1f != 0 || byte(offset + 7) != 0;
            (offset + usize::from(byte(offset) & 15) * 4, !later)
        }
        (0x86, 0xdd) if known >= offset + 40 => {
            for index in 0..16 {
                tuple.source.octets[index] = byte(offset + 8 + index);
                tuple.destination.octets[index] = byte(offset + 24 + index);
            }
            tuple.protocol = byte(offset + 6);
            (offset + 40, true)
        }
        _ => return,
    };
    tuple.is_ip = 1;
    let ports = ports & (HEAD / 2 - 1);
    if first && matches!(tuple.protocol, 6 | 17) && known >= ports + 4 {
        tuple.source_port = Be16::from_wire(u16::from_ne_bytes([byte(ports), byte(ports + 1)]));
        tuple.destination_port =
            Be16::from_wire(u16::from_ne_bytes([byte(ports + 2), byte(ports + 3)]));
    }
}

/// The IPv4 address at an offset, in mapped form.
#[inline(always)]
fn map_into(address: &mut Address6, head: &[u8; HEAD], at: usize) {
    address.octets[10] = 0xff;
    address.octets[11] = 0xff;
    for index in 0..4 {
        address.octets[12 + index] = head[(at + index) & (HEAD - 1)];
    }
}

lb_ebpf::object!();
