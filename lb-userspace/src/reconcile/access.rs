//! What the tries of sources and `ADMISSION` should hold, from the configuration and from
//! what the operator blocks; and the same for frontends that the proxy alone knows.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::{
    access::{self, AccessRule, AdmissionEntry, action, blocks_of, list_scope},
    settings::flag as node_flag,
    token_bucket::Rate,
};

use crate::model::{
    access::{AccessList, Block, Prefix, RateLimit, SourceLimits},
    name::Name,
    snapshot::Snapshot,
};

/// The rules of all scopes, in order of their prefixes, one each.
pub type Rules = Arc<[(Prefix, AccessRule)]>;

/// What follows from configuration and blocks. Made when one of them changes and not for
/// every plan: there may be a hundred thousand rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// What the tries should hold.
    pub rules: Rules,
    /// Bits of [`lb_common::settings::flag`].
    pub flags: u32,
    /// What each frontend asks of sources; the generation is the VIP's to fill in.
    pub frontends: BTreeMap<Name, AdmissionEntry>,
}

impl Default for Access {
    /// Nobody is kept out.
    fn default() -> Self {
        Self { rules: Arc::from([]), flags: 0, frontends: BTreeMap::new() }
    }
}

impl Access {
    /// What follows from a configuration and from blocks. A block of a frontend that is not
    /// configured says nothing.
    #[must_use]
    pub fn new<'a>(snapshot: &Snapshot, blocks: impl IntoIterator<Item = &'a Block>) -> Self {
        let frontends = snapshot.l4_frontends();
        let frontends = frontends.map(|(name, one)| (name, (&one.access, one.limits))).collect();
        Self::of(frontends, &snapshot.datapath.access, blocks)
    }

    /// The same for the frontends of `mode: tcp` and `http`. The lists of the data plane are
    /// none of theirs, blocks for all frontends are.
    #[must_use]
    pub fn of_proxy<'a>(snapshot: &Snapshot, blocks: impl IntoIterator<Item = &'a Block>) -> Self {
        let frontends = snapshot.frontends.iter().filter(|(_, one)| one.as_l4().is_none());
        let no_limits = SourceLimits::default();
        let frontends = frontends.map(|(name, one)| (name, (one.access(), no_limits))).collect();
        Self::of(frontends, &AccessList::default(), blocks)
    }

    fn of<'a>(
        frontends: BTreeMap<&Name, (&AccessList, SourceLimits)>,
        node: &AccessList,
        blocks: impl IntoIterator<Item = &'a Block>,
    ) -> Self {
        let mut made = Self::default();
        let mut rules = BTreeMap::new();
        add_list(&mut rules, access::NODE_LIST, node);
        made.flags |= if node.is_empty() { 0 } else { node_flag::NODE_LIST };
        made.flags |= if node.allow.is_empty() { 0 } else { node_flag::NODE_ALLOW_ONLY };
        let scopes = scopes(frontends.keys().copied());
        for (name, (list, limits)) in frontends {
            let Some(scope) = scopes.get(name).copied() else { continue };
            add_list(&mut rules, scope, list);
            let entry = admission(scope, list, limits);
            made.flags |= if entry.packet_interval_ns == 0 { 0 } else { node_flag::PACKET_RATES };
            made.flags |= if entry.flows_per_source == 0 { 0 } else { node_flag::FLOW_COUNTS };
            made.frontends.insert(name.clone(), entry);
        }
        let mut blocked = BTreeMap::new();
        for block in blocks {
            let scope = match &block.frontend {
                None => {
                    made.flags |= node_flag::NODE_BLOCKS;
                    access::NODE_LIST
                }
                Some(name) => {
                    let Some(entry) = made.frontends.get_mut(name) else { continue };
                    entry.flags |= access::flag::BLOCKS;
                    entry.scope
                }
            };
            let prefix = Prefix { scope: blocks_of(scope), network: block.network };
            blocked.insert(prefix, block.expires_s);
        }
        rules.extend(hold_until_the_last(blocked));
        if !rules.is_empty() {
            made.flags |= node_flag::ACCESS;
        }
        made.rules = rules.into_iter().collect::<Vec<_>>().into();
        made
    }

    /// Rules of one family; what its trie needs room for.
    #[must_use]
    pub fn count(&self, is_v4: bool) -> usize {
        let of_family =
            |(prefix, _): &&(Prefix, AccessRule)| matches!(prefix.network, IpNet::V4(_)) == is_v4;
        self.rules.iter().filter(of_family).count()
    }

    /// The rules that tries with room for `most` of each family can hold: what is blocked comes
    /// before what is listed.
    #[must_use]
    pub fn fitting(&self, most: usize) -> Rules {
        if self.count(true) <= most && self.count(false) <= most {
            return Arc::clone(&self.rules);
        }
        let is_block = |(prefix, _): &&(Prefix, AccessRule)| is_block(prefix);
        let blocks = self.rules.iter().filter(is_block);
        let lists = self.rules.iter().filter(|rule| !is_block(rule));
        let mut left = [most; 2];
        let mut kept: Vec<_> = blocks
            .chain(lists)
            .filter(|(prefix, _)| {
                let room = &mut left[usize::from(matches!(prefix.network, IpNet::V6(_)))];
                let fits = *room > 0;
                *room -= usize::from(fits);
                fits
            })
            .copied()
            .collect();
        kept.sort_unstable_by_key(|(prefix, _)| *prefix);
        kept.into()
    }
}

/// Whether a rule is of what is blocked, and not of a list.
#[must_use]
pub const fn is_block(prefix: &Prefix) -> bool {
    // The scopes of lists are even (`blocks_of`).
    prefix.scope % 2 == 1
}

/// How many rules of one family there are at most while new ones are there and old ones not gone
/// yet.
#[must_use]
pub(super) fn most_at_once(actual: &Rules, put: &[(Prefix, AccessRule)]) -> usize {
    let known: BTreeSet<&Prefix> = actual.iter().map(|(prefix, _)| prefix).collect();
    let new = put.iter().map(|(prefix, _)| prefix).filter(|prefix| !known.contains(prefix));
    let (six, four): (Vec<&Prefix>, Vec<&Prefix>) =
        known.iter().copied().chain(new).partition(|prefix| matches!(prefix.network, IpNet::V6(_)));
    six.len().max(four.len())
}

/// The scope of each frontend: that of its name, or the next that is free if another one's
/// name, earlier in the order, has it.
#[must_use]
pub fn scopes<'a>(names: impl Iterator<Item = &'a Name>) -> BTreeMap<&'a Name, u32> {
    let names: BTreeSet<&Name> = names.collect();
    let mut taken = BTreeSet::from([access::NODE_LIST]);
    let mut scopes = BTreeMap::new();
    for name in names {
        let mut scope = list_scope(name.as_str());
        while !taken.insert(scope) {
            scope = scope.wrapping_add(2);
        }
        scopes.insert(name, scope);
    }
    scopes
}

fn add_list(rules: &mut BTreeMap<Prefix, AccessRule>, scope: u32, list: &AccessList) {
    // Denials last: they win where the lists contradict each other.
    for (networks, action) in [(&list.allow, action::ALLOW), (&list.deny, action::DENY)] {
        rules.extend(networks.iter().map(|network| {
            (Prefix { scope, network: *network }, AccessRule { action, expires_s: 0 })
        }));
    }
}

fn admission(scope: u32, list: &AccessList, limits: SourceLimits) -> AdmissionEntry {
    let rate = |limit: Option<RateLimit>| {
        limit.map_or(Rate::UNLIMITED, |limit| Rate::new(limit.per_second, limit.burst))
    };
    let (flows, packets) = (rate(limits.flow_rate), rate(limits.packet_rate));
    let mut flags = if list.is_empty() { 0 } else { access::flag::LIST };
    flags |= if list.allow.is_empty() { 0 } else { access::flag::ALLOW_ONLY };
    AdmissionEntry {
        generation: 0,
        padding: 0,
        scope,
        flags,
        flows_per_source: limits.flows.unwrap_or(0),
        flow_interval_ns: flows.interval_ns,
        packet_interval_ns: packets.interval_ns,
        flow_burst_ns: flows.burst_ns,
        packet_burst_ns: packets.burst_ns,
    }
}

/// Blocks as rules. The data plane sees the longest prefix alone, so a block holds for as
/// long as the longest of those around it.
fn hold_until_the_last(
    blocks: BTreeMap<Prefix, u32>,
) -> impl Iterator<Item = (Prefix, AccessRule)> {
    // Those around the present one, the widest first: in this order they come before it.
    let mut around: Vec<(Prefix, u32)> = Vec::new();
    blocks.into_iter().map(move |(prefix, own_s)| {
        let holds =
            |outer: &Prefix| outer.scope == prefix.scope && outer.network.contains(&prefix.network);
        while around.last().is_some_and(|(outer, _)| !holds(outer)) {
            around.pop();
        }
        let expires_s = match around.last() {
            Some((_, 0)) => 0,
            Some((_, outer_s)) if own_s != 0 => own_s.max(*outer_s),
            _ => own_s,
        };
        around.push((prefix, expires_s));
        (prefix, AccessRule { action: action::BLOCK, expires_s })
    })
}

/// What leads from one set of rules to another: rules to write and prefixes to remove.
#[must_use]
pub(super) fn difference(
    before: &Rules,
    after: &Rules,
) -> (Vec<(Prefix, AccessRule)>, Vec<Prefix>) {
    let (mut put, mut removed) = (Vec::new(), Vec::new());
    // Most plans change none.
    if Arc::ptr_eq(before, after) {
        return (put, removed);
    }
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return (put, removed),
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some((one, _)), Some((other, _))) => one.cmp(other),
        };
        match order {
            Ordering::Less => removed.extend(old.next().map(|(prefix, _)| *prefix)),
            Ordering::Greater => put.extend(new.next().copied()),
            Ordering::Equal => {
                let known = old.next();
                put.extend(new.next().filter(|rule| known != Some(*rule)).copied());
            }
        }
    }
}

/// Rules with others added or in the place of those they had.
pub(super) fn with(rules: &Rules, new: &[(Prefix, AccessRule)]) -> Rules {
    let replaced = |prefix: &Prefix| new.binary_search_by_key(&prefix, |(new, _)| new).is_ok();
    let kept = rules.iter().filter(|(prefix, _)| !replaced(prefix));
    let mut all: Vec<_> = kept.chain(new).copied().collect();
    all.sort_unstable_by_key(|(prefix, _)| *prefix);
    all.into()
}

/// Rules without those of some prefixes.
pub(super) fn without(rules: &Rules, gone: &[Prefix]) -> Rules {
    let kept = rules.iter().filter(|(prefix, _)| gone.binary_search(prefix).is_err());
    kept.copied().collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        fixture::{name, snapshot},
        frontend::Frontend,
    };

    fn network(text: &str) -> IpNet {
        text.parse().expect("tests use good networks")
    }

    fn configured(node: AccessList, own: AccessList) -> Snapshot {
        let mut snapshot = snapshot(&[("pg1", "10.0.1.20:5432")]);
        snapshot.datapath.access = node;
        let Some(Frontend::L4(frontend)) = snapshot.frontends.get_mut(&name("postgres")) else {
            panic!("the fixture has a frontend of layer 4");
        };
        frontend.access = own;
        snapshot
    }

    fn block(frontend: Option<&str>, text: &str, expires_s: u32) -> Block {
        Block { frontend: frontend.map(name), network: network(text), expires_s }
    }

    #[test]
    fn nothing_asked_for_is_nothing_switched_on() {
        let made = Access::new(&configured(AccessList::default(), AccessList::default()), &[]);
        assert_eq!((made.rules.len(), made.flags), (0, 0));
        let entry = made.frontends[&name("postgres")];
        assert_eq!((entry.flags, entry.limits_flows(), entry.packet_interval_ns), (0, false, 0));
        assert_ne!(entry.scope, access::NODE_LIST);
    }

    #[test]
    fn lists_and_blocks_are_kept_apart_and_denial_wins_on_both_lists() {
        let both = vec![network("192.0.2.0/24")];
        let own = AccessList::new(vec![network("10.0.0.0/8"), both[0]], both);
        let node = AccessList::new(Vec::new(), vec![network("2001:db8::/32")]);
        let blocks = [block(None, "10.0.0.1/32", 7), block(Some("postgres"), "10.0.0.1/32", 0)];
        let made = Access::new(&configured(node, own), &blocks);
        let scope = made.frontends[&name("postgres")].scope;
        let found: BTreeMap<(u32, String), (u32, u32)> = made
            .rules
            .iter()
            .map(|(prefix, rule)| {
                ((prefix.scope, prefix.network.to_string()), (rule.action, rule.expires_s))
            })
            .collect();
        let at = |scope: u32, text: &str| found.get(&(scope, text.to_owned())).copied();
        assert_eq!(at(0, "2001:db8::/32"), Some((action::DENY, 0)));
        assert_eq!(at(1, "10.0.0.1/32"), Some((action::BLOCK, 7)));
        assert_eq!(at(scope, "10.0.0.0/8"), Some((action::ALLOW, 0)));
        assert_eq!(at(scope, "192.0.2.0/24"), Some((action::DENY, 0)));
        assert_eq!(at(scope + 1, "10.0.0.1/32"), Some((action::BLOCK, 0)));
        assert_eq!((made.rules.len(), made.count(true), made.count(false)), (5, 4, 1));
        let on = node_flag::ACCESS | node_flag::NODE_LIST | node_flag::NODE_BLOCKS;
        assert_eq!(made.flags, on);
        let flags = access::flag::LIST | access::flag::ALLOW_ONLY | access::flag::BLOCKS;
        assert_eq!(made.frontends[&name("postgres")].flags, flags);
    }

    #[test]
    fn a_block_lasts_as_long_as_those_around_it() {
        let blocks = [
            block(None, "10.0.0.0/8", 50),
            block(None, "10.1.0.0/16", 20),
            block(None, "10.1.1.0/24", 90),
            block(None, "10.2.0.0/16", 0),
            block(None, "10.2.3.0/24", 10),
            block(None, "11.0.0.0/8", 5),
        ];
        let made = Access::new(&configured(AccessList::default(), AccessList::default()), &blocks);
        let expiries: Vec<u32> = made.rules.iter().map(|(_, rule)| rule.expires_s).collect();
        assert_eq!(expiries, [50, 50, 90, 0, 0, 5]);
    }

    #[test]
    fn a_block_of_an_unknown_frontend_says_nothing() {
        let blocks = [block(Some("gone"), "10.0.0.0/8", 0)];
        let made = Access::new(&configured(AccessList::default(), AccessList::default()), &blocks);
        assert_eq!((made.rules.len(), made.flags), (0, 0));
    }

    proptest! {
        #[test]
        fn a_difference_leads_from_one_set_to_the_other_and_is_as_small_as_can_be(
            before in prop::collection::btree_map((0..3_u32, 0..40_u32), 1..3_u32, 0..40),
            after in prop::collection::btree_map((0..3_u32, 0..40_u32), 1..3_u32, 0..40),
        ) {
            let rules = |from: &BTreeMap<(u32, u32), u32>| -> Rules {
                from.iter()
                    .map(|((scope, bits), action)| {
                        let address = std::net::Ipv4Addr::from_bits(*bits);
                        let prefix = Prefix { scope: *scope, network: IpNet::from(std::net::IpAddr::from(address)) };
                        (prefix, AccessRule { action: *action, expires_s: 0 })
                    })
                    .collect::<Vec<_>>()
                    .into()
            };
            let (old, new) = (rules(&before), rules(&after));
            let (put, removed) = difference(&old, &new);
            let before: BTreeMap<Prefix, AccessRule> = old.iter().copied().collect();
            prop_assert!(removed.iter().all(|prefix| before.contains_key(prefix)));
            prop_assert!(put.iter().all(|(prefix, rule)| before.get(prefix) != Some(rule)));
            prop_assert_eq!(without(&with(&old, &put), &removed), new);
        }
    }
}
