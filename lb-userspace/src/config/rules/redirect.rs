//! `redirect`: sending the client elsewhere.

use hyper::http::StatusCode;

use super::{
    super::{
        decode::Entries,
        fault::{Refusal, quoted},
        schema::{Choice, Integer, Key, KeyInfo, Nested, Presence, Section, Text},
    },
    header::header_template,
};
use crate::model::rule::{
    action::{Redirect, RedirectTo, Scheme},
    template::Template,
};

/// `redirect`.
pub(super) static REDIRECT: Key<Nested<Redirect>> = Key {
    name: "redirect",
    shape: Nested { section: &SECTION, decode },
    presence: Presence::Optional("the request is not redirected"),
    doc: "Ends the request: the client is sent elsewhere.",
};

static SECTION: Section = Section {
    path: "frontends.NAME.rules[N].redirect",
    doc: "Where the client is sent: to a `location`, to a `prefix` followed by the request's \
          path and query, or to the request's own URL with another `scheme`, `host` or `port`. \
          Values of variables are percent-encoded for their place in a URL, so that a client \
          can not choose the site.",
    keys: &[&SCHEME, &HOST, &PORT, &PREFIX, &LOCATION, &CODE],
    unbuilt: &[],
};

static SCHEME: Key<Choice<Scheme>> = Key {
    name: "scheme",
    shape: Choice::of(&[("http", Scheme::Http), ("https", Scheme::Https)]),
    presence: Presence::Optional("that of the request"),
    doc: "The scheme; the port becomes its own.",
};

static HOST: Key<Text<Template>> = Key {
    name: "host",
    shape: Text { what: "a host with variables", parse: host_template },
    presence: Presence::Optional("that of the request"),
    doc: "The host: `www.${request.host}`.",
};

static PORT: Key<Integer<u16>> = Key {
    name: "port",
    shape: Integer { min: 1, max: u16::MAX },
    presence: Presence::Optional("that of the scheme"),
    doc: "The port.",
};

static PREFIX: Key<Text<Template>> = Key {
    name: "prefix",
    shape: Text { what: "a URL with variables", parse: url_template },
    presence: Presence::Optional("not by prefix"),
    doc: "What the request's path and query are put behind: `https://new.example.com/old`.",
};

static LOCATION: Key<Text<Template>> = Key {
    name: "location",
    shape: Text { what: "a URL with variables", parse: url_template },
    presence: Presence::Optional("not by location"),
    doc: "The whole location: `/sign-in?next=${request.path}`.",
};

static CODE: Key<Integer<u16>> = Key {
    name: "code",
    shape: Integer { min: 301, max: 308 },
    presence: Presence::Default("302"),
    doc: "301 or 308 for good, 302 or 307 for now, 303 for a GET; clients keep the method with \
          307 and 308.",
};

fn decode(entries: &Entries<'_>) -> Option<Redirect> {
    let (scheme, host, port) = (entries.get(&SCHEME), entries.get(&HOST), entries.get(&PORT));
    let (prefix, location, code) =
        (entries.get(&PREFIX), entries.get(&LOCATION), entries.get(&CODE));
    let keys: [&dyn KeyInfo; 5] = [&SCHEME, &HOST, &PORT, &PREFIX, &LOCATION];
    let [with_scheme, with_host, with_port, with_prefix, with_location] =
        keys.map(|key| entries.has(key));
    let with_parts = with_scheme || with_host || with_port;
    let ways = [with_parts, with_prefix, with_location].into_iter().filter(|way| *way).count();
    if ways > 1 {
        let key: &dyn KeyInfo = if with_location { &LOCATION } else { &PREFIX };
        let refusal = Refusal::new("leads elsewhere than the other keys");
        entries.reject(key, refusal.hint("keep location, prefix, or scheme, host and port"));
        return None;
    }
    if ways == 0 {
        let refusal = Refusal::new("is missing: the redirect leads nowhere");
        entries.reject(&LOCATION, refusal.hint("such as `scheme: https` or `location: /`"));
        return None;
    }
    let is_code = |code: &u16| matches!(code, 301..=303 | 307 | 308);
    let status = match code {
        Some(code) if is_code(&code) => StatusCode::from_u16(code).ok(),
        Some(code) => {
            let refusal = Refusal::new(format!("{code} does not redirect"));
            entries.reject(&CODE, refusal.hint("301, 302, 303, 307 or 308"));
            None
        }
        None => None,
    };
    let good = |is_given: bool, is_good: bool| !is_given || is_good;
    let parts_are_good = good(with_scheme, scheme.is_some())
        && good(with_host, host.is_some())
        && good(with_port, port.is_some());
    let to = if with_location {
        RedirectTo::Location(location?)
    } else if with_prefix {
        RedirectTo::Prefix(prefix?)
    } else if parts_are_good {
        RedirectTo::Parts { scheme, host, port }
    } else {
        return None;
    };
    Some(Redirect { status: status?, to })
}

fn host_template(text: &str) -> Result<Template, Refusal> {
    let template = header_template(text)?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    if text.is_empty() || !template.texts().all(|text| text.bytes().all(good)) {
        return Err(
            Refusal::new(format!("{} is not a host", quoted(text))).hint("such as www.example.com")
        );
    }
    Ok(template)
}

fn url_template(text: &str) -> Result<Template, Refusal> {
    let template = header_template(text)?;
    let odd = |text: &str| text.contains([' ', '"', '<', '>', '\\', '`']) || !text.is_ascii();
    if text.is_empty() || template.texts().any(odd) {
        return Err(Refusal::new(format!("{} is not a URL", quoted(text)))
            .hint("such as /sign-in or https://www.example.com/"));
    }
    Ok(template)
}
