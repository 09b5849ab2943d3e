//! Lists of paths: exact ones and prefixes by look-up, the rest one by one.

use std::collections::HashSet;

use super::super::table::PrefixTable;
use crate::model::rule::path::PathPattern;

/// One of these paths.
#[derive(Debug, Default)]
pub(in super::super) struct PathMatcher {
    exact: HashSet<Box<[u8]>>,
    prefixes: PrefixTable<()>,
    others: Vec<PathPattern>,
}

impl PathMatcher {
    pub(super) fn new(patterns: Vec<PathPattern>) -> Self {
        let mut matcher = Self::default();
        for pattern in patterns {
            match pattern {
                PathPattern::Exact(path) => {
                    matcher.exact.insert(path);
                }
                PathPattern::Prefix(prefix) => matcher.prefixes.insert(&prefix),
                other => matcher.others.push(other),
            }
        }
        matcher
    }

    /// Whether a path in its matched form is one of them.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        !self.exact.is_empty() && self.exact.contains(path)
            || self.prefixes.covering(path).next().is_some()
            || self.others.iter().any(|pattern| pattern.matches(path))
    }
}
