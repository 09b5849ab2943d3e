//! Which servers a ring holds, and the slots that follow.

use std::net::SocketAddr;

use lb_common::{
    abi::RING_SLOTS,
    backend::RingSlot,
    flow::Handle,
    maglev::{self, BuildError, Member, Scratch},
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
    /// How the data plane finds it.
    pub server: Handle,
}

impl RingMember {
    fn seed(&self) -> u64 {
        maglev::member_seed(&common_address(self.address.ip()), self.address.port())
    }
}

/// The servers that get new flows: usable ones, or the usable backups if there are no
/// others. A server can be used if it is up, has a weight, and it is known as whom to talk
/// to it (`reachable`).
pub(super) fn members<'a>(
    servers: impl Iterator<Item = (&'a SocketAddr, &'a DesiredServer, Handle, bool)>,
) -> Vec<RingMember> {
    let usable = servers.filter(|(_, server, _, reachable)| {
        server.state == state::UP && server.weight > 0 && *reachable
    });
    let (backups, others): (Vec<_>, Vec<_>) = usable.partition(|(_, server, ..)| server.backup);
    let chosen = if others.is_empty() { backups } else { others };
    let member = |(address, server, handle, _): (&SocketAddr, &DesiredServer, Handle, bool)| {
        RingMember { address: *address, weight: server.weight, server: handle }
    };
    chosen.into_iter().map(member).collect()
}

/// Identifies the ring of these members; 0 if there are none.
pub(super) fn signature(members: &[RingMember]) -> u64 {
    if members.is_empty() {
        return 0;
    }
    maglev::signature(members.iter().map(|member| (member.seed(), member.weight, member.server)))
}

/// The slots of the ring of these members.
///
/// # Errors
/// If there are no members, or more than slots.
pub(super) fn slots(members: &[RingMember]) -> Result<Vec<RingSlot>, BuildError> {
    let inputs: Vec<Member> = members
        .iter()
        .map(|member| Member { seed: member.seed(), weight: member.weight })
        .collect();
    let mut scratch = vec![Scratch::default(); maglev::scratch_len(inputs.len())];
    let mut indexes = vec![0_u16; RING_SLOTS as usize].into_boxed_slice();
    let slots: &mut [u16; RING_SLOTS as usize] =
        (&mut *indexes).try_into().expect("the slice was made with this length");
    maglev::build(&inputs, slots, &mut scratch)?;
    let slot = |index: &u16| RingSlot {
        server: members.get(usize::from(*index)).map_or(Handle::default(), |member| member.server),
    };
    Ok(slots.iter().map(slot).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(port: u16, weight: u16, id: u16) -> RingMember {
        let address = SocketAddr::new([192, 0, 2, 1].into(), port);
        RingMember { address, weight, server: Handle { id, generation: 1 } }
    }

    #[test]
    fn slots_name_the_servers_by_their_shares_whatever_their_order_and_ids() {
        let one = slots(&[member(80, 80, 7), member(81, 240, 9)]).expect("a ring");
        let other = slots(&[member(81, 240, 1), member(80, 80, 2)]).expect("a ring");
        let count = one.iter().filter(|slot| slot.server.id == 7).count();
        assert!(count.abs_diff(RING_SLOTS as usize / 4) <= 1, "{count}");
        let same = |(a, b): (&RingSlot, &RingSlot)| (a.server.id == 7) == (b.server.id == 2);
        assert!(one.iter().zip(&other).all(same));
    }

    #[test]
    fn the_signature_changes_with_weight_and_handle() {
        let members = [member(80, 100, 7), member(81, 100, 9)];
        let reversed = [member(81, 100, 9), member(80, 100, 7)];
        assert_eq!(signature(&members), signature(&reversed));
        assert_ne!(signature(&members), signature(&[member(80, 100, 7), member(81, 50, 9)]));
        assert_ne!(signature(&members), signature(&[member(80, 100, 8), member(81, 100, 9)]));
        assert_eq!(signature(&[]), 0);
    }

    #[test]
    fn backups_come_in_only_when_nobody_else_is_usable() {
        let server = |state, backup| DesiredServer { state, weight: 1, backup, next_hop: None };
        let address = |port| SocketAddr::new([192, 0, 2, 1].into(), port);
        let ports = |list: &[(u16, DesiredServer, bool)]| {
            let addresses: Vec<_> = list.iter().map(|(port, ..)| address(*port)).collect();
            let candidates = list.iter().zip(&addresses);
            let candidates = candidates.map(|((_, server, reachable), address)| {
                (address, server, Handle::default(), *reachable)
            });
            members(candidates).iter().map(|member| member.address.port()).collect::<Vec<_>>()
        };
        let (up, backup) = (server(state::UP, false), server(state::UP, true));
        let down = server(state::DOWN, false);
        assert_eq!(ports(&[(1, up, true), (2, backup, true)]), [1]);
        assert_eq!(ports(&[(1, down, true), (2, backup, true)]), [2]);
        assert_eq!(ports(&[(1, up, false), (2, backup, true)]), [2]);
        assert!(ports(&[(1, down, true), (2, server(state::DRAIN, true), true)]).is_empty());
    }
}
