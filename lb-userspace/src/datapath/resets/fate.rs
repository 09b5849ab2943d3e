//! Which servers are dead or gone, and what becomes of their flows: what the data plane decides
//! in `lb-ebpf/src/dead.rs`, from the same maps.

use std::collections::{BTreeSet, HashMap};

use lb_common::{
    address::Address,
    flow::{FlowKey, Handle, Hop},
    server::ServerEntry,
    vip::{VipKey, on_down},
};

use crate::datapath::{error::MapAccessError, maps::Maps};

/// Servers and VIPs as they were at one look.
pub(super) struct Fates {
    /// By id.
    servers: Vec<ServerEntry>,
    /// [`on_down`] of each VIP.
    policies: HashMap<VipKey, u8>,
}

impl Fates {
    /// # Errors
    /// If the maps can not be read.
    pub(super) fn read(maps: &Maps) -> Result<Self, MapAccessError> {
        let policies = maps.vips()?.into_iter().map(|(key, vip)| (key, vip.on_down)).collect();
        Ok(Self { servers: maps.servers()?, policies })
    }

    /// The servers that get packets.
    pub(super) fn living(&self) -> BTreeSet<Handle> {
        let ids = (0..=u16::MAX).zip(&self.servers);
        let living = ids.filter(|(_, server)| server.lives());
        living.map(|(id, server)| Handle { id, generation: server.generation }).collect()
    }

    /// Whether a server is dead, or was there and is gone.
    pub(super) fn any_dead(&self) -> bool {
        self.servers.iter().any(|server| server.generation != 0 && !server.lives())
    }

    /// Whether a client's packet on a flow of this server is answered with a RST.
    pub(super) fn ends<A: Address>(&self, server: Handle, from_client: &FlowKey<A>) -> bool {
        let known = self.known(server);
        if known.is_some_and(ServerEntry::lives) {
            return false;
        }
        let vip = VipKey::new(
            from_client.destination.to_common(),
            from_client.destination_port,
            from_client.protocol,
        );
        match self.policies.get(&vip).copied() {
            Some(on_down::REROUTE) => false,
            Some(on_down::KEEP) => known.is_none(),
            _ => true,
        }
    }

    /// The next hop towards a server that is configured; none if it is not known.
    pub(super) fn hop(&self, server: Handle) -> Option<Hop> {
        let known = self.known(server).filter(|server| server.ifindex != 0)?;
        Some(Hop { neighbour: known.neighbour, own: known.own, ifindex: known.ifindex })
    }

    /// The server, unless it is gone.
    fn known(&self, server: Handle) -> Option<&ServerEntry> {
        let found = self.servers.get(usize::from(server.id))?;
        (found.generation == server.generation && found.is_known()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        address::{Address4, Be16},
        server::state,
    };

    use super::*;

    const UP: Handle = Handle { id: 0, generation: 1 };
    const DOWN: Handle = Handle { id: 1, generation: 1 };
    const GONE: Handle = Handle { id: 1, generation: 7 };
    const PORT: u16 = 5432;

    fn fates(policy: u8) -> Fates {
        let server = |state, ifindex| ServerEntry {
            generation: 1,
            state,
            ifindex,
            ..ServerEntry::default()
        };
        let vip = to_vip();
        let key = VipKey::new(vip.destination.to_common(), vip.destination_port, vip.protocol);
        Fates {
            servers: vec![server(state::UP, 2), server(state::DOWN, 3), server(state::UNUSED, 0)],
            policies: [(key, policy)].into(),
        }
    }

    fn to_vip() -> FlowKey<Address4> {
        FlowKey {
            source: Address4::new([10, 0, 0, 7]),
            destination: Address4::new([10, 0, 0, 100]),
            source_port: Be16::new(4000),
            destination_port: Be16::new(PORT),
            protocol: 6,
            padding: [0; 3],
        }
    }

    #[test]
    fn flows_of_dead_servers_end_as_the_policy_says() {
        // Of a server that lives, is down, is gone.
        for (policy, expected) in [
            (on_down::RESET, [false, true, true]),
            (on_down::REROUTE, [false, false, false]),
            (on_down::KEEP, [false, false, true]),
        ] {
            let fates = fates(policy);
            let got = [UP, DOWN, GONE].map(|server| fates.ends(server, &to_vip()));
            assert_eq!(got, expected, "policy {policy}");
        }
    }

    #[test]
    fn flows_of_a_vip_that_is_gone_end() {
        let other = FlowKey { destination_port: Be16::new(1), ..to_vip() };
        assert!(fates(on_down::KEEP).ends(DOWN, &other));
        assert!(!fates(on_down::RESET).ends(UP, &other));
    }

    #[test]
    fn the_living_and_the_ways_to_them_are_known() {
        let fates = fates(on_down::RESET);
        assert_eq!(fates.living(), [UP].into());
        assert!(fates.any_dead());
        assert_eq!(fates.hop(DOWN).map(|hop| hop.ifindex), Some(3));
        assert_eq!(fates.hop(GONE), None);
    }
}
