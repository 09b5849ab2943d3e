//! Who gets the next request.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::{super::choose::bound, *};
use crate::model::balance::HashKey;

fn counts(sequence: &str) -> BTreeMap<char, usize> {
    sequence.chars().fold(BTreeMap::new(), |mut counts, server| {
        *counts.entry(server).or_default() += 1;
        counts
    })
}

fn hashed(hash: u64) -> PickFacts<'static> {
    PickFacts { hash: Some(hash), ..PickFacts::default() }
}

const URI: Balance = Balance::Hash(HashKey::Uri);

#[test]
fn round_robin_goes_by_weight_and_spreads_turns() {
    assert_eq!(Rig::new(Balance::RoundRobin, &[100, 100, 100]).sequence(7), "abcabca");
    assert_eq!(Rig::new(Balance::RoundRobin, &[5, 1, 1]).sequence(7), "aabacaa");
}

#[test]
fn a_server_without_weight_gets_nothing() {
    assert_eq!(Rig::new(Balance::RoundRobin, &[0, 1]).sequence(3), "bbb");
    let mut rig = Rig::new(Balance::LeastConnections, &[0, 0]);
    let facts = rig.facts();
    assert_eq!(rig.pool.pick(&facts).unwrap_err(), PickError::NoServer);
}

#[test]
fn least_connections_takes_turns_among_equals() {
    let sequence = Rig::new(Balance::LeastConnections, &[1, 1, 1, 1]).sequence(400);
    assert!(counts(&sequence).values().all(|count| *count == 100), "{sequence}");
}

#[test]
fn first_fills_one_server_after_the_other() {
    let mut rig = Rig::new(Balance::First, &[1, 1]);
    rig.limit(2);
    let leases: Vec<Lease> = (0..3).map(|_| rig.lease()).collect();
    assert_eq!(leases.iter().map(name_of).collect::<String>(), "aab");
}

#[test]
fn random_goes_by_weight() {
    let sequence = Rig::new(Balance::Random, &[30, 10]).sequence(8000);
    let share = counts(&sequence)[&'a'] as f64 / 8000.0;
    // Two draws, different if that happens soon, and no load: the first draw decides but
    // where weights say otherwise; the heavier one is never the lighter loaded at no load.
    assert!(share > 0.74, "{share}");
}

#[test]
fn random_avoids_the_busier_of_two() {
    let mut rig = Rig::new(Balance::Random, &[1, 1, 1, 1]);
    let mut leases = Vec::new();
    for _ in 0..4000 {
        leases.push(rig.lease());
    }
    let names: String = leases.iter().map(name_of).collect();
    let (most, least) =
        (*counts(&names).values().max().unwrap(), *counts(&names).values().min().unwrap());
    assert!(most - least < 20, "{most} {least}");
}

#[test]
fn a_hash_finds_the_same_server_on_every_node() {
    let one = Rig::new(URI, &[100, 50, 100]);
    let mut other = Rig::new(URI, &[100, 50, 100]);
    // The other node learned of a server more, which is down.
    let extra = KnownServer {
        address: "10.0.0.99:80".parse().unwrap(),
        state: ServerState::Down,
        ..other.servers[&name("a")]
    };
    other.servers.insert(name("0"), extra);
    other.apply();
    for path in 0..1000_u64 {
        let facts = hashed(key::of_bytes(&path.to_le_bytes()));
        let (one, other) = (one.lease_with(&facts), other.lease_with(&facts));
        assert_eq!(name_of(&one), name_of(&other));
    }
}

/// A proxy and a layer-4 frontend over the same servers send a client to the same one.
#[test]
fn the_ring_is_that_of_layer_4() {
    use lb_common::{abi::RING_SLOTS, hash, maglev};
    let rig = Rig::new(Balance::Maglev, &[100, 50, 100]);
    let seed = |server: &KnownServer| {
        let socket = server.address.socket().unwrap();
        maglev::member_seed(&crate::model::index::common_address(socket.ip()), socket.port())
    };
    let member = |server: &KnownServer| {
        let (seed, weight) = (seed(server), server.weight);
        maglev::Member { seed, weight, usable: true }
    };
    let members: Vec<_> = rig.servers.values().map(member).collect();
    let mut slots = vec![0; RING_SLOTS as usize];
    let all = slots.as_mut_slice().try_into().unwrap();
    maglev::build(&members, all, &mut [maglev::Scratch::default(); 3]).unwrap();
    for client in 0..500_u32 {
        let hash = key::of_source(std::net::IpAddr::from(client.to_be_bytes()));
        let slot = slots[hash::ring_slot(hash) as usize];
        let expected = rig.servers.keys().nth(usize::from(slot)).unwrap();
        assert_eq!(rig.lease_with(&hashed(hash)).server().name(), expected);
    }
}

#[test]
fn a_server_that_goes_down_moves_no_key_of_the_others_and_returns_to_its_own() {
    let mut rig = Rig::new(URI, &[100; 10]);
    let keys: Vec<u64> = (0..20_000_u64).map(lb_common::hash::mix).collect();
    let server = |rig: &Rig, key: &u64| rig.lease_with(&hashed(*key)).server().name().clone();
    let before: Vec<Name> = keys.iter().map(|key| server(&rig, key)).collect();
    rig.change("c", |server| server.state = ServerState::Down);
    let moved = keys.iter().zip(&before).filter(|(key, before)| {
        let after = server(&rig, key);
        assert_ne!(after, name("c"));
        **before != name("c") && after != **before
    });
    assert_eq!(moved.count(), 0);
    rig.change("c", |server| server.state = ServerState::Up);
    let after: Vec<Name> = keys.iter().map(|key| server(&rig, key)).collect();
    assert_eq!(after, before);
}

#[test]
fn requests_without_what_is_hashed_are_dealt_out_in_turn() {
    assert_eq!(Rig::new(URI, &[1, 1, 1]).sequence(4), "abca");
}

#[test]
fn a_full_server_is_passed_over_by_every_algorithm() {
    let all =
        [Balance::RoundRobin, Balance::LeastConnections, Balance::Random, Balance::First, URI];
    for algorithm in all {
        let mut rig = Rig::new(algorithm.clone(), &[1, 1, 256]);
        rig.limit(3);
        let leases: Vec<Lease> = (0..9)
            .map(|_| {
                let facts = PickFacts { hash: Some(7), ..rig.facts() };
                rig.lease_with(&facts)
            })
            .collect();
        let names: String = leases.iter().map(name_of).collect();
        assert!(counts(&names).values().all(|count| *count == 3), "{algorithm:?}: {names}");
    }
}

#[test]
fn a_server_tried_in_vain_is_tried_again_only_if_there_is_no_other() {
    let mut rig = Rig::new(Balance::First, &[1, 1]);
    let first = rig.lease();
    let avoid = [first.server().id()];
    let facts = PickFacts { avoid: &avoid, ..rig.facts() };
    assert_eq!(name_of(&rig.lease_with(&facts)), "b");
    rig.change("b", |server| server.state = ServerState::Down);
    assert_eq!(name_of(&rig.lease_with(&facts)), "a");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever came and went before, each request goes to a server that has the least for
    /// its weight.
    #[test]
    fn least_connections_never_takes_a_more_loaded_server(
        weights in vec(1_u16..=256, 1..8),
        steps in vec(any::<(bool, usize)>(), 1..120),
    ) {
        let mut rig = Rig::new(Balance::LeastConnections, &weights);
        let mut leases: Vec<Lease> = Vec::new();
        for (come, which) in steps {
            if !come && !leases.is_empty() {
                let index = which % leases.len();
                leases.swap_remove(index);
                continue;
            }
            let before = active(&rig);
            let lease = rig.lease();
            let taken = rig.servers.keys().position(|name| name == lease.server().name()).unwrap();
            for (other, weight) in weights.iter().enumerate() {
                let ours = (u64::from(before[taken]) + 1) * u64::from(*weight);
                let theirs = (u64::from(before[other]) + 1) * u64::from(weights[taken]);
                prop_assert!(ours <= theirs, "took {taken} though {other} had less: {before:?}");
            }
            leases.push(lease);
        }
    }

    /// Even if all ask for one key.
    #[test]
    fn bounded_loads_keep_to_the_bound(
        weights in vec(1_u16..=256, 1..8),
        factor in 101_u16..300,
        keys in vec(0_u64..3, 1..150),
    ) {
        let mut rig = Rig::new(URI, &weights);
        rig.balancing.load_factor = Some(factor);
        rig.apply();
        let all = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut leases = Vec::new();
        for key in keys {
            leases.push(rig.lease_with(&hashed(lb_common::hash::mix(key))));
            for (active, weight) in active(&rig).iter().zip(&weights) {
                let most = bound(leases.len() as u64, factor, u32::from(*weight), all);
                prop_assert!(*active <= most, "{active} of {most}");
            }
        }
    }

    #[test]
    fn round_robin_is_exact_over_a_cycle_through_the_pool(
        weights in vec(1_u16..=20, 1..6),
        before in 0_usize..50,
    ) {
        let mut rig = Rig::new(Balance::RoundRobin, &weights);
        rig.sequence(before);
        let cycle = weights.iter().map(|weight| usize::from(*weight)).sum();
        let counts = counts(&rig.sequence(cycle));
        for (index, weight) in (0_u8..).zip(&weights) {
            prop_assert_eq!(counts[&char::from(b'a' + index)], usize::from(*weight));
        }
    }
}

fn active(rig: &Rig) -> Vec<u32> {
    rig.pool.report(rig.now).iter().map(|report| report.active).collect()
}

#[test]
fn a_firm_request_has_the_server_that_the_algorithm_finds_or_none() {
    for algorithm in [Balance::Maglev, Balance::RoundRobin, Balance::LeastConnections] {
        let mut rig = Rig::new(algorithm.clone(), &[100, 100]);
        rig.balancing.queue.length = 0;
        // Least connections finds the one that has fewer for its weight: never the other.
        let weight = if algorithm == Balance::LeastConnections { 1 } else { 100 };
        rig.change("b", |server| (server.most, server.weight) = (Some(1), weight));
        let mut leases: BTreeMap<String, Vec<Lease>> = BTreeMap::new();
        let mut refused = 0;
        for hash in 0..200 {
            let facts = PickFacts { is_firm: true, ..hashed(lb_common::hash::mix(hash)) };
            match rig.pool.pick(&facts) {
                Ok(Picked::Server(lease)) => {
                    leases.entry(name_of(&lease).to_owned()).or_default().push(lease);
                }
                Ok(Picked::Queued(_)) => panic!("there is no queue"),
                Err(error) => {
                    assert_eq!(error, PickError::QueueFull { waiting: 0 });
                    refused += 1;
                }
            }
        }
        assert_eq!(leases["b"].len(), 1, "{algorithm:?}");
        assert_eq!(leases["a"].len() + refused, 199, "{algorithm:?}");
        // Half of the requests are for the full one, or, where loads count, hardly any.
        let expected = if weight == 1 { 0..3 } else { 70..130 };
        assert!(expected.contains(&refused), "{algorithm:?}: {refused}");
        // Others go where there is room.
        let lease = rig.lease_with(&hashed(0));
        assert_eq!(name_of(&lease), "a");
        // And the place of one that is over is taken again.
        leases.clear();
        drop(lease);
        let facts = |hash| PickFacts { is_firm: true, ..hashed(lb_common::hash::mix(hash)) };
        let picks: Vec<_> = (0..200).map(|hash| rig.pool.pick(&facts(hash))).collect();
        let is_b = |pick: &Result<Picked, _>| matches!(pick, Ok(Picked::Server(lease)) if name_of(lease) == "b");
        assert_eq!(picks.iter().filter(|pick| is_b(pick)).count(), 1, "{algorithm:?}");
    }
}
