//! Fields that are for one connection and not for the message (RFC 9110, 7.6.1).

use hyper::{
    HeaderMap,
    header::{
        CONNECTION, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRANSFER_ENCODING, UPGRADE,
    },
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Most fields that `Connection` may name; more are an attack.
const MAX_NOMINATED: usize = 32;

/// Fields that `Connection` can not take from a message: without them it means something
/// else (RFC 9110, 7.6.1 on nominating end-to-end fields).
const NEEDED: [&str; 6] =
    ["host", "content-length", "content-type", "authorization", "cookie", "x-forwarded-for"];

/// Fields that are for one connection, in the order of the bits of [`Present`].
const OF_CONNECTION: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
];
/// The bits of all of them.
const ANY_OF_CONNECTION: u16 = 0xff;
/// Those that only requests, and only responses, have for one connection.
const REQUEST_ONLY: u16 = 1 << 5 | 1 << 6;
const RESPONSE_ONLY: u16 = 1 << 7;

/// Which fields a message has of those that matter to the proxy, found in one pass instead of
/// by a look-up for each: most messages have few of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present(u16);

impl Present {
    const CONNECTION: u16 = 1;
    pub(super) const TRANSFER_ENCODING: u16 = 1 << 3;
    pub(super) const UPGRADE: u16 = 1 << 4;
    const TE: u16 = 1 << 5;
    pub(super) const PROXY_AUTHORIZATION: u16 = 1 << 6;
    pub(super) const PROXY_AUTHENTICATE: u16 = 1 << 7;
    pub(super) const CONTENT_LENGTH: u16 = 1 << 8;
    pub(super) const EXPECT: u16 = 1 << 9;
    /// A field in which a client says who it is and how it came, that is not written anew.
    pub(super) const CLAIM: u16 = 1 << 10;
    pub(super) const HOST: u16 = 1 << 11;
    /// Some field, whichever, is there more than once.
    pub(super) const REPEATED: u16 = 1 << 12;

    pub(super) fn of(fields: &HeaderMap) -> Self {
        let bit = |name: &HeaderName| match name.as_str() {
            "connection" => Self::CONNECTION,
            "keep-alive" => 1 << 1,
            "proxy-connection" => 1 << 2,
            "transfer-encoding" => Self::TRANSFER_ENCODING,
            "upgrade" => Self::UPGRADE,
            "te" => Self::TE,
            "proxy-authorization" => Self::PROXY_AUTHORIZATION,
            "proxy-authenticate" => Self::PROXY_AUTHENTICATE,
            "content-length" => Self::CONTENT_LENGTH,
            "expect" => Self::EXPECT,
            "host" => Self::HOST,
            "forwarded" | "x-forwarded-port" | "x-real-ip" => Self::CLAIM,
            _ => 0,
        };
        let repeated = if fields.len() > fields.keys_len() { Self::REPEATED } else { 0 };
        Self(fields.keys().map(bit).fold(repeated, |all, bit| all | bit))
    }

    /// The same, these taken off.
    pub(super) fn without(self, fields: u16) -> Self {
        Self(self.0 & !fields)
    }

    /// Whether there is any of these.
    pub(super) fn has(self, fields: u16) -> bool {
        self.0 & fields != 0
    }
}

/// Takes off those that are `present` and not of `kept`, and the fields that `Connection` names.
/// False if that is not done because the message makes no sense.
fn strip(fields: &mut HeaderMap, present: Present, kept: u16) -> bool {
    let found = present.0 & ANY_OF_CONNECTION & !kept;
    if found & Present::CONNECTION != 0 {
        let names = match present.has(Present::REPEATED) {
            // There may be several of it.
            true => {
                let names = nominated(fields.get_all(CONNECTION));
                fields.remove(CONNECTION);
                names
            }
            false => nominated(fields.remove(CONNECTION).as_ref()),
        };
        let Some(names) = names else { return false };
        for name in names {
            fields.remove(name);
        }
    }
    for (bit, name) in OF_CONNECTION.iter().enumerate().skip(1) {
        if found >> bit & 1 != 0 {
            fields.remove(name);
        }
    }
    true
}

/// Takes off what is for one connection: the fields of the standard, those that
/// `Connection` names, and what is for this proxy. Of `TE` only that trailers are welcome
/// stays. False if that is not done because the message makes no sense.
#[must_use]
pub(super) fn strip_request(fields: &mut HeaderMap, present: Present) -> bool {
    if !present.has(ANY_OF_CONNECTION) {
        return true;
    }
    let te = present.has(Present::TE).then(|| fields.get(TE)).flatten();
    let wants_trailers = te.is_some_and(|te| list(te).any(|item| item == "trailers"));
    if !strip(fields, present, RESPONSE_ONLY) {
        return false;
    }
    if wants_trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
    true
}

/// The same for responses.
#[must_use]
pub(super) fn strip_response(fields: &mut HeaderMap, present: Present) -> bool {
    strip(fields, present, REQUEST_ONLY)
}

/// Takes off what a trailer must not say (RFC 9110, 6.5.1), or could say to a reader that
/// takes trailers for headers: framing, who the client is, what it may.
pub(super) fn strip_trailers(fields: &mut HeaderMap) {
    const NEVER: [&str; 22] = [
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
    ];
    for name in NEVER {
        fields.remove(name);
    }
}

/// Whether `Connection` asks for another protocol.
pub(super) fn wants_upgrade(fields: &HeaderMap) -> bool {
    let mut values = fields.get_all(CONNECTION).iter();
    values.any(|value| list(value).any(|item| item.eq_ignore_ascii_case("upgrade")))
}

/// Whether the protocol asked for is WebSocket, and no other.
pub(super) fn is_websocket(fields: &HeaderMap) -> bool {
    let mut values = fields.get_all(UPGRADE).iter();
    let only = values.next().filter(|_| values.next().is_none());
    only.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The fields that values of `Connection` name; none if they can not be read.
fn nominated<'v>(values: impl IntoIterator<Item = &'v HeaderValue>) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for value in values {
        // What nearly all say, as nearly all write it.
        if matches!(value.as_bytes(), b"keep-alive" | b"close") {
            continue;
        }
        value.to_str().ok()?;
        for item in list(value) {
            // The usual two name no field.
            if ["close", "keep-alive"].iter().any(|usual| item.eq_ignore_ascii_case(usual)) {
                continue;
            }
            let name = HeaderName::from_bytes(item.as_bytes()).ok()?;
            if NEEDED.contains(&name.as_str()) || names.len() == MAX_NOMINATED {
                return None;
            }
            names.push(name);
        }
    }
    Some(names)
}

/// The items of a list; nothing if it is not text.
fn list(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or_default();
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        lines.iter().map(field).collect()
    }

    fn names(fields: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_is_for_one_connection_stays_there() {
        let mut request = fields(&[
            ("host", "a"),
            ("connection", "keep-alive, X-Secret"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip, trailers"),
            ("proxy-authorization", "x"),
            ("accept", "*/*"),
        ]);
        let present = Present::of(&request);
        assert!(strip_request(&mut request, present));
        assert_eq!(names(&request), ["accept", "host", "te"]);
        assert_eq!(request["te"], "trailers");
    }

    #[test]
    fn trailers_say_nothing_that_headers_decide() {
        let mut trailers = fields(&[
            ("content-length", "1"),
            ("transfer-encoding", "chunked"),
            ("X-Forwarded-For", "1.1.1.1"),
            ("Authorization", "x"),
            ("x-sum", "7"),
        ]);
        strip_trailers(&mut trailers);
        assert_eq!(names(&trailers), ["x-sum"]);
    }

    #[test]
    fn connection_can_not_take_what_a_message_needs() {
        for name in ["Host", "content-length", "Cookie", "Authorization", "X-Forwarded-For", "a b"]
        {
            let mut named = fields(&[("connection", name)]);
            let present = Present::of(&named);
            assert!(!strip_request(&mut named, present), "{name}");
        }
        let many = vec!["x"; MAX_NOMINATED + 1].join(",");
        let mut many = fields(&[("connection", &many)]);
        let present = Present::of(&many);
        assert!(!strip_request(&mut many, present));
    }

    #[test]
    fn only_websocket_is_a_protocol_to_change_to() {
        let upgrade = |values: &[(&str, &str)]| {
            let fields = fields(values);
            wants_upgrade(&fields) && is_websocket(&fields)
        };
        assert!(upgrade(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]));
        assert!(!upgrade(&[("upgrade", "websocket")]));
        assert!(!upgrade(&[("connection", "upgrade"), ("upgrade", "h2c")]));
        assert!(!upgrade(&[("connection", "upgrade"), ("upgrade", "websocket, h2c")]));
        assert!(!upgrade(&[
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("upgrade", "h2c")
        ]));
    }
}
