//! Redirects (RFC 9110, section 15.4).
//!
//! What leads the client to another site is what the rule says and the client's own host,
//! never a parameter or a path: those are escaped, and a location can not come to start with
//! two slashes, which would make a host of what follows.

use hyper::http::{HeaderValue, header};

use super::super::{
    decision::{Answer, Refusal},
    render::{Escape, render, scheme},
    view::View,
};
use crate::model::rule::{
    action::{Redirect, RedirectTo, Scheme},
    template::{Part, Template},
};

/// The answer that sends the client elsewhere.
pub(super) fn answer(redirect: &Redirect, view: &View<'_>) -> Result<Answer, Refusal> {
    let location = match &redirect.to {
        RedirectTo::Location(template) => one_slash(template, render(template, view, Escape::Url)),
        RedirectTo::Prefix(template) => {
            let mut location = render(template, view, Escape::Url);
            location.pop_if(|last| *last == b'/');
            location.extend_from_slice(uri(view).as_bytes());
            one_slash(template, location)
        }
        RedirectTo::Parts { scheme, host, port } => {
            parts(*scheme, host.as_ref(), *port, view)?.into_bytes()
        }
    };
    let location = HeaderValue::from_bytes(&location).map_err(|_| Refusal::Host)?;
    Ok(Answer { status: redirect.status, headers: vec![(header::LOCATION, location)], body: None })
}

fn parts(
    new_scheme: Option<Scheme>,
    host: Option<&Template>,
    port: Option<u16>,
    view: &View<'_>,
) -> Result<String, Refusal> {
    let scheme = new_scheme.map_or_else(|| scheme(view), Scheme::as_str);
    let rendered = host.map(|host| render(host, view, Escape::Url));
    let host = match &rendered {
        Some(host) => std::str::from_utf8(host).map_err(|_| Refusal::Host)?,
        None => &*view.host,
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    if host.is_empty() || !host.bytes().all(good) {
        return Err(Refusal::Host);
    }
    // A new scheme is spoken on another port, a new host on a port of its own.
    let own_port = || match (new_scheme, &rendered) {
        (None, None) => own_port(view.facts.authority),
        _ => None,
    };
    let port = port
        .or_else(own_port)
        .filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    Ok(format!("{scheme}://{host}{port}{}", uri(view)))
}

/// The port of an authority.
fn own_port(authority: &str) -> Option<u16> {
    let (host, port) = authority.rsplit_once(':')?;
    // Not the tail of an IPv6 address.
    (!host.starts_with('[') || host.ends_with(']')).then(|| port.parse().ok()).flatten()
}

/// Path and query of the request, as a URL has them.
fn uri(view: &View<'_>) -> String {
    let path = match &*view.path.clean {
        "*" => "/",
        path => path,
    };
    match view.facts.query {
        Some(query) => format!("{path}?{}", super::super::render::escape_url(query.as_bytes())),
        None => path.to_owned(),
    }
}

/// Leaves one slash at the start, unless the rule itself starts with two.
fn one_slash(template: &Template, location: Vec<u8>) -> Vec<u8> {
    let meant = matches!(template.parts.first(), Some(Part::Text(text)) if text.starts_with("//"));
    let slashes = location.iter().take_while(|byte| matches!(byte, b'/' | b'\\')).count();
    if meant || slashes < 2 {
        return location;
    }
    let mut short = vec![b'/'];
    short.extend_from_slice(&location[slashes..]);
    short
}
