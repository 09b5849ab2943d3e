//! Patterns for texts of a request: header values, parameters, cookies, names.
//!
//! Texts are bytes, because a client may send any; they are compared as they are, case
//! included. A regular expression is bounded in its text and in what it compiles to, and the
//! engine matches in linear time, so no pattern and no request can make it run away.

use regex::bytes::{self, RegexBuilder};

/// What a text must be.
#[derive(Clone, Debug, PartialEq)]
pub enum TextPattern {
    /// Anything, as long as it is there.
    Present,
    /// Exactly this.
    Exact(Box<str>),
    /// It starts with this.
    Prefix(Box<str>),
    /// It ends with this.
    Suffix(Box<str>),
    /// It holds this.
    Contains(Box<str>),
    /// The expression matches somewhere in it.
    Regex(Regex),
}

impl TextPattern {
    /// Whether `text` is what the pattern asks for.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(wanted) => wanted.as_bytes() == text,
            Self::Prefix(wanted) => text.starts_with(wanted.as_bytes()),
            Self::Suffix(wanted) => text.ends_with(wanted.as_bytes()),
            Self::Contains(wanted) => contains(text, wanted.as_bytes()),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

/// Whether `needle` stands somewhere in `text`.
#[must_use]
pub fn contains(text: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || text.windows(needle.len()).any(|window| window == needle)
}

/// A regular expression over bytes, in the syntax of the `regex` crate; compared by its text.
#[derive(Clone, Debug)]
pub struct Regex(bytes::Regex);

/// Why a text is no regular expression for a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegexError {
    /// It is too long to be read.
    #[error("an expression has at most {} bytes, this one {got}", Regex::MAX_BYTES, got = .0)]
    Length(usize),
    /// It compiles to more than it may.
    #[error("it compiles to more than {} KiB", Regex::MAX_COMPILED >> 10)]
    Compiled,
    /// It is not well-formed.
    #[error("{0}")]
    Syntax(String),
}

impl Regex {
    /// Longest expression, in bytes.
    pub const MAX_BYTES: usize = 4096;
    /// Largest compiled form, in bytes.
    pub const MAX_COMPILED: usize = 1 << 20;

    /// Reads and compiles an expression.
    ///
    /// # Errors
    /// [`RegexError`]: it is malformed, or larger than the bounds above.
    pub fn new(text: &str) -> Result<Self, RegexError> {
        if text.len() > Self::MAX_BYTES {
            return Err(RegexError::Length(text.len()));
        }
        let built = RegexBuilder::new(text)
            .size_limit(Self::MAX_COMPILED)
            .dfa_size_limit(Self::MAX_COMPILED)
            .nest_limit(64)
            .build();
        built.map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => RegexError::Compiled,
            other => {
                let shown = other.to_string();
                let last = shown.lines().last().unwrap_or_default();
                RegexError::Syntax(last.trim_start_matches("error: ").to_owned())
            }
        })
    }

    /// Whether it matches somewhere in `text`.
    #[must_use]
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }

    /// `text` with the first match replaced; `$1` and `$name` stand for groups. None if
    /// nothing matches.
    #[must_use]
    pub fn replace(&self, text: &[u8], replacement: &str) -> Option<Vec<u8>> {
        self.0.is_match(text).then(|| self.0.replace(text, replacement.as_bytes()).into_owned())
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pattern_matches_what_its_name_says() {
        let text = |pattern: fn(Box<str>) -> TextPattern, wanted: &str, given: &str| {
            pattern(wanted.into()).matches(given.as_bytes())
        };
        assert!(TextPattern::Present.matches(b""));
        assert!(text(TextPattern::Exact, "eu", "eu") && !text(TextPattern::Exact, "eu", "EU"));
        assert!(text(TextPattern::Prefix, "eu", "eu-1") && !text(TextPattern::Prefix, "eu", "e"));
        assert!(text(TextPattern::Suffix, "-1", "eu-1") && !text(TextPattern::Suffix, "-1", "1"));
        assert!(text(TextPattern::Contains, "u-", "eu-1"));
        assert!(text(TextPattern::Contains, "", "") && !text(TextPattern::Contains, "a", ""));
        let regex = TextPattern::Regex(Regex::new("^e[0-9]+$").unwrap());
        assert!(regex.matches(b"e12") && !regex.matches(b"e12\xff"));
    }

    #[test]
    fn expressions_are_bounded_in_text_and_in_size() {
        assert_eq!(Regex::new(&"a".repeat(5000)).unwrap_err(), RegexError::Length(5000));
        assert_eq!(Regex::new(r"(\w{1000}){1000}").unwrap_err(), RegexError::Compiled);
        assert!(matches!(Regex::new("a("), Err(RegexError::Syntax(_))));
        assert!(matches!(Regex::new(&"(".repeat(1000)), Err(RegexError::Syntax(_))));
    }

    #[test]
    fn a_replacement_may_name_groups() {
        let regex = Regex::new("^/v([0-9]+)/(?<rest>.*)$").unwrap();
        assert_eq!(regex.replace(b"/v2/a", "/api/$1/${rest}").unwrap(), b"/api/2/a");
        assert_eq!(regex.replace(b"/x", "/y"), None);
    }
}
