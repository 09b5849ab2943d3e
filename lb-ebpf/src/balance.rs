//! The way of a packet through the data plane: flow hit, else VIP hit, else the kernel's.
//!
//! Four stages, each a BPF function of its own, because each needs most of the 512 bytes
//! of stack that a chain of calls shares. The verifier follows packet pointers within a
//! function only, so the later stages, which few packets reach, parse again. Between the
//! stages travels a number: an XDP action, or one of the codes below. A flow that ends makes
//! room for others before its packet goes on, in a function of its own for the same reason.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use lb_common::drop_reason::DropReason;

use crate::{
    admit,
    context::Context,
    ended,
    family::{V4, V6},
    handshake, hit, icmp,
    packet::Packet,
    parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Other, Segment},
    reset,
    verdict::{Step, Verdict},
};

/// No flow: admit an IPv4 packet.
const ADMIT4: u32 = 0x100;
/// No flow: admit an IPv6 packet.
const ADMIT6: u32 = 0x101;
/// The flow is half-open, IPv4.
const HALF_OPEN4: u32 = 0x102;
/// The flow is half-open, IPv6.
const HALF_OPEN6: u32 = 0x103;
/// The flow was half-open a moment ago.
const AGAIN: u32 = 0x104;
/// An IPv4 packet carries an ICMP message.
const ICMP4: u32 = 0x105;
/// An IPv6 packet carries an ICMPv6 message.
const ICMP6: u32 = 0x106;
/// Plus a drop reason: answer an IPv4 packet with a RST.
const RESET4: u32 = 0x200;
/// Plus a drop reason: answer an IPv6 packet with a RST.
const RESET6: u32 = 0x300;
/// A bit beside any action or code: a confirmed IPv4 flow has just ended.
const ENDED4: u32 = 0x400;
/// A bit beside any action or code: a confirmed IPv6 flow has just ended.
const ENDED6: u32 = 0x800;
/// The bits of a code that are not its drop reason.
const KIND: u32 = 0x300;

/// Handles one packet; returns the XDP action.
#[inline(always)]
#[must_use]
pub fn balance(ctx: Context) -> u32 {
    let mut code = confirmed(ctx);
    if code < ADMIT4 {
        return code;
    }
    // Half-open flows come and go while their packets are on the way through the stages: one
    // that has left is looked for among the confirmed ones, and a packet about to open a flow
    // may find it open. Three rounds settle all but what can not be.
    for _ in 0..3 {
        code = match code {
            HALF_OPEN4 => half_open4(ctx.raw()),
            HALF_OPEN6 => half_open6(ctx.raw()),
            ADMIT4 => admit4(ctx.raw()),
            ADMIT6 => admit6(ctx.raw()),
            AGAIN => confirmed(ctx),
            ICMP4 => icmp4(ctx.raw()),
            ICMP6 => icmp6(ctx.raw()),
            _ => break,
        };
    }
    match code & KIND {
        RESET4 => reset4(ctx.raw(), code & !KIND),
        RESET6 => reset6(ctx.raw(), code & !KIND),
        // Not settled after all.
        ADMIT4 => internal(),
        _ => code,
    }
}

/// First stage, and what is due after a flow has ended.
#[inline(always)]
fn confirmed(ctx: Context) -> u32 {
    let code = flow(ctx.raw());
    if code < ENDED4 {
        return code;
    }
    if code & ENDED4 != 0 {
        make_room4();
    } else {
        make_room6();
    }
    code & !(ENDED4 | ENDED6)
}

// The functions keep their C names: `bpftool prog` and verifier logs show them.

/// First stage: parses the packet and handles it if its flow is confirmed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow(raw: *mut xdp_md) -> u32 {
    // SAFETY: the caller passes its own context on.
    let ctx = unsafe { Context::new(raw) };
    let packet = Packet::new(ctx);
    let Some(link) = parse::link(&packet) else {
        return xdp_action::XDP_PASS;
    };
    match link.ether_type {
        ETHERTYPE_IPV4 => match parse::parse_v4(&packet, &link) {
            Ok(segment) => {
                let (step, ended) = hit::find_and_hit(ctx, &segment);
                step.into_code(HALF_OPEN4, ADMIT4, RESET4) | if ended { ENDED4 } else { 0 }
            }
            Err(other) => other.into_code(ICMP4),
        },
        ETHERTYPE_IPV6 => match parse::parse_v6(&packet, &link) {
            Ok(segment) => {
                let (step, ended) = hit::find_and_hit(ctx, &segment);
                step.into_code(HALF_OPEN6, ADMIT6, RESET6) | if ended { ENDED6 } else { 0 }
            }
            Err(other) => other.into_code(ICMP6),
        },
        _ => xdp_action::XDP_PASS,
    }
}

/// Second stage, IPv4: handles the packet of a half-open flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn half_open4(raw: *mut xdp_md) -> u32 {
    // SAFETY: the caller passes its own context on.
    let ctx = unsafe { Context::new(raw) };
    match parse_again4(ctx) {
        Some(segment) => handshake::hit(ctx, &segment).into_code(HALF_OPEN4, ADMIT4, RESET4),
        None => internal(),
    }
}

/// Second stage, IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn half_open6(raw: *mut xdp_md) -> u32 {
    // SAFETY: the caller passes its own context on.
    let ctx = unsafe { Context::new(raw) };
    match parse_again6(ctx) {
        Some(segment) => handshake::hit(ctx, &segment).into_code(HALF_OPEN6, ADMIT6, RESET6),
        None => internal(),
    }
}

/// Third stage, IPv4: opens a flow if the packet is for a VIP.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn admit4(raw: *mut xdp_md) -> u32 {
    // SAFETY: the caller passes its own context on.
    let ctx = unsafe { Context::new(raw) };
    match parse_again4(ctx) {
        Some(segment) => admit::admit(ctx, &segment).into_code(HALF_OPEN4, ADMIT4, RESET4),
        None => internal(),
    }
}

/// Third stage, IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn admit6(raw: *mut xdp_md) -> u32 {
    // SAFETY: the caller passes its own context on.
    let ctx = unsafe { Context::new(raw) };
    match parse_again6(ctx) {
        Some(segment) => admit::admit(ctx, &segment).into_code(HALF_OPEN6, ADMIT6, RESET6),
        None => internal(),
    }
}

/// Fourth stage, IPv4: answers with a RST.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn reset4(raw: *mut xdp_md, reason: u32) -> u32 {
    // SAFETY: the caller passes its own context on.
    let ctx = unsafe { Context::new(raw) };
    match parse_again4(ctx) {
        Some(segment) => reset::answer(ctx, &segment, reset_reason(reason)).into_action(),
        None => internal(),
    }
}

/// Fourth stage, IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn reset6(raw: *mut xdp_md, reason: u32) -> u32 {
    // SAFETY: the caller passes its own context on.
    let ctx = unsafe { Context::new(raw) };
    match parse_again6(ctx) {
        Some(segment) => reset::answer(ctx, &segment, reset_reason(reason)).into_action(),
        None => internal(),
    }
}

/// After the first stage, IPv4: takes flows that are over out of their table.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn make_room4() -> u32 {
    ended::make_room::<V4>();
    0
}

/// After the first stage, IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn make_room6() -> u32 {
    ended::make_room::<V6>();
    0
}

/// For ICMP messages, IPv4.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn icmp4(raw: *mut xdp_md) -> u32 {
    // SAFETY: the caller passes its own context on.
    icmp::handle::<V4>(unsafe { Context::new(raw) }).into_action()
}

/// For ICMP messages, IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn icmp6(raw: *mut xdp_md) -> u32 {
    // SAFETY: the caller passes its own context on.
    icmp::handle::<V6>(unsafe { Context::new(raw) }).into_action()
}

#[inline(always)]
fn parse_again4(ctx: Context) -> Option<Segment<V4>> {
    let packet = Packet::new(ctx);
    parse::parse_v4(&packet, &parse::link(&packet)?).ok()
}

#[inline(always)]
fn parse_again6(ctx: Context) -> Option<Segment<V6>> {
    let packet = Packet::new(ctx);
    parse::parse_v6(&packet, &parse::link(&packet)?).ok()
}

/// A packet does not change between two stages.
#[inline(always)]
fn internal() -> u32 {
    Verdict::Drop(DropReason::Internal).into_action()
}

/// The two reasons for which clients are reset.
#[inline(always)]
fn reset_reason(code: u32) -> DropReason {
    if code == DropReason::NoServer as u32 { DropReason::NoServer } else { DropReason::ServerDown }
}

impl Other {
    /// The XDP action, or the code of the next stage.
    #[inline(always)]
    fn into_code(self, icmp: u32) -> u32 {
        match self {
            Self::Settled(verdict) => verdict.into_action(),
            Self::Icmp => icmp,
        }
    }
}

impl Step {
    /// The XDP action, or the code of the next stage.
    #[inline(always)]
    fn into_code(self, half_open: u32, admit: u32, reset: u32) -> u32 {
        match self {
            Self::Settled(verdict) => verdict.into_action(),
            Self::HalfOpen => half_open,
            Self::Again => AGAIN,
            Self::Admit => admit,
            Self::Reset(reason) => reset + reason as u32,
        }
    }
}
