//! Properties of plans, checked on simulated maps: from any state a plan leads to the
//! desired one, and no step on the way hurts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use lb_common::{
    address::{Address4, Address6, Be16},
    backend::BackendEntry,
    flow::Handle,
    hash,
    server::{ServerEntry, state},
    settings::Settings,
    vip::{TOMBSTONE_PROTOCOL, VipEntry, VipKey},
};
use proptest::{collection, prelude::*, sample};

use super::{
    actual::{backend_name, server_address},
    target::{is_vip, vip_key},
    *,
};
use crate::model::{
    index::{common_address, plain_address},
    name::Name,
    next_hop::NextHop,
    snapshot::{Bind, Protocol},
};

/// The maps, rings and all, and every handle ever seen in them.
#[derive(Clone, Debug, Default)]
struct Maps {
    actual: Actual,
    rings: BTreeMap<u16, BTreeSet<Handle>>,
    servers_seen: BTreeMap<Handle, (u16, SocketAddr)>,
    vips_seen: BTreeMap<Handle, VipKey>,
}

impl Maps {
    /// Carries out one operation and checks that no handle means two things.
    fn execute(&mut self, operation: &Operation) {
        self.actual.apply(operation);
        match operation {
            Operation::SetRing { backend, members } => {
                let handles = members.iter().filter_map(|member| member.server).collect();
                self.rings.insert(*backend, handles);
            }
            Operation::ClearRing { backend } => {
                self.rings.remove(backend);
            }
            Operation::PutVip { key, entry } if is_vip(key) => {
                let handle = Handle { id: entry.id, generation: entry.generation };
                assert_eq!(self.vips_seen.insert(handle, *key).unwrap_or(*key), *key, "{handle:?}");
            }
            Operation::PutServer { id, entry } if entry.state != state::UNUSED => {
                let handle = Handle { id: *id, generation: entry.generation };
                let server = (entry.backend, server_address(entry));
                let before = self.servers_seen.insert(handle, server).unwrap_or(server);
                assert_eq!(before, server, "{handle:?}");
            }
            _ => {}
        }
    }

    /// Whether new flows of a VIP have a server to go to.
    fn serves(&self, key: &VipKey) -> bool {
        let Some(ring) = self.actual.vips.get(key).and_then(|vip| self.rings.get(&vip.backend))
        else {
            return false;
        };
        ring.iter().any(|handle| {
            self.actual.servers.get(&handle.id).is_some_and(|server| {
                server.generation == handle.generation && server.state == state::UP
            })
        })
    }

    /// Whether replies of every usable server in a ring are taken for ours.
    fn recognises_replies(&self) -> bool {
        let servers = self.rings.values().flatten().filter_map(|handle| {
            let server = self.actual.servers.get(&handle.id)?;
            (server.generation == handle.generation && server.state == state::UP).then_some(server)
        });
        servers.map(|server| filter_bit(server.snat_address)).all(|bit| {
            self.actual.filter.get(&(bit / 64)).is_some_and(|word| word >> (bit % 64) & 1 == 1)
        })
    }

    /// Plans for `desired` and carries out the first `steps` operations, checking after
    /// each that no VIP is hurt that need not be. Returns whether that was all of the plan.
    fn reconcile(&mut self, desired: &Desired, steps: usize) -> bool {
        let operations = plan(desired, &self.actual).expect("there are ids enough");
        let mut end = self.clone();
        operations.iter().for_each(|operation| end.execute(operation));
        let keys = desired.vips.keys().map(vip_key);
        let safe: Vec<VipKey> = keys.filter(|key| self.serves(key) && end.serves(key)).collect();
        let recognised = self.recognises_replies();
        for operation in operations.iter().take(steps) {
            self.execute(operation);
            let still = self.recognises_replies();
            assert!(!recognised || still, "{operation} lets a server's replies pass us by");
            for key in &safe {
                assert!(self.serves(key), "{operation} leaves {key:?} without a server");
            }
        }
        operations.len() <= steps
    }
}

/// What the maps say, in words of the configuration, equals what is desired.
fn assert_agrees(maps: &Maps, desired: &Desired) {
    let actual = &maps.actual;
    assert_eq!(actual.settings, desired.settings);
    let vips: BTreeMap<&VipKey, &VipEntry> =
        actual.vips.iter().filter(|(key, _)| is_vip(key)).collect();
    assert_eq!(vips.len(), desired.vips.len(), "every VIP and no other");
    let ids: BTreeSet<u16> = vips.values().map(|vip| vip.id).collect();
    assert_eq!(ids.len(), vips.len(), "no two VIPs share an id");
    for (bind, wanted) in &desired.vips {
        let vip = vips[&vip_key(bind)];
        let backend = &actual.backends[&vip.backend];
        assert_eq!(backend_name(backend), Some(wanted.backend.as_str()));
        assert_eq!((vip.on_down, vip.hash_by), (wanted.on_down, wanted.hash_by));
        assert_ne!(vip.generation, 0);
        let record = VipKey { address: common_address(bind.address.ip()), ..VipKey::default() };
        let bit = if bind.protocol == Protocol::Tcp { 1 } else { 2 };
        assert_ne!(actual.vips[&record].flags & bit, 0, "the address record names the protocol");
        assert_ring(maps, vip.backend, &desired.backends[&wanted.backend]);
    }
    for key in actual.vips.keys().filter(|key| key.protocol == 0) {
        assert!(vips.keys().any(|vip| vip.address == key.address), "no record without a VIP");
    }
    for (key, entry) in actual.vips.iter().filter(|(key, _)| key.protocol == TOMBSTONE_PROTOCOL) {
        assert_eq!(key.port.get(), entry.id);
        assert!(!ids.contains(&entry.id), "no tombstone of an id in use");
    }
    let live = actual.servers.values().filter(|server| server.state != state::UNUSED).count();
    let wanted: usize = desired.backends.values().map(BTreeMap::len).sum();
    assert_eq!(live, wanted, "every server and no other");
    let named = actual.backends.values().filter_map(backend_name);
    assert_eq!(named.count(), desired.backends.len(), "every backend and no other");
    let used: BTreeSet<u16> = vips.values().map(|vip| vip.backend).collect();
    assert!(maps.rings.keys().all(|id| used.contains(id)), "no ring without a VIP");
    assert_eq!(maps.rings.keys().copied().collect::<BTreeSet<_>>(), actual.rings);
    assert_filter(actual);
}

/// The ring holds the usable servers, or the usable backups, and nothing else; every
/// server's entry says what is desired.
fn assert_ring(maps: &Maps, backend: u16, wanted: &BTreeMap<SocketAddr, DesiredServer>) {
    let mut usable: [BTreeSet<Handle>; 2] = Default::default();
    for (address, server) in wanted {
        let same = maps.actual.servers.iter().filter(|(_, entry)| {
            entry.state != state::UNUSED
                && entry.backend == backend
                && server_address(entry) == *address
        });
        let found: Vec<_> = same.collect();
        let [(id, entry)] = found[..] else { panic!("{address} has {} entries", found.len()) };
        assert_eq!(entry.state, server.state);
        assert_eq!(entry.ifindex, server.next_hop.map_or(0, |hop| hop.ifindex));
        if let Some(hop) = server.next_hop {
            assert_eq!(plain_address(entry.snat_address), hop.source);
            assert_eq!((entry.neighbour, entry.own), (hop.neighbour, hop.own));
        }
        let reachable = entry.snat_address != Address6::default();
        if server.state == state::UP && server.weight > 0 && reachable {
            let handle = Handle { id: *id, generation: entry.generation };
            usable[usize::from(server.backup)].insert(handle);
        }
    }
    let [first, backups] = usable;
    let expected = if first.is_empty() { backups } else { first };
    assert_eq!(maps.rings.get(&backend).cloned().unwrap_or_default(), expected);
    let entry = &maps.actual.backends[&backend];
    assert_eq!(entry.ring_members as usize, expected.len());
    assert_eq!(entry.ring_signature == 0, expected.is_empty());
}

/// The bits of VIP and SNAT addresses are set, and no others.
fn assert_filter(actual: &Actual) {
    let vips = actual.vips.keys().filter(|key| is_vip(key)).map(|key| key.address);
    let servers = actual.servers.values().filter(|server| server.state != state::UNUSED);
    let snat = servers.map(|server| server.snat_address).filter(|a| *a != Address6::default());
    let bits: BTreeSet<u32> = vips.chain(snat).map(filter_bit).collect();
    let found = actual.filter.iter().flat_map(|(index, word)| {
        (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 64 + bit)
    });
    assert_eq!(found.collect::<BTreeSet<u32>>(), bits);
}

fn filter_bit(address: Address6) -> u32 {
    match plain_address(address) {
        IpAddr::V4(address) => hash::filter_bit(Address4::new(address.octets())),
        IpAddr::V6(address) => hash::filter_bit(Address6::new(address.octets())),
    }
}

fn name(index: u8) -> Name {
    Name::new(&format!("backend{index}")).expect("a name")
}

fn address(index: u8) -> IpAddr {
    if index.is_multiple_of(2) {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, index))
    } else {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(index)))
    }
}

fn server() -> impl Strategy<Value = DesiredServer> {
    let next_hop = (1_u32..3, any::<[u8; 6]>(), 100_u8..104);
    let hop = proptest::option::weighted(0.8, next_hop);
    let state = sample::select(vec![state::UP, state::UP, state::DRAIN, state::DOWN]);
    (state, sample::select(vec![0_u16, 50, 100]), any::<bool>(), hop).prop_map(
        |(state, weight, backup, hop)| {
            let next_hop = hop.map(|(ifindex, neighbour, source)| NextHop {
                ifindex,
                own: [2, 0, 0, 0, 0, 1],
                neighbour,
                source: address(source),
            });
            DesiredServer { state, weight, configured_weight: 50, backup, next_hop }
        },
    )
}

fn desired_state() -> impl Strategy<Value = Desired> {
    let bind = (0_u8..4, 80_u16..82, any::<bool>()).prop_map(|(index, port, tcp)| Bind {
        address: SocketAddr::new(address(50 + index), port),
        protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
    });
    let vip = (0_u8..3, 0_u8..3, 0_u8..2).prop_map(|(index, on_down, hash_by)| DesiredVip {
        backend: name(index),
        on_down,
        hash_by,
    });
    let servers = collection::btree_map(
        (0_u8..6).prop_map(|index| SocketAddr::new(address(index), 5432)),
        server(),
        0..5,
    );
    let pools = collection::vec(servers, 3);
    (collection::btree_map(bind, vip, 0..6), pools, 1000_u16..1003).prop_map(
        |(vips, pools, snat_port_low)| {
            let used: BTreeSet<Name> = vips.values().map(|vip| vip.backend.clone()).collect();
            let backends = (0_u8..).map(name).zip(pools).filter(|(name, _)| used.contains(name));
            let settings = Settings { snat_port_low, ..Settings::default() };
            Desired { settings, backends: backends.collect(), vips }
        },
    )
}

/// Maps with anything in them, as a foreign hand or a lost write would leave them.
fn garbage() -> impl Strategy<Value = Actual> {
    let key = (50_u8..54, 80_u16..82, sample::select(vec![0_u8, 6, 17, TOMBSTONE_PROTOCOL]));
    let key = key.prop_map(|(index, port, protocol)| VipKey {
        address: common_address(address(index)),
        port: Be16::new(port),
        protocol,
        ..VipKey::default()
    });
    let vip = (0_u16..600, 0_u16..3, 0_u16..4).prop_map(|(id, generation, backend)| VipEntry {
        id,
        generation,
        backend,
        ..VipEntry::default()
    });
    let backend = (0_u8..4, any::<bool>(), any::<u64>(), 1_u32..70_000).prop_map(
        |(index, named, ring_signature, generation)| {
            let mut entry = BackendEntry { ring_signature, generation, ..BackendEntry::default() };
            if named {
                let text = name(index);
                entry.name[..text.as_str().len()].copy_from_slice(text.as_str().as_bytes());
            }
            entry
        },
    );
    let server = (1_u16..4, 0_u8..4, 0_u8..6, 0_u16..4, any::<u32>()).prop_map(
        |(generation, state, index, backend, ifindex)| ServerEntry {
            generation,
            state,
            ifindex,
            address: common_address(address(index)),
            port: Be16::new(5432),
            backend,
            ..ServerEntry::default()
        },
    );
    (
        collection::btree_map(key, vip, 0..8),
        collection::btree_map(0_u16..5, backend, 0..5),
        collection::btree_map(0_u16..12, server, 0..8),
        collection::btree_set(0_u16..6, 0..6),
        collection::btree_map(0_u32..1024, 1_u64.., 0..4),
    )
        .prop_map(|(vips, backends, servers, rings, filter)| Actual {
            vips,
            backends,
            servers,
            rings,
            filter,
            ..Actual::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_plan_leads_to_the_desired_state_and_a_second_one_is_empty(
        rounds in collection::vec(desired_state(), 1..5),
    ) {
        let mut maps = Maps::default();
        for desired in &rounds {
            prop_assert!(maps.reconcile(desired, usize::MAX));
            assert_agrees(&maps, desired);
            prop_assert_eq!(plan(desired, &maps.actual), Ok(vec![]));
        }
    }

    #[test]
    fn a_plan_cut_short_is_made_good_by_the_next(
        rounds in collection::vec((desired_state(), 0_usize..40), 1..5),
        last in desired_state(),
    ) {
        let mut maps = Maps::default();
        for (desired, steps) in &rounds {
            maps.reconcile(desired, *steps);
        }
        maps.reconcile(&last, usize::MAX);
        assert_agrees(&maps, &last);
        prop_assert_eq!(plan(&last, &maps.actual), Ok(vec![]));
    }

    #[test]
    fn any_state_of_the_maps_is_put_right(actual in garbage(), desired in desired_state()) {
        let rings = actual.rings.iter().map(|id| (*id, BTreeSet::new())).collect();
        let mut maps = Maps { actual, rings, ..Maps::default() };
        maps.reconcile(&desired, usize::MAX);
        assert_agrees(&maps, &desired);
        prop_assert_eq!(plan(&desired, &maps.actual), Ok(vec![]));
    }
}
