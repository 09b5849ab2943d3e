//! `backends.NAME.persistence`: cookies that bring a client back to its server.

use std::time::Duration;

use super::{
    decode::Entries,
    duration::Period,
    fault::{Refusal, quoted},
    schema::{Bool, Choice, Key, Nested, Presence, Section, Text},
};
use crate::model::balance::{CookieMode, Persistence};

/// `persistence` as a shape.
pub(super) const SHAPE: Nested<Persistence> = Nested { section: &SECTION, decode };

static SECTION: Section = Section {
    path: "backends.NAME.persistence",
    doc: "A cookie that brings a client of a frontend of `mode: http` back to its server, while \
          that is up or drains. Its value is a digest of the server's address: the same on every \
          node with the same `key`, over restarts and reloads, whatever servers come and go.",
    keys: &[&COOKIE, &MODE, &KEY, &SIGNED, &REDISPATCH, &SECURE, &SAME_SITE, &DOMAIN],
    unbuilt: &[],
};

static COOKIE: Key<Text<String>> = Key {
    name: "cookie",
    shape: Text { what: "a name of a cookie", parse: cookie_name },
    presence: Presence::Required("cookie: SRV"),
    doc: "Name of the cookie.",
};

static MODE: Key<Choice<CookieMode>> = Key {
    name: "mode",
    shape: Choice::of(&[("insert", CookieMode::Insert), ("prefix", CookieMode::Prefix)]),
    presence: Presence::Default("insert"),
    doc: "`insert`: the balancer sets a cookie of its own, which servers do not see. `prefix`: \
          the server's name goes in front of the value of a cookie that the application sets, \
          as `NAME~VALUE`, and comes off on the way back.",
};

static KEY: Key<Text<Vec<u8>>> = Key {
    name: "key",
    shape: Text { what: "a secret of at least 16 bytes", parse: secret },
    presence: Presence::Optional("a key that everybody knows: clients can name any server"),
    doc: "Secret key of the digests, the same on all nodes. Who does not know it can not name a \
          server that it was not sent to.",
};

static SIGNED: Key<Period> = Key {
    name: "signed",
    shape: Period { min: Duration::from_secs(1), max: Duration::from_secs(365 * 86_400) },
    presence: Presence::Optional("values are not signed and last as long as the client keeps them"),
    doc: "Values also say when they were issued, signed with `key`, and are not followed when \
          they are older than this.",
};

static REDISPATCH: Key<Bool> = Key {
    name: "redispatch",
    shape: Bool,
    presence: Presence::Default("true"),
    doc: "A client whose server is down goes to another one, in place of an answer 503.",
};

static SECURE: Key<Bool> = Key {
    name: "secure",
    shape: Bool,
    presence: Presence::Default("false"),
    doc: "An inserted cookie goes over TLS only.",
};

static SAME_SITE: Key<Choice<&'static str>> = Key {
    name: "same_site",
    shape: Choice::of(&[("lax", "Lax"), ("strict", "Strict"), ("none", "None")]),
    presence: Presence::Optional("the attribute is not set: browsers take it for `lax`"),
    doc: "Whether an inserted cookie goes with requests that other sites cause.",
};

static DOMAIN: Key<Text<String>> = Key {
    name: "domain",
    shape: Text { what: "a domain", parse: domain },
    presence: Presence::Optional("the host that was asked"),
    doc: "The domain of an inserted cookie.",
};

fn decode(entries: &Entries<'_>) -> Option<Persistence> {
    let (cookie, mode) = (entries.get(&COOKIE), entries.get(&MODE));
    let (key, signed) = (entries.get(&KEY), entries.get(&SIGNED));
    let redispatch = entries.get(&REDISPATCH);
    let attributes = [
        entries.get(&DOMAIN).map(|domain| format!("Domain={domain}")),
        entries.get(&SECURE).filter(|secure| *secure).map(|_| "Secure".to_owned()),
        entries.get(&SAME_SITE).map(|site| format!("SameSite={site}")),
    ];
    if entries.has(&SIGNED) && !entries.has(&KEY) {
        let refusal = Refusal::new("needs a `key`: nobody can sign with one that all know");
        entries.reject(&SIGNED, refusal.hint("key: a secret of at least 16 bytes"));
        return None;
    }
    let attributes: Vec<String> = attributes.into_iter().flatten().collect();
    Some(Persistence {
        cookie: cookie?,
        mode: mode?,
        key,
        signed,
        redispatch: redispatch?,
        attributes: attributes.join("; "),
    })
}

/// A token (RFC 6265, 4.1.1; RFC 9110, 5.6.2).
fn cookie_name(text: &str) -> Result<String, Refusal> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|".contains(&byte);
    if text.is_empty() || text.len() > 128 || !text.bytes().all(is_good) {
        let refusal = Refusal::new(format!("{} is not a name of a cookie", quoted(text)));
        return Err(refusal.hint("letters, digits, '-' and '_', at most 128"));
    }
    Ok(text.to_owned())
}

fn secret(text: &str) -> Result<Vec<u8>, Refusal> {
    if text.len() < 16 {
        let refusal = Refusal::new(format!("{} bytes are too few for a secret", text.len()));
        return Err(refusal.hint("16 at least, such as those of `openssl rand -hex 16`"));
    }
    Ok(text.as_bytes().to_vec())
}

fn domain(text: &str) -> Result<String, Refusal> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    if text.is_empty() || text.len() > 253 || !text.bytes().all(is_good) {
        let refusal = Refusal::new(format!("{} is not a domain", quoted(text)));
        return Err(refusal.hint("such as example.com"));
    }
    Ok(text.to_owned())
}
