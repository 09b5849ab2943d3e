//! Properties of plans, checked on simulated maps: from any state a plan leads to the
//! desired one, and no step on the way hurts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use lb_common::{
    access::{AccessRule, AdmissionEntry},
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
    plan::{Limits, plan_within},
    target::{is_vip, vip_key},
    *,
};
use crate::model::{
    access::Prefix,
    frontend::Forward,
    index::{common_address, plain_address},
    name::Name,
    next_hop::NextHop,
    snapshot::{Bind, Protocol, SynCookies},
};

mod cookies;
mod failures;
mod filter;
mod sources;

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
            Operation::SetRing { backend, members, .. } => {
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

    /// Whether one of those servers is not known to be dead: in its own backend, or in the
    /// one that takes over from it.
    fn serves_alive(&self, key: &VipKey, desired: &Desired) -> bool {
        let mut alive = self.clone();
        let heir = desired.vips.iter().find(|(bind, _)| vip_key(bind) == *key);
        let heir = heir.and_then(|(_, vip)| desired.backends.get(&vip.backend));
        for server in alive.actual.servers.values_mut() {
            let name = self.actual.backends.get(&server.backend).and_then(backend_name);
            let mut backends = desired.backends.iter();
            let pool = backends.find(|(known, _)| Some(known.as_str()) == name);
            let pool = pool.map(|(_, pool)| pool).or(heir);
            let known = pool.and_then(|pool| pool.get(&server_address(server)));
            if known.is_some_and(|known| known.state == state::DOWN) {
                server.state = state::DOWN;
            }
        }
        alive.serves(key)
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

    /// Plans for `desired` with few ids, again and again until it is there, checking after
    /// each operation that no VIP is hurt that need not be. Returns the number of rounds, or
    /// why there is no way.
    fn reconcile_within(&mut self, limits: Limits, desired: &Desired) -> Result<usize, PlanError> {
        // Who has a server now and will have one in the end needs one all the time.
        let key_of = |(bind, vip): (&Bind, &DesiredVip)| {
            let usable = |server: &DesiredServer| {
                server.state == state::UP && server.weight > 0 && server.next_hop.is_some()
            };
            desired.backends[&vip.backend].values().any(usable).then(|| vip_key(bind))
        };
        let keys = desired.vips.iter().filter_map(key_of);
        let safe: Vec<VipKey> = keys.filter(|key| self.serves_alive(key, desired)).collect();
        for round in 1..100 {
            let plan = plan_within(limits, desired, &self.actual)?;
            for operation in &plan.operations {
                self.execute(operation);
                for key in &safe {
                    assert!(self.serves(key), "{operation} leaves {key:?} without a server");
                }
            }
            self.assert_within(limits);
            if plan.complete {
                return Ok(round);
            }
        }
        panic!("this does not come to an end")
    }

    fn assert_within(&self, limits: Limits) {
        let vips = self.actual.vips.iter().filter(|(key, _)| is_vip(key));
        let ids = vips.map(|(_, entry)| entry.id).max();
        assert!(ids.is_none_or(|id| u32::from(id) < limits.vips), "a VIP has id {ids:?}");
        let backend = self.actual.backends.keys().max();
        assert!(backend.is_none_or(|id| u32::from(*id) < limits.backends));
        let server = self.actual.servers.keys().max();
        assert!(server.is_none_or(|id| u32::from(*id) < limits.servers));
    }

    /// Plans for `desired` and carries out the first `steps` operations, checking after
    /// each that no VIP is hurt that need not be. Returns whether that was all of the plan.
    fn reconcile(&mut self, desired: &Desired, steps: usize) -> bool {
        let Plan { operations, complete } = plan(desired, &self.actual).expect("it fits");
        assert!(complete, "there are ids enough");
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

/// The plan when there is nothing to do.
fn done() -> Plan {
    Plan { operations: Vec::new(), complete: true }
}

/// What the maps say, in words of the configuration, equals what is desired.
fn assert_agrees(maps: &Maps, desired: &Desired) {
    let actual = &maps.actual;
    assert_eq!(actual.settings, desired.settings);
    let vips: BTreeMap<&VipKey, &VipEntry> =
        actual.vips.iter().filter(|(key, _)| is_vip(key)).collect();
    assert_eq!(vips.len(), desired.vips.len(), "every VIP and no other");
    assert_eq!(actual.rules, desired.rules);
    let ids: BTreeSet<u16> = vips.values().map(|vip| vip.id).collect();
    for (id, entry) in &actual.admissions {
        assert!(ids.contains(id) || *entry == entry.left(), "nothing is asked for VIP id {id}");
    }
    assert_eq!(ids.len(), vips.len(), "no two VIPs share an id");
    for (bind, wanted) in &desired.vips {
        let vip = vips[&vip_key(bind)];
        let backend = &actual.backends[&vip.backend];
        assert_eq!(backend_name(backend), Some(wanted.backend.as_str()));
        assert_eq!((vip.on_down, vip.hash_by), (wanted.on_down, wanted.hash_by));
        assert_eq!(vip.forward, wanted.forward.to_raw());
        assert_ne!(vip.generation, 0);
        let admission = AdmissionEntry { generation: vip.generation, ..wanted.admission };
        assert_eq!(actual.admissions.get(&vip.id), Some(&admission));
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
    filter::assert_filter(actual);
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
                mtu: 1400 + u16::from(source),
                routed: source % 2 == 0,
            });
            let server = DesiredServer::of_weight(weight);
            DesiredServer { state, configured_weight: 50, backup, next_hop, ..server }
        },
    )
}

/// A state, and how many ids it needs. Many of its servers are new beside another's.
fn moved_state() -> impl Strategy<Value = (Desired, Limits)> {
    (desired_state(), 0_u16..4).prop_map(|(mut desired, network)| {
        let moved = |(address, server): (SocketAddr, DesiredServer)| {
            (SocketAddr::new(address.ip(), 5000 + network), server)
        };
        for servers in desired.backends.values_mut() {
            *servers = std::mem::take(servers).into_iter().map(moved).collect();
        }
        let limits = Limits {
            vips: size(desired.vips.len()),
            backends: size(desired.backends.len()),
            servers: size(desired.backends.values().map(BTreeMap::len).sum()),
        };
        (desired, limits)
    })
}

fn size(length: usize) -> u32 {
    u32::try_from(length).expect("is small")
}

/// Room for each of some states, and some more.
fn room(needs: &[(Desired, Limits)], more: u32) -> Limits {
    let most = |need: fn(&Limits) -> u32| {
        needs.iter().map(|(_, limits)| need(limits)).max().unwrap_or(0) + more
    };
    Limits {
        vips: most(|limits| limits.vips),
        backends: most(|limits| limits.backends),
        servers: most(|limits| limits.servers),
    }
}

fn desired_state() -> impl Strategy<Value = Desired> {
    let bind = (0_u8..4, 80_u16..82, any::<bool>()).prop_map(|(index, port, tcp)| Bind {
        address: SocketAddr::new(address(50 + index), port),
        protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
    });
    let admission = (0_u32..3, 0_u32..8, 0_u32..2).prop_map(|(scope, flags, flows_per_source)| {
        let scope = 2 * scope;
        AdmissionEntry { scope, flags, flows_per_source, ..AdmissionEntry::default() }
    });
    let vip = (0_u8..3, 0_u8..3, 0_u8..2, 0_u8..4, admission);
    let vip = vip.prop_map(|(index, on_down, hash_by, forward, admission)| DesiredVip {
        backend: name(index),
        on_down,
        hash_by,
        forward: Forward::from_raw(forward),
        snat: hash_by == 0,
        syn_cookies: SynCookies::Auto,
        admission,
        refuse_when_full: on_down == 1,
        affinity_s: on_down.into(),
    });
    let rule = ((0_u32..3, 0_u8..5), 1_u32..4).prop_map(|((scope, index), action)| {
        let network = ipnet::IpNet::from(address(index));
        (Prefix { scope, network }, AccessRule { action, expires_s: 0 })
    });
    let rules = collection::btree_map(0_u8..20, rule, 0..6);
    let servers = collection::btree_map(
        (0_u8..6).prop_map(|index| SocketAddr::new(address(index), 5432)),
        server(),
        0..5,
    );
    let pools = collection::vec(servers, 3);
    (collection::btree_map(bind, vip, 0..6), pools, 1000_u16..1003, rules).prop_map(
        |(vips, pools, snat_port_low, rules)| {
            let rules: BTreeMap<Prefix, AccessRule> = rules.into_values().collect();
            let used: BTreeSet<Name> = vips.values().map(|vip| vip.backend.clone()).collect();
            let backends = (0_u8..).map(name).zip(pools).filter(|(name, _)| used.contains(name));
            let settings = Settings { snat_port_low, ..Settings::default() };
            let rules = rules.into_iter().collect::<Vec<_>>().into();
            let backends: BTreeMap<_, _> = backends.collect();
            let in_turn = backends.keys().filter(|_| snat_port_low % 2 == 1).cloned().collect();
            Desired { settings, rules, backends, vips, in_turn }
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
            prop_assert_eq!(plan(desired, &maps.actual), Ok(done()));
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
        prop_assert_eq!(plan(&last, &maps.actual), Ok(done()));
    }

    /// The table may be full to the last id, before, after and on the way.
    #[test]
    fn a_replacement_of_everything_needs_no_moment_without_a_server(
        states in collection::vec(moved_state(), 2..5),
    ) {
        let limits = room(&states, 0);
        let mut maps = Maps::default();
        for (desired, _) in &states {
            match maps.reconcile_within(limits, desired) {
                Ok(_) => assert_agrees(&maps, desired),
                // What was forwarding goes on; some other change is still possible.
                Err(error) => prop_assert!(matches!(error, PlanError::Full(..)), "{error}"),
            }
        }
    }

    /// One VIP and one server to spare, and VIPs that keep their backends.
    #[test]
    fn with_one_spare_id_there_is_always_a_way(
        mut states in collection::vec(moved_state(), 2..5),
    ) {
        for (desired, _) in &mut states {
            for (bind, vip) in &mut desired.vips {
                vip.backend = name(u8::from(bind.protocol == Protocol::Tcp));
            }
            let used: BTreeSet<Name> = desired.vips.values().map(|vip| vip.backend.clone()).collect();
            desired.backends.retain(|name, _| used.contains(name));
            for name in used {
                desired.backends.entry(name).or_default();
            }
        }
        let limits = Limits { backends: 2, ..room(&states, 1) };
        let mut maps = Maps::default();
        for (desired, _) in &states {
            let rounds = maps.reconcile_within(limits, desired);
            prop_assert!(rounds.is_ok(), "{rounds:?}");
            assert_agrees(&maps, desired);
        }
    }

    #[test]
    fn any_state_of_the_maps_is_put_right(actual in garbage(), desired in desired_state()) {
        let rings = actual.rings.iter().map(|id| (*id, BTreeSet::new())).collect();
        let mut maps = Maps { actual, rings, ..Maps::default() };
        maps.reconcile(&desired, usize::MAX);
        assert_agrees(&maps, &desired);
        prop_assert_eq!(plan(&desired, &maps.actual), Ok(done()));
    }
}

/// A pool of `count` servers in each of `backends` backends, all new in each network.
fn full(network: u16, backends: u16, count: u16) -> Desired {
    let source = address(100);
    let (own, neighbour) = ([2; 6], [3; 6]);
    let hop = NextHop { ifindex: 1, own, neighbour, source, mtu: 1500, routed: false };
    let server = DesiredServer { next_hop: Some(hop), ..DesiredServer::of_weight(100) };
    let named = |index: u16| Name::new(&format!("b{network}-{index}")).expect("a name");
    let bind = |index: u16| Bind {
        address: SocketAddr::new(address(50), 1000 + index),
        protocol: Protocol::Tcp,
    };
    let vip = |backend| DesiredVip {
        backend,
        on_down: 0,
        hash_by: 0,
        forward: Forward::Nat,
        snat: true,
        syn_cookies: SynCookies::Off,
        admission: AdmissionEntry::default(),
        refuse_when_full: false,
        affinity_s: 0,
    };
    let place = |index: u16| SocketAddr::new(address(2), 5000 + network * 100 + index);
    let pool: BTreeMap<_, _> = (0..count).map(|index| (place(index), server)).collect();
    Desired {
        settings: Settings::default(),
        rules: Rules::from([]),
        vips: (0..backends).map(|index| (bind(index), vip(named(index)))).collect(),
        backends: (0..backends).map(|index| (named(index), pool.clone())).collect(),
        in_turn: BTreeSet::new(),
    }
}

/// Every backend gets a new name, every server a new address, and all ids are in use.
#[test]
fn all_backends_and_servers_are_replaced_in_one_reload_of_a_full_table() {
    // An eighth of what there may be, which takes a debug build a minute and a half.
    let limits = Limits { vips: 64, backends: 64, servers: 512 };
    let mut maps = Maps::default();
    for network in 0..3 {
        let desired = full(network, 64, 8);
        let rounds = maps.reconcile_within(limits, &desired).expect("there is a way");
        assert!(rounds < 10, "{rounds} rounds");
        assert_agrees(&maps, &desired);
    }
}

/// Nobody can have two servers where there is room for one.
#[test]
fn what_can_only_be_done_with_a_gap_is_refused_and_the_old_goes_on() {
    let limits = Limits { vips: 4, backends: 4, servers: 4 };
    let mut maps = Maps::default();
    maps.reconcile_within(limits, &full(0, 4, 1)).expect("it fits");
    let refused = maps.reconcile_within(limits, &full(1, 4, 1)).expect_err("no id is free");
    assert_eq!(refused, PlanError::Full("servers", 4));
    let up = |server: &&ServerEntry| server.state == state::UP;
    let serving = maps.actual.servers.values().filter(up).count();
    assert_eq!((serving, maps.actual.rings.len()), (4, 4));
    maps.reconcile_within(limits, &full(1, 3, 1)).expect("one less makes room");
}
