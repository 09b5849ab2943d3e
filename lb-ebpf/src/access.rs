//! Judging sources by the lists of the node and of their frontend, and by what the operator
//! blocks (`lb_common::access` says what follows from a rule).
//!
//! A confirmed flow is judged once after a change of the lists and not for every packet: the
//! time of its client's last packet tells whether that was before ([`screen`]). A SYN is
//! judged before anything is looked for ([`screen_syn`]), and each CPU remembers whom it has
//! not let in (`lb_common::denial`), so that a flood from a denied source costs little.
//!
//! The judgements are BPF functions of their own, without packet pointers: the stages that
//! call them have no stack to spare, and the verifier walks them once. Keys are built in the
//! scratch map for the same reason.

use lb_common::{
    access::{self, AccessKey4, AccessRule, AdmissionEntry, SCOPE_BITS},
    address::{Address4, Address6, Be16},
    denial::{self, Denial, Question},
    drop_reason::DropReason,
    flow::{FlowEntry, Handle},
    settings::{Settings, flag},
    vip::VipKey,
};

use crate::{
    clock,
    family::Family,
    limits,
    maps::{ACCESS4, ACCESS6, ADMISSION, DENIALS, SCRATCH, SETTINGS, VIPS},
    parse::{Segment, TCP},
};

/// Nothing is said against the source.
const PASS: u32 = 0;

/// Why a client's packet of a confirmed flow is not let through.
#[inline(always)]
pub fn screen<F: Family>(
    segment: &Segment<F>,
    entry: &FlowEntry<F::Address>,
    settings: &Settings,
) -> Option<DropReason> {
    if entry.last_seen_ns >= settings.access_changed_ns {
        return None;
    }
    judge::<F>(&segment.key.source, entry.vip)
}

/// Why a SYN is not let through, before anything is known of it; none if it is for no VIP.
#[inline(always)]
pub fn screen_syn<F: Family>(segment: &Segment<F>) -> Option<DropReason> {
    if !is_syn(segment) || SETTINGS.get(0).is_none_or(|settings| settings.flags & flag::ACCESS == 0)
    {
        return None;
    }
    let ports = u32::from(segment.key.destination_port.wire());
    reason_of(F::judge_first(&segment.key.source, &segment.key.destination, ports))
}

/// Why a packet that belongs to no confirmed flow is not let through: its source may not be a
/// client, or sends too many.
#[inline(always)]
pub fn screen_new<F: Family>(
    segment: &Segment<F>,
    vip: Handle,
    settings: &Settings,
) -> Option<DropReason> {
    // A SYN has been judged already.
    screen_source::<F>(&segment.key.source, vip, is_syn(segment), settings)
}

/// The same by the source alone, for packets that are no segments.
#[inline(always)]
pub fn screen_source<F: Family>(
    source: &F::Address,
    vip: Handle,
    is_judged: bool,
    settings: &Settings,
) -> Option<DropReason> {
    if settings.flags & (flag::ACCESS | flag::PACKET_RATES) == 0 {
        return None;
    }
    reason_of(F::screen(source, vip.to_bits(), u32::from(is_judged)))
}

#[inline(always)]
fn is_syn<F: Family>(segment: &Segment<F>) -> bool {
    segment.key.protocol == TCP && segment.flags.is_fresh_syn()
}

#[inline(always)]
fn judge<F: Family>(source: &F::Address, vip: Handle) -> Option<DropReason> {
    reason_of(F::judge(source, vip.to_bits()))
}

/// What the frontend of a VIP asks of sources; `vip` is from [`Handle::to_bits`].
#[inline(always)]
#[must_use]
pub fn admission(vip: u32) -> Option<&'static AdmissionEntry> {
    let entry = ADMISSION.get(vip & 0xffff)?;
    (u32::from(entry.generation) == vip >> 16).then_some(entry)
}

/// Judges an IPv4 source, in memory order, that sends to a VIP.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judge4(vip: u32, source: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return PASS };
    // SAFETY: the value belongs to this CPU, and nobody else holds these two.
    let (key, until_s) = unsafe { (&mut (*scratch).access4, &mut (*scratch).judged_until_s) };
    *key = AccessKey4 { prefix_bits: SCOPE_BITS + 32, scope: 0, address: source.to_ne_bytes() };
    judge_by(vip, until_s, |scope| {
        key.scope = scope;
        // SAFETY: the trie's key is the same three fields.
        ACCESS4.get(unsafe { &*(&raw const *key).cast() })
    })
}

/// Judges an IPv6 source, in memory order, that sends to a VIP.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judge6(vip: u32, high: u64, low: u64) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return PASS };
    // SAFETY: the value belongs to this CPU, and nobody else holds these two. Sixteen octets
    // are two words.
    let (key, until_s) = unsafe {
        let key = &mut (*scratch).access6;
        (&raw mut key.address).cast::<[u64; 2]>().write_unaligned([high, low]);
        (key, &mut (*scratch).judged_until_s)
    };
    key.prefix_bits = SCOPE_BITS + 128;
    judge_by(vip, until_s, |scope| {
        key.scope = scope;
        // SAFETY: the trie's key is the same three fields.
        ACCESS6.get(unsafe { &*(&raw const *key).cast() })
    })
}

/// Judges an IPv4 source unless that is done, and takes a packet out of its bucket.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn screen4(vip: u32, source: u32, is_judged: u32) -> u32 {
    match if is_judged == 0 { judge4(vip, source) } else { PASS } {
        PASS => limits::take_one(vip, source.into(), 4),
        refused => refused,
    }
}

/// Judges an IPv6 source unless that is done, and takes a packet out of its bucket.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn screen6(vip: u32, high: u64, low: u64, is_judged: u32) -> u32 {
    match if is_judged == 0 { judge6(vip, high, low) } else { PASS } {
        PASS => limits::take_one(vip, high, 6),
        refused => refused,
    }
}

/// Judges an IPv4 source by the address and port that it sends to.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judge_first4(source: u32, destination: u32, port: u32) -> u32 {
    let question = Question {
        source: [0, source.into()],
        destination: [0, destination.into()],
        port: port.into(),
    };
    judge_first(&question, || {
        let address = Address6::mapped(Address4::new(destination.to_ne_bytes()));
        vip_at(address, port).map_or(PASS, |vip| judge4(vip, source))
    })
}

/// Judges an IPv6 source by the address and port that it sends to.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judge_first6(high: u64, low: u64, to_high: u64, to_low: u64, port: u32) -> u32 {
    let question = Question {
        source: [high, low],
        destination: [to_high, to_low],
        port: u64::from(port) | denial::V6,
    };
    judge_first(&question, || {
        // SAFETY: two words are sixteen octets.
        let octets = unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>([to_high, to_low]) };
        vip_at(Address6::new(octets), port).map_or(PASS, |vip| judge6(vip, high, low))
    })
}

/// The answer that this CPU remembers, else that of `judge`, remembered if it is no.
#[inline(always)]
fn judge_first(question: &Question, judge: impl FnOnce() -> u32) -> u32 {
    let Some(settings) = SETTINGS.get(0) else { return PASS };
    // Read before it is judged: if the lists change meanwhile, what is remembered is void.
    let changed_ns = settings.access_changed_ns;
    let Some(denial) = DENIALS.get_ptr_mut(question.slot()) else { return judge() };
    // SAFETY: the value belongs to this CPU.
    let denial = unsafe { &mut *denial };
    if let Some(code) = denial.code_for(question, changed_ns, now_s) {
        return code;
    }
    let code = judge();
    if code != PASS
        && let Some(scratch) = SCRATCH.get_ptr(0)
    {
        // SAFETY: the value belongs to this CPU.
        let expires_s = unsafe { (*scratch).judged_until_s };
        *denial = Denial { question: *question, changed_ns, code, expires_s };
    }
    code
}

/// The TCP VIP of an address and a port in network byte order.
#[inline(always)]
fn vip_at(address: Address6, port: u32) -> Option<u32> {
    // The port was one.
    let key = VipKey::new(address, Be16::from_wire(port as u16), TCP);
    // SAFETY: the reference is not kept.
    let vip = unsafe { VIPS.get(key) }?;
    Some(Handle { id: vip.id, generation: vip.generation }.to_bits())
}

/// Judges by the rules of the longest prefixes that `find` knows in a scope: blocks come
/// before lists, and the node's before the frontend's.
#[inline(always)]
fn judge_by(
    vip: u32,
    until_s: &mut u32,
    mut find: impl FnMut(u32) -> Option<&'static AccessRule>,
) -> u32 {
    *until_s = 0;
    let Some(settings) = SETTINGS.get(0) else { return PASS };
    if settings.flags & flag::ACCESS == 0 {
        return PASS;
    }
    let (scope, own) = match admission(vip) {
        Some(entry) => (entry.scope, entry.flags),
        None => (0, 0),
    };
    let node = settings.flags;
    if node & flag::NODE_BLOCKS != 0
        && let Some(rule) = find(access::blocks_of(access::NODE_LIST))
        && let Some(reason) = access::blocked(Some(rule), now_s())
    {
        *until_s = rule.expires_s;
        return code_of(reason);
    }
    if own & access::flag::BLOCKS != 0
        && let Some(rule) = find(access::blocks_of(scope))
        && let Some(reason) = access::blocked(Some(rule), now_s())
    {
        *until_s = rule.expires_s;
        return code_of(reason);
    }
    if node & flag::NODE_LIST != 0
        && let Some(reason) =
            access::listed(find(access::NODE_LIST), node & flag::NODE_ALLOW_ONLY != 0)
    {
        return code_of(reason);
    }
    if own & access::flag::LIST != 0
        && let Some(reason) = access::listed(find(scope), own & access::flag::ALLOW_ONLY != 0)
    {
        return code_of(reason);
    }
    PASS
}

/// The clock by which blocks expire.
#[inline(always)]
fn now_s() -> u32 {
    // Wraps after 136 years of uptime.
    (clock::now_ns() / 1_000_000_000) as u32
}

/// A reason as the result of a BPF function; [`PASS`] is none.
#[inline(always)]
#[must_use]
pub fn code_of(reason: DropReason) -> u32 {
    reason as u32 + 1
}

/// The reason behind a result.
#[inline(always)]
fn reason_of(code: u32) -> Option<DropReason> {
    const DENIED: u32 = DropReason::Denied as u32 + 1;
    const NOT_ALLOWED: u32 = DropReason::NotAllowed as u32 + 1;
    const PACKET_RATE: u32 = DropReason::PacketRate as u32 + 1;
    match code {
        PASS => None,
        PACKET_RATE => Some(DropReason::PacketRate),
        DENIED => Some(DropReason::Denied),
        NOT_ALLOWED => Some(DropReason::NotAllowed),
        _ => Some(DropReason::Blocked),
    }
}
