//! Which rules can match a request, by its host and its path.
//!
//! Each rule is filed under *anchors*: names of hosts or paths of which a request must have
//! one for the rule's condition to be true. A rule whose condition demands no host and no
//! path is always a candidate. Where a condition demands several things, the rule is filed
//! under the one that fewest rules share. An anchor is necessary, never sufficient, so a
//! candidate is still evaluated in full.

use std::collections::{BTreeSet, HashMap};

use super::table::{PrefixTable, SuffixTable, first_segments, last_labels};
use crate::model::rule::{
    condition::{Condition, Test},
    host::HostPattern,
    path::PathPattern,
};

/// Segments and labels by which anchors are told apart; bounds the look-ups of a request.
const MAX_DEPTH: usize = 8;
/// Most anchors that one rule is filed under; with more it is always a candidate.
const MAX_ANCHORS: usize = 1024;
/// Always, host, its suffixes, path, its prefixes and the root.
const MAX_LISTS: usize = 3 + MAX_DEPTH + MAX_DEPTH + 1;

/// Numbers of rules, in order.
type Numbers = Vec<u32>;

/// Rules by what a request must have for them.
#[derive(Debug, Default)]
pub(super) struct Index {
    always: Numbers,
    hosts: HashMap<Box<str>, Numbers>,
    suffixes: SuffixTable<Numbers>,
    paths: HashMap<Box<[u8]>, Numbers>,
    prefixes: PrefixTable<Numbers>,
}

/// Something that a request has or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Anchor<'a> {
    Host(&'a str),
    Suffix(&'a str),
    Path(&'a [u8]),
    Prefix(&'a [u8]),
}

/// How many rules mention an anchor.
type Counts<'a> = HashMap<Anchor<'a>, usize>;

impl Index {
    /// Files the rules with these conditions, by their numbers.
    pub(super) fn new<'c>(conditions: impl Iterator<Item = &'c Condition> + Clone) -> Self {
        let mut counts = Counts::new();
        for condition in conditions.clone() {
            let mut mentioned = BTreeSet::new();
            mention(condition, &mut mentioned);
            mentioned.into_iter().for_each(|anchor| *counts.entry(anchor).or_default() += 1);
        }
        let mut index = Self::default();
        for (number, condition) in conditions.enumerate() {
            let number = u32::try_from(number).expect("a frontend has at most MAX_RULES rules");
            match demanded(condition, &counts) {
                Some(anchors) => anchors.into_iter().for_each(|anchor| index.file(anchor, number)),
                None => index.always.push(number),
            }
        }
        index
    }

    fn file(&mut self, anchor: Anchor<'_>, number: u32) {
        let numbers = match anchor {
            Anchor::Host(host) => self.hosts.entry(host.into()).or_default(),
            Anchor::Suffix(suffix) => self.suffixes.entry(suffix),
            Anchor::Path(path) => self.paths.entry(path.into()).or_default(),
            Anchor::Prefix(prefix) => self.prefixes.entry(prefix),
        };
        numbers.push(number);
    }

    /// The rules that can match, each once, in order.
    pub(super) fn candidates(&self, host: &str, path: &[u8]) -> Candidates<'_> {
        let mut candidates = Candidates { lists: [&[]; MAX_LISTS], count: 0 };
        candidates.push(&self.always);
        if let Some(numbers) = self.hosts.get(host) {
            candidates.push(numbers);
        }
        self.suffixes.covering(host).for_each(|numbers| candidates.push(numbers));
        if let Some(numbers) = self.paths.get(path) {
            candidates.push(numbers);
        }
        self.prefixes.covering(path).for_each(|numbers| candidates.push(numbers));
        candidates
    }
}

/// Everything that a condition mentions outside of a `not`.
fn mention<'c>(condition: &'c Condition, mentioned: &mut BTreeSet<Anchor<'c>>) {
    match condition {
        Condition::All(parts) | Condition::Any(parts) => {
            parts.iter().for_each(|part| mention(part, mentioned));
        }
        Condition::Not(_) => {}
        Condition::Named(named) => mention(&named.condition, mentioned),
        Condition::Test(test) => mentioned.extend(anchors(test).into_iter().flatten()),
    }
}

/// Anchors of which a request must have one for the condition to be true; none if it may be
/// true without any. No anchors at all: it is never true.
fn demanded<'c>(condition: &'c Condition, counts: &Counts<'c>) -> Option<BTreeSet<Anchor<'c>>> {
    match condition {
        Condition::All(parts) => {
            let sets = parts.iter().filter_map(|part| demanded(part, counts));
            sets.min_by_key(|set| {
                set.iter().map(|anchor| counts.get(anchor).copied().unwrap_or(0)).sum::<usize>()
            })
        }
        Condition::Any(parts) => {
            let mut union = BTreeSet::new();
            for part in parts {
                union.extend(demanded(part, counts)?);
            }
            (union.len() <= MAX_ANCHORS).then_some(union)
        }
        Condition::Not(part) => match &**part {
            Condition::Not(inner) => demanded(inner, counts),
            _ => None,
        },
        Condition::Named(named) => demanded(&named.condition, counts),
        Condition::Test(test) => anchors(test).map(|anchors| anchors.into_iter().collect()),
    }
}

/// The anchors of a test; none if it can be true without any.
fn anchors(test: &Test) -> Option<Vec<Anchor<'_>>> {
    match test {
        Test::Host(patterns) if patterns.len() > MAX_ANCHORS => None,
        Test::Path(patterns) if patterns.len() > MAX_ANCHORS => None,
        Test::Host(patterns) => patterns.iter().map(host_anchor).collect(),
        Test::Path(patterns) => patterns.iter().map(path_anchor).collect(),
        _ => None,
    }
}

fn host_anchor(pattern: &HostPattern) -> Option<Anchor<'_>> {
    match pattern {
        HostPattern::Exact(host) => Some(Anchor::Host(host)),
        HostPattern::Suffix(suffix) => Some(Anchor::Suffix(last_labels(suffix, MAX_DEPTH))),
        HostPattern::Wildcard(_) | HostPattern::Regex(_) => None,
    }
}

fn path_anchor(pattern: &PathPattern) -> Option<Anchor<'_>> {
    match pattern {
        PathPattern::Exact(path) => Some(Anchor::Path(path)),
        // The root tells nothing.
        PathPattern::Prefix(prefix) if prefix.is_empty() => None,
        PathPattern::Prefix(prefix) => Some(Anchor::Prefix(first_segments(prefix, MAX_DEPTH))),
        PathPattern::Suffix(_) | PathPattern::Contains(_) | PathPattern::Regex(_) => None,
    }
}

/// Sorted lists of numbers, merged as they are read.
pub(super) struct Candidates<'i> {
    /// What is left of each list.
    lists: [&'i [u32]; MAX_LISTS],
    count: usize,
}

impl<'i> Candidates<'i> {
    fn push(&mut self, numbers: &'i [u32]) {
        if !numbers.is_empty() {
            self.lists[self.count] = numbers;
            self.count += 1;
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let lists = &mut self.lists[..self.count];
        let least = lists.iter().filter_map(|list| list.first()).min().copied()?;
        for list in lists {
            if list.first() == Some(&least) {
                *list = &list[1..];
            }
        }
        Some(least as usize)
    }
}
