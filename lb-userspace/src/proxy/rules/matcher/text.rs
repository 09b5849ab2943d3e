//! Lists of texts: exact ones by look-up, the rest one by one.

use std::collections::HashSet;

use crate::model::rule::text::TextPattern;

/// One of these texts.
#[derive(Debug, Default)]
pub(in super::super) struct TextMatcher {
    exact: HashSet<Box<[u8]>>,
    others: Vec<TextPattern>,
}

impl TextMatcher {
    pub(super) fn new(patterns: Vec<TextPattern>) -> Self {
        let mut matcher = Self::default();
        for pattern in patterns {
            match pattern {
                TextPattern::Exact(text) => {
                    matcher.exact.insert(text.into_boxed_bytes());
                }
                other => matcher.others.push(other),
            }
        }
        matcher
    }

    /// Whether one of `texts` is one of them.
    pub(super) fn matches_any<T: AsRef<[u8]>>(&self, mut texts: impl Iterator<Item = T>) -> bool {
        texts.any(|text| self.matches(text.as_ref()))
    }

    fn matches(&self, text: &[u8]) -> bool {
        !self.exact.is_empty() && self.exact.contains(text)
            || self.others.iter().any(|pattern| pattern.matches(text))
    }
}
