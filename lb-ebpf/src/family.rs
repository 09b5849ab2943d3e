//! What differs between IPv4 and IPv6 in the data plane: tables and headers.

use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray};
use lb_common::{
    abi,
    address::{Address, Address4, Address6},
    checksum,
    ended::{self, EndedLine},
    expiry::IdleFlow,
    flow::{FlowEntry, FlowKey},
    half_open::Bucket,
    sources::SourceKey,
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    access, expire, handshake,
    maps::{Draft, ENDED4, ENDED6, FLOWS4, FLOWS6, HALF_OPEN4, HALF_OPEN6, IDLE4, IDLE6, SCRATCH},
    track, words,
};

/// The table of confirmed flows of a family.
pub type Flows<A> = HashMap<FlowKey<A>, FlowEntry<A>, { abi::DEFAULT_FLOW_ENTRIES as usize }>;
/// The table of half-open flows of a family.
pub type HalfOpen<A> = Array<Bucket<A>, { abi::DEFAULT_HALF_OPEN_BUCKETS as usize }>;
/// The rings of flows of a family that are over.
pub type EndedRings<A> = PerCpuArray<EndedLine<A>, { ended::LINES as usize }>;

/// One of the two families.
pub trait Family: Sized + 'static {
    /// Its addresses.
    type Address: Address;
    /// Its header without options or extension headers.
    type Header: 'static;
    /// Length of that header in bytes.
    const HEADER_BYTES: usize;
    /// The address family's number for `bpf_fib_lookup`.
    const AF: u8;
    /// Its cursor in `ENDED`.
    const CURSOR: u32;
    /// 4 or 6.
    const NUMBER: u32;

    /// Flows confirmed by both sides.
    fn flows() -> &'static Flows<Self::Address>;
    /// Flows not yet confirmed by both sides.
    fn half_open() -> &'static HalfOpen<Self::Address>;
    /// Flows that are over.
    fn ended() -> &'static EndedRings<Self::Address>;
    /// Room to build a flow.
    fn scratch() -> Option<&'static mut Draft<Self::Address>>;
    /// Tries one candidate for the source port of the flow under construction (`track`).
    fn try_port(attempt: u32, hash: u64, now_ns: u64) -> u32;
    /// Judges a source that sends to a VIP (`access`).
    fn judge(source: &Self::Address, vip: u32) -> u32;
    /// Judges a source that sends to a VIP unless that is done, and takes a packet out of its
    /// bucket (`access`).
    fn screen(source: &Self::Address, vip: u32, is_judged: u32) -> u32;
    /// Adds the flow of the draft to the confirmed ones (`handshake`).
    fn enter(client_hash: u64) -> u32;
    /// The flow that a run of the agent's is about.
    fn idle() -> Option<&'static mut IdleFlow<Self::Address>>;
    /// Removes that flow if it is as it was seen (`expire`).
    fn expire() -> u32;
    /// Judges a source by the address and TCP port that it sends to (`access`).
    fn judge_first(source: &Self::Address, destination: &Self::Address, port: u32) -> u32;
    /// What stands for a source in `SOURCES`.
    fn source_bits(source: &Self::Address) -> u64;
    /// TTL or hop limit.
    fn ttl(header: &Self::Header) -> u8;
    /// Length of the whole packet, as its header says.
    fn bytes(header: &Self::Header) -> u32;
    /// Counts the TTL or hop limit down by one.
    fn decrement_ttl(header: &mut Self::Header);
    /// Writes both addresses, counts the TTL or hop limit down by one, and repairs the
    /// header checksum by `delta`.
    fn translate(
        header: &mut Self::Header,
        source: Self::Address,
        destination: Self::Address,
        delta: u16,
    );
}

/// IPv4, RFC 791.
pub struct V4;
/// IPv6, RFC 8200.
pub struct V6;

impl Family for V4 {
    type Address = Address4;
    type Header = Ipv4Hdr;
    const HEADER_BYTES: usize = 20;
    const AF: u8 = 2;
    const CURSOR: u32 = ended::CURSOR4;
    const NUMBER: u32 = 4;

    #[inline(always)]
    fn flows() -> &'static Flows<Address4> {
        &FLOWS4
    }

    #[inline(always)]
    fn half_open() -> &'static HalfOpen<Address4> {
        &HALF_OPEN4
    }

    #[inline(always)]
    fn ended() -> &'static EndedRings<Address4> {
        &ENDED4
    }

    #[inline(always)]
    fn scratch() -> Option<&'static mut Draft<Address4>> {
        // SAFETY: the value belongs to this CPU, and only one caller holds it at a time.
        SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut (*scratch).draft4 })
    }

    #[inline(always)]
    fn idle() -> Option<&'static mut IdleFlow<Address4>> {
        // SAFETY: the value belongs to this CPU, and only `expire4` holds it, which the agent runs
        // one at a time on a CPU: a test run is not preempted.
        IDLE4.get_ptr_mut(0).map(|idle| unsafe { &mut *idle })
    }

    #[inline(always)]
    fn try_port(attempt: u32, hash: u64, now_ns: u64) -> u32 {
        track::try_port4(attempt, hash, now_ns)
    }

    #[inline(always)]
    fn judge(source: &Address4, vip: u32) -> u32 {
        access::judge4(vip, u32::from_ne_bytes(source.octets))
    }

    #[inline(always)]
    fn screen(source: &Address4, vip: u32, is_judged: u32) -> u32 {
        access::screen4(vip, u32::from_ne_bytes(source.octets), is_judged)
    }

    #[inline(always)]
    fn enter(client_hash: u64) -> u32 {
        handshake::enter4(client_hash)
    }

    #[inline(always)]
    fn expire() -> u32 {
        expire::expire_one4()
    }

    #[inline(always)]
    fn judge_first(source: &Address4, destination: &Address4, port: u32) -> u32 {
        let word = |address: &Address4| u32::from_ne_bytes(address.octets);
        access::judge_first4(word(source), word(destination), port)
    }

    #[inline(always)]
    fn source_bits(source: &Address4) -> u64 {
        SourceKey::v4(0, *source).address
    }

    #[inline(always)]
    fn ttl(header: &Ipv4Hdr) -> u8 {
        header.ttl
    }

    #[inline(always)]
    fn bytes(header: &Ipv4Hdr) -> u32 {
        u32::from(u16::from_be_bytes(header.tot_len))
    }

    #[inline(always)]
    fn decrement_ttl(header: &mut Ipv4Hdr) {
        let check = u16::from_ne_bytes(header.check);
        header.check = checksum::decrement_ttl(check).to_ne_bytes();
        header.ttl = header.ttl.wrapping_sub(1);
    }

    #[inline(always)]
    fn translate(header: &mut Ipv4Hdr, source: Address4, destination: Address4, delta: u16) {
        let check = u16::from_ne_bytes(header.check);
        header.check = checksum::apply_and_decrement_ttl(check, delta).to_ne_bytes();
        header.ttl = header.ttl.wrapping_sub(1);
        header.src_addr = source.octets;
        header.dst_addr = destination.octets;
    }
}

impl Family for V6 {
    type Address = Address6;
    type Header = Ipv6Hdr;
    const HEADER_BYTES: usize = 40;
    const AF: u8 = 10;
    const CURSOR: u32 = ended::CURSOR6;
    const NUMBER: u32 = 6;

    #[inline(always)]
    fn flows() -> &'static Flows<Address6> {
        &FLOWS6
    }

    #[inline(always)]
    fn half_open() -> &'static HalfOpen<Address6> {
        &HALF_OPEN6
    }

    #[inline(always)]
    fn ended() -> &'static EndedRings<Address6> {
        &ENDED6
    }

    #[inline(always)]
    fn scratch() -> Option<&'static mut Draft<Address6>> {
        // SAFETY: the value belongs to this CPU, and only one caller holds it at a time.
        SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut (*scratch).draft6 })
    }

    #[inline(always)]
    fn idle() -> Option<&'static mut IdleFlow<Address6>> {
        // SAFETY: the value belongs to this CPU, and only `expire6` holds it, which the agent runs
        // one at a time on a CPU: a test run is not preempted.
        IDLE6.get_ptr_mut(0).map(|idle| unsafe { &mut *idle })
    }

    #[inline(always)]
    fn try_port(attempt: u32, hash: u64, now_ns: u64) -> u32 {
        track::try_port6(attempt, hash, now_ns)
    }

    #[inline(always)]
    fn judge(source: &Address6, vip: u32) -> u32 {
        let [high, low] = halves(source);
        access::judge6(vip, high, low)
    }

    #[inline(always)]
    fn screen(source: &Address6, vip: u32, is_judged: u32) -> u32 {
        let [high, low] = halves(source);
        access::screen6(vip, high, low, is_judged)
    }

    #[inline(always)]
    fn enter(client_hash: u64) -> u32 {
        handshake::enter6(client_hash)
    }

    #[inline(always)]
    fn expire() -> u32 {
        expire::expire_one6()
    }

    #[inline(always)]
    fn judge_first(source: &Address6, destination: &Address6, port: u32) -> u32 {
        let ([high, low], [to_high, to_low]) = (halves(source), halves(destination));
        access::judge_first6(high, low, to_high, to_low, port)
    }

    #[inline(always)]
    fn source_bits(source: &Address6) -> u64 {
        let [network, _] = halves(source);
        network
    }

    #[inline(always)]
    fn ttl(header: &Ipv6Hdr) -> u8 {
        header.hop_limit
    }

    #[inline(always)]
    fn bytes(header: &Ipv6Hdr) -> u32 {
        u32::from(u16::from_be_bytes(header.payload_len)) + Ipv6Hdr::LEN as u32
    }

    #[inline(always)]
    fn decrement_ttl(header: &mut Ipv6Hdr) {
        header.hop_limit = header.hop_limit.wrapping_sub(1);
    }

    #[inline(always)]
    fn translate(header: &mut Ipv6Hdr, source: Address6, destination: Address6, _delta: u16) {
        Self::decrement_ttl(header);
        words::copy(&source.octets, &mut header.src_addr);
        words::copy(&destination.octets, &mut header.dst_addr);
    }
}

/// The two halves of an address in memory order.
#[inline(always)]
fn halves(address: &Address6) -> [u64; 2] {
    // SAFETY: sixteen octets, aligned for words, are two of them.
    unsafe { *address.octets.as_ptr().cast() }
}
