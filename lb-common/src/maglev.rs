//! Maglev rings (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4), with weights and exact shares.
//!
//! A ring is a pure function of the set of its members: every node that knows the same
//! servers builds the same ring, in whatever order it learned of them. Only the agent
//! builds rings; the data plane reads slots.
//!
//! As in the paper each member has a permutation of the slots (an offset and a stride,
//! from its seed) and members take turns. Two things differ:
//!
//! - A member's turn looks at *one* slot of its permutation and takes it if it is free,
//!   where the paper's goes on to the next free one. So a slot belongs to whoever comes
//!   to it first, whatever became of other slots, and a member that leaves disturbs
//!   fewer of the others' slots. The paper makes shares even by letting each turn
//!   succeed; here a member stops at its quota, the exact share rounded by largest
//!   remainder.
//! - A member of weight `w` that has looked at `k` slots moves at a speed proportional
//!   to `w * (RING_SLOTS - k)`. That makes the chance to be first at a slot proportional
//!   to the weight, so quotas correct only noise. (Speeds proportional to `w` alone give
//!   heavy members more than their share first, and their quota cuts it off.)
//!
//! A third difference is what happens when a server can not be used. Exact shares and few
//! moves contradict each other: what a leaver frees falls to the others unevenly, by chance,
//! and evening it out moves slots of theirs. So rings are built in two steps, as anchor
//! hashing does it (Mendelson et al., "AnchorHash: A Scalable Consistent Hash", IEEE/ACM
//! ToN 2021): first a ring of all configured members, then the slots of those that can not be
//! used go to those that can, to each as many as its new share lacks. A member that goes
//! out of use moves *no* slot between two members that were in use beside all others, and
//! when it returns, its slots return and nothing else moves.
//!
//! Measured over many sets of members of equal weight, 10, 100 and 1000 of them: when one
//! goes out of use, 0 % of the slots of the others move; when a second follows, 0.11, 0.15
//! and 0.06 % in the mean, 0.34 % at the most. When one leaves the configuration, the first step is done
//! anew: 0.17, 0.30 and 0.34 % in the mean (the paper's turns with the same quotas: 0.26,
//! 0.56 and 0.58 %), and with 10 members 7 of 100 move more than 0.3 %, 0.6 % at the most.
//! Other permutations (random ones, strides that change from block to block or from segment
//! to segment) have less of a tail and a worse mean.
//! Building takes 2 ms for 1000 members of equal weight and 7 ms for 1000 of many weights; a
//! second step adds 0.5 to 2 ms.

use core::fmt;

use crate::{abi::RING_SLOTS, address::Address6, flow::Handle, hash};

/// One server of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// [`member_seed`] of the server: what it is, never where it stands in a list.
    pub seed: u64,
    /// Share of the ring relative to the others, 1 to 256.
    pub weight: u16,
    /// Takes flows. The slots of a member that does not are the others'.
    pub usable: bool,
}

/// Working memory of [`build`]; its contents mean nothing before or after.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scratch {
    seed: u64,
    /// What rounding the quota down left over.
    remainder: u64,
    /// Slots still to get.
    quota: u32,
    /// The slot to look at next.
    next: u32,
    /// Slots from one to the next in the permutation.
    stride: u32,
    /// Slots not yet looked at.
    unseen: u32,
    /// How far this member is on the way to its next turn.
    credit: u32,
    weight: u16,
    member: u16,
}

/// Why a ring can not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// There are no usable members.
    NoMembers,
    /// There are more members than slots can name.
    TooManyMembers {
        /// How many there are.
        got: usize,
        /// How many there may be.
        most: usize,
    },
    /// A member's weight is not 1 to 256.
    Weight {
        /// Index of the member.
        member: usize,
        /// Its weight.
        got: u16,
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

/// Fills `slots` with indexes into `members`. Each usable one gets its share of the slots, to
/// within one if all are usable, else to within two; a member whose share is less than half
/// a slot may get none.
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
    lay_out(members, takers);
    race(drop_full(takers), slots);
    if members.iter().all(|member| member.usable) {
        return Ok(());
    }
    let used = |slot: &u16| members.get(usize::from(*slot)).is_some_and(|member| member.usable);
    for slot in slots.iter_mut().filter(|slot| !used(slot)) {
        *slot = FREE;
    }
    lay_out(members, takers);
    hand_over(members, takers);
    race(drop_full(takers), slots);
    Ok(())
}

/// Members take turns until each has its quota.
fn race(mut takers: &mut [Scratch], slots: &mut [u16; RING_SLOTS as usize]) {
    // In each round the fastest member takes one turn, the others take their part of one.
    let mut turn = takers.iter().map(Scratch::speed).max().unwrap_or(0);
    while !takers.is_empty() {
        let mut fastest = 0;
        let mut full = 0;
        for taker in takers.iter_mut() {
            taker.credit += taker.speed();
            if taker.credit >= turn {
                taker.credit -= turn;
                taker.look(slots);
            }
            fastest = fastest.max(taker.speed());
            full += usize::from(taker.quota == 0);
        }
        turn = fastest;
        if full > 0 {
            takers = drop_full(takers);
        }
    }
}

/// Identifies what a ring is built from and how, whatever the order: members, with the
/// handle in their slots. Never 0.
pub fn signature(members: impl Iterator<Item = (Member, Handle)>) -> u64 {
    let sum = members.fold(METHOD, |sum, (member, server)| {
        let rest = u64::from(member.usable) << 48
            | u64::from(member.weight) << 32
            | u64::from(server.id) << 16
            | u64::from(server.generation);
        sum.wrapping_add(hash::mix(hash::mix(member.seed) ^ rest))
    });
    hash::mix(sum).max(1)
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMembers => f.write_str("a ring needs at least one usable member, got none"),
            Self::TooManyMembers { got, most } => {
                write!(f, "a ring takes at most {most} members, got {got}")
            }
            Self::Weight { member, got } => {
                write!(f, "a weight is 1 to {MOST_WEIGHT}, member {member} has {got}")
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
/// The greatest weight; HAProxy's, so that weights carry over.
const MOST_WEIGHT: u16 = 256;
const FREE: u16 = u16::MAX;
/// Changes with what [`build`] makes of the same members, so that a ring of an earlier
/// version is not taken for the one this version would build.
const METHOD: u64 = 2;

/// Checks the members; their part of the working memory.
fn prepare<'a>(
    members: &[Member],
    scratch: &'a mut [Scratch],
) -> Result<&'a mut [Scratch], BuildError> {
    if !members.iter().any(|member| member.usable) {
        return Err(BuildError::NoMembers);
    }
    if members.len() > MOST_MEMBERS {
        return Err(BuildError::TooManyMembers { got: members.len(), most: MOST_MEMBERS });
    }
    for (index, member) in members.iter().enumerate() {
        if !(1..=MOST_WEIGHT).contains(&member.weight) {
            return Err(BuildError::Weight { member: index, got: member.weight });
        }
    }
    let got = scratch.len();
    let needed = scratch_len(members.len());
    scratch.get_mut(..needed).ok_or(BuildError::ScratchTooSmall { got, needed })
}

/// Lays the members out by seed, each at the start of its walk and with the quota it has
/// while all are usable.
fn lay_out(members: &[Member], takers: &mut [Scratch]) {
    let weights: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    for (index, (taker, member)) in (0_u16..).zip(takers.iter_mut().zip(members)) {
        let share = u64::from(member.weight) * u64::from(RING_SLOTS);
        let permutation = hash::mix(member.seed);
        *taker = Scratch {
            seed: member.seed,
            remainder: share % weights,
            quota: u32::try_from(share / weights).unwrap_or(RING_SLOTS),
            next: hash::ring_slot(permutation),
            stride: 1 + hash::ring_slot(hash::mix(permutation)) % (RING_SLOTS - 1),
            unseen: RING_SLOTS,
            credit: 0,
            weight: member.weight,
            member: index,
        };
    }
    round_quotas(takers, RING_SLOTS);
}

/// Turns quotas into what usable members lack of their share once the others are gone.
fn hand_over(members: &[Member], takers: &mut [Scratch]) {
    let usable = members.iter().filter(|member| member.usable);
    let weights: u64 = usable.map(|member| u64::from(member.weight)).sum();
    let mut freed = 0;
    for taker in takers.iter_mut() {
        let has = core::mem::take(&mut taker.quota);
        taker.remainder = 0;
        if members.get(usize::from(taker.member)).is_some_and(|member| member.usable) {
            // In parts of a slot, of which one has `weights`. Rounding may have given more.
            let share = u64::from(taker.weight) * u64::from(RING_SLOTS);
            let lack = share.saturating_sub(u64::from(has) * weights);
            taker.quota = u32::try_from(lack / weights).unwrap_or(RING_SLOTS);
            taker.remainder = lack % weights;
        } else {
            freed += has;
        }
    }
    round_quotas(takers, freed);
}

/// Makes quotas sum up to `slots`: gives those that rounding down left over to the largest
/// remainders, one each, or takes from the smallest what is too much.
fn round_quotas(takers: &mut [Scratch], slots: u32) {
    let given: u32 = takers.iter().map(|taker| taker.quota).sum();
    takers.sort_unstable_by_key(|taker| {
        (core::cmp::Reverse(taker.remainder), taker.seed, taker.member)
    });
    for taker in takers.iter_mut().take(slots.saturating_sub(given) as usize) {
        taker.quota += 1;
    }
    let mut excess = given.saturating_sub(slots);
    while excess > 0 {
        for taker in takers.iter_mut().rev().filter(|taker| taker.quota > 0) {
            let one = excess.min(1);
            (taker.quota, excess) = (taker.quota - one, excess - one);
        }
    }
    takers.sort_unstable_by_key(|taker| (taker.seed, taker.member));
}

/// The members with a quota left, in their order.
fn drop_full(takers: &mut [Scratch]) -> &mut [Scratch] {
    let mut kept = 0;
    for index in 0..takers.len() {
        if takers.get(index).is_some_and(|taker| taker.quota > 0) {
            takers.swap(kept, index);
            kept += 1;
        }
    }
    takers.get_mut(..kept).unwrap_or_default()
}

impl Scratch {
    /// How fast the member walks. It never stands still with a quota left: it has then
    /// not seen all slots, because those it has seen are taken, and not all are.
    fn speed(&self) -> u32 {
        self.unseen * u32::from(self.weight)
    }

    /// Looks at the next slot of the permutation and takes it if it is free.
    fn look(&mut self, slots: &mut [u16; RING_SLOTS as usize]) {
        if let Some(slot) = slots.get_mut(self.next as usize)
            && *slot == FREE
        {
            *slot = self.member;
            self.quota -= 1;
        }
        self.next = (self.next + self.stride) % RING_SLOTS;
        self.unseen -= 1;
    }
}
