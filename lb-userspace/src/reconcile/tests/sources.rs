//! What plans do about lists of sources and what VIPs ask of them.

use lb_common::settings::flag;

use super::*;

/// Processors remember whom they have not let in by address and port.
#[test]
fn clients_are_judged_anew_when_a_vip_comes_or_goes_while_there_are_lists() {
    let limits = Limits { vips: 4, backends: 4, servers: 4 };
    let mut maps = Maps::default();
    for vips in [2, 1, 2] {
        let mut desired = full(0, vips, 1);
        desired.settings.flags |= flag::ACCESS;
        let plan = plan_within(limits, &desired, &maps.actual).expect("there is room");
        assert_eq!(plan.operations.last(), Some(&Operation::JudgeAnew), "{vips}");
        plan.operations.iter().for_each(|operation| maps.execute(operation));
    }
}

/// The trie of one family has room for `most`; lists are others each time.
#[test]
fn lists_that_change_are_never_more_than_there_is_room_for() {
    let most = 8;
    let mut maps = Maps::default();
    for (network, bits) in [(1_u8, 3), (2, 3), (3, 2), (3, 4), (4, 3)] {
        let rule = |host: u8| {
            let address = IpAddr::from([10, network, 0, host]);
            let prefix = Prefix { scope: u32::from(host % 2), network: address.into() };
            (prefix, AccessRule { action: 2, expires_s: 0 })
        };
        let mut rules: Vec<_> = (0..1 << bits).map(rule).collect();
        rules.sort_unstable_by_key(|(prefix, _)| *prefix);
        let access = Access { rules: rules.into(), ..Access::default() };
        let fitting = access.fitting(most);
        assert_eq!(fitting.len(), access.rules.len().min(most));
        let blocks = |rules: &Rules| rules.iter().filter(|(it, _)| it.scope == 1).count();
        assert_eq!(blocks(&fitting), blocks(&access.rules).min(most), "blocks come first");
        let desired = Desired { rules: fitting, ..full(0, 2, 1) };
        let mut plan = plan(&desired, &maps.actual).expect("there is room");
        plan.make_room(&maps.actual, most);
        for operation in &plan.operations {
            maps.execute(operation);
            assert!(maps.actual.rules.len() <= most, "{operation}");
        }
        assert_agrees(&maps, &desired);
    }
}

/// Flows that were counted have to be counted down when their VIP is gone.
#[test]
fn the_scope_of_a_vip_that_is_gone_is_known_until_its_id_is_another_ones() {
    let limits = Limits { vips: 4, backends: 4, servers: 4 };
    let mut maps = Maps::default();
    let mut desired = full(0, 2, 1);
    for vip in desired.vips.values_mut() {
        vip.admission = AdmissionEntry { scope: 6, flows_per_source: 20, ..vip.admission };
    }
    maps.reconcile_within(limits, &desired).expect("there is room");
    let before = maps.actual.admissions.clone();
    maps.reconcile_within(limits, &full(0, 0, 1)).expect("there is room");
    assert_eq!(before.len(), 2);
    for (id, entry) in before {
        assert_eq!(maps.actual.admissions.get(&id), Some(&entry.left()), "VIP id {id}");
        assert_eq!((entry.left().scope, entry.left().flows_per_source), (6, 0));
    }
}
