//! Operations that fail: what has nothing to do with them is done, and nobody is hurt.

use super::*;

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

/// Maps that refuse some operations.
struct Refusing<'a, F> {
    maps: &'a mut Maps,
    refuses: F,
    /// VIPs that have a server to go to which is not dead, and have one in the end.
    safe: Vec<VipKey>,
}

impl<F: FnMut(&Operation) -> bool> Kernel for Refusing<'_, F> {
    type Error = Refused;

    fn execute(&mut self, operation: &Operation) -> Result<(), Refused> {
        if (self.refuses)(operation) {
            return Err(Refused);
        }
        let recognised = self.maps.recognises_replies();
        self.maps.execute(operation);
        let still = self.maps.recognises_replies();
        assert!(!recognised || still, "{operation} lets a server's replies pass us by");
        for key in &self.safe {
            assert!(self.maps.serves(key), "{operation} leaves {key:?} without a server");
        }
        Ok(())
    }
}

/// Carries out what it takes to get to `desired`, save what is refused; what all of it would
/// have led to, and whether something was refused.
fn reconcile(
    maps: &mut Maps,
    desired: &Desired,
    refuses: impl FnMut(&Operation) -> bool,
) -> (Maps, bool) {
    let Plan { operations, .. } = plan(desired, &maps.actual).expect("it fits");
    let mut end = maps.clone();
    operations.iter().for_each(|operation| end.execute(operation));
    let keys = desired.vips.keys().map(vip_key);
    let safe = keys.filter(|key| maps.serves_alive(key, desired) && end.serves(key)).collect();
    let refused = apply(&mut Refusing { maps, refuses, safe }, &operations).is_err();
    (end, refused)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_ring_that_can_not_be_set_holds_up_its_own_backend_only(
        first in desired_state(),
        second in desired_state(),
        broken in 0_u8..3,
        last in desired_state(),
    ) {
        let mut maps = Maps::default();
        maps.reconcile(&first, usize::MAX);
        let named = |entry: &BackendEntry| backend_name(entry) == Some(name(broken).as_str());
        let Plan { operations, .. } = plan(&second, &maps.actual).expect("it fits");
        let broken = operations.iter().find_map(|operation| match operation {
            Operation::PutBackend { id, entry } if named(entry) => Some(*id),
            _ => None,
        });
        let broken = broken.unwrap_or(u16::MAX);
        let (end, _) = reconcile(&mut maps, &second, |operation| {
            matches!(operation, Operation::SetRing { backend, .. } if *backend == broken)
        });
        for (key, vip) in end.actual.vips.iter().filter(|(key, _)| is_vip(key)) {
            if vip.backend != broken {
                prop_assert_eq!(maps.actual.vips.get(key), Some(vip));
                // One that is to go is of dead servers alone, and goes later.
                if let Some(ring) = end.rings.get(&vip.backend) {
                    prop_assert_eq!(maps.rings.get(&vip.backend), Some(ring));
                }
            }
        }
        for (id, server) in &end.actual.servers {
            // Dead ones of the broken backend too. What is to drain may be needed yet.
            if matches!(server.state, state::UP | state::DOWN) {
                prop_assert_eq!(maps.actual.servers.get(id), Some(server));
            }
        }
        let gone = first.vips.keys().map(vip_key).filter(|key| !end.actual.vips.contains_key(key));
        prop_assert!(gone.into_iter().all(|key| !maps.actual.vips.contains_key(&key)));
        for desired in [&second, &last] {
            maps.reconcile(desired, usize::MAX);
            assert_agrees(&maps, desired);
        }
    }

    #[test]
    fn whatever_fails_nobody_is_hurt_and_the_next_plan_makes_it_good(
        rounds in collection::vec((desired_state(), any::<u64>()), 1..5),
        last in desired_state(),
    ) {
        let mut maps = Maps::default();
        for (desired, mask) in &rounds {
            // A few of the operations.
            let mut fate = *mask;
            reconcile(&mut maps, desired, |_| {
                fate = fate.rotate_left(3);
                fate & 7 == 0
            });
        }
        maps.reconcile(&last, usize::MAX);
        assert_agrees(&maps, &last);
        prop_assert_eq!(plan(&last, &maps.actual), Ok(done()));
    }
}

/// A server of one backend dies while the ring of another can not be set.
#[test]
fn a_dead_server_is_out_although_another_backends_ring_fails() {
    let mut maps = Maps::default();
    let mut desired = full(0, 2, 2);
    maps.reconcile(&desired, usize::MAX);
    for servers in desired.backends.values_mut() {
        servers.first_entry().expect("a server").get_mut().state = state::DOWN;
    }
    let mut rings = 0;
    let (_, refused) = reconcile(&mut maps, &desired, |operation| {
        rings += usize::from(matches!(operation, Operation::SetRing { .. }));
        matches!(operation, Operation::SetRing { .. }) && rings == 1
    });
    assert!(refused && rings == 2, "{rings} rings were to be set");
    let down = maps.actual.servers.values().filter(|server| server.state == state::DOWN).count();
    assert_eq!(down, 2, "both are known to be dead");
    let out = maps.rings.values().filter(|ring| ring.len() == 1).count();
    assert_eq!(out, 1, "one ring was built");
}
