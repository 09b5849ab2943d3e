//! Maglev rings (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4), with weights and exact shares.
//!
//! A ring is a pure function of the set of its members: every node that knows the same
//! servers builds the same ring, in whatever order it learned of them. Only the agent
//! builds rings; the data plane reads slots.

use core::fmt;

use crate::{abi::RING_SLOTS, address::Address6, flow::Handle, hash};

/// One server of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// [`member_seed`] of the server: what it is, never where it stands in a list.
    pub seed: u64,
    /// Share of the ring relative to the others, 1 to 256.
    pub weight: u16,
}

/// Working memory of [`build`]; its contents mean nothing before or after.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scratch {
    seed: u64,
    remainder: u64,
    next: u32,
    skip: u32,
    quota: u32,
    member: u16,
}

/// Why a ring can not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// There are no members.
    NoMembers,
    /// There are more members than slots can name.
    TooManyMembers {
        /// How many there are.
        got: usize,
        /// How many there may be.
        most: usize,
    },
    /// A member has weight 0.
    ZeroWeight {
        /// Index of the member.
        member: usize,
    },
    /// The working memory is too small.
    ScratchTooSmall {
        /// Its length.
        got: usize,
        /// The length that [`scratch_len`] asks for.
        needed: usize,
    },
}

/// The seed of a server, from its address (IPv4 in mapped form) and its port in host byte
/// order.
#[must_use]
pub fn member_seed(address: &Address6, port: u16) -> u64 {
    let (high, low) = address.halves();
    hash::mix(hash::mix(hash::mix(high).wrapping_add(low)).wrapping_add(u64::from(port)))
}

/// How much working memory [`build`] needs for that many members.
#[must_use]
pub const fn scratch_len(members: usize) -> usize {
    members
}

/// Fills `slots` with indexes into `members`.
///
/// # Errors
/// [`BuildError`]; `slots` is then as it was.
pub fn build(
    members: &[Member],
    slots: &mut [u16; RING_SLOTS as usize],
    scratch: &mut [Scratch],
) -> Result<(), BuildError> {
    let takers = prepare(members, scratch)?;
    slots.fill(FREE);
    let mut left = RING_SLOTS;
    while left > 0 {
        for taker in takers.iter_mut().filter(|taker| taker.quota > 0) {
            taker.quota -= 1;
            left -= 1;
            while let Some(slot) = slots.get_mut(taker.next as usize) {
                taker.next = (taker.next + taker.skip) % RING_SLOTS;
                if *slot == FREE {
                    *slot = taker.member;
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Identifies what a ring is built from, whatever the order: members as seed, weight and
/// handle. Never 0.
pub fn signature(members: impl Iterator<Item = (u64, u16, Handle)>) -> u64 {
    let sum = members.fold(0_u64, |sum, (seed, weight, server)| {
        let rest =
            u64::from(weight) << 32 | u64::from(server.id) << 16 | u64::from(server.generation);
        sum.wrapping_add(hash::mix(hash::mix(seed) ^ rest))
    });
    hash::mix(sum).max(1)
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMembers => f.write_str("a ring needs at least one member, got none"),
            Self::TooManyMembers { got, most } => {
                write!(f, "a ring takes at most {most} members, got {got}")
            }
            Self::ZeroWeight { member } => {
                write!(f, "a member's weight is 1 to 256, member {member} has 0")
            }
            Self::ScratchTooSmall { got, needed } => {
                write!(f, "the working memory needs {needed} elements, got {got}")
            }
        }
    }
}

impl core::error::Error for BuildError {}

/// The most members: one slot each.
const MOST_MEMBERS: usize = u16::MAX as usize;
const FREE: u16 = u16::MAX;

/// Checks the members and lays them out by seed, each with its quota.
fn prepare<'a>(
    members: &[Member],
    scratch: &'a mut [Scratch],
) -> Result<&'a mut [Scratch], BuildError> {
    if members.is_empty() {
        return Err(BuildError::NoMembers);
    }
    if members.len() > MOST_MEMBERS {
        return Err(BuildError::TooManyMembers { got: members.len(), most: MOST_MEMBERS });
    }
    if let Some(member) = members.iter().position(|member| member.weight == 0) {
        return Err(BuildError::ZeroWeight { member });
    }
    let got = scratch.len();
    let needed = scratch_len(members.len());
    let takers = scratch.get_mut(..needed).ok_or(BuildError::ScratchTooSmall { got, needed })?;
    let weights: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    for (index, (taker, member)) in (0_u16..).zip(takers.iter_mut().zip(members)) {
        let share = u64::from(member.weight) * u64::from(RING_SLOTS);
        let permutation = hash::mix(member.seed);
        *taker = Scratch {
            seed: member.seed,
            remainder: share % weights,
            next: hash::ring_slot(permutation),
            skip: 1 + hash::ring_slot(hash::mix(permutation)) % (RING_SLOTS - 1),
            quota: u32::try_from(share / weights).unwrap_or(RING_SLOTS),
            member: index,
        };
    }
    round_quotas(takers);
    Ok(takers)
}

/// Gives the slots that rounding down left over to the largest remainders, one each.
fn round_quotas(takers: &mut [Scratch]) {
    let given: u32 = takers.iter().map(|taker| taker.quota).sum();
    takers.sort_unstable_by_key(|taker| {
        (core::cmp::Reverse(taker.remainder), taker.seed, taker.member)
    });
    for taker in takers.iter_mut().take((RING_SLOTS - given) as usize) {
        taker.quota += 1;
    }
    takers.sort_unstable_by_key(|taker| (taker.seed, taker.member));
}
