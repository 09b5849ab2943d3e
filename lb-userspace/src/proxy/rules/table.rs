//! Tables of path prefixes and of host suffixes: everything that covers a path or a host is
//! found with one look-up for each of its segments or labels, however many entries there are.

use std::collections::HashMap;

/// Values by path prefix, in whole segments.
#[derive(Debug)]
pub(super) struct PrefixTable<T> {
    entries: HashMap<Box<[u8]>, T>,
    /// Segments of the longest prefix; more need not be looked at.
    depth: usize,
}

/// Values by host suffix, in whole labels.
#[derive(Debug)]
pub(super) struct SuffixTable<T> {
    entries: HashMap<Box<str>, T>,
    /// Labels of the longest suffix.
    depth: usize,
}

impl<T> Default for PrefixTable<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), depth: 0 }
    }
}

impl<T> Default for SuffixTable<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), depth: 0 }
    }
}

impl<T: Default> PrefixTable<T> {
    /// The value of a prefix (without a slash at the end), made if there is none.
    pub(super) fn entry(&mut self, prefix: &[u8]) -> &mut T {
        self.depth = self.depth.max(segments(prefix));
        self.entries.entry(prefix.into()).or_default()
    }

    /// The values of all prefixes that cover a path in its matched form, shortest first.
    pub(super) fn covering<'t, 'p>(
        &'t self,
        path: &'p [u8],
    ) -> impl Iterator<Item = &'t T> + use<'t, 'p, T> {
        let wanted = if self.entries.is_empty() { 0 } else { self.depth + 1 };
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends = slashes.map(|(at, _)| at).chain([path.len()]);
        ends.take(wanted).filter_map(|end| self.entries.get(&path[..end]))
    }
}

impl PrefixTable<()> {
    /// Adds a prefix.
    pub(super) fn insert(&mut self, prefix: &[u8]) {
        *self.entry(prefix) = ();
    }
}

impl SuffixTable<()> {
    /// Adds a suffix.
    pub(super) fn insert(&mut self, suffix: &str) {
        *self.entry(suffix) = ();
    }
}

impl<T: Default> SuffixTable<T> {
    /// The value of a suffix, made if there is none.
    pub(super) fn entry(&mut self, suffix: &str) -> &mut T {
        self.depth = self.depth.max(labels(suffix));
        self.entries.entry(suffix.into()).or_default()
    }

    /// The values of all suffixes that a host is at or below, shortest first.
    pub(super) fn covering<'t, 'h>(
        &'t self,
        host: &'h str,
    ) -> impl Iterator<Item = &'t T> + use<'t, 'h, T> {
        let dots = host.rmatch_indices('.').map(|(at, _)| at + 1);
        let starts = dots.chain([0]).take(self.depth);
        starts.filter_map(|start| self.entries.get(&host[start..]))
    }
}

/// Segments of a prefix without a slash at the end.
fn segments(prefix: &[u8]) -> usize {
    prefix.iter().filter(|byte| **byte == b'/').count()
}

/// Labels of a host.
fn labels(host: &str) -> usize {
    host.split('.').count()
}

/// The first `most` segments of a prefix: they cover what it covers, and more.
pub(super) fn first_segments(prefix: &[u8], most: usize) -> &[u8] {
    let mut slashes = prefix.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.nth(most).map_or(prefix, |(end, _)| &prefix[..end])
}

/// The last `most` labels of a host: names below it are below them.
pub(super) fn last_labels(host: &str, most: usize) -> &str {
    let mut dots = host.rmatch_indices('.');
    dots.nth(most - 1).map_or(host, |(at, _)| &host[at + 1..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::rule::{host::is_at_or_below, path::covers};

    #[test]
    fn prefixes_and_suffixes_are_cut_at_segments_and_labels() {
        assert_eq!(first_segments(b"/a/b/c", 2), b"/a/b");
        assert_eq!(first_segments(b"/a/b", 2), b"/a/b");
        assert_eq!(first_segments(b"", 2), b"");
        assert_eq!(last_labels("a.b.c", 2), "b.c");
        assert_eq!(last_labels("b.c", 2), "b.c");
        assert_eq!(last_labels("c", 2), "c");
    }

    proptest! {
        #[test]
        fn a_prefix_table_finds_what_covers(
            prefixes in prop::collection::btree_set("(/[ab]{1,2}){0,3}", 0..8),
            path in r"(/[ab]{1,2}){0,4}/|(/[ab]{1,2}){1,4}|\*",
        ) {
            let mut table = PrefixTable::<Vec<&str>>::default();
            for prefix in &prefixes {
                table.entry(prefix.as_bytes()).push(prefix);
            }
            let found: Vec<&str> = table.covering(path.as_bytes()).flatten().copied().collect();
            let covering = prefixes.iter().filter(|p| covers(p.as_bytes(), path.as_bytes()));
            let mut expected: Vec<&str> = covering.map(String::as_str).collect();
            expected.sort_by_key(|prefix| prefix.len());
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_suffix_table_finds_what_covers(
            suffixes in prop::collection::btree_set("[ab]{1,2}(\\.[ab]{1,2}){0,3}", 0..8),
            host in r"([ab.]{0,8})",
        ) {
            let mut table = SuffixTable::<Vec<&str>>::default();
            for suffix in &suffixes {
                table.entry(suffix).push(suffix);
            }
            let found: Vec<&str> = table.covering(&host).flatten().copied().collect();
            let covering = suffixes.iter().filter(|suffix| is_at_or_below(suffix, &host));
            let mut expected: Vec<&str> = covering.map(String::as_str).collect();
            expected.sort_by_key(|suffix| suffix.len());
            prop_assert_eq!(found, expected);
        }
    }
}
