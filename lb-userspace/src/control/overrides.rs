//! What the operator says at run time of lists of sources and of limits, in the place of what
//! the configuration says. Pure.
//!
//! It holds over reloads and restarts, until it is taken back or the frontend leaves the
//! configuration. Nothing but the rules on sources is made from it: whoever else reads the
//! snapshot sees what is configured.

use std::{borrow::Cow, collections::BTreeMap};

use ipnet::IpNet;

use super::blocks::show;
use crate::{
    admin::access::{AccessEntry, AccessView, LimitSet, LimitsSet, Says},
    model::{
        access::{AccessList, SourceLimits},
        frontend::Frontend,
        name::Name,
        snapshot::Snapshot,
    },
};

/// Most networks of which something is said at run time. Longer lists belong into the
/// configuration, which may have them in files.
pub const MAX_ENTRIES: usize = 16_384;

/// Whose list, and which network: of a frontend, or of the node.
pub type EntryId = (Option<Name>, IpNet);

/// Everything that was said at run time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverrideBook {
    entries: BTreeMap<EntryId, Says>,
    /// Without those that say nothing.
    limits: BTreeMap<Name, LimitsSet>,
}

impl OverrideBook {
    /// Notes what is said of a network.
    pub fn say(&mut self, id: EntryId, says: Says) {
        match says {
            Says::Configured => _ = self.entries.remove(&id),
            says => _ = self.entries.insert(id, says),
        }
    }

    /// Notes what is said of a frontend's limits; what is not mentioned stays.
    pub fn limit(&mut self, frontend: &Name, set: &LimitsSet) {
        let mut known = self.limits.remove(frontend).unwrap_or_else(|| LimitsSet::of(frontend));
        known.merge(set);
        if !known.says_nothing() {
            self.limits.insert(frontend.clone(), known);
        }
    }

    /// Whether one more network would be too many.
    #[must_use]
    pub fn is_full_for(&self, id: &EntryId) -> bool {
        self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(id)
    }

    /// Forgets what was said of frontends that are not configured any more.
    pub fn configure(&mut self, snapshot: &Snapshot) {
        let found = |name: &Name| snapshot.frontends.get(name);
        self.entries.retain(|(of, _), _| of.as_ref().is_none_or(|name| found(name).is_some()));
        self.limits.retain(|name, _| found(name).is_some_and(|one| one.as_l4().is_some()));
    }

    /// The configuration as it would be if all of it had been said there.
    #[must_use]
    pub fn apply<'a>(&self, snapshot: &'a Snapshot) -> Cow<'a, Snapshot> {
        if self.entries.is_empty() && self.limits.is_empty() {
            return Cow::Borrowed(snapshot);
        }
        let mut changed = snapshot.clone();
        changed.datapath.access = self.list(None, &snapshot.datapath.access);
        for (name, frontend) in &mut changed.frontends {
            *frontend.access_mut() = self.list(Some(name), frontend.access());
            let Frontend::L4(frontend) = frontend else { continue };
            if let Some(set) = self.limits.get(name) {
                frontend.limits = limits(set, frontend.limits);
            }
        }
        Cow::Owned(changed)
    }

    /// A list with what is said of its networks.
    #[must_use]
    pub fn list(&self, frontend: Option<&Name>, configured: &AccessList) -> AccessList {
        let own = |((of, _), _): &(&EntryId, &Says)| of.as_ref() == frontend;
        let said = self.entries.iter().filter(own).map(|((_, net), says)| (*net, *says));
        let said: BTreeMap<IpNet, Says> = said.collect();
        if said.is_empty() {
            return configured.clone();
        }
        let with = |networks: &[IpNet], wanted: Says| {
            let kept = networks.iter().filter(|network| !said.contains_key(network)).copied();
            let new = said.iter().filter(|(_, says)| **says == wanted).map(|(network, _)| *network);
            kept.chain(new).collect()
        };
        AccessList::new(with(&configured.allow, Says::Allow), with(&configured.deny, Says::Deny))
    }

    /// In the words of the admin interface.
    #[must_use]
    pub fn view(&self) -> AccessView {
        let entry = |((frontend, network), says): (&EntryId, &Says)| AccessEntry {
            source: show(network),
            frontend: frontend.as_ref().map(ToString::to_string),
            says: *says,
        };
        AccessView {
            entries: self.entries.iter().map(entry).collect(),
            limits: self.limits.values().cloned().collect(),
        }
    }

    /// Out of those words, as an earlier agent left them. What makes no sense is passed over.
    #[must_use]
    pub fn from_view(view: &AccessView) -> Self {
        let mut book = Self::default();
        for entry in &view.entries {
            if let Ok((id, says)) = entry.read() {
                book.say(id, says);
            }
        }
        for set in &view.limits {
            if let Ok(frontend) = set.read() {
                book.limit(&frontend, set);
            }
        }
        book
    }
}

/// The limits of a source with what is said of them.
fn limits(set: &LimitsSet, configured: SourceLimits) -> SourceLimits {
    SourceLimits {
        flows: LimitSet::apply(set.connections_per_source.as_ref(), configured.flows),
        flow_rate: LimitSet::apply(set.new_flows.as_ref(), configured.flow_rate),
        packet_rate: LimitSet::apply(set.packets.as_ref(), configured.packet_rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::access::{LimitWord, RateSet},
        model::{
            access::RateLimit,
            fixture::{name, snapshot},
        },
    };

    fn networks(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn configured() -> Snapshot {
        let mut snapshot = snapshot(&[("pg1", "10.0.1.20:5432")]);
        let Some(Frontend::L4(frontend)) = snapshot.frontends.get_mut(&name("postgres")) else {
            panic!("the fixture has a frontend of layer 4");
        };
        frontend.access = AccessList::new(networks(&["10.0.0.0/8"]), networks(&["10.9.0.0/16"]));
        frontend.limits.flows = Some(7);
        snapshot
    }

    fn own(snapshot: &Snapshot) -> (AccessList, SourceLimits) {
        let (_, frontend) = snapshot.l4_frontends().next().unwrap();
        (frontend.access.clone(), frontend.limits)
    }

    fn id(frontend: Option<&str>, network: &str) -> EntryId {
        (frontend.map(name), network.parse().unwrap())
    }

    #[test]
    fn what_is_said_takes_the_place_of_what_is_configured_until_it_is_taken_back() {
        let snapshot = configured();
        let mut book = OverrideBook::default();
        assert!(matches!(book.apply(&snapshot), Cow::Borrowed(_)));
        book.say(id(Some("postgres"), "10.9.0.0/16"), Says::Allow);
        book.say(id(Some("postgres"), "192.0.2.0/24"), Says::Deny);
        book.say(id(Some("postgres"), "10.0.0.0/8"), Says::Unlisted);
        book.say(id(None, "192.0.2.7/32"), Says::Deny);
        let changed = book.apply(&snapshot);
        let (list, _) = own(&changed);
        assert_eq!(list, AccessList::new(networks(&["10.9.0.0/16"]), networks(&["192.0.2.0/24"])));
        assert_eq!(*changed.datapath.access.deny, *networks(&["192.0.2.7/32"]));
        for network in ["10.9.0.0/16", "192.0.2.0/24", "10.0.0.0/8"] {
            book.say(id(Some("postgres"), network), Says::Configured);
        }
        book.say(id(None, "192.0.2.7/32"), Says::Configured);
        assert_eq!(book, OverrideBook::default());
    }

    #[test]
    fn limits_are_changed_one_by_one() {
        let snapshot = configured();
        let mut book = OverrideBook::default();
        let frontend = name("postgres");
        let rate = RateSet { rate: 50, burst: None };
        let set = LimitsSet {
            new_flows: Some(LimitSet::Value(rate)),
            connections_per_source: Some(LimitSet::Word(LimitWord::None)),
            ..LimitsSet::of(&frontend)
        };
        book.limit(&frontend, &set);
        let (_, limits) = own(&book.apply(&snapshot));
        let rate = RateLimit { per_second: 50, burst: 50 };
        assert_eq!((limits.flows, limits.flow_rate), (None, Some(rate)));
        let back = LimitsSet {
            connections_per_source: Some(LimitSet::Word(LimitWord::Configured)),
            ..LimitsSet::of(&frontend)
        };
        book.limit(&frontend, &back);
        let (_, limits) = own(&book.apply(&snapshot));
        assert_eq!((limits.flows, limits.flow_rate), (Some(7), Some(rate)));
        let back = LimitsSet {
            new_flows: Some(LimitSet::Word(LimitWord::Configured)),
            ..LimitsSet::of(&frontend)
        };
        book.limit(&frontend, &back);
        assert_eq!(book, OverrideBook::default());
    }

    #[test]
    fn it_goes_through_its_words_and_with_its_frontend() {
        let mut book = OverrideBook::default();
        book.say(id(Some("postgres"), "2001:db8::/32"), Says::Allow);
        book.say(id(Some("gone"), "10.0.0.0/8"), Says::Deny);
        book.say(id(None, "192.0.2.7/32"), Says::Unlisted);
        let set = LimitsSet {
            packets: Some(LimitSet::Value(RateSet { rate: 1, burst: Some(9) })),
            ..LimitsSet::of(&name("postgres"))
        };
        book.limit(&name("postgres"), &set);
        let text = serde_json::to_string(&book.view()).unwrap();
        let again = OverrideBook::from_view(&serde_json::from_str(&text).unwrap());
        assert_eq!(again, book);
        book.configure(&configured());
        assert_eq!((book.entries.len(), book.limits.len()), (2, 1));
    }
}
