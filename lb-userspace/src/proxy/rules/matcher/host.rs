//! Lists of hosts: exact ones and suffixes by look-up, the rest one by one.

use std::collections::HashSet;

use super::super::table::SuffixTable;
use crate::model::rule::host::HostPattern;

/// One of these hosts.
#[derive(Debug, Default)]
pub(in super::super) struct HostMatcher {
    exact: HashSet<Box<str>>,
    suffixes: SuffixTable<()>,
    others: Vec<HostPattern>,
}

impl HostMatcher {
    pub(super) fn new(patterns: Vec<HostPattern>) -> Self {
        let mut matcher = Self::default();
        for pattern in patterns {
            match pattern {
                HostPattern::Exact(host) => {
                    matcher.exact.insert(host);
                }
                HostPattern::Suffix(suffix) => matcher.suffixes.insert(&suffix),
                other => matcher.others.push(other),
            }
        }
        matcher
    }

    /// Whether a host in its normal form is one of them; no host is none.
    pub(super) fn matches(&self, host: &str) -> bool {
        !host.is_empty()
            && (!self.exact.is_empty() && self.exact.contains(host)
                || self.suffixes.covering(host).next().is_some()
                || self.others.iter().any(|pattern| pattern.matches(host)))
    }
}
