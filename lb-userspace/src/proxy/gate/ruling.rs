//! Lists, blocks and limits as the data plane would have them: in place of its tries, the rules
//! in order, searched by the lengths of prefix that a scope has. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::{
    access::{self, AccessRule, AdmissionEntry, NODE_LIST, blocked, blocks_of, listed},
    drop_reason::DropReason,
    settings::flag,
};

use crate::model::{access::Prefix, name::Name};

/// Lists, blocks and limits of all frontends that the proxy serves.
#[derive(Debug, Default)]
pub struct Ruling {
    /// Those of `mode: tcp` and `http`.
    own: RuleBook,
    /// Those of layer 4 in user space.
    layer_4: RuleBook,
    /// Most sources whose rates are remembered.
    pub(super) max_sources: u32,
}

/// Lists, blocks and limits of some frontends.
#[derive(Debug, Default)]
pub struct RuleBook {
    /// In order of their prefixes.
    rules: Arc<[(Prefix, AccessRule)]>,
    lengths: HashMap<u32, Lengths>,
    /// Who is on no list of the node is not let in.
    node_allow_only: bool,
    frontends: BTreeMap<Name, AdmissionEntry>,
}

/// The lengths of prefix of one scope, a bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Lengths {
    four: u64,
    /// From 0 to 127.
    six: u128,
    /// Length 128.
    hosts6: bool,
}

impl Ruling {
    /// Of the proxy's own frontends and those of layer 4, with room for the rates of so many
    /// sources.
    #[must_use]
    pub const fn new(own: RuleBook, layer_4: RuleBook, max_sources: u32) -> Self {
        Self { own, layer_4, max_sources }
    }

    /// Whether a frontend lets a source in at `now_s`, seconds of `CLOCK_MONOTONIC`.
    pub(super) fn judge(
        &self,
        frontend: &Name,
        source: IpAddr,
        now_s: u32,
    ) -> Result<(), DropReason> {
        let is_own = self.own.frontends.contains_key(frontend);
        let book = if is_own { &self.own } else { &self.layer_4 };
        book.judge(frontend, source, now_s)
    }

    /// What a frontend of layer 4 asks of sources; nothing if it is not known.
    pub(super) fn entry(&self, frontend: &Name) -> AdmissionEntry {
        self.layer_4.entry(frontend)
    }

    /// Whether a frontend limits how often something happens.
    pub(super) fn has_rates(&self) -> bool {
        let limits =
            |entry: &AdmissionEntry| entry.flow_interval_ns != 0 || entry.packet_interval_ns != 0;
        self.layer_4.frontends.values().any(limits)
    }
}

impl RuleBook {
    /// What follows from rules, in order of their prefixes, bits of
    /// [`lb_common::settings::flag`], and what each frontend asks of sources.
    #[must_use]
    pub fn new(
        rules: Arc<[(Prefix, AccessRule)]>,
        flags: u32,
        frontends: BTreeMap<Name, AdmissionEntry>,
    ) -> Self {
        let mut lengths: HashMap<u32, Lengths> = HashMap::new();
        for (prefix, _) in &*rules {
            lengths.entry(prefix.scope).or_default().add(&prefix.network);
        }
        let node_allow_only = flags & flag::NODE_ALLOW_ONLY != 0;
        Self { rules, lengths, node_allow_only, frontends }
    }

    fn judge(&self, frontend: &Name, source: IpAddr, now_s: u32) -> Result<(), DropReason> {
        let entry = self.entry(frontend);
        let source = IpNet::from(source.to_canonical());
        let rule = |scope| self.longest(scope, source);
        let allow_only = entry.flags & access::flag::ALLOW_ONLY != 0;
        let refusal = blocked(rule(blocks_of(NODE_LIST)), now_s)
            .or_else(|| blocked(rule(blocks_of(entry.scope)), now_s))
            .or_else(|| listed(rule(NODE_LIST), self.node_allow_only))
            .or_else(|| {
                // One that is not known has no list.
                (entry.scope != NODE_LIST).then(|| listed(rule(entry.scope), allow_only)).flatten()
            });
        refusal.map_or(Ok(()), Err)
    }

    fn entry(&self, frontend: &Name) -> AdmissionEntry {
        self.frontends.get(frontend).copied().unwrap_or_default()
    }

    /// The rule of the longest prefix in a scope that an address is in.
    fn longest(&self, scope: u32, address: IpNet) -> Option<&AccessRule> {
        let lengths = self.lengths.get(&scope)?;
        lengths.of(&address).find_map(|length| {
            let network = IpNet::new(address.addr(), length).ok()?.trunc();
            let wanted = Prefix { scope, network };
            let found = self.rules.binary_search_by(|(prefix, _)| prefix.cmp(&wanted)).ok()?;
            self.rules.get(found).map(|(_, rule)| rule)
        })
    }
}

impl Lengths {
    fn add(&mut self, network: &IpNet) {
        let length = u32::from(network.prefix_len());
        match network {
            IpNet::V4(_) => self.four |= 1 << length,
            IpNet::V6(_) if length == 128 => self.hosts6 = true,
            IpNet::V6(_) => self.six |= 1 << length,
        }
    }

    /// Those of an address's family, the longest first.
    fn of(self, address: &IpNet) -> impl Iterator<Item = u8> {
        let (mut bits, hosts) = match address {
            IpNet::V4(_) => (u128::from(self.four), false),
            IpNet::V6(_) => (self.six, self.hosts6),
        };
        let others = std::iter::from_fn(move || {
            let length = bits.checked_ilog2()?;
            bits ^= 1 << length;
            u8::try_from(length).ok()
        });
        hosts.then_some(128).into_iter().chain(others)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::access::action;

    use super::*;

    const DNS: &str = "dns";

    fn ruling(rules: &[(u32, &str, u32, u32)], flags: u32, entry_flags: u32) -> Ruling {
        let rule = |(scope, network, action, expires_s): &(u32, &str, u32, u32)| {
            let prefix = Prefix { scope: *scope, network: network.parse().unwrap() };
            (prefix, AccessRule { action: *action, expires_s: *expires_s })
        };
        let rules: BTreeMap<_, _> = rules.iter().map(rule).collect();
        let entry = AdmissionEntry {
            scope: access::list_scope(DNS),
            flags: entry_flags,
            ..AdmissionEntry::default()
        };
        let frontends = [(Name::new(DNS).unwrap(), entry)].into();
        let rules = rules.into_iter().collect::<Vec<_>>().into();
        Ruling::new(RuleBook::default(), RuleBook::new(rules, flags, frontends), 16)
    }

    fn check(ruling: &Ruling, source: &str, now_s: u32, expected: Option<DropReason>) {
        let got = ruling.judge(&Name::new(DNS).unwrap(), source.parse().unwrap(), now_s);
        assert_eq!(got.err(), expected, "{source} at {now_s}");
    }

    #[test]
    fn the_longest_prefix_of_a_scope_decides_in_both_families() {
        let own = access::list_scope(DNS);
        let rules = [
            (own, "10.0.0.0/8", action::ALLOW, 0),
            (own, "10.1.0.0/16", action::DENY, 0),
            (own, "10.1.2.3/32", action::ALLOW, 0),
            (own, "2001:db8::/32", action::ALLOW, 0),
            (own, "2001:db8::7/128", action::DENY, 0),
            (own, "::/0", action::DENY, 0),
        ];
        let all = ruling(&rules, 0, access::flag::ALLOW_ONLY);
        check(&all, "10.2.0.1", 0, None);
        check(&all, "::ffff:10.2.0.1", 0, None);
        check(&all, "10.1.2.4", 0, Some(DropReason::Denied));
        check(&all, "10.1.2.3", 0, None);
        check(&all, "192.0.2.1", 0, Some(DropReason::NotAllowed));
        check(&all, "2001:db8::8", 0, None);
        check(&all, "2001:db8::7", 0, Some(DropReason::Denied));
        check(&all, "2001:db9::7", 0, Some(DropReason::Denied));
        check(&ruling(&[], 0, 0), "192.0.2.1", 0, None);
    }

    #[test]
    fn blocks_come_first_and_end_and_the_node_has_its_say() {
        let own = access::list_scope(DNS);
        let rules = [
            (NODE_LIST, "10.0.0.0/8", action::ALLOW, 0),
            (own, "10.0.0.0/8", action::ALLOW, 0),
            (blocks_of(NODE_LIST), "10.0.0.1/32", action::BLOCK, 10),
            (blocks_of(own), "10.0.0.2/32", action::BLOCK, 0),
        ];
        let all = ruling(&rules, flag::NODE_ALLOW_ONLY, 0);
        check(&all, "10.0.0.1", 9, Some(DropReason::Blocked));
        check(&all, "10.0.0.1", 10, None);
        check(&all, "10.0.0.2", u32::MAX, Some(DropReason::Blocked));
        check(&all, "192.0.2.1", 0, Some(DropReason::NotAllowed));
        // Another frontend's blocks and lists are none of its business.
        let other = Name::new("other").unwrap();
        assert_eq!(all.judge(&other, "10.0.0.2".parse().unwrap(), 0), Ok(()));
    }
}
