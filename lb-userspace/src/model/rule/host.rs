//! Host names: the one form in which rules compare them, and patterns over that form.
//!
//! Hosts are compared without a port and without the dot of the root, in lower case
//! (RFC 9110, section 4.2.3, RFC 4343). Names of other scripts are written as they travel,
//! in their `xn--` form (RFC 5891). The same patterns serve for SNI.

use std::borrow::Cow;

use super::text::Regex;

/// Longest host that is compared, in bytes; nothing longer is a name.
const MAX_BYTES: usize = 255;

/// The host of an authority (`Example.com.:8080`), as patterns see it. Empty if there is
/// none. Borrowed if it is in that form already.
#[must_use]
pub fn normal_host(authority: &str) -> Cow<'_, str> {
    let host = match authority.strip_prefix('[') {
        // The brackets of an IPv6 address stay.
        Some(rest) => rest.find(']').map_or(authority, |end| &authority[..end + 2]),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        host.to_ascii_lowercase().into()
    } else {
        host.into()
    }
}

/// What a host must be, in its normal form.
#[derive(Clone, Debug, PartialEq)]
pub enum HostPattern {
    /// Exactly this.
    Exact(Box<str>),
    /// This name or one below it.
    Suffix(Box<str>),
    /// As many labels as the pattern has; a `*` stands for any part of one label.
    Wildcard(Wildcard),
    /// The expression matches somewhere in it.
    Regex(Regex),
}

/// A name with stars: `*.example.com`, `api-*.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wildcard {
    /// Before and after the star, for each label; a label without a star has no second part.
    labels: Vec<(Box<str>, Option<Box<str>>)>,
}

/// Why a text is no pattern for hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// It is empty or too long, or has an empty label.
    #[error("a host has 1 to {MAX_BYTES} characters and no empty labels")]
    Length,
    /// It has a port.
    #[error("a host is compared without its port")]
    Port,
    /// It holds characters that no host has.
    #[error("a host has letters, digits, '-', '_' and '.'")]
    Character,
    /// It has a star where none may be, or none where one is needed.
    #[error("a wildcard has at least one '*', and at most one in each label")]
    Star,
}

impl HostPattern {
    /// Exactly `text`.
    ///
    /// # Errors
    /// [`HostPatternError`]: no request can have this host.
    pub fn exact(text: &str) -> Result<Self, HostPatternError> {
        if text.starts_with('[') {
            let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
            let address = inner.and_then(|text| text.parse::<std::net::Ipv6Addr>().ok());
            let address = address.ok_or(HostPatternError::Character)?;
            return Ok(Self::Exact(format!("[{address}]").into()));
        }
        name(text, false).map(|name| Self::Exact(name.into()))
    }

    /// `text` and every name below it; a leading dot makes no difference.
    ///
    /// # Errors
    /// As [`Self::exact`].
    pub fn suffix(text: &str) -> Result<Self, HostPatternError> {
        let text = text.strip_prefix('.').unwrap_or(text);
        name(text, false).map(|name| Self::Suffix(name.into()))
    }

    /// Names that `text`, which has stars, stands for.
    ///
    /// # Errors
    /// As [`Self::exact`]; and stars in wrong places.
    pub fn wildcard(text: &str) -> Result<Self, HostPatternError> {
        let name = name(text, true)?;
        if !name.contains('*') {
            return Err(HostPatternError::Star);
        }
        let label = |label: &str| match label.split_once('*') {
            None => Ok((label.into(), None)),
            Some((_, after)) if after.contains('*') => Err(HostPatternError::Star),
            Some((before, after)) => Ok((before.into(), Some(after.into()))),
        };
        let labels = name.split('.').map(label).collect::<Result<_, _>>()?;
        Ok(Self::Wildcard(Wildcard { labels }))
    }

    /// Whether a host in its normal form is what the pattern asks for.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *host,
            Self::Suffix(suffix) => is_at_or_below(suffix, host),
            Self::Wildcard(wildcard) => wildcard.matches(host),
            Self::Regex(regex) => regex.is_match(host.as_bytes()),
        }
    }
}

impl Wildcard {
    /// Whether `host` has the labels of the pattern.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        let mut labels = host.split('.');
        let label_matches = |(before, after): &(Box<str>, Option<Box<str>>)| {
            let Some(label) = labels.next() else { return false };
            match after {
                None => **before == *label,
                // The star stands for one character at least.
                Some(after) => {
                    label.len() > before.len() + after.len()
                        && label.starts_with(&**before)
                        && label.ends_with(&**after)
                }
            }
        };
        self.labels.iter().all(label_matches) && labels.next().is_none()
    }
}

/// Whether `host` is `suffix` or a name below it.
#[must_use]
pub fn is_at_or_below(suffix: &str, host: &str) -> bool {
    host.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn name(text: &str, stars: bool) -> Result<String, HostPatternError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > MAX_BYTES || name.split('.').any(str::is_empty) {
        return Err(HostPatternError::Length);
    }
    if name.contains(':') {
        return Err(HostPatternError::Port);
    }
    let good = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') || stars && byte == b'*'
    };
    if !name.bytes().all(good) {
        let starred = name.contains('*') && !stars;
        return Err(if starred { HostPatternError::Star } else { HostPatternError::Character });
    }
    Ok(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_has_one_form() {
        for authority in ["example.com", "EXAMPLE.com", "example.com.", "Example.Com.:8080"] {
            assert_eq!(normal_host(authority), "example.com");
        }
        assert_eq!(normal_host("[2001:db8::1]:80"), "[2001:db8::1]");
        assert_eq!(normal_host("[2001:DB8::1]"), "[2001:db8::1]");
        assert_eq!((&*normal_host(""), &*normal_host(":80"), &*normal_host(".")), ("", "", ""));
        assert_eq!(normal_host("[::1"), "[::1");
        assert!(matches!(normal_host("example.com:80"), Cow::Borrowed("example.com")));
    }

    #[test]
    fn a_suffix_ends_at_a_label() {
        for suffix in ["example.com", ".example.com", "EXAMPLE.com."] {
            let pattern = HostPattern::suffix(suffix).unwrap();
            for host in ["example.com", "www.example.com", "a.b.example.com"] {
                assert!(pattern.matches(host), "{suffix} {host}");
            }
            for host in ["evilexample.com", "example.com.evil.test", "com", ""] {
                assert!(!pattern.matches(host), "{suffix} {host}");
            }
        }
    }

    #[test]
    fn a_star_stands_for_a_part_of_one_label() {
        let pattern = HostPattern::wildcard("*.example.com").unwrap();
        assert!(pattern.matches("www.example.com"));
        for host in ["example.com", "a.b.example.com", ".example.com", "www.example.org"] {
            assert!(!pattern.matches(host), "{host}");
        }
        let pattern = HostPattern::wildcard("api-*.eu.example.com").unwrap();
        assert!(pattern.matches("api-7.eu.example.com"));
        assert!(
            !pattern.matches("api-.eu.example.com") && !pattern.matches("api-7.us.example.com")
        );
    }

    #[test]
    fn patterns_that_no_host_can_have_are_refused() {
        assert_eq!(HostPattern::exact("example.com:80").unwrap_err(), HostPatternError::Port);
        assert_eq!(HostPattern::exact("*.example.com").unwrap_err(), HostPatternError::Star);
        assert_eq!(HostPattern::wildcard("example.com").unwrap_err(), HostPatternError::Star);
        assert_eq!(HostPattern::wildcard("**.com").unwrap_err(), HostPatternError::Star);
        assert_eq!(HostPattern::exact("b\u{fc}cher.de").unwrap_err(), HostPatternError::Character);
        assert_eq!(HostPattern::exact("a..b").unwrap_err(), HostPatternError::Length);
        assert_eq!(HostPattern::exact("[::1").unwrap_err(), HostPatternError::Character);
        assert!(HostPattern::exact("[0:0::1]").unwrap().matches("[::1]"));
    }

    proptest! {
        #[test]
        fn any_authority_has_a_form(authority in any::<String>()) {
            let host = normal_host(&authority);
            prop_assert!(host.len() <= authority.len());
            let _ = HostPattern::wildcard(&authority).map(|pattern| pattern.matches(&host));
        }
    }
}
