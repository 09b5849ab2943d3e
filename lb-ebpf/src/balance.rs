//! The way of a packet through the data plane: flow hit, else VIP hit, else the kernel's.
//!
//! Its stages (`lb_common::stage`) are programs of their own: each has 512 bytes of stack and
//! a verifier's patience to itself. The verifier follows packet pointers within a function
//! only, so the later stages, which few packets reach, parse again. A stage ends with a
//! number: an XDP action, or [`NEXT`] plus the stage that goes on. A flow that ends makes
//! room for others before its packet goes on, in a function of its own for want of stack.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use lb_common::{drop_reason::DropReason, stage::Stage};

use crate::{
    admit,
    context::Context,
    cookie, ended,
    family::{V4, V6},
    fragment, handshake, hit, icmp,
    maps::{SCRATCH, STAGES},
    one_way::{self, Way},
    packet::Packet,
    parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Other, Segment},
    reset, splice, too_big,
    verdict::{Step, Verdict},
};

/// Plus the number of a stage: that stage goes on with the packet. XDP actions are below.
const NEXT: u32 = 0x100;
/// The bits of a code that are the number of a stage.
const STAGE: u32 = 0xff;
/// A bit beside any action or code: a confirmed IPv4 flow has just ended.
const ENDED4: u32 = 1 << 28;
/// A bit beside any action or code: a confirmed IPv6 flow has just ended.
const ENDED6: u32 = 1 << 29;
/// Plus a [`Way`]: the packet goes to a server that answers the client itself.
const ONE_WAY: u32 = 1 << 31;
const _: () = assert!(ENDED4 >= 1 << Way::BITS);

/// Ends a stage: returns its XDP action, or hands the packet on.
///
/// Half-open flows come and go while their packets are on the way through the stages: one that
/// has left is looked for among the confirmed ones, and a packet about to open a flow may find
/// it open. The kernel ends that after 33 tail calls, which is far more than it takes unless the
/// processor that has the lock of the flow's bucket does not run.
#[inline(always)]
#[must_use]
pub fn conclude(ctx: Context, code: u32) -> u32 {
    if code < NEXT {
        return code;
    }
    let mut stage = code & STAGE;
    if code & ONE_WAY != 0 {
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return internal() };
        // SAFETY: the value belongs to this CPU.
        unsafe { (*scratch).way = code };
        stage = Stage::OneWay as u32;
    }
    // SAFETY: nothing is borrowed over the call; the kernel checks the index.
    unsafe { STAGES.tail_call(&ctx, stage) };
    const AGAIN: u32 = Stage::Again as u32;
    const LAST_OF_ROUND: u32 = Stage::Admit6 as u32;
    match stage {
        // One of those that a packet goes round in.
        ..=LAST_OF_ROUND | AGAIN => Verdict::Drop(DropReason::Busy).into_action(),
        // It is missing.
        _ => internal(),
    }
}

/// First stage: packets of confirmed flows, and what is due after a flow has ended.
#[inline(always)]
#[must_use]
pub fn entry(ctx: Context) -> u32 {
    confirmed(ctx, false)
}

/// The first stage once more, for packets that have been in later ones: a first fragment goes
/// on as a segment like others.
#[inline(always)]
#[must_use]
pub fn again(ctx: Context) -> u32 {
    confirmed(ctx, true)
}

#[inline(always)]
fn confirmed(ctx: Context, noted: bool) -> u32 {
    let code = flow(ctx.raw(), u32::from(noted));
    if code < ENDED4 {
        return code;
    }
    if code & ENDED4 != 0 {
        make_room4();
    }
    if code & ENDED6 != 0 {
        make_room6();
    }
    if code & ONE_WAY != 0 {
        // Without a tail call: most packets of such flows come this way.
        return send_one_way(ctx.raw(), code);
    }
    code & !(ENDED4 | ENDED6)
}

// These functions keep their C names: `bpftool prog` and verifier logs show them.

/// Parses the packet and handles it if its flow is confirmed. `noted` is 1 if first fragments
/// have been to their stage, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow(raw: *mut xdp_md, noted: u32) -> u32 {
    // SAFETY: the caller passes its own context on.
    let ctx = unsafe { Context::new(raw) };
    let packet = Packet::new(ctx);
    let Some(link) = parse::link(&packet) else {
        return xdp_action::XDP_PASS;
    };
    match link.ether_type {
        ETHERTYPE_IPV4 => match parse::parse_v4(&packet, &link, noted != 0) {
            Ok(segment) => {
                let (step, ended) = hit::find_and_hit(ctx, &segment);
                step.into_code(&STAGES4) | if ended { ENDED4 } else { 0 }
            }
            Err(other) => other.into_code(&STAGES4),
        },
        ETHERTYPE_IPV6 => match parse::parse_v6(&packet, &link, noted != 0) {
            Ok(segment) => {
                let (step, ended) = hit::find_and_hit(ctx, &segment);
                step.into_code(&STAGES6) | if ended { ENDED6 } else { 0 }
            }
            Err(other) => other.into_code(&STAGES6),
        },
        _ => xdp_action::XDP_PASS,
    }
}

/// Sends a packet to a server that answers the client itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn send_one_way(raw: *mut xdp_md, way: u32) -> u32 {
    // SAFETY: the caller passes its own context on.
    let ctx = unsafe { Context::new(raw) };
    one_way::send(ctx, Way::from_bits(way)).into_action()
}

/// Takes IPv4 flows that are over out of their table.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn make_room4() -> u32 {
    ended::make_room::<V4>();
    0
}

/// Takes IPv6 flows that are over out of their table.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn make_room6() -> u32 {
    ended::make_room::<V6>();
    0
}

/// Handles the packet of a half-open flow, IPv4.
#[inline(always)]
#[must_use]
pub fn half_open4(ctx: Context) -> u32 {
    match parse_again4(ctx) {
        Some(segment) => handshake::hit(ctx, &segment).into_code(&STAGES4),
        None => internal(),
    }
}

/// Handles the packet of a half-open flow, IPv6.
#[inline(always)]
#[must_use]
pub fn half_open6(ctx: Context) -> u32 {
    match parse_again6(ctx) {
        Some(segment) => handshake::hit(ctx, &segment).into_code(&STAGES6),
        None => internal(),
    }
}

/// Opens a flow if the packet is for a VIP, IPv4.
#[inline(always)]
#[must_use]
pub fn admit4(ctx: Context) -> u32 {
    match parse_again4(ctx) {
        Some(segment) => admit::admit(ctx, &segment).into_code(&STAGES4),
        None => internal(),
    }
}

/// Opens a flow if the packet is for a VIP, IPv6.
#[inline(always)]
#[must_use]
pub fn admit6(ctx: Context) -> u32 {
    match parse_again6(ctx) {
        Some(segment) => admit::admit(ctx, &segment).into_code(&STAGES6),
        None => internal(),
    }
}

/// Sends a packet that another stage than the first has found a way for to a server that answers
/// the client itself.
#[inline(always)]
#[must_use]
pub fn one_way(ctx: Context) -> u32 {
    // SAFETY: the value belongs to this CPU.
    match SCRATCH.get_ptr(0).map(|scratch| unsafe { (*scratch).way }) {
        Some(way) => one_way::send(ctx, Way::from_bits(way)).into_action(),
        None => internal(),
    }
}

/// Answers a packet that does not fit into the link to its server, IPv4.
#[inline(always)]
#[must_use]
pub fn too_big4(ctx: Context) -> u32 {
    too_big::answer::<V4>(ctx, most_bytes()).into_action()
}

/// Answers a packet that does not fit into the link to its server, IPv6.
#[inline(always)]
#[must_use]
pub fn too_big6(ctx: Context) -> u32 {
    too_big::answer::<V6>(ctx, most_bytes()).into_action()
}

/// Answers with a RST, IPv4.
#[inline(always)]
#[must_use]
pub fn reset4(ctx: Context) -> u32 {
    match parse_again4(ctx) {
        Some(segment) => reset::answer(ctx, &segment, reset_reason()).into_action(),
        None => internal(),
    }
}

/// Answers with a RST, IPv6.
#[inline(always)]
#[must_use]
pub fn reset6(ctx: Context) -> u32 {
    match parse_again6(ctx) {
        Some(segment) => reset::answer(ctx, &segment, reset_reason()).into_action(),
        None => internal(),
    }
}

/// Handles an ICMP message.
#[inline(always)]
#[must_use]
pub fn icmp4(ctx: Context) -> u32 {
    icmp::handle::<V4>(ctx).map_or(NEXT + Stage::Echo4 as u32, |step| step.into_code(&STAGES4))
}

/// Handles an ICMPv6 message.
#[inline(always)]
#[must_use]
pub fn icmp6(ctx: Context) -> u32 {
    icmp::handle::<V6>(ctx).map_or(NEXT + Stage::Echo6 as u32, |step| step.into_code(&STAGES6))
}

/// Answers an echo request, IPv4. Apart from errors, because the compiler would share code
/// between them that the verifier can not follow.
#[inline(always)]
#[must_use]
pub fn echo4(ctx: Context) -> u32 {
    icmp::echo::<V4>(ctx).into_action()
}

/// Answers an echo request, IPv6.
#[inline(always)]
#[must_use]
pub fn echo6(ctx: Context) -> u32 {
    icmp::echo::<V6>(ctx).into_action()
}

/// Handles a fragment, IPv4.
#[inline(always)]
#[must_use]
pub fn fragment4(ctx: Context) -> u32 {
    let step = fragment::handle::<V4>(ctx);
    step.map_or(NEXT + Stage::Again as u32, |step| step.into_code(&STAGES4))
}

/// Handles a fragment, IPv6.
#[inline(always)]
#[must_use]
pub fn fragment6(ctx: Context) -> u32 {
    let step = fragment::handle::<V6>(ctx);
    step.map_or(NEXT + Stage::Again as u32, |step| step.into_code(&STAGES6))
}

/// Makes and checks SYN cookies, IPv4.
#[inline(always)]
#[must_use]
pub fn cookie4(ctx: Context) -> u32 {
    match parse_again4(ctx) {
        Some(segment) => cookie::handle(ctx, &segment).into_code(&STAGES4),
        None => internal(),
    }
}

/// Makes and checks SYN cookies, IPv6.
#[inline(always)]
#[must_use]
pub fn cookie6(ctx: Context) -> u32 {
    match parse_again6(ctx) {
        Some(segment) => cookie::handle(ctx, &segment).into_code(&STAGES6),
        None => internal(),
    }
}

/// Handles the packet of a half-open flow behind a cookie, IPv4.
#[inline(always)]
#[must_use]
pub fn splice4(ctx: Context) -> u32 {
    match parse_again4(ctx) {
        Some(segment) => splice::splice(ctx, &segment).into_code(&STAGES4),
        None => internal(),
    }
}

/// Handles the packet of a half-open flow behind a cookie, IPv6.
#[inline(always)]
#[must_use]
pub fn splice6(ctx: Context) -> u32 {
    match parse_again6(ctx) {
        Some(segment) => splice::splice(ctx, &segment).into_code(&STAGES6),
        None => internal(),
    }
}

/// Handles the packet of a confirmed flow behind a cookie, IPv4.
#[inline(always)]
#[must_use]
pub fn shift4(ctx: Context) -> u32 {
    let Some(segment) = parse_again4(ctx) else { return internal() };
    let (step, ended) = hit::find_and_shift(ctx, &segment);
    let code = step.into_code(&STAGES4);
    if ended {
        make_room4();
    }
    code
}

/// Handles the packet of a confirmed flow behind a cookie, IPv6.
#[inline(always)]
#[must_use]
pub fn shift6(ctx: Context) -> u32 {
    let Some(segment) = parse_again6(ctx) else { return internal() };
    let (step, ended) = hit::find_and_shift(ctx, &segment);
    let code = step.into_code(&STAGES6);
    if ended {
        make_room6();
    }
    code
}

#[inline(always)]
fn parse_again4(ctx: Context) -> Option<Segment<V4>> {
    let packet = Packet::new(ctx);
    parse::parse_v4(&packet, &parse::link(&packet)?, true).ok()
}

#[inline(always)]
fn parse_again6(ctx: Context) -> Option<Segment<V6>> {
    let packet = Packet::new(ctx);
    parse::parse_v6(&packet, &parse::link(&packet)?, true).ok()
}

/// A packet does not change between two stages.
#[inline(always)]
fn internal() -> u32 {
    Verdict::Drop(DropReason::Internal).into_action()
}

/// Which of the reasons for which senders are reset the stage before left.
#[inline(always)]
fn reset_reason() -> DropReason {
    const NO_SERVER: u32 = DropReason::NoServer as u32;
    const SERVER_FULL: u32 = DropReason::ServerFull as u32;
    const COOKIE_ANSWER: u32 = DropReason::CookieAnswer as u32;
    const NEW_RATE: u32 = DropReason::NewRate as u32;
    const FLOWS_PER_SOURCE: u32 = DropReason::FlowsPerSource as u32;
    // SAFETY: the value belongs to this CPU.
    let left = SCRATCH.get_ptr(0).map(|scratch| unsafe { (*scratch).reset_reason });
    match left {
        Some(NO_SERVER) => DropReason::NoServer,
        Some(SERVER_FULL) => DropReason::ServerFull,
        Some(COOKIE_ANSWER) => DropReason::CookieAnswer,
        Some(NEW_RATE) => DropReason::NewRate,
        Some(FLOWS_PER_SOURCE) => DropReason::FlowsPerSource,
        _ => DropReason::ServerDown,
    }
}

/// How many bytes of the packet would fit, as the stage before left it.
#[inline(always)]
fn most_bytes() -> u32 {
    // SAFETY: the value belongs to this CPU.
    SCRATCH.get_ptr(0).map_or(0, |scratch| unsafe { (*scratch).most_bytes })
}

/// The stages that a packet of one family goes to.
struct NextStages {
    half_open: Stage,
    admit: Stage,
    reset: Stage,
    icmp: Stage,
    fragment: Stage,
    too_big: Stage,
    cookie: Stage,
    splice: Stage,
    shift: Stage,
}

const STAGES4: NextStages = NextStages {
    half_open: Stage::HalfOpen4,
    admit: Stage::Admit4,
    reset: Stage::Reset4,
    icmp: Stage::Icmp4,
    fragment: Stage::Fragment4,
    too_big: Stage::TooBig4,
    cookie: Stage::Cookie4,
    splice: Stage::Splice4,
    shift: Stage::Shift4,
};
const STAGES6: NextStages = NextStages {
    half_open: Stage::HalfOpen6,
    admit: Stage::Admit6,
    reset: Stage::Reset6,
    icmp: Stage::Icmp6,
    fragment: Stage::Fragment6,
    too_big: Stage::TooBig6,
    cookie: Stage::Cookie6,
    splice: Stage::Splice6,
    shift: Stage::Shift6,
};

impl Other {
    /// The XDP action, or the code of the next stage.
    #[inline(always)]
    fn into_code(self, stages: &NextStages) -> u32 {
        match self {
            Self::Settled(verdict) => verdict.into_action(),
            Self::Icmp => NEXT + stages.icmp as u32,
            Self::Fragment => NEXT + stages.fragment as u32,
        }
    }
}

impl Step {
    /// The XDP action, or the code of the next stage.
    #[inline(always)]
    fn into_code(self, stages: &NextStages) -> u32 {
        match self {
            Self::Settled(verdict) => verdict.into_action(),
            Self::HalfOpen => NEXT + stages.half_open as u32,
            Self::Again => NEXT + Stage::Again as u32,
            Self::Admit => NEXT + stages.admit as u32,
            Self::Cookie => NEXT + stages.cookie as u32,
            Self::Splice => NEXT + stages.splice as u32,
            Self::Shift => NEXT + stages.shift as u32,
            Self::OneWay(way) => ONE_WAY | way.into_bits(),
            Self::TooBig(most) => {
                if let Some(scratch) = SCRATCH.get_ptr_mut(0) {
                    // SAFETY: the value belongs to this CPU.
                    unsafe { (*scratch).most_bytes = most };
                }
                NEXT + stages.too_big as u32
            }
            Self::Reset(reason) => {
                if let Some(scratch) = SCRATCH.get_ptr_mut(0) {
                    // SAFETY: the value belongs to this CPU.
                    unsafe { (*scratch).reset_reason = reason as u32 };
                }
                NEXT + stages.reset as u32
            }
        }
    }
}
