//! The address filter.

use lb_common::{settings::flag, vip::vip_flag};

use super::*;

/// The bits of VIP and SNAT addresses are set, and no others that no flow needs.
pub(super) fn assert_filter(actual: &Actual) {
    let vips = actual.vips.keys().filter(|key| is_vip(key)).map(|key| key.address);
    let servers = actual.servers.values().filter(|server| server.state != state::UNUSED);
    let snat = servers.map(|server| server.snat_address).filter(|a| *a != Address6::default());
    let bits: BTreeSet<u32> = vips.chain(snat).map(filter_bit).collect();
    let found = bits_of(&actual.filter);
    assert!(found.is_superset(&bits), "{found:?} without some of {bits:?}");
    let spare: BTreeSet<u32> = found.difference(&bits).copied().collect();
    assert!(spare.is_disjoint(&bits_of(&actual.idle)), "{spare:?} has idle bits");
}

fn bits_of(words: &BTreeMap<u32, u64>) -> BTreeSet<u32> {
    let bits = |(index, word): (&u32, &u64)| {
        let (index, word) = (*index, *word);
        (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 64 + bit)
    };
    words.iter().flat_map(bits).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever goes: flows that came through it may still be there.
    #[test]
    fn bits_of_the_filter_stay_until_no_flow_needs_them(
        rounds in collection::vec((desired_state(), any::<[u64; 3]>()), 2..5),
    ) {
        let mut maps = Maps::default();
        for (desired, masks) in &rounds {
            let filter = maps.actual.filter.iter();
            let idle = filter.zip(masks.iter().cycle()).map(|((index, word), mask)| (*index, word & mask));
            maps.actual.idle = idle.collect();
            let before: BTreeSet<u32> = bits_of(&maps.actual.filter);
            maps.reconcile(desired, usize::MAX);
            let lost: BTreeSet<u32> =
                before.difference(&bits_of(&maps.actual.filter)).copied().collect();
            prop_assert!(lost.is_subset(&bits_of(&maps.actual.idle)), "{lost:?} are lost");
            assert_agrees(&maps, desired);
            prop_assert_eq!(plan(desired, &maps.actual), Ok(done()));
        }
    }
}

/// Flows that were opened with half NAT are found by their servers, after the frontend has full
/// NAT or is gone, until the last of them is.
#[test]
fn servers_that_saw_clients_are_looked_for_until_no_flow_needs_it() {
    let full_nat = full(0, 1, 2);
    let mut half_nat = full_nat.clone();
    half_nat.settings.flags |= flag::RETURN_PATHS;
    half_nat.vips.values_mut().for_each(|vip| vip.snat = false);
    let servers = half_nat.backends.values_mut().flat_map(BTreeMap::values_mut);
    servers.for_each(|server| server.sees_clients = true);
    let own = filter_bit(common_address(address(2)));

    let mut maps = Maps::default();
    maps.reconcile(&half_nat, usize::MAX);
    assert!(bits_of(&maps.actual.filter).contains(&own));
    assert!(maps.actual.vips.values().any(|vip| vip.flags & vip_flag::KEEPS_SOURCE != 0));
    maps.reconcile(&full_nat, usize::MAX);
    assert!(maps.actual.vips.values().all(|vip| vip.flags & vip_flag::KEEPS_SOURCE == 0));
    assert!(bits_of(&maps.actual.filter).contains(&own), "a flow may need it");
    assert!(maps.actual.settings.flags & flag::RETURN_PATHS != 0, "a flow may need it");
    assert_eq!(plan(&full_nat, &maps.actual), Ok(done()));

    maps.actual.idle = maps.actual.filter.clone();
    maps.reconcile(&full_nat, usize::MAX);
    assert!(!bits_of(&maps.actual.filter).contains(&own));
    assert_eq!(maps.actual.settings, full_nat.settings);
    maps.actual.idle = BTreeMap::new();
    assert_eq!(plan(&full_nat, &maps.actual), Ok(done()));
}
