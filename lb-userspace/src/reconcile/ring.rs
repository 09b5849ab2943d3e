//! Which servers a ring holds, and the slots that follow.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    net::SocketAddr,
};

use lb_common::{
    abi::RING_SLOTS,
    flow::Handle,
    maglev::{self, BuildError, Member, Scratch},
    ring::RingSlot,
    server::state,
};

use super::desired::DesiredServer;
use crate::model::index::common_address;

/// One server of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingMember {
    /// What it is: this decides its slots.
    pub address: SocketAddr,
    /// Its share; not 0.
    pub weight: u16,
    /// How the data plane finds it; none while it gets no flows and others have its slots.
    pub server: Option<Handle>,
}

impl RingMember {
    fn member(&self) -> Member {
        let seed = maglev::member_seed(&common_address(self.address.ip()), self.address.port());
        Member { seed, weight: self.weight, usable: self.server.is_some() }
    }
}

/// The servers that get new flows, usable ones, or the usable backups if there are no
/// others; and beside them those that would if they could, so that only their slots go to
/// others meanwhile. Empty if nobody gets any. A server can be used if it is up, has a
/// weight, and it is known as whom to talk to it (`reachable`).
pub(super) fn members<'a>(
    servers: impl Iterator<Item = (&'a SocketAddr, &'a DesiredServer, Handle, bool)>,
) -> Vec<RingMember> {
    let member = |(address, server, handle, reachable): (&SocketAddr, &DesiredServer, _, _)| {
        let usable = server.state == state::UP && server.weight > 0 && reachable;
        let member = RingMember {
            address: *address,
            weight: server.share(),
            server: usable.then_some(handle),
        };
        (server.backup, member)
    };
    let members = servers.map(member).filter(|(_, member)| member.weight > 0);
    let (backups, others): (Vec<_>, Vec<_>) = members.partition(|(backup, _)| *backup);
    let classes = [others, backups].into_iter();
    let chosen = classes
        .map(|class| class.into_iter().map(|(_, member)| member).collect::<Vec<_>>())
        .find(|class| usable(class) > 0);
    chosen.unwrap_or_default()
}

/// How many members get flows.
pub(super) fn usable(members: &[RingMember]) -> usize {
    members.iter().filter(|member| member.server.is_some()).count()
}

/// How the slots of a ring are given to its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As Maglev does: a change of one member moves few slots of the others.
    Hashed,
    /// Slots that follow each other are different members', as far as weights allow.
    InTurn,
}

/// Identifies the ring of these members; 0 if there are none.
pub(super) fn signature(members: &[RingMember], layout: Layout) -> u64 {
    if members.is_empty() {
        return 0;
    }
    let servers = members.iter().map(|one| (one.member(), one.server.unwrap_or_default()));
    let signature = maglev::signature(servers);
    match layout {
        Layout::Hashed => signature,
        // Of the same members, another ring.
        Layout::InTurn => (!signature).max(1),
    }
}

/// The slots of the ring of these members.
///
/// # Errors
/// If no member gets flows, or there are more than slots.
pub(super) fn slots(members: &[RingMember], layout: Layout) -> Result<Vec<RingSlot>, BuildError> {
    match layout {
        Layout::Hashed => hashed(members),
        Layout::InTurn => in_turn(members),
    }
}

/// Each member that gets flows has its share of the slots at even distances: of what is due
/// next, the earliest. Of two that are due at once, the one with the lower address.
fn in_turn(members: &[RingMember]) -> Result<Vec<RingSlot>, BuildError> {
    let mut takers: Vec<(&RingMember, Handle)> =
        members.iter().filter_map(|member| Some((member, member.server?))).collect();
    takers.sort_by_key(|(member, _)| member.address);
    if takers.is_empty() {
        return Err(BuildError::NoMembers);
    }
    // The k-th turn of a member is due at (k + 1/2) / weight.
    let due = |turn: u64, weight: u16| (2 * turn + 1, u64::from(weight));
    let mut queue: BinaryHeap<Reverse<Due>> = takers
        .iter()
        .enumerate()
        .map(|(index, (member, _))| Reverse(Due { at: due(0, member.weight), index, turn: 0 }))
        .collect();
    let mut slots = Vec::with_capacity(RING_SLOTS as usize);
    while slots.len() < RING_SLOTS as usize {
        let Some(Reverse(Due { index, turn, .. })) = queue.pop() else { break };
        let Some((member, server)) = takers.get(index) else { break };
        slots.push(RingSlot { server: *server });
        let turn = turn + 1;
        queue.push(Reverse(Due { at: due(turn, member.weight), index, turn }));
    }
    Ok(slots)
}

/// When a member has its next turn.
#[derive(PartialEq, Eq)]
struct Due {
    /// A fraction.
    at: (u64, u64),
    index: usize,
    turn: u64,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((a, b), (c, d)) = (self.at, other.at);
        (a * d).cmp(&(c * b)).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn hashed(members: &[RingMember]) -> Result<Vec<RingSlot>, BuildError> {
    let inputs: Vec<Member> = members.iter().map(RingMember::member).collect();
    let mut scratch = vec![Scratch::default(); maglev::scratch_len(inputs.len())];
    let mut indexes = vec![0_u16; RING_SLOTS as usize].into_boxed_slice();
    let slots: &mut [u16; RING_SLOTS as usize] =
        (&mut *indexes).try_into().expect("the slice was made with this length");
    maglev::build(&inputs, slots, &mut scratch)?;
    let slot = |index: &u16| RingSlot {
        server: members.get(usize::from(*index)).and_then(|one| one.server).unwrap_or_default(),
    };
    Ok(slots.iter().map(slot).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(port: u16, weight: u16, id: u16) -> RingMember {
        let address = SocketAddr::new([192, 0, 2, 1].into(), port);
        RingMember { address, weight, server: Some(Handle { id, generation: 1 }) }
    }

    #[test]
    fn slots_name_the_servers_by_their_shares_whatever_their_order_and_ids() {
        let one = slots(&[member(80, 80, 7), member(81, 240, 9)], Layout::Hashed).expect("a ring");
        let other =
            slots(&[member(81, 240, 1), member(80, 80, 2)], Layout::Hashed).expect("a ring");
        let count = one.iter().filter(|slot| slot.server.id == 7).count();
        assert!(count.abs_diff(RING_SLOTS as usize / 4) <= 1, "{count}");
        let same = |(a, b): (&RingSlot, &RingSlot)| (a.server.id == 7) == (b.server.id == 2);
        assert!(one.iter().zip(&other).all(same));
    }

    #[test]
    fn members_that_take_turns_have_slots_by_their_weights_at_even_distances() {
        let three = [member(82, 100, 9), member(80, 100, 7), member(81, 100, 8)];
        let ids = |members: &[RingMember]| -> Vec<u16> {
            let slots = slots(members, Layout::InTurn).expect("a ring");
            assert_eq!(slots.len(), RING_SLOTS as usize);
            slots.iter().map(|slot| slot.server.id).collect()
        };
        assert_eq!(ids(&three)[..7], [7, 8, 9, 7, 8, 9, 7]);
        let out = [RingMember { server: None, ..three[0] }, three[1], three[2]];
        assert_eq!(ids(&out)[..4], [7, 8, 7, 8]);
        let weighed = ids(&[member(80, 50, 7), member(81, 150, 8), member(82, 100, 9)]);
        for turns in weighed.chunks_exact(6) {
            let of = |id| turns.iter().filter(|one| **one == id).count();
            assert_eq!([of(7), of(8), of(9)], [1, 3, 2], "{turns:?}");
        }
        assert_ne!(signature(&three, Layout::InTurn), signature(&three, Layout::Hashed));
        assert_eq!(signature(&[], Layout::InTurn), 0);
        assert!(slots(&out[..1], Layout::InTurn).is_err());
    }

    #[test]
    fn weights_in_the_same_proportions_make_the_same_ring() {
        let ring = |scale| {
            let members = [member(80, 100, 7), member(81, 51, 8), member(82, 1, 9)];
            let members = members.map(|one| RingMember { weight: one.weight * scale, ..one });
            slots(&members, Layout::Hashed).expect("a ring")
        };
        assert!(ring(1) == ring(2));
    }

    #[test]
    fn who_is_out_of_use_is_in_no_slot_and_moves_no_slot_of_the_others() {
        let all = [member(80, 80, 7), member(81, 80, 8), member(82, 80, 9)];
        let left = [RingMember { server: None, ..all[0] }, all[1], all[2]];
        let (before, after) = (
            slots(&all, Layout::Hashed).expect("a ring"),
            slots(&left, Layout::Hashed).expect("a ring"),
        );
        assert!(after.iter().all(|slot| [8, 9].contains(&slot.server.id)));
        let kept = |(old, new): (&RingSlot, &RingSlot)| old.server.id == 7 || old == new;
        assert!(before.iter().zip(&after).all(kept));
        assert_ne!(signature(&all, Layout::Hashed), signature(&left, Layout::Hashed));
        assert_ne!(signature(&left, Layout::Hashed), signature(&left[1..], Layout::Hashed));
    }

    #[test]
    fn the_signature_changes_with_weight_and_handle() {
        let members = [member(80, 100, 7), member(81, 100, 9)];
        let reversed = [member(81, 100, 9), member(80, 100, 7)];
        assert_eq!(signature(&members, Layout::Hashed), signature(&reversed, Layout::Hashed));
        assert_ne!(
            signature(&members, Layout::Hashed),
            signature(&[member(80, 100, 7), member(81, 50, 9)], Layout::Hashed)
        );
        assert_ne!(
            signature(&members, Layout::Hashed),
            signature(&[member(80, 100, 8), member(81, 100, 9)], Layout::Hashed)
        );
        assert_eq!(signature(&[], Layout::Hashed), 0);
    }

    #[test]
    fn backups_come_in_only_when_nobody_else_is_usable() {
        let server = |state, backup| DesiredServer { state, backup, ..DesiredServer::of_weight(1) };
        let address = |port| SocketAddr::new([192, 0, 2, 1].into(), port);
        let ports = |list: &[(u16, DesiredServer, bool)]| {
            let addresses: Vec<_> = list.iter().map(|(port, ..)| address(*port)).collect();
            let candidates = list.iter().zip(&addresses);
            let candidates = candidates.map(|((_, server, reachable), address)| {
                (address, server, Handle::default(), *reachable)
            });
            let used = members(candidates).into_iter().filter(|member| member.server.is_some());
            used.map(|member| member.address.port()).collect::<Vec<_>>()
        };
        let (up, backup) = (server(state::UP, false), server(state::UP, true));
        let down = server(state::DOWN, false);
        assert_eq!(ports(&[(1, up, true), (2, backup, true)]), [1]);
        assert_eq!(ports(&[(1, down, true), (2, backup, true)]), [2]);
        assert_eq!(ports(&[(1, up, false), (2, backup, true)]), [2]);
        assert!(ports(&[(1, down, true), (2, server(state::DRAIN, true), true)]).is_empty());
    }

    #[test]
    fn who_would_get_flows_keeps_its_place_in_the_ring() {
        let weights = |servers: &[DesiredServer]| {
            let addresses: Vec<_> = (1..)
                .map(|port| SocketAddr::new([192, 0, 2, 1].into(), port))
                .take(servers.len())
                .collect();
            let candidates = servers.iter().zip(&addresses);
            let candidates =
                candidates.map(|(server, address)| (address, server, Handle::default(), true));
            members(candidates)
                .iter()
                .map(|one| (one.weight, one.server.is_some()))
                .collect::<Vec<_>>()
        };
        let up = DesiredServer::of_weight(5);
        let down = DesiredServer { state: state::DOWN, ..up };
        let drained_by_weight = DesiredServer { weight: 0, ..up };
        let never_meant = DesiredServer { weight: 0, configured_weight: 0, ..up };
        let weighed = DesiredServer { weight: 9, ..up };
        let backup = DesiredServer { backup: true, ..up };
        let all = [up, down, drained_by_weight, never_meant, weighed, backup];
        assert_eq!(weights(&all), [(5, true), (5, false), (5, false), (9, true)]);
    }
}
