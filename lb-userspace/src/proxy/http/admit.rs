//! Judges a request before anything else sees it, and gives it the one form in which all
//! else sees it: a target of path and query, and one `Host` (RFC 9112, 3.2 and 3.3; RFC
//! 9113, 8.3).
//!
//! What hyper and h2 refuse does not come here: control bytes, bad names, spaces before
//! colons, folded lines, bare CR, wrong order or case of pseudo-headers.

use hyper::{
    Method, Request, Uri, Version,
    body::Incoming,
    header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING},
    http::uri::{Authority, PathAndQuery, Scheme},
};

use super::{
    headers::{self, Present},
    upgrade::Asked,
};
use crate::model::frontend::HttpLimits;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// `CONNECT` without a protocol, where that is not taken.
    Connect,
    /// The same where it is, with a length or an encoding (RFC 9110, 9.3.6).
    ConnectContent,
    /// `CONNECT` with a protocol other than WebSocket.
    Protocol,
    /// The target is neither path, nor URL, nor `*` with `OPTIONS`.
    Target,
    /// The target is longer than allowed.
    TargetTooLong,
    /// There are more fields than allowed.
    TooManyFields,
    /// There is no `Host`, more than one, or one that names no host.
    Host,
    /// A field of HTTP/2 whose value has white space around it (RFC 9113, 8.2.1).
    Value,
    /// `Host` is not the host of the target.
    OtherHost,
    /// `Connection` can not be read, or names what it must not.
    Connection,
    /// The body is said to be larger than allowed.
    BodyTooLarge,
    /// An expectation other than `100-continue`.
    Expectation,
}

/// Judges a request, of which it is known what is `present`, and gives it its form: a path, or, if
/// it is a `CONNECT` that is taken, a host with its port. What is returned is its `Host`, if it
/// has one.
pub(super) fn admit(
    request: &mut Request<Incoming>,
    mut present: Present,
    limits: &HttpLimits,
    asked: Asked,
) -> Result<Option<HeaderValue>, Refused> {
    let is_http2 = request.version() == Version::HTTP_2;
    let is_connect = asked == Asked::Connect;
    if request.method() == Method::CONNECT {
        match request.extensions().get::<hyper::ext::Protocol>() {
            None if is_http2 && request.uri().authority().is_none() => return Err(Refused::Host),
            None if is_connect => {}
            None => return Err(Refused::Connect),
            // RFC 9220, 3.
            Some(protocol) if protocol.as_str() != "websocket" => return Err(Refused::Protocol),
            Some(_) => {}
        }
    }
    if request.headers().len() > limits.header_count as usize {
        return Err(Refused::TooManyFields);
    }
    if is_http2 && request.headers().values().any(has_space_around) {
        return Err(Refused::Value);
    }
    let target = match is_connect {
        true => request.uri().authority().map_or(0, |target| target.as_str().len()),
        false => request.uri().path_and_query().map_or(0, |target| target.as_str().len()),
    };
    if target > limits.uri_bytes as usize {
        return Err(Refused::TargetTooLong);
    }
    if is_connect {
        if !is_place(request.uri()) {
            return Err(Refused::Target);
        }
        if present.has(Present::CONTENT_LENGTH | Present::TRANSFER_ENCODING) {
            return Err(Refused::ConnectContent);
        }
        // The proxy that it is for is the server.
        present = present.without(Present::PROXY_AUTHORIZATION);
    }
    if present.has(Present::EXPECT) {
        if request.headers().get(EXPECT).is_some_and(|value| !is_continue(value)) {
            return Err(Refused::Expectation);
        }
        request.headers_mut().remove(EXPECT);
    }
    let host = give_one_host(request, present, is_http2)?;
    if !is_connect {
        give_path(request)?;
    }
    if present.has(Present::CONTENT_LENGTH)
        && let Some(length) = request.headers().get(CONTENT_LENGTH)
    {
        // HTTP/1 has been guarded, and h2 holds the frames against it.
        let length = length.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        if length.is_none_or(|length| length > limits.body_bytes) {
            return Err(Refused::BodyTooLarge);
        }
    }
    let fields = request.headers_mut();
    if is_http2 && present.has(Present::REPEATED) {
        join_cookies(fields);
    }
    if is_http2 && present.has(Present::TRANSFER_ENCODING) {
        fields.remove(TRANSFER_ENCODING);
    }
    if !headers::strip_request(fields, present) {
        return Err(Refused::Connection);
    }
    Ok(host)
}

fn has_space_around(value: &HeaderValue) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_space(value.as_bytes().first()) || is_space(value.as_bytes().last())
}

fn is_continue(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"100-continue")
}

/// One `Host`, that of the target if the target has one.
fn give_one_host(
    request: &mut Request<Incoming>,
    present: Present,
    is_http2: bool,
) -> Result<Option<HeaderValue>, Refused> {
    let fields = request.headers();
    if present.has(Present::REPEATED) && fields.get_all(HOST).iter().nth(1).is_some() {
        return Err(Refused::Host);
    }
    let first = present.has(Present::HOST).then(|| fields.get(HOST)).flatten();
    match (first, request.uri().authority()) {
        (Some(host), None) => match is_host(host.as_bytes()) {
            true => Ok(Some(host.clone())),
            false => Err(Refused::Host),
        },
        (None, None) if request.version() == Version::HTTP_10 => Ok(None),
        // HTTP/1.1 demands the field even with a URL; HTTP/2 has `:authority` in its place.
        (None, _) if !is_http2 && request.version() != Version::HTTP_10 => Err(Refused::Host),
        (None, None) => Err(Refused::Host),
        (host, Some(authority)) => {
            if !is_host(authority.as_str().as_bytes()) {
                return Err(Refused::Host);
            }
            let same = |host: &HeaderValue| {
                is_same_host(host.as_bytes(), authority, request.uri().scheme())
            };
            if host.is_some_and(|host| !same(host)) {
                return Err(Refused::OtherHost);
            }
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Refused::Host)?;
            request.headers_mut().insert(HOST, host.clone());
            Ok(Some(host))
        }
    }
}

/// A target of path and query alone.
fn give_path(request: &mut Request<Incoming>) -> Result<(), Refused> {
    let uri = request.uri();
    let is_web = |scheme: &Scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
    if uri.scheme().is_some_and(|scheme| !is_web(scheme)) {
        return Err(Refused::Target);
    }
    let Some(target) = uri.path_and_query() else { return Err(Refused::Target) };
    let is_path = target.as_str().starts_with('/');
    let is_all = target.as_str() == "*" && request.method() == Method::OPTIONS;
    if is_path && uri.authority().is_none() {
        return Ok(());
    }
    let target = match (is_path, is_all) {
        (true, _) | (_, true) => target.clone(),
        // A URL without a path, only a query.
        _ if uri.authority().is_some() && target.as_str().starts_with('?') => {
            // Shown with the path that it does not have.
            PathAndQuery::try_from(target.to_string()).map_err(|_| Refused::Target)?
        }
        _ => return Err(Refused::Target),
    };
    *request.uri_mut() = Uri::from(target);
    Ok(())
}

/// Whether a target is a host with a port and nothing else (RFC 9110, 7.1; RFC 9113, 8.5).
fn is_place(target: &Uri) -> bool {
    let only = target.scheme().is_none() && target.path_and_query().is_none();
    let authority = target.authority().filter(|_| only).map_or("", Authority::as_str);
    let port = authority.rsplit_once(':').map_or("", |(_host, port)| port);
    // Zeros in front are octal to some.
    is_host(authority.as_bytes()) && !port.starts_with('0') && port.parse::<u16>().is_ok()
}

/// Which bytes the name of a host may have (`reg-name` of RFC 3986, 3.2.2).
const IS_OF_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~%!$&'()*+,;=";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

/// Whether a text is a host, perhaps with a port (RFC 3986, 3.2.2 and 3.2.3), and nothing
/// that a server could take for anything else.
fn is_host(text: &[u8]) -> bool {
    let (host, port) = match text.strip_prefix(b"[") {
        Some(rest) => match rest.iter().position(|byte| *byte == b']') {
            Some(end) => {
                let (address, port) = (&rest[..end], &rest[end + 1..]);
                let is_address = std::str::from_utf8(address)
                    .is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
                if !is_address {
                    return false;
                }
                (&b"v6"[..], port)
            }
            None => return false,
        },
        None => {
            let end = text.iter().position(|byte| !IS_OF_NAME[usize::from(*byte)]);
            text.split_at(end.unwrap_or(text.len()))
        }
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && is_port
}

/// Whether a `Host` and the host of a target are the same, the port of the scheme, or that of
/// a `CONNECT`, left out or not.
fn is_same_host(host: &[u8], authority: &Authority, scheme: Option<&Scheme>) -> bool {
    let own = || authority.port().map_or(String::new(), |port| format!(":{port}"));
    let usual = match scheme {
        Some(scheme) if *scheme == Scheme::HTTPS => ":443".into(),
        Some(_) => ":80".into(),
        None => own(),
    };
    let usual = usual.as_bytes();
    let bare = |text: &[u8]| text.strip_suffix(usual).unwrap_or(text).to_ascii_lowercase();
    bare(host) == bare(authority.as_str().as_bytes())
}

/// Several `Cookie` fields into one (RFC 9113, 8.2.3).
fn join_cookies(fields: &mut hyper::HeaderMap) {
    let mut cookies = fields.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        fields.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_with_or_without_a_port() {
        for good in ["a", "a.example:80", "10.0.0.1", "[::1]:8080", "a_b.c", "a:"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in
            ["", ":80", "a b", "a/b", "u@a", "a:80:80", "a:x", "[::1", "[x]", "a,b:c", "a\\b"]
        {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_place_has_a_host_and_a_port_alone() {
        for good in ["a:443", "a.example:1", "[::1]:65535", "10.0.0.1:8080"] {
            assert!(is_place(&good.parse().unwrap()), "{good}");
        }
        for bad in ["a", "[::1]", "a:", "a:0", "a:080", "a:65536", "u@a:443", "u:p@a:1", "/a:1"] {
            assert!(!bad.parse().is_ok_and(|target| is_place(&target)), "{bad}");
        }
        for bad in ["http://a:80", "http://a:80/", "*", "a:80/", "a:80?x"] {
            assert!(!bad.parse().is_ok_and(|target| is_place(&target)), "{bad}");
        }
    }

    #[test]
    fn a_host_may_leave_out_the_usual_port() {
        let connect = |host: &str, authority: &str| {
            is_same_host(host.as_bytes(), &authority.parse().unwrap(), None)
        };
        assert!(connect("a:8443", "A:8443") && connect("a", "a:8443"));
        assert!(!connect("a:443", "a:8443") && !connect("a:80", "a:8443") && !connect("b", "a:1"));
        let same = |host: &str, authority: &str, scheme: &Scheme| {
            is_same_host(host.as_bytes(), &authority.parse().unwrap(), Some(scheme))
        };
        assert!(same("A.example", "a.EXAMPLE:80", &Scheme::HTTP));
        assert!(same("a:443", "a", &Scheme::HTTPS));
        assert!(!same("a:443", "a", &Scheme::HTTP));
        assert!(!same("b", "a", &Scheme::HTTP));
    }
}
