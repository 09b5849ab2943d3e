//! Maglev rings (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4), with weights and exact shares.
//!
//! A ring is a pure function of the set of its members: every node that knows the same
//! servers builds the same ring, in whatever order it learned of them. Only the agent
//! builds rings; the data plane reads slots.
//!
//! As in the paper each member has a permutation of the slots, from its seed, and members take
//! turns. What differs:
//!
//! - The permutations are not an offset and a stride but walks over the lines of a finite
//!   plane, which mix better than chance (`walk`).
//! - A member's turn looks at *one* slot of its permutation and takes it if it is free,
//!   where the paper's goes on to the next free one. So a slot belongs to whoever comes
//!   to it first, whatever became of other slots, and a member that leaves disturbs
//!   fewer of the others' slots.
//! - The paper makes shares even by letting each turn succeed. Here, once all slots have an
//!   owner, those who have more than their quota (the exact share rounded by largest
//!   remainder) give back what they came to last, and those who have less take turns at that.
//! - A member of weight `w` that has looked at `k` of `n` slots moves at a speed proportional
//!   to `w * (n - k)`. That makes the chance to be first at a slot proportional
//!   to the weight, so quotas correct only noise. (Speeds proportional to `w` alone give
//!   heavy members more than their share first, and their quota cuts it off.)
//!
//! A last difference is what happens when a server can not be used. Exact shares and few
//! moves contradict each other: what a leaver frees falls to the others unevenly, by chance,
//! and evening it out moves slots of theirs. So rings are built in two steps, as anchor
//! hashing does it (Mendelson et al., "AnchorHash: A Scalable Consistent Hash", IEEE/ACM
//! ToN 2021): first a ring of all configured members, then the slots of those that can not be
//! used go to those that can, to each as many as its new share lacks. A member that goes
//! out of use moves *no* slot between two members that were in use beside all others, and
//! when it returns, its slots return and nothing else moves.
//!
//! Measured over many sets of members of equal weight, 10, 100 and 1000 of them: when one
//! goes out of use, 0 % of the slots of the others move; when a second follows, 0.11, 0.14
//! and 0.06 % in the mean. When one leaves the configuration, the first step is done
//! anew: 0.16, 0.26 and 0.32 % in the mean (the paper's turns with the same quotas: 0.26,
//! 0.56 and 0.58 %). With 10 members numbered one after the other by address or port, 5 of 2000
//! removals move more than 0.3 %, 0.34 % at the most; with 10 random addresses, two of which
//! may be of one class, 2 of 100, 1.1 % at the most.
//! Building takes 4 ms for 10 members, 7 ms for 1000 of equal weight and 18 ms for 1000 of many
//! weights; a second step adds about 1 ms.

use core::fmt;

use crate::{abi::RING_SLOTS, address::Address6, flow::Handle, hash};

use walk::Walk;

mod walk;

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
    /// Slots got before quotas were looked at.
    claimed: u32,
    /// Where the member is on its way.
    walk: Walk,
    /// Points of the way not yet looked at.
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
    let bits =
        hash::mix(hash::mix(hash::mix(high).wrapping_add(low)).wrapping_add(u64::from(port)));
    // The walk takes its class from the remainder.
    let lines = u64::from(walk::LINES);
    (bits >> 1) / lines * lines + u64::from(walk::class(address, port))
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
    claim_all(takers, slots);
    even_out(takers, slots);
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

/// Members take turns until every slot has an owner, however many each gets.
fn claim_all(takers: &mut [Scratch], slots: &mut [u16; RING_SLOTS as usize]) {
    let mut free = RING_SLOTS;
    while free > 0 {
        let turn = fastest(takers);
        for taker in takers.iter_mut() {
            if taker.advance(turn, slots) {
                taker.claimed += 1;
                free -= 1;
            }
        }
    }
}

/// Brings members from what they have claimed to their quotas.
fn even_out(takers: &mut [Scratch], slots: &mut [u16; RING_SLOTS as usize]) {
    for taker in takers.iter_mut() {
        taker.rewind();
        taker.give_back(slots);
        taker.quota = taker.quota.saturating_sub(taker.claimed);
        taker.rewind();
    }
    race(drop_full(takers), slots);
}

/// Members take turns until each has its quota.
fn race(mut takers: &mut [Scratch], slots: &mut [u16; RING_SLOTS as usize]) {
    while !takers.is_empty() {
        let turn = fastest(takers);
        let mut full = 0;
        for taker in takers.iter_mut() {
            taker.quota -= u32::from(taker.advance(turn, slots));
            full += usize::from(taker.quota == 0);
        }
        if full > 0 {
            takers = drop_full(takers);
        }
    }
}

/// In each round the fastest member takes one turn, the others take their part of one.
fn fastest(takers: &[Scratch]) -> u32 {
    takers.iter().map(Scratch::speed).max().unwrap_or(0)
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
const METHOD: u64 = 3;

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
        *taker = Scratch {
            seed: member.seed,
            remainder: share % weights,
            quota: u32::try_from(share / weights).unwrap_or(RING_SLOTS),
            claimed: 0,
            walk: Walk::new(member.seed),
            unseen: walk::POINTS,
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
    /// Back to the start of the walk.
    fn rewind(&mut self) {
        self.walk = Walk::new(self.seed);
        self.unseen = walk::POINTS;
        self.credit = 0;
    }

    /// How fast the member walks. It never stands still with a slot left to take: it has then
    /// not seen all slots, because those it has seen are taken.
    fn speed(&self) -> u32 {
        self.unseen * u32::from(self.weight)
    }

    /// Goes on by this member's part of a turn; whether it took a slot.
    fn advance(&mut self, turn: u32, slots: &mut [u16; RING_SLOTS as usize]) -> bool {
        self.credit += self.speed();
        if self.credit < turn {
            return false;
        }
        self.credit -= turn;
        self.unseen = self.unseen.saturating_sub(1);
        let slot = self.walk.next().and_then(|slot| slots.get_mut(slot));
        slot.is_some_and(|slot| {
            let free = *slot == FREE;
            if free {
                *slot = self.member;
            }
            free
        })
    }

    /// Frees what the member came to after it had its quota.
    fn give_back(&mut self, slots: &mut [u16; RING_SLOTS as usize]) {
        let mut passed = 0;
        while passed < self.claimed && self.claimed > self.quota {
            let slot = self.walk.next().and_then(|slot| slots.get_mut(slot));
            if let Some(slot) = slot.filter(|slot| **slot == self.member) {
                passed += 1;
                if passed > self.quota {
                    *slot = FREE;
                }
            }
        }
    }
}
