//! Paths: the one form in which rules compare them, and patterns over that form.
//!
//! A server may read `//admin/`, `/%61dmin/`, `/./admin/`, `/x/../admin/`, `/admin%2f` and
//! `/admin\` all as `/admin/`. So that none of them gets around a rule for `/admin/`, a path
//! is compared in a **matched form**: percent-decoded once, with encoded slashes and
//! backslashes taken as separators, empty segments merged and dot segments resolved
//! (RFC 3986, sections 5.2.4 and 6.2.2).
//!
//! Where servers disagree about what a path means, no form is safe and the request is
//! refused ([`AmbiguousPath`]): dot segments together with encoded separators or backslashes
//! (`/a/..%2fadmin/`), dot segments with parameters (`/a/..;/admin/`), and `%00`. A path
//! with plain dot segments is forwarded in its **clean form**, so that the server can not
//! resolve it in another way; it keeps escapes that mean something (`%2F`).
//!
//! Paths are case-sensitive, and a trailing slash counts, except for prefixes, which are
//! compared by whole segments: `/admin` and `/admin/` both cover `/admin` and everything
//! below `/admin/`, and neither covers `/administrator`.

use std::borrow::Cow;

use super::text::{Regex, contains};

/// A path in its two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    /// Valid in a request: unreserved characters decoded, other escapes kept, dot segments
    /// resolved, slashes merged.
    pub clean: Cow<'a, str>,
    /// What patterns are compared with: everything decoded.
    pub matched: Cow<'a, [u8]>,
    /// There were dot segments: the server must get the clean form.
    pub had_dots: bool,
}

/// Servers disagree about what a path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmbiguousPath {
    /// Dot segments next to encoded slashes or to backslashes.
    #[error("the path has dot segments next to encoded slashes or backslashes")]
    EncodedSeparator,
    /// A dot segment with a parameter, such as `..;x`.
    #[error("the path has a dot segment with a parameter")]
    Parameter,
    /// An encoded zero byte.
    #[error("the path has a zero byte")]
    Zero,
}

impl<'a> NormalPath<'a> {
    /// Brings the path of a request target (without its query) into its forms. A path that
    /// is in normal form already is borrowed. The asterisk of `OPTIONS *` stays as it is.
    ///
    /// # Errors
    /// [`AmbiguousPath`] if no form would be safe.
    pub fn new(raw: &'a str) -> Result<Self, AmbiguousPath> {
        if raw.is_empty() {
            return Ok(Self::borrowed("/"));
        }
        if !raw.starts_with('/') || is_normal(raw.as_bytes()) {
            return Ok(Self::borrowed(raw));
        }
        let decoded = decode(raw.as_bytes())?;
        let matched = resolve(&decoded.matched);
        let clean = resolve(decoded.clean.as_bytes());
        if matched.has_parameter {
            return Err(AmbiguousPath::Parameter);
        }
        if matched.had_dots && decoded.has_odd_separator {
            return Err(AmbiguousPath::EncodedSeparator);
        }
        let clean = String::from_utf8_lossy(&clean.path).into_owned();
        let had_dots = matched.had_dots;
        Ok(Self { clean: clean.into(), matched: matched.path.into(), had_dots })
    }

    fn borrowed(path: &'a str) -> Self {
        Self { clean: path.into(), matched: path.as_bytes().into(), had_dots: false }
    }
}

/// Whether a path that starts with a slash is its own normal form.
fn is_normal(path: &[u8]) -> bool {
    let odd = |byte: &u8| matches!(byte, b'%' | b'\\') || !byte.is_ascii_graphic();
    // A slash, or a dot that may be a dot segment, after a slash.
    let suspicious = |(at, byte): (usize, &u8)| {
        *byte == b'/'
            && match path.get(at + 1) {
                Some(b'/') => true,
                Some(b'.') => matches!(path.get(at + 2), None | Some(b'/' | b'.' | b';')),
                _ => false,
            }
    };
    !path.iter().any(odd) && !path.iter().enumerate().any(suspicious)
}

struct Decoded {
    matched: Vec<u8>,
    clean: String,
    has_odd_separator: bool,
}

/// Decodes once into both forms. An escape that is none stays as it is.
fn decode(raw: &[u8]) -> Result<Decoded, AmbiguousPath> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut matched = Vec::with_capacity(raw.len());
    let mut clean = String::with_capacity(raw.len());
    let mut has_odd_separator = false;
    let escape = |clean: &mut String, byte: u8| {
        clean.push('%');
        clean.push(char::from(HEX[usize::from(byte >> 4)]));
        clean.push(char::from(HEX[usize::from(byte & 15)]));
    };
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        let escaped = (byte == b'%').then(|| raw.get(at + 1..at + 3).and_then(hex_pair)).flatten();
        let value = escaped.unwrap_or(byte);
        at += if escaped.is_some() { 3 } else { 1 };
        match value {
            0 => return Err(AmbiguousPath::Zero),
            b'\\' => {
                has_odd_separator = true;
                matched.push(b'/');
                escape(&mut clean, value);
            }
            b'/' if escaped.is_some() => {
                has_odd_separator = true;
                matched.push(b'/');
                escape(&mut clean, value);
            }
            _ => {
                matched.push(value);
                // A stray '%' is escaped, or it could form an escape with what follows.
                let plain = match escaped {
                    Some(_) => is_unreserved(value),
                    None => value.is_ascii_graphic() && value != b'%',
                };
                if plain {
                    clean.push(char::from(value));
                } else {
                    escape(&mut clean, value);
                }
            }
        }
    }
    Ok(Decoded { matched, clean, has_odd_separator })
}

fn hex_pair(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(digits[0])? << 4 | digit(digits[1])?)
}

/// RFC 3986, section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

struct Resolved {
    path: Vec<u8>,
    had_dots: bool,
    has_parameter: bool,
}

/// Merges empty segments and resolves dot segments.
fn resolve(path: &[u8]) -> Resolved {
    let mut segments: Vec<&[u8]> = Vec::new();
    let (mut had_dots, mut has_parameter, mut is_directory) = (false, false, true);
    for segment in path.split(|byte| *byte == b'/') {
        is_directory = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" => {}
            b"." => had_dots = true,
            b".." => {
                had_dots = true;
                segments.pop();
            }
            _ => {
                has_parameter |= segment.starts_with(b".;") || segment.starts_with(b"..;");
                segments.push(segment);
            }
        }
    }
    let mut resolved = Vec::with_capacity(path.len());
    for segment in &segments {
        resolved.push(b'/');
        resolved.extend_from_slice(segment);
    }
    if is_directory || segments.is_empty() {
        resolved.push(b'/');
    }
    Resolved { path: resolved, had_dots, has_parameter }
}

/// What a path must be, in its matched form.
#[derive(Clone, Debug, PartialEq)]
pub enum PathPattern {
    /// Exactly this.
    Exact(Box<[u8]>),
    /// This or something below it; without a slash at the end, so the root is empty.
    Prefix(Box<[u8]>),
    /// It ends with this.
    Suffix(Box<[u8]>),
    /// It holds this.
    Contains(Box<[u8]>),
    /// The expression matches somewhere in it.
    Regex(Regex),
}

/// Why a text is no pattern for paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathPatternError {
    /// Paths start with a slash.
    #[error("a path starts with '/'")]
    Start,
    /// It has a query or a fragment, which are no part of a path.
    #[error("a path has no '?' and no '#'")]
    Query,
    /// It has dot segments, which are resolved before a path is compared.
    #[error("it has dot segments, which are resolved before paths are compared")]
    Dots,
    /// No request with it would be let through.
    #[error(transparent)]
    Ambiguous(#[from] AmbiguousPath),
    /// It is empty, and every path would match.
    #[error("it is empty")]
    Empty,
}

impl PathPattern {
    /// Exactly `text`, written decoded or with escapes.
    ///
    /// # Errors
    /// [`PathPatternError`]: no request can have this path.
    pub fn exact(text: &str) -> Result<Self, PathPatternError> {
        if text == "*" {
            return Ok(Self::Exact(text.as_bytes().into()));
        }
        whole(text).map(|path| Self::Exact(path.into()))
    }

    /// `text` and everything below it.
    ///
    /// # Errors
    /// As [`Self::exact`].
    pub fn prefix(text: &str) -> Result<Self, PathPatternError> {
        let mut path = whole(text)?;
        path.pop_if(|last| *last == b'/');
        Ok(Self::Prefix(path.into()))
    }

    /// Paths that end with `text`.
    ///
    /// # Errors
    /// [`PathPatternError`]: no request can have such a path.
    pub fn suffix(text: &str) -> Result<Self, PathPatternError> {
        part(text).map(|path| Self::Suffix(path.into()))
    }

    /// Paths that hold `text`.
    ///
    /// # Errors
    /// As [`Self::suffix`].
    pub fn contains(text: &str) -> Result<Self, PathPatternError> {
        part(text).map(|path| Self::Contains(path.into()))
    }

    /// Whether a path in its matched form is what the pattern asks for.
    #[must_use]
    pub fn matches(&self, matched: &[u8]) -> bool {
        match self {
            Self::Exact(path) => **path == *matched,
            Self::Prefix(prefix) => covers(prefix, matched),
            Self::Suffix(suffix) => matched.ends_with(suffix),
            Self::Contains(part) => contains(matched, part),
            Self::Regex(regex) => regex.is_match(matched),
        }
    }
}

/// Whether `matched` is `prefix` or below it.
#[must_use]
pub fn covers(prefix: &[u8], matched: &[u8]) -> bool {
    matched.strip_prefix(prefix).is_some_and(|rest| match rest.first() {
        None => !prefix.is_empty(),
        Some(first) => *first == b'/',
    })
}

fn whole(text: &str) -> Result<Vec<u8>, PathPatternError> {
    if !text.starts_with('/') {
        return Err(PathPatternError::Start);
    }
    if text.contains(['?', '#']) {
        return Err(PathPatternError::Query);
    }
    let path = NormalPath::new(text)?;
    if path.had_dots {
        return Err(PathPatternError::Dots);
    }
    Ok(path.matched.into_owned())
}

fn part(text: &str) -> Result<Vec<u8>, PathPatternError> {
    if text.is_empty() {
        return Err(PathPatternError::Empty);
    }
    if text.contains(['?', '#']) {
        return Err(PathPatternError::Query);
    }
    Ok(decode(text.as_bytes())?.matched)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(raw: &str, matched: &str, clean: &str) {
        let path = NormalPath::new(raw).unwrap();
        assert_eq!(String::from_utf8_lossy(&path.matched), matched, "{raw}");
        assert_eq!(path.clean, clean, "{raw}");
    }

    #[test]
    fn every_spelling_of_a_path_has_one_matched_form() {
        check("/admin/", "/admin/", "/admin/");
        check("//admin/", "/admin/", "/admin/");
        check("/%61dmin/", "/admin/", "/admin/");
        check("/./admin/", "/admin/", "/admin/");
        check("/x/../admin/", "/admin/", "/admin/");
        check("/../admin/", "/admin/", "/admin/");
        check("/%2e%2E/admin/", "/admin/", "/admin/");
        check("/x/%2e./admin/", "/admin/", "/admin/");
        check("/admin%2F", "/admin/", "/admin%2F");
        check("/admin\\", "/admin/", "/admin%5C");
        check("/admin%5c", "/admin/", "/admin%5C");
        check("/admin/.", "/admin/", "/admin/");
        check("/admin/x/..", "/admin/", "/admin/");
        check("", "/", "/");
        check("/..", "/", "/");
        check("*", "*", "*");
    }

    #[test]
    fn escapes_are_decoded_once_and_kept_where_they_mean_something() {
        check("/%2561dmin/", "/%61dmin/", "/%2561dmin/");
        check("/a%3fb", "/a?b", "/a%3Fb");
        check("/a%20b", "/a b", "/a%20b");
        check("/%zz%4", "/%zz%4", "/%25zz%254");
        check("/%%61%61", "/%aa", "/%25aa");
        check("/caf\u{e9}", "/caf\u{e9}", "/caf%C3%A9");
        check("/api/queues/%2F/x", "/api/queues/x", "/api/queues/%2F/x");
    }

    #[test]
    fn what_servers_disagree_about_is_refused() {
        let refused = |raw| NormalPath::new(raw).unwrap_err();
        assert_eq!(refused("/a/..%2fadmin/"), AmbiguousPath::EncodedSeparator);
        assert_eq!(refused("/admin/..%5cx"), AmbiguousPath::EncodedSeparator);
        assert_eq!(refused("/admin\\..\\x"), AmbiguousPath::EncodedSeparator);
        assert_eq!(refused("/a/..;/admin/"), AmbiguousPath::Parameter);
        assert_eq!(refused("/a/.;x=1/admin/"), AmbiguousPath::Parameter);
        assert_eq!(refused("/admin%00"), AmbiguousPath::Zero);
    }

    #[test]
    fn prefixes_are_whole_segments() {
        for prefix in ["/admin", "/admin/"] {
            let pattern = PathPattern::prefix(prefix).unwrap();
            for path in ["/admin", "/admin/", "/admin/x"] {
                assert!(pattern.matches(path.as_bytes()), "{prefix} {path}");
            }
            for path in ["/administrator", "/adm", "/", "/x/admin/", "*"] {
                assert!(!pattern.matches(path.as_bytes()), "{prefix} {path}");
            }
        }
        let root = PathPattern::prefix("/").unwrap();
        assert!(root.matches(b"/") && root.matches(b"/x") && !root.matches(b"*"));
    }

    #[test]
    fn patterns_that_no_path_can_have_are_refused() {
        assert_eq!(PathPattern::exact("a").unwrap_err(), PathPatternError::Start);
        assert_eq!(PathPattern::exact("/a?b").unwrap_err(), PathPatternError::Query);
        assert_eq!(PathPattern::prefix("/a/../b").unwrap_err(), PathPatternError::Dots);
        assert_eq!(PathPattern::suffix("").unwrap_err(), PathPatternError::Empty);
        assert_eq!(PathPattern::exact("/caf%c3%a9"), PathPattern::exact("/caf\u{e9}"));
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own(raw in "/([a./%;\\\\]|%2e|%2f|%61|\\.\\./){0,24}") {
            if let Ok(path) = NormalPath::new(&raw) {
                prop_assert!(path.clean.starts_with('/'));
                let again = NormalPath::new(&path.clean).unwrap();
                prop_assert_eq!(&again.clean, &path.clean);
                prop_assert!(!again.had_dots);
                let matched = String::from_utf8_lossy(&path.matched);
                prop_assert!(!matched.contains("//") && !matched.contains("/../"));
            }
        }

        #[test]
        fn any_text_has_a_form_or_is_refused(raw in any::<String>()) {
            let _ = NormalPath::new(&raw);
            let _ = PathPattern::prefix(&raw);
            let _ = PathPattern::contains(&raw);
        }
    }
}
