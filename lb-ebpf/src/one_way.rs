//! Sending to servers that answer their clients themselves: `forward: dsr`, `ipip`, `gue`.
//!
//! The stages that know the flow check and count the packet and say where it goes
//! ([`Way`]); the stage that runs [`send`] needs nothing else of it than its IP header.
//!
//! The TTL goes down by one in all modes, as IPVS does it and Katran does not: a server that
//! forwards what it does not recognise, or another balancer, may send the packet back here,
//! and nothing else would end that loop.
//!
//! The kernel's FIB is not asked for a way that the agent does not know: for `dsr` it would
//! name a router as gladly as the server, and that one would send the packet back.

use lb_common::{
    abi,
    drop_reason::DropReason,
    flow::Handle,
    forward::{self, Forward},
    server::{ServerEntry, flag},
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    context::Context,
    encapsulate,
    family::{Family, V4, V6},
    maps::SERVERS,
    packet::Packet,
    parse::{self, ETHERTYPE_IPV4},
    transmit,
    verdict::{Step, Verdict},
};

/// Where a packet goes, as a number that travels between two stages.
#[derive(Clone, Copy)]
pub struct Way(u32);

const SERVER_BITS: u32 = abi::MAX_SERVERS.ilog2();
const FORWARD_SHIFT: u32 = SERVER_BITS;
const ENTROPY_SHIFT: u32 = FORWARD_SHIFT + 2;
const ENTROPY_END: u32 = ENTROPY_SHIFT + forward::ENTROPY_BITS;
const _: () = assert!(abi::MAX_SERVERS.is_power_of_two() && ENTROPY_END == Way::BITS);

impl Way {
    /// How many bits it has at most.
    pub const BITS: u32 = 28;

    /// To a server, with the hash of the flow's tuple.
    #[inline(always)]
    #[must_use]
    pub const fn new(server: Handle, forward: Forward, hash: u64) -> Self {
        let server = server.id as u32 & (abi::MAX_SERVERS - 1);
        let forward = (forward.to_raw() as u32) << FORWARD_SHIFT;
        Self(server | forward | (forward::entropy(hash) as u32) << ENTROPY_SHIFT)
    }

    /// Its number.
    #[inline(always)]
    #[must_use]
    pub const fn into_bits(self) -> u32 {
        self.0
    }

    /// From its number; other bits do not count.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & ((1 << Self::BITS) - 1))
    }

    #[inline(always)]
    const fn server(self) -> u32 {
        self.0 & (abi::MAX_SERVERS - 1)
    }

    /// How the packet travels.
    #[inline(always)]
    #[must_use]
    pub const fn forward(self) -> Forward {
        Forward::from_raw((self.0 >> FORWARD_SHIFT) as u8)
    }

    /// What of the hash goes into outer headers.
    #[inline(always)]
    #[must_use]
    pub const fn entropy(self) -> u16 {
        (self.0 >> ENTROPY_SHIFT) as u16
    }
}

/// Whether an IP packet of so many bytes can go to the server, asked before anything is
/// counted or written.
///
/// # Errors
/// What becomes of it otherwise.
#[inline(always)]
pub fn check(bytes: u32, server: &ServerEntry, forward: Forward) -> Result<(), Step> {
    // Without branches as far as possible: what follows is walked again for each.
    let frames_alone = !forward.to_raw() >> 1;
    if server.ifindex == 0 || server.flags & frames_alone & flag::ROUTED != 0 {
        return Err(Step::Settled(Verdict::Drop(DropReason::NoNeighbour)));
    }
    let overhead = forward.overhead(server.flags & flag::V6 != 0);
    let room = u32::from(server.mtu).saturating_sub(overhead);
    if bytes > room { Err(Step::TooBig(room)) } else { Ok(()) }
}

/// Whether a flow's hash is in the outer headers to a server; IPv4 has no field for it.
#[inline(always)]
#[must_use]
pub const fn spreads(forward: Forward, server: &ServerEntry) -> bool {
    matches!(forward, Forward::Gue) || server.flags & flag::V6 != 0
}

/// Sends a packet that was checked and counted.
#[inline(always)]
#[must_use]
pub fn send(ctx: Context, way: Way) -> Verdict {
    try_send(ctx, way).unwrap_or(Verdict::Drop(DropReason::Internal))
}

/// None if the packet is not what the stage before saw.
#[inline(always)]
fn try_send(ctx: Context, way: Way) -> Option<Verdict> {
    let packet = Packet::new(ctx);
    let link = parse::link(&packet)?;
    let server = SERVERS.get(way.server())?;
    let is_v4 = link.ether_type == ETHERTYPE_IPV4;
    // SAFETY: `at` checked the bounds; nothing else refers to these bytes.
    let inner = unsafe {
        if is_v4 {
            let ip = &mut *packet.at::<Ipv4Hdr>(link.offset)?;
            V4::decrement_ttl(ip);
            encapsulate::Inner { bytes: V4::bytes(ip), class: ip.tos, is_v4 }
        } else {
            let ip = &mut *packet.at::<Ipv6Hdr>(link.offset)?;
            V6::decrement_ttl(ip);
            let class = ip.vcf[0] << 4 | ip.vcf[1] >> 4;
            encapsulate::Inner { bytes: V6::bytes(ip), class, is_v4 }
        }
    };
    if !way.forward().encapsulates() {
        // SAFETY: as above.
        return Some(unsafe { transmit::send(ctx, link.ethernet, &transmit::hop_to(server)) });
    }
    encapsulate::encapsulate(ctx, &packet, link.offset, &inner, way, server)
}
