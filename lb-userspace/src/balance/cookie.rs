//! Cookies that bring a client back to its server: what their values are, and how they
//! stand in headers (RFC 6265). Pure; what comes from clients is bytes that anybody may
//! have written.
//!
//! A value names a server by a digest of its address under a key, never by its place in a
//! list: every node with the same key, and each after its restart or reload, knows it. Who
//! does not know the key can not name a server that it was not sent to. A signed value
//! also holds when it was issued, and a second digest over both, so that a client can not
//! make it live longer.
//!
//! In `prefix` mode the value stands in front of the application's own, as in HAProxy:
//! `SESSION=0123456789abcdef~application`.

use crate::model::address::ServerAddress;
use std::collections::HashMap;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::model::balance::{CookieMode, Persistence};

/// What stands between a server's name and the application's value.
pub const PREFIX_END: u8 = b'~';

/// Between the parts of a signed value.
const PART: char = '.';
/// Bytes of a digest that are shown: enough to tell servers apart, and, for signatures,
/// too many to guess.
const NAME_BYTES: usize = 8;
const SIGNATURE_BYTES: usize = 16;
/// Clocks of nodes may differ by this, in seconds.
const SKEW_S: u64 = 300;
/// The key of those who have none: it makes values stable, not secret.
const KNOWN_KEY: &[u8] = b"pointsman";

/// The values that name the servers of one pool.
#[derive(Debug)]
pub(super) struct Cookies {
    key: Hmac<Sha256>,
    /// Longest age in seconds, if values are signed.
    most_age_s: Option<u64>,
    servers: HashMap<String, usize>,
}

impl Cookies {
    /// For servers at these addresses.
    pub(super) fn new(rules: &Persistence, servers: impl Iterator<Item = ServerAddress>) -> Self {
        let key = rules.key.as_deref().unwrap_or(KNOWN_KEY);
        let key = Hmac::new_from_slice(key).expect("HMAC takes keys of any length");
        let most_age_s = rules.signed.map(|age| age.as_secs());
        let mut cookies = Self { key, most_age_s, servers: HashMap::new() };
        for (index, address) in servers.enumerate() {
            let name = cookies.name(address);
            cookies.servers.insert(name, index);
        }
        cookies
    }

    /// A value that names a server.
    pub(super) fn issue(&self, server: ServerAddress, unix_s: u64) -> String {
        let name = self.name(server);
        match self.most_age_s {
            None => name,
            Some(_) => {
                let signed = format!("{name}{PART}{unix_s:x}");
                let signature = hex(&self.digest(b"signature", &signed)[..SIGNATURE_BYTES]);
                format!("{signed}{PART}{signature}")
            }
        }
    }

    /// Which server a value names.
    pub(super) fn find(&self, value: &[u8], unix_s: u64) -> Option<usize> {
        let value = std::str::from_utf8(value).ok()?;
        let name = match self.most_age_s {
            None => value,
            Some(most) => self.verify(value, most, unix_s)?,
        };
        self.servers.get(name).copied()
    }

    /// The name in a signed value, if the signature is good and not too old.
    fn verify<'a>(&self, value: &'a str, most_age_s: u64, unix_s: u64) -> Option<&'a str> {
        let (signed, signature) = value.rsplit_once(PART)?;
        let (name, issued) = signed.split_once(PART)?;
        let mut mac = self.key.clone();
        mac.update(b"signature\0");
        mac.update(signed.as_bytes());
        mac.verify_truncated_left(&unhex(signature)?).ok()?;
        let issued = u64::from_str_radix(issued, 16).ok()?;
        let is_current =
            issued <= unix_s.saturating_add(SKEW_S) && unix_s.saturating_sub(issued) <= most_age_s;
        is_current.then_some(name)
    }

    fn name(&self, server: ServerAddress) -> String {
        hex(&self.digest(b"server", &server.canonical().to_string())[..NAME_BYTES])
    }

    fn digest(&self, purpose: &[u8], text: &str) -> [u8; 32] {
        let mut mac = self.key.clone();
        mac.update(purpose);
        mac.update(b"\0");
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// The value of the first cookie called `name` in a `Cookie` header.
#[must_use]
pub fn value_in<'a>(header: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pairs(header).find_map(|pair| value_of(pair, name))
}

/// A `Cookie` header without the cookies called `name`; none if nothing is left.
#[must_use]
pub fn without(header: &[u8], name: &str) -> Option<Vec<u8>> {
    let kept: Vec<&[u8]> = pairs(header).filter(|pair| value_of(pair, name).is_none()).collect();
    (!kept.is_empty()).then(|| kept.join(&b"; "[..]))
}

/// A `Cookie` header with what the balancer put in front of the values of `name` taken
/// off: what the application set.
#[must_use]
pub fn without_prefix(header: &[u8], name: &str) -> Vec<u8> {
    let plain = |pair: &[u8]| match value_of(pair, name).and_then(split_prefix) {
        Some((_, own)) => [name.as_bytes(), b"=", own].concat(),
        None => pair.to_vec(),
    };
    pairs(header).map(plain).collect::<Vec<_>>().join(&b"; "[..])
}

/// The server's name and the application's part of a value in `prefix` mode.
#[must_use]
pub fn split_prefix(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = value.iter().position(|byte| *byte == PREFIX_END)?;
    Some((&value[..end], &value[end + 1..]))
}

/// The server's name in the `Cookie` header of a request.
#[must_use]
pub fn name_in<'a>(header: &'a [u8], rules: &Persistence) -> Option<&'a [u8]> {
    let value = value_in(header, &rules.cookie)?;
    match rules.mode {
        CookieMode::Insert => Some(value),
        CookieMode::Prefix => split_prefix(value).map(|(name, _)| name),
    }
}

/// The `Set-Cookie` header of an inserted cookie.
#[must_use]
pub fn inserted(rules: &Persistence, value: &str) -> String {
    let mut header = format!("{}={value}; Path=/; HttpOnly", rules.cookie);
    if !rules.attributes.is_empty() {
        header.push_str("; ");
        header.push_str(&rules.attributes);
    }
    header
}

/// The application's `Set-Cookie` header with `value` in front of its value, if it sets
/// the cookie called `name`.
#[must_use]
pub fn prefixed(header: &[u8], name: &str, value: &str) -> Option<Vec<u8>> {
    let own = value_of(header.trim_ascii_start(), name)?;
    Some([name.as_bytes(), b"=", value.as_bytes(), &[PREFIX_END], own].concat())
}

fn pairs(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    let pairs = header.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    pairs.filter(|pair| !pair.is_empty())
}

/// What follows `name=`. Names of cookies are case-sensitive.
fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let rest = pair.strip_prefix(name.as_bytes())?.trim_ascii_start();
    Some(rest.strip_prefix(b"=")?.trim_ascii())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of a signature in lower-case hexadecimal.
fn unhex(text: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    let mut bytes = [0; SIGNATURE_BYTES];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn rules(key: Option<&[u8]>, signed_s: Option<u64>) -> Persistence {
        Persistence {
            cookie: "SRV".into(),
            mode: CookieMode::Insert,
            key: key.map(<[u8]>::to_vec),
            signed: signed_s.map(Duration::from_secs),
            redispatch: true,
            attributes: "Secure; SameSite=Lax".into(),
        }
    }

    fn servers(list: &[&str]) -> Vec<ServerAddress> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn cookies(rules: &Persistence, list: &[&str]) -> Cookies {
        Cookies::new(rules, servers(list).into_iter())
    }

    #[test]
    fn a_value_names_the_same_server_on_every_node_whatever_the_order() {
        let rules = rules(None, None);
        let one = cookies(&rules, &["10.0.0.1:80", "10.0.0.2:80"]);
        let other = cookies(&rules, &["10.0.0.3:80", "10.0.0.2:80"]);
        let value = one.issue("10.0.0.2:80".parse().unwrap(), 0);
        assert_eq!(one.find(value.as_bytes(), 0), Some(1));
        assert_eq!(other.find(value.as_bytes(), 0), Some(1));
        let gone = one.issue("10.0.0.1:80".parse().unwrap(), 0);
        assert_eq!(other.find(gone.as_bytes(), 0), None);
    }

    #[test]
    fn another_key_gives_other_values() {
        let address = "10.0.0.1:80".parse().unwrap();
        let value = cookies(&rules(Some(b"one"), None), &["10.0.0.1:80"]).issue(address, 0);
        let other = cookies(&rules(Some(b"two"), None), &["10.0.0.1:80"]);
        assert_ne!(value, other.issue(address, 0));
        assert_eq!(other.find(value.as_bytes(), 0), None);
    }

    #[test]
    fn a_signed_value_lasts_as_long_as_it_may() {
        let cookies = cookies(&rules(Some(b"key"), Some(60)), &["10.0.0.1:80"]);
        let value = cookies.issue("10.0.0.1:80".parse().unwrap(), 1000);
        for (now, expected) in
            [(1000, Some(0)), (1060, Some(0)), (1061, None), (700, Some(0)), (699, None)]
        {
            assert_eq!(cookies.find(value.as_bytes(), now), expected, "at {now}");
        }
    }

    #[test]
    fn a_signed_value_can_not_be_changed() {
        let cookies = cookies(&rules(Some(b"key"), Some(60)), &["10.0.0.1:80"]);
        let value = cookies.issue("10.0.0.1:80".parse().unwrap(), 1000).into_bytes();
        for index in 0..value.len() {
            let mut changed = value.clone();
            changed[index] ^= 1;
            assert_eq!(cookies.find(&changed, 1000), None, "byte {index}");
        }
        assert_eq!(cookies.find(&value[..value.len() - 1], 1000), None);
        let unsigned = value.split(|byte| *byte == b'.').next().unwrap();
        assert_eq!(cookies.find(unsigned, 1000), None);
    }

    #[test]
    fn cookies_are_found_and_taken_out_of_headers() {
        let check = |header: &str, value: Option<&str>, rest: Option<&str>| {
            let got = value_in(header.as_bytes(), "SRV");
            assert_eq!(got, value.map(str::as_bytes), "{header}");
            assert_eq!(
                without(header.as_bytes(), "SRV").as_deref(),
                rest.map(str::as_bytes),
                "{header}"
            );
        };
        check("SRV=1", Some("1"), None);
        check("a=b; SRV=1; c=d", Some("1"), Some("a=b; c=d"));
        check("SRV=1;SRV=2;x=y", Some("1"), Some("x=y"));
        check("XSRV=1; srv=2; SRVX=3", None, Some("XSRV=1; srv=2; SRVX=3"));
        check(" ; ;SRV = 1 ;", Some("1"), None);
        check("", None, None);
    }

    #[test]
    fn a_prefix_goes_on_and_comes_off() {
        let set = prefixed(b"SID=abc; Path=/; HttpOnly", "SID", "0f").unwrap();
        assert_eq!(set, b"SID=0f~abc; Path=/; HttpOnly");
        assert_eq!(prefixed(b"OTHER=abc", "SID", "0f"), None);
        assert_eq!(without_prefix(b"a=b; SID=0f~ab~c", "SID"), b"a=b; SID=ab~c");
        assert_eq!(without_prefix(b"SID=abc", "SID"), b"SID=abc");
        let rules =
            Persistence { mode: CookieMode::Prefix, cookie: "SID".into(), ..rules(None, None) };
        assert_eq!(name_in(b"SID=0f~abc", &rules), Some(&b"0f"[..]));
        assert_eq!(name_in(b"SID=abc", &rules), None);
    }

    #[test]
    fn an_inserted_cookie_carries_its_attributes() {
        assert_eq!(
            inserted(&rules(None, None), "0f"),
            "SRV=0f; Path=/; HttpOnly; Secure; SameSite=Lax"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_client_do_harm(header: Vec<u8>, now: u64) {
            let cookies = cookies(&rules(Some(b"key"), Some(60)), &["10.0.0.1:80"]);
            prop_assert_eq!(cookies.find(&header, now), None);
            let _ = value_in(&header, "SRV");
            let _ = without_prefix(&header, "SRV");
            if let Some(rest) = without(&header, "SRV") {
                prop_assert_eq!(value_in(&rest, "SRV"), None);
            }
        }
    }
}
