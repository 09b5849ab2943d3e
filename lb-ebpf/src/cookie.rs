//! SYN cookies: answers to SYNs that leave nothing behind, and ACKs that bring them back.
//!
//! [`consult`] decides for admission; the stage makes and checks cookies and hands an ACK back
//! to admission with what it has found. The kernel's helpers read the addresses and the TCP
//! header; they get one without options but the segment size, built here, so that its length is
//! constant.

use aya_ebpf::helpers::generated::{
    bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6,
    bpf_tcp_raw_gen_syncookie_ipv4, bpf_tcp_raw_gen_syncookie_ipv6,
};
use lb_common::{
    drop_reason::DropReason,
    half_open,
    settings::Settings,
    syn_cookie::{self, Pressure},
    tcp_state::{Progress, TcpFlags},
    vip::vip_flag,
};
use network_types::tcp::TcpHdr;

use crate::{
    clock,
    context::Context,
    counters,
    family::{Family, V4, V6},
    made::{self, Ends, Frame, Made},
    maps::{COOKIES, SCRATCH, SETTINGS, Scratch},
    packet::Packet,
    parse::Segment,
    splice, transmit,
    verdict::{Step, Verdict},
    verifier,
};

/// What the stage has found out about a packet, for admission; and this CPU's part in deciding
/// when cookies are needed.
#[repr(C)]
pub struct CookieScratch {
    /// Hash of the packet's tuple.
    pub hash: u64,
    /// [`found`].
    pub found: u32,
    /// The sequence number of the client's SYN.
    pub client_sequence: u32,
    /// The cookie.
    pub cookie: u32,
    /// Index of the client's segment size.
    pub size_index: u32,
    /// How much is going on here.
    pub pressure: Pressure,
    /// 1 once the kernel could not make a cookie: it was built without them.
    pub unavailable: u32,
    /// Zero.
    pub padding: u32,
}

/// Values of [`CookieScratch::found`].
mod found {
    /// Nothing: the packet has not been in the stage.
    pub(super) const NOTHING: u32 = 0;
    /// A cookie of ours.
    pub(super) const VALID: u32 = 1;
    /// No cookie of ours.
    pub(super) const INVALID: u32 = 2;
}

/// What admission does about a packet of no flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// What it does without cookies.
    Admit,
    /// Hand it to the stage.
    Ask,
    /// Open a flow behind a cookie: what was found stands in the scratch map.
    Open,
    /// Drop it: it brings no cookie.
    Refuse,
}

const ADMIT: u32 = 0;
const ASK: u32 = 1;
const OPEN: u32 = 2;
const REFUSE: u32 = 3;

/// What to do about a TCP packet of no flow that has this hash, to a VIP with these flags whose
/// packets are translated.
#[inline(always)]
#[must_use]
pub fn consult<F: Family>(segment: &Segment<F>, hash: u64, vip_flags: u32) -> Advice {
    if vip_flags & vip_flag::SYN_COOKIES == 0 {
        return Advice::Admit;
    }
    let always = vip_flags & vip_flag::ALWAYS_COOKIES;
    let advice = advise(u32::from(segment.flags.is_fresh_syn()) | always, hash, F::NUMBER);
    match advice {
        ASK => Advice::Ask,
        OPEN => Advice::Open,
        REFUSE => Advice::Refuse,
        _ => Advice::Admit,
    }
}

/// The first bits of the progress of a flow behind a cookie, the cookie, and the sequence number
/// of the client's SYN.
#[inline(always)]
#[must_use]
pub fn opening() -> (u32, (u32, u32)) {
    scratch().map_or((0, (0, 0)), |scratch| {
        let progress = Progress::behind_cookie(scratch.size_index);
        (progress, (scratch.cookie, scratch.client_sequence))
    })
}

/// A function of its own, so that the verifier walks it once. `what` is 1 for a SYN, and
/// [`vip_flag::ALWAYS_COOKIES`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn advise(what: u32, hash: u64, family: u32) -> u32 {
    let always = what & vip_flag::ALWAYS_COOKIES != 0;
    judge(what & 1 != 0, always, hash, family).unwrap_or(ADMIT)
}

#[inline(always)]
fn judge(is_syn: bool, always: bool, hash: u64, family: u32) -> Option<u32> {
    let settings = SETTINGS.get(0)?;
    let scratch = scratch()?;
    let found = if scratch.hash == hash { scratch.found } else { found::NOTHING };
    scratch.found = found::NOTHING;
    if found == found::VALID {
        return Some(OPEN);
    }
    if scratch.unavailable != 0 {
        return Some(ADMIT);
    }
    // SAFETY: array elements are never freed; both words may be written by anybody.
    let cookies = unsafe { &mut *COOKIES.get_ptr_mut(0)? };
    let now_ns = clock::now_ns();
    if is_syn {
        let live = if family == V4::NUMBER {
            live_places::<V4>(hash, now_ns, settings)
        } else {
            live_places::<V6>(hash, now_ns, settings)
        };
        let level = scratch.pressure.sample(live, half_open::milliseconds(now_ns));
        if level >= settings.cookie_level {
            cookies.hold(now_ns);
        }
        return Some(if always || cookies.is_active(now_ns) { ASK } else { ADMIT });
    }
    if found == found::INVALID {
        return Some(if always || cookies.is_active(now_ns) { REFUSE } else { ADMIT });
    }
    Some(if cookies.may_return(now_ns) { ASK } else { ADMIT })
}

#[inline(always)]
fn scratch() -> Option<&'static mut CookieScratch> {
    // SAFETY: the value belongs to this CPU.
    SCRATCH.get_ptr_mut(0).map(|scratch: *mut Scratch| unsafe { &mut (*scratch).cookie })
}

/// Places in use in the bucket of a tuple.
#[inline(always)]
fn live_places<F: Family>(hash: u64, now_ns: u64, settings: &Settings) -> u32 {
    let index = half_open::bucket_index(hash, settings.half_open_buckets);
    let Some(bucket) = F::half_open().get_ptr(index) else { return 0 };
    // SAFETY: array elements are never freed, and any bits are valid while others write.
    unsafe { (*bucket).live(half_open::milliseconds(now_ns), settings.half_open_ms) }
}

/// Cookies of a family.
pub trait CookieFamily: Family {
    /// The cookie for a SYN in the low half, the segment size in the high half; an error of
    /// the kernel if negative.
    ///
    /// # Safety
    /// `ip` points to a whole header.
    unsafe fn make(ip: *mut Self::Header, tcp: &mut [u8; 24]) -> i64;
    /// Whether an ACK acknowledges a cookie.
    ///
    /// # Safety
    /// `ip` points to a whole header.
    unsafe fn check(ip: *mut Self::Header, tcp: &mut [u8; TcpHdr::LEN]) -> bool;
}

impl CookieFamily for V4 {
    #[inline(always)]
    unsafe fn make(ip: *mut Self::Header, tcp: &mut [u8; 24]) -> i64 {
        // SAFETY: the caller's, and the length is that of `tcp`.
        unsafe { bpf_tcp_raw_gen_syncookie_ipv4(ip.cast(), tcp.as_mut_ptr().cast(), 24) }
    }

    #[inline(always)]
    unsafe fn check(ip: *mut Self::Header, tcp: &mut [u8; TcpHdr::LEN]) -> bool {
        // SAFETY: the caller's.
        unsafe { bpf_tcp_raw_check_syncookie_ipv4(ip.cast(), tcp.as_mut_ptr().cast()) == 0 }
    }
}

impl CookieFamily for V6 {
    #[inline(always)]
    unsafe fn make(ip: *mut Self::Header, tcp: &mut [u8; 24]) -> i64 {
        // SAFETY: the caller's, and the length is that of `tcp`.
        unsafe { bpf_tcp_raw_gen_syncookie_ipv6(ip.cast(), tcp.as_mut_ptr().cast(), 24) }
    }

    #[inline(always)]
    unsafe fn check(ip: *mut Self::Header, tcp: &mut [u8; TcpHdr::LEN]) -> bool {
        // SAFETY: the caller's.
        unsafe { bpf_tcp_raw_check_syncookie_ipv6(ip.cast(), tcp.as_mut_ptr().cast()) == 0 }
    }
}

/// Answers a SYN, or looks for a cookie in anything else.
#[inline(always)]
pub fn handle<F: CookieFamily + Frame>(ctx: Context, segment: &Segment<F>) -> Step {
    let (Some(scratch), Some(settings), Some(cookies)) =
        (scratch(), SETTINGS.get(0), COOKIES.get_ptr_mut(0))
    else {
        return Step::Settled(Verdict::Drop(DropReason::Internal));
    };
    let Some(numbers) = splice::numbers(ctx, segment) else {
        return Step::Settled(Verdict::Drop(DropReason::Internal));
    };
    // SAFETY: array elements are never freed; both words may be written by anybody.
    let cookies = unsafe { &mut *cookies };
    if segment.flags.is_fresh_syn() {
        return answer(ctx, segment, numbers.sequence, scratch, settings, cookies);
    }
    scratch.hash = F::scratch().map_or(0, |draft| draft.hash);
    scratch.found = found::INVALID;
    let cookie = numbers.acknowledgement.wrapping_sub(1);
    let Some(client_sequence) = returned(segment, &numbers) else { return Step::Admit };
    scratch.client_sequence = client_sequence;
    scratch.cookie = cookie;
    scratch.size_index = 0;
    for index in 0..syn_cookie::SEGMENT_SIZES {
        let size = syn_cookie::segment_size(F::NUMBER == V6::NUMBER, index);
        let mut syn = syn_header(segment, client_sequence, size);
        // SAFETY: the parser checked the bounds.
        if unsafe { F::make(segment.ip, &mut syn) } as u32 == cookie {
            scratch.size_index = index;
        }
    }
    scratch.pressure.receive();
    scratch.found = found::VALID;
    counters::count_drop(DropReason::CookieValid);
    Step::Admit
}

/// The sequence number of the SYN whose cookie a packet acknowledges. A probe of a closed
/// window, the first that is heard of a client whose ACK was lost, is one behind.
#[inline(always)]
fn returned<F: CookieFamily>(segment: &Segment<F>, numbers: &splice::Numbers) -> Option<u32> {
    let first = numbers.sequence.wrapping_sub(1);
    let mut ack = ack_header(segment, first, numbers.acknowledgement);
    // SAFETY: the parser checked the bounds.
    if unsafe { F::check(segment.ip, &mut ack) } {
        return Some(first);
    }
    if segment.payload != 0 {
        return None;
    }
    let mut ack = ack_header(segment, numbers.sequence, numbers.acknowledgement);
    // SAFETY: as above.
    unsafe { F::check(segment.ip, &mut ack) }.then_some(numbers.sequence)
}

/// Turns a SYN into the SYN-ACK with its cookie. The window is closed, so that the client sends
/// nothing until its server is there.
#[inline(always)]
fn answer<F: CookieFamily + Frame>(
    ctx: Context,
    segment: &Segment<F>,
    sequence: u32,
    scratch: &mut CookieScratch,
    settings: &Settings,
    cookies: &mut syn_cookie::Cookies,
) -> Step {
    let size = segment_size_option(ctx, segment);
    let mut syn = syn_header(segment, sequence, size);
    // SAFETY: the parser checked the bounds.
    let made = unsafe { F::make(segment.ip, &mut syn) };
    if made < 0 {
        scratch.unavailable = 1;
        return Step::Admit;
    }
    let now_ns = clock::now_ns();
    if scratch.pressure.send(half_open::milliseconds(now_ns), settings) {
        cookies.hold(now_ns);
    }
    cookies.send(now_ns);
    let answer = Made {
        sequence: made as u32,
        acknowledgement: sequence.wrapping_add(1),
        flags: TcpFlags::SYN | TcpFlags::ACK,
        window: 0,
        segment_size: (made >> 32) as u16,
    };
    let ends = Ends {
        source: segment.key.destination,
        destination: segment.key.source,
        ports: [segment.key.destination_port, segment.key.source_port],
    };
    let hop = transmit::arrival_hop(ctx, segment);
    let verdict = made::make::<F, 24>(ctx, segment, &ends, &answer, &hop);
    if matches!(verdict, Verdict::Send(_)) {
        counters::count_drop(DropReason::SynCookie);
    }
    Step::Settled(verdict)
}

/// The segment size that a SYN offers; 0 if none, which is the standard's (the kernel knows).
#[inline(always)]
fn segment_size_option<F: Family>(ctx: Context, segment: &Segment<F>) -> u16 {
    const MOST_OPTIONS: usize = 12;
    const END: u8 = 0;
    const PADDING: u8 = 1;
    const SEGMENT_SIZE: u8 = 2;
    let packet = Packet::new(ctx);
    let header = segment.ports.cast::<u8>();
    let Some(fixed) = packet.at_pointer::<[u8; TcpHdr::LEN]>(header) else { return 0 };
    // SAFETY: `at_pointer` checked the bounds.
    let end = u32::from(unsafe { (*fixed)[12] } >> 4) * 4;
    let mut offset = TcpHdr::LEN as u32;
    for _ in 0..MOST_OPTIONS {
        // One walk for all ways that lead to an offset.
        offset = verifier::forget(offset) & 0x3f;
        if offset + 2 > end {
            return 0;
        }
        let option = header.wrapping_add(offset as usize);
        let Some(start) = packet.at_pointer::<[u8; 2]>(option) else { return 0 };
        // SAFETY: as above.
        let [kind, length] = unsafe { *start };
        match kind {
            END => return 0,
            PADDING => offset += 1,
            SEGMENT_SIZE if length == 4 && offset + 4 <= end => {
                let Some(whole) = packet.at_pointer::<[u8; 4]>(option) else { return 0 };
                // SAFETY: as above.
                let [.., high, low] = unsafe { *whole };
                return u16::from_be_bytes([high, low]);
            }
            _ if length < 2 => return 0,
            _ => offset += u32::from(length),
        }
    }
    0
}

/// A client's SYN with its segment size alone; without any option's content if that is 0.
#[inline(always)]
fn syn_header<F: Family>(segment: &Segment<F>, sequence: u32, size: u16) -> [u8; 24] {
    let [p0, p1] = segment.key.source_port.wire().to_ne_bytes();
    let [q0, q1] = segment.key.destination_port.wire().to_ne_bytes();
    let [s0, s1, s2, s3] = syn_cookie::cookie_sequence(sequence).to_be_bytes();
    let [m0, m1] = size.to_be_bytes();
    let (kind, length) = if size == 0 { (1, 1) } else { (2, 4) };
    let (m0, m1) = if size == 0 { (1, 1) } else { (m0, m1) };
    [
        p0,
        p1,
        q0,
        q1,
        s0,
        s1,
        s2,
        s3,
        0,
        0,
        0,
        0,
        0x60,
        TcpFlags::SYN,
        0,
        0,
        0,
        0,
        0,
        0,
        kind,
        length,
        m0,
        m1,
    ]
}

/// The ACK of a client whose SYN had this sequence number.
#[inline(always)]
fn ack_header<F: Family>(
    segment: &Segment<F>,
    sequence: u32,
    acknowledgement: u32,
) -> [u8; TcpHdr::LEN] {
    let [p0, p1] = segment.key.source_port.wire().to_ne_bytes();
    let [q0, q1] = segment.key.destination_port.wire().to_ne_bytes();
    let next = syn_cookie::cookie_sequence(sequence).wrapping_add(1);
    let [s0, s1, s2, s3] = next.to_be_bytes();
    let [a0, a1, a2, a3] = acknowledgement.to_be_bytes();
    [p0, p1, q0, q1, s0, s1, s2, s3, a0, a1, a2, a3, 0x50, TcpFlags::ACK, 0, 0, 0, 0, 0, 0]
}
