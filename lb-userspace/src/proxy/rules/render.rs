//! Templates to text. What a client sent is escaped for the place where it goes, so that it
//! can end neither a header nor an element nor a string, nor lead to another site.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_encode};

use super::view::{View, certificate_values};
use crate::model::rule::template::{Part, Template, Variable};

/// Most bytes that all variables of one text bring in; the rest is cut off. Bounds what
/// variables of variables can grow to.
const MAX_VALUES: usize = 8 << 10;

/// Where a text goes, and so what is escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// A variable: nothing is escaped until it is used.
    Nothing,
    /// The value of a header: control characters are percent-encoded.
    Header,
    /// A part of a URL: everything that has a meaning in one is percent-encoded, save in
    /// variables that are URLs or parts of them.
    Url,
    /// HTML.
    Html,
    /// The inside of a JSON string.
    Json,
}

/// What a URL can not hold as it is (RFC 3986, section 2).
const NOT_IN_URL: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Everything that means something in a URL.
const NOT_IN_COMPONENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a host can not hold; the brackets and colons are those of IPv6 addresses.
const NOT_IN_HOST: &AsciiSet = &NOT_IN_COMPONENT.remove(b'[').remove(b']').remove(b':');

/// The text of a template for a request.
pub(super) fn render(template: &Template, view: &View<'_>, escape: Escape) -> Vec<u8> {
    let (mut text, mut room) = (Vec::new(), MAX_VALUES);
    for part in &template.parts {
        match part {
            Part::Text(literal) => text.extend_from_slice(literal.as_bytes()),
            Part::Variable { variable, default } => match value(variable, view) {
                Some(value) if !value.is_empty() => {
                    let value = &value[..value.len().min(room)];
                    room -= value.len();
                    append(&mut text, variable, value, escape);
                }
                _ => text.extend_from_slice(default.as_bytes()),
            },
        }
    }
    text
}

/// Replaces what a URL can not hold.
pub(super) fn escape_url(text: &[u8]) -> String {
    percent_encode(text, NOT_IN_URL).collect()
}

fn append(text: &mut Vec<u8>, variable: &Variable, value: &[u8], escape: Escape) {
    match escape {
        Escape::Nothing => text.extend_from_slice(value),
        Escape::Header => {
            append_encoded(text, value, |byte| byte != b'\t' && byte.is_ascii_control());
        }
        Escape::Url => {
            let set = match variable {
                Variable::Path | Variable::Query | Variable::Uri | Variable::Set(_) => NOT_IN_URL,
                Variable::Host => NOT_IN_HOST,
                _ => NOT_IN_COMPONENT,
            };
            percent_encode(value, set).for_each(|piece| text.extend_from_slice(piece.as_bytes()));
        }
        Escape::Html => {
            for byte in value {
                match byte {
                    b'&' => text.extend_from_slice(b"&amp;"),
                    b'<' => text.extend_from_slice(b"&lt;"),
                    b'>' => text.extend_from_slice(b"&gt;"),
                    b'"' => text.extend_from_slice(b"&quot;"),
                    b'\'' => text.extend_from_slice(b"&#39;"),
                    _ => text.push(*byte),
                }
            }
        }
        Escape::Json => {
            let quoted = serde_json::Value::from(String::from_utf8_lossy(value)).to_string();
            text.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
        }
    }
}

fn append_encoded(text: &mut Vec<u8>, value: &[u8], is_odd: impl Fn(u8) -> bool) {
    for byte in value {
        if is_odd(*byte) {
            text.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            text.push(*byte);
        }
    }
}

/// The value of a variable; none if the request has none.
fn value<'v>(variable: &Variable, view: &'v View<'_>) -> Option<Cow<'v, [u8]>> {
    fn borrowed(text: &str) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(text.as_bytes()))
    }
    fn shown(text: &impl ToString) -> Cow<'static, [u8]> {
        text.to_string().into_bytes().into()
    }
    let facts = view.facts;
    match variable {
        Variable::ClientAddress => facts.client.map(|client| shown(&client.ip().to_canonical())),
        Variable::ClientPort => facts.client.map(|client| shown(&client.port())),
        Variable::LocalAddress => facts.local.map(|local| shown(&local.ip().to_canonical())),
        Variable::LocalPort => facts.local.map(|local| shown(&local.port())),
        Variable::RequestId => Some(shown(&format_args!("{:032x}", facts.id))),
        Variable::Method => borrowed(facts.method.as_str()),
        Variable::Scheme => borrowed(scheme(view)),
        Variable::Host => borrowed(&view.host),
        Variable::Path => borrowed(&view.path.clean),
        Variable::Query => borrowed(facts.query?),
        Variable::Uri => match facts.query {
            Some(query) => Some(shown(&format_args!("{}?{query}", view.path.clean))),
            None => borrowed(&view.path.clean),
        },
        Variable::Version => {
            let shown = format!("{:?}", facts.version);
            let number = shown.trim_start_matches("HTTP/").trim_end_matches(".0");
            // Version 1.0 keeps its zero.
            let number = if number == "1" { "1.0" } else { number };
            Some(Cow::Owned(number.as_bytes().to_vec()))
        }
        Variable::Header(name) => Some(facts.headers.get(name)?.as_bytes().into()),
        Variable::Cookie(name) => Some(view.cookies(name).next()?.into()),
        Variable::Parameter(name) => view.parameters(name).next(),
        Variable::Sni => borrowed(facts.tls?.sni?),
        Variable::TlsVersion => borrowed(facts.tls?.version),
        Variable::TlsCipher => borrowed(facts.tls?.cipher),
        Variable::TlsAlpn => Some(facts.tls?.alpn?.into()),
        Variable::Certificate(field) => {
            borrowed(certificate_values(view.certificate()?, *field).next()?)
        }
        Variable::Set(name) => Some(view.variable(name)?.into()),
    }
}

/// The scheme the client used.
pub(super) fn scheme(view: &View<'_>) -> &'static str {
    if view.facts.tls.is_some() { "https" } else { "http" }
}
