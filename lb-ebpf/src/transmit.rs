//! Sending a packet out: to a known hop, or to the one the kernel's FIB knows.
//!
//! MAC addresses move as words. Arrays of octets, which they are everywhere, have no alignment,
//! so the compiler copies them octet by octet, or calls `memmove` (0043 in docs/decisions).

use core::mem;

use aya_ebpf::{
    bindings::{bpf_fib_lookup as FibLookup, xdp_action},
    helpers::generated::{bpf_fib_lookup, bpf_redirect},
};
use lb_common::{address::Address, drop_reason::DropReason, flow::Hop, server::ServerEntry};
use network_types::eth::EthHdr;

use crate::{context::Context, family::Family, maps::SCRATCH, parse::Segment, verdict::Verdict};

/// Addresses the frame to a hop and sends it: back out of the interface it came from, or
/// out of another one.
#[inline(always)]
pub fn transmit<F: Family>(ctx: Context, segment: &Segment<F>, hop: &Hop) -> Verdict {
    // SAFETY: the parser checked the bounds.
    unsafe { send(ctx, segment.ethernet, hop) }
}

/// The same for a frame that is no segment.
///
/// # Safety
/// `ethernet` points to a whole Ethernet header.
#[inline(always)]
pub unsafe fn send(ctx: Context, ethernet: *mut EthHdr, hop: &Hop) -> Verdict {
    let [start, rest] = words_of(hop);
    // SAFETY: the caller's promise; both addresses are the first twelve octets.
    unsafe {
        ethernet.cast::<u64>().write_unaligned(start);
        ethernet.cast::<u64>().add(1).cast::<u32>().write_unaligned(rest as u32);
    }
    if ctx.ingress_ifindex() == hop.ifindex {
        return Verdict::Send(xdp_action::XDP_TX);
    }
    // SAFETY: the helper takes numbers only. It returns an action.
    Verdict::Send(unsafe { bpf_redirect(hop.ifindex, 0) } as u32)
}

/// The hop a packet came from, as the way back.
#[inline(always)]
pub fn arrival_hop<F: Family>(ctx: Context, segment: &Segment<F>) -> Hop {
    // SAFETY: the parser checked the bounds.
    unsafe { hop_of(ctx, segment.ethernet) }
}

/// The hop a frame came from.
///
/// # Safety
/// `ethernet` points to a whole Ethernet header.
#[inline(always)]
pub unsafe fn hop_of(ctx: Context, ethernet: *const EthHdr) -> Hop {
    // SAFETY: the caller's promise; both addresses are the first twelve octets.
    let (start, rest) = unsafe {
        let start = ethernet.cast::<u64>().read_unaligned();
        (start, ethernet.cast::<u64>().add(1).cast::<u32>().read_unaligned())
    };
    let (own, neighbour) = (start & ADDRESS, start >> 48 | u64::from(rest) << 16);
    new_hop(neighbour, own, ctx.ingress_ifindex())
}

/// A MAC address in the low six octets of a word.
const ADDRESS: u64 = (1 << 48) - 1;

/// The agent's next hop towards a server.
#[inline(always)]
#[must_use]
pub fn hop_to(server: &ServerEntry) -> Hop {
    const {
        assert!(mem::offset_of!(ServerEntry, neighbour) == 8);
        assert!(mem::offset_of!(ServerEntry, own) == 16);
    }
    // SAFETY: an entry is eight words of plain integers.
    let (neighbour, own) = unsafe {
        let words = (&raw const *server).cast::<u64>();
        (*words.add(1), *words.add(2))
    };
    new_hop(neighbour & ADDRESS, own, server.ifindex)
}

/// Both addresses are in memory order, in the low octets; what is above those of `own` is cut off.
#[inline(always)]
fn new_hop(neighbour: u64, own: u64, ifindex: u32) -> Hop {
    const { assert!(cfg!(target_endian = "little"), "the first octet is the lowest") };
    let rest = own >> 16 & 0xffff_ffff | u64::from(ifindex) << 32;
    // SAFETY: a hop is two addresses and a number, of which every pattern is valid.
    unsafe { mem::transmute::<[u64; 2], Hop>([neighbour | own << 48, rest]) }
}

/// Both addresses as a frame starts with them, then the interface.
#[inline(always)]
fn words_of(hop: &Hop) -> [u64; 2] {
    // SAFETY: sixteen octets without padding.
    unsafe { mem::transmute::<Hop, [u64; 2]>(*hop) }
}

/// Whether two hops are the same.
#[inline(always)]
#[must_use]
pub fn is_same(one: &Hop, other: &Hop) -> bool {
    words_of(one) == words_of(other)
}

/// Asks the kernel for the next hop towards a server of this family.
///
/// # Errors
/// The verdict if there is no route or the neighbour is not resolved.
#[inline(always)]
pub fn resolve<F: Family>(ctx: Context, server: &ServerEntry) -> Result<Hop, Verdict> {
    const { assert!(size_of::<FibLookup>() == 64 && align_of::<FibLookup>() <= 8) };
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return Err(Verdict::Drop(DropReason::Internal));
    };
    // SAFETY: the scratch belongs to this CPU, has the struct's size and alignment, and
    // all zero is a valid value of that plain struct.
    let lookup = unsafe {
        (*scratch).fib = [0; 8];
        &mut *(&raw mut (*scratch).fib).cast::<FibLookup>()
    };
    lookup.family = F::AF;
    lookup.ifindex = ctx.ingress_ifindex();
    let source = server.snat_address;
    let destination = server.address;
    if <F::Address as Address>::HEADER_CHECKSUM {
        let [.., a, b, c, d] = source.octets;
        lookup.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes([a, b, c, d]);
        let [.., a, b, c, d] = destination.octets;
        lookup.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes([a, b, c, d]);
    } else {
        lookup.__bindgen_anon_3.ipv6_src = words(source.octets);
        lookup.__bindgen_anon_4.ipv6_dst = words(destination.octets);
    }
    // SAFETY: pointer and size describe `lookup`.
    let found =
        unsafe { bpf_fib_lookup(ctx.raw().cast(), lookup, size_of::<FibLookup>() as i32, 0) };
    if found != 0 {
        return Err(Verdict::Drop(DropReason::NoNeighbour));
    }
    Ok(Hop { neighbour: lookup.dmac, own: lookup.smac, ifindex: lookup.ifindex })
}

#[inline(always)]
fn words(octets: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}
