//! Fields in which a proxy says who the client is: believed of those that are trusted, and of
//! nobody else.

use std::net::{IpAddr, SocketAddr};

use hyper::{
    HeaderMap,
    header::{FORWARDED, HeaderName, HeaderValue},
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The client that a trusted proxy asks for, by `X-Forwarded-For`: the last address there that
/// is not trusted itself, for whoever is trusted has written down where it got the request
/// from. What comes before that address, or before what is no address, anybody may have
/// written. `Forwarded` is not looked at: proxies that write the one let the other pass.
pub(super) fn client_behind(
    fields: &HeaderMap,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut client = None;
    for value in fields.get_all(X_FORWARDED_FOR).iter().rev() {
        // Of bytes: what somebody wrote before a trusted proxy did need not be text, and must not
        // hide what that one has added.
        for item in value.as_bytes().rsplit(|byte| *byte == b',') {
            let item = std::str::from_utf8(item.trim_ascii());
            let Some(address) = item.ok().and_then(address) else { return client };
            client = Some(address);
            if !is_trusted(address) {
                return client;
            }
        }
    }
    client
}

/// An address, with a port or without; IPv6 in brackets or without.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse().map(|address: SocketAddr| address.ip());
    bare.parse().or_else(|_| with_port()).ok().map(|address: IpAddr| address.to_canonical())
}

/// What a client is called in these fields: its address, or that there is none, of a unix socket
/// (RFC 7239 section 6.2).
pub(super) fn name_of(client: Option<IpAddr>) -> HeaderValue {
    client
        .and_then(|address| HeaderValue::try_from(address.to_string()).ok())
        .unwrap_or(HeaderValue::from_static("unknown"))
}

/// Says who the client is and how it connected, in place of what it says of itself. `claims`:
/// it may say so in fields that are not written here.
pub(super) fn set(
    fields: &mut HeaderMap,
    client: &HeaderValue,
    is_tls: bool,
    host: Option<HeaderValue>,
    claims: bool,
) {
    if claims {
        for name in [FORWARDED, X_FORWARDED_PORT, X_REAL_IP] {
            fields.remove(name);
        }
    }
    fields.insert(X_FORWARDED_FOR, client.clone());
    fields.insert(X_FORWARDED_PROTO, scheme(is_tls));
    match host {
        Some(host) => fields.insert(X_FORWARDED_HOST, host),
        None => fields.remove(X_FORWARDED_HOST),
    };
}

/// Adds the client to what it says, as a proxy that is trusted, of who is behind it.
/// `Forwarded` (RFC 7239) is carried on, not begun.
pub(super) fn extend(
    fields: &mut HeaderMap,
    client: &HeaderValue,
    is_tls: bool,
    host: Option<HeaderValue>,
) {
    append(fields, &X_FORWARDED_FOR, client.as_bytes());
    let scheme = scheme(is_tls);
    if fields.contains_key(FORWARDED) {
        let client = client.to_str().unwrap_or("unknown");
        // An IPv6 address is in brackets, which need quotes.
        let client =
            if client.contains(':') { format!("\"[{client}]\"") } else { client.to_owned() };
        let scheme = if is_tls { "https" } else { "http" };
        append(fields, &FORWARDED, format!("for={client};proto={scheme}").as_bytes());
    }
    fields.entry(X_FORWARDED_PROTO).or_insert(scheme);
    if let Some(host) = host {
        fields.entry(X_FORWARDED_HOST).or_insert(host);
    }
}

fn scheme(is_tls: bool) -> HeaderValue {
    HeaderValue::from_static(if is_tls { "https" } else { "http" })
}

/// Adds an item to a list and makes it one field: many servers look at the first alone.
fn append(fields: &mut HeaderMap, name: &HeaderName, item: &[u8]) {
    let all: Vec<&[u8]> =
        fields.get_all(name).iter().map(HeaderValue::as_bytes).chain([item]).collect();
    // Of good values it is one.
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b", "[..])) {
        fields.insert(name, joined);
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HOST;

    use super::*;

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        lines.iter().map(field).collect()
    }

    #[test]
    fn a_client_of_a_unix_socket_is_unknown() {
        assert_eq!(name_of(crate::proxy::socket::Addresses::NONE.peer()), "unknown");
        assert_eq!(name_of("2001:db8::1".parse().ok()), "2001:db8::1");
        // What it says of itself counts for as little as what others say.
        let mut fields = fields(&[("x-forwarded-for", "192.0.2.1")]);
        set(&mut fields, &name_of(None), false, None, true);
        assert_eq!(fields["x-forwarded-for"], "unknown");
    }

    #[test]
    fn a_trusted_proxy_tells_its_client_and_nobody_tells_more() {
        let check = |values: &[&str], expected: Option<&str>| {
            let lines: Vec<_> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
            let trusted = |address: IpAddr| address.to_string().starts_with("10.");
            let found = client_behind(&fields(&lines), trusted);
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{values:?}");
        };
        check(&[], None);
        check(&["192.0.2.1"], Some("192.0.2.1"));
        // Behind two proxies, and what the client wrote itself.
        check(&["6.6.6.6, 192.0.2.1, 10.0.0.2"], Some("192.0.2.1"));
        check(&["6.6.6.6", "192.0.2.1,10.0.0.2 , 10.0.0.3"], Some("192.0.2.1"));
        // From within, all the way.
        check(&["10.0.0.9, 10.0.0.2"], Some("10.0.0.9"));
        check(&["2001:db8::1"], Some("2001:db8::1"));
        check(&["[2001:db8::1]:443"], Some("2001:db8::1"));
        check(&["[2001:db8::1]"], Some("2001:db8::1"));
        check(&["192.0.2.1:4711"], Some("192.0.2.1"));
        check(&["::ffff:192.0.2.1"], Some("192.0.2.1"));
        // What is no address hides what is before it.
        check(&["192.0.2.1, unknown"], None);
        check(&["192.0.2.1, unknown, 10.0.0.2"], Some("10.0.0.2"));
        check(&["192.0.2.1,"], None);
        check(&["192.0.2.1:x"], None);
    }

    #[test]
    fn bytes_that_are_no_text_hide_only_what_is_before_them() {
        let check = |value: &[u8], expected: Option<&str>| {
            let value = HeaderValue::from_bytes(value).unwrap();
            let fields = HeaderMap::from_iter([(X_FORWARDED_FOR, value)]);
            let trusted = |address: IpAddr| address.to_string().starts_with("10.");
            let found = client_behind(&fields, trusted);
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{fields:?}");
        };
        check(b"\xff, 192.0.2.1", Some("192.0.2.1"));
        check(b"6.6.6.6, caf\xc3\xa9, 192.0.2.1, 10.0.0.2", Some("192.0.2.1"));
        check(b"192.0.2.1, \xff, 10.0.0.2", Some("10.0.0.2"));
        check(b"192.0.2.1, \xff", None);
        // Whoever is trusted or not, nothing of it is lost or left out.
        for name in [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, FORWARDED] {
            let value = HeaderValue::from_bytes(b"\xff").unwrap();
            let client = HeaderValue::from_static("10.0.0.9");
            let mut fields = HeaderMap::from_iter([(name.clone(), value)]);
            extend(&mut fields, &client, false, None);
            let last = fields.get(X_FORWARDED_FOR).unwrap().as_bytes();
            assert!(last.ends_with(b"10.0.0.9"), "{name}");
            set(&mut fields, &client, false, None, true);
            assert!(fields.values().all(|value| value.to_str().is_ok()), "{fields:?}");
        }
    }

    #[test]
    fn what_a_client_says_of_itself_is_replaced() {
        let mut request = fields(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-port", "1"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
        ]);
        let host = HeaderValue::from_static("a");
        request.insert(HOST, host.clone());
        set(&mut request, &HeaderValue::from_static("10.0.0.9"), false, Some(host), true);
        let expected = fields(&[
            ("host", "a"),
            ("x-forwarded-for", "10.0.0.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a"),
        ]);
        assert_eq!(request, expected);
    }

    #[test]
    fn what_a_trusted_proxy_says_is_carried_on() {
        let mut request = fields(&[
            ("host", "a"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-for", "192.0.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1"),
        ]);
        let host = request.get(HOST).cloned();
        extend(&mut request, &HeaderValue::from_static("2001:db8::9"), false, host);
        let expected = fields(&[
            ("host", "a"),
            ("x-forwarded-for", "192.0.2.1, 192.0.2.2, 2001:db8::9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a"),
            ("x-real-ip", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1, for=\"[2001:db8::9]\";proto=http"),
        ]);
        assert_eq!(request, expected);
        let mut bare = fields(&[]);
        extend(&mut bare, &HeaderValue::from_static("10.0.0.9"), true, None);
        let expected = fields(&[("x-forwarded-for", "10.0.0.9"), ("x-forwarded-proto", "https")]);
        assert_eq!(bare, expected);
    }
}
