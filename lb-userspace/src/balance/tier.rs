//! The servers that share requests at a time: the usable ones, or the usable backups if
//! there are no others. Immutable; a change of any server makes a new one.

use super::key;
use crate::model::address::ServerAddress;
use std::{sync::Arc, time::Duration};

use lb_common::{abi::RING_SLOTS, hash, maglev};

use super::{member::Member, schedule, slow_start};
use crate::model::index::common_address;

/// The servers that share requests.
#[derive(Debug, Default)]
pub(super) struct Tier {
    /// By name.
    pub(super) seats: Box<[Seat]>,
    /// Indexes of seats: one cycle of turns.
    turns: Box<[u16]>,
    ring: Option<Arc<Ring>>,
    /// Sum of the weights.
    pub(super) weight: u64,
}

/// One server and its share.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) member: Arc<Member>,
    /// Relative to the other seats; not 0.
    pub(super) weight: u32,
}

/// A server that has a weight: what a seat follows from.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) member: Arc<Member>,
    /// It has a seat. If not, its places in the ring are the others' until it returns.
    pub(super) usable: bool,
    /// 1 to 256.
    pub(super) weight: u16,
    /// Since when it is up, if that is not long.
    pub(super) age: Option<Duration>,
}

/// A consistent ring: that of layer 4, so a proxy and the data plane agree. It is built of
/// all servers with a weight: one that goes out of use moves only what was its own.
#[derive(Debug)]
struct Ring {
    members: Vec<maglev::Member>,
    /// Indexes of seats.
    slots: Box<[u16]>,
}

impl Tier {
    /// The tier of those servers that can be used; the others have a say in the ring alone.
    /// With `hashed`, it has a ring; that of `before` is kept if it is the same.
    pub(super) fn new(
        all: &[Candidate],
        slow_start: Duration,
        hashed: bool,
        before: Option<&Self>,
    ) -> Self {
        let shares: Vec<u32> = all
            .iter()
            .map(|server| server.age.map_or(1000, |age| slow_start::share(age, slow_start)))
            .collect();
        let all_grown = shares.iter().all(|share| *share == 1000);
        let weight = |(server, share): (&Candidate, &u32)| match all_grown {
            true => u32::from(server.weight),
            false => slow_start::scaled(u32::from(server.weight), *share),
        };
        let every: Vec<u32> = all.iter().zip(&shares).map(weight).collect();
        let seats = all.iter().zip(&every).filter(|(server, _)| server.usable);
        let seats: Box<[Seat]> = seats
            .map(|(server, weight)| Seat { member: Arc::clone(&server.member), weight: *weight })
            .collect();
        let ring = (hashed && !seats.is_empty())
            .then(|| Ring::of(all, &every, before.and_then(|tier| tier.ring.as_ref())));
        let weights: Vec<u32> = seats.iter().map(|seat| seat.weight).collect();
        Self {
            seats,
            turns: schedule::cycle(&weights),
            ring: ring.flatten(),
            weight: weights.iter().map(|weight| u64::from(*weight)).sum(),
        }
    }

    /// The seat whose turn it is; none if there are no seats.
    pub(super) fn at_turn(&self, turn: u64) -> Option<&Seat> {
        let length = u64::try_from(self.turns.len()).ok().filter(|length| *length > 0)?;
        let turn = usize::try_from(turn % length).ok()?;
        self.seats.get(usize::from(*self.turns.get(turn)?))
    }

    /// A seat by weight, from random bits.
    pub(super) fn drawn(&self, random: u32) -> Option<&Seat> {
        // The same multiplication as for ring slots: no division.
        let turn = (u64::from(random) * self.turns.len() as u64) >> 32;
        self.at_turn(turn)
    }

    /// The seats along the ring from the place of `hash`, each time with another server
    /// than the one before; none without a ring. Ends after a bounded number of slots.
    pub(super) fn along_ring(&self, hash: u64) -> impl Iterator<Item = &Seat> {
        let slots = self.ring.as_ref().map_or(&[][..], |ring| &ring.slots);
        let start = hash::ring_slot(hash) as usize;
        let most = (self.seats.len() * 4).max(64);
        let mut last = u16::MAX;
        let ordered = slots.iter().skip(start).chain(slots.iter().take(start));
        ordered.take(most).filter_map(move |slot| {
            let other = *slot != last;
            last = *slot;
            if other { self.seats.get(usize::from(*slot)) } else { None }
        })
    }
}

impl Ring {
    /// None if there are more servers than a ring can have.
    fn of(all: &[Candidate], weights: &[u32], before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let most = weights.iter().copied().max().unwrap_or(1).max(1);
        let fit = |weight: u32| match most <= 256 {
            true => weight,
            // While somebody is growing weights are finer than a ring's.
            false => (weight * 256 / most).max(1),
        };
        let seed = |member: &Member| match member.address() {
            ServerAddress::Ip(address) => {
                maglev::member_seed(&common_address(address.ip()), address.port())
            }
            ServerAddress::Unix(path) => key::of_path(path.as_str()),
        };
        let member = |(server, weight): (&Candidate, &u32)| maglev::Member {
            seed: seed(&server.member),
            weight: u16::try_from(fit(*weight)).unwrap_or(256),
            usable: server.usable,
        };
        let members: Vec<_> = all.iter().zip(weights).map(member).collect();
        if let Some(before) = before.filter(|before| before.members == members) {
            return Some(Arc::clone(before));
        }
        let mut scratch = vec![maglev::Scratch::default(); maglev::scratch_len(members.len())];
        let mut slots = vec![0_u16; RING_SLOTS as usize].into_boxed_slice();
        let whole: &mut [u16; RING_SLOTS as usize] =
            (&mut *slots).try_into().expect("the slice was made with this length");
        maglev::build(&members, whole, &mut scratch).ok()?;
        let seats = seats_of(all);
        for slot in &mut slots {
            // A ring names its own members, and of those only usable ones.
            *slot = seats.get(usize::from(*slot)).copied().unwrap_or(0);
        }
        Some(Arc::new(Self { members, slots }))
    }
}

/// For each server the index of its seat; what it is for one without does not matter.
fn seats_of(all: &[Candidate]) -> Vec<u16> {
    let seat = |next: &mut u16, server: &Candidate| {
        let own = *next;
        *next += u16::from(server.usable);
        Some(own)
    };
    all.iter().scan(0, seat).collect()
}
