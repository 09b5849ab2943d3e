//! Who answers SYNs with cookies.

use lb_common::vip::vip_flag;

use super::*;
use crate::model::{
    fixture::{pg, snapshot},
    frontend::Frontend,
    snapshot::Snapshot,
    state::{Health, ServerStatus, ServerStatuses},
};

fn of(snapshot: &Snapshot, statuses: &ServerStatuses) -> Vec<SynCookies> {
    let none = BTreeMap::new();
    let desired = desired::desired(snapshot, &Access::default(), statuses, &BTreeMap::new(), &none);
    desired.vips.values().map(|vip| vip.syn_cookies).collect()
}

fn frontend(snapshot: &mut Snapshot, cookies: Option<SynCookies>) {
    for frontend in snapshot.frontends.values_mut() {
        let Frontend::L4(layer_4) = frontend else { panic!("{frontend:?}") };
        layer_4.syn_cookies = cookies;
    }
}

#[test]
fn a_frontend_s_word_is_before_the_node_s() {
    let statuses = ServerStatuses::default();
    let mut snapshot = snapshot(&[("pg1", "10.0.1.20:5432")]);
    for node in [SynCookies::Off, SynCookies::Auto, SynCookies::Always] {
        snapshot.datapath.syn_cookies = node;
        frontend(&mut snapshot, None);
        assert_eq!(of(&snapshot, &statuses), [node]);
        for own in [SynCookies::Off, SynCookies::Auto, SynCookies::Always] {
            frontend(&mut snapshot, Some(own));
            assert_eq!(of(&snapshot, &statuses), [own]);
        }
    }
}

/// A cookie tells the client that it is connected.
#[test]
fn a_vip_without_servers_sends_no_cookies() {
    let mut snapshot = snapshot(&[("pg1", "10.0.1.20:5432"), ("pg2", "10.0.1.21:5432")]);
    snapshot.datapath.syn_cookies = SynCookies::Always;
    let down = ServerStatus { health: Health::Down, ..ServerStatus::default() };
    let mut statuses = ServerStatuses::default();
    statuses.insert(pg("pg1"), down.clone());
    assert_eq!(of(&snapshot, &statuses), [SynCookies::Always]);
    statuses.insert(pg("pg2"), down);
    assert_eq!(of(&snapshot, &statuses), [SynCookies::Off]);
}

#[test]
fn cookies_are_bits_of_the_vip() {
    let bits = |cookies| {
        let mut desired = full(0, 1, 1);
        desired.vips.values_mut().for_each(|vip| vip.syn_cookies = cookies);
        let mut maps = Maps::default();
        maps.reconcile(&desired, usize::MAX);
        let vips = maps.actual.vips.iter().filter(|(key, _)| is_vip(key));
        let mask = vip_flag::SYN_COOKIES | vip_flag::ALWAYS_COOKIES;
        let bits: BTreeSet<u32> = vips.map(|(_, vip)| vip.flags & mask).collect();
        assert_eq!(bits.len(), 1, "{bits:?}");
        bits.first().copied().unwrap()
    };
    assert_eq!(bits(SynCookies::Off), 0);
    assert_eq!(bits(SynCookies::Auto), vip_flag::SYN_COOKIES);
    assert_eq!(bits(SynCookies::Always), vip_flag::SYN_COOKIES | vip_flag::ALWAYS_COOKIES);
}
