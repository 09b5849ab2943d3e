//! Actions on headers, and the texts with variables that they and others take.

use hyper::http::{HeaderName, HeaderValue};

use super::{
    super::{
        decode::Entries,
        fault::{Refusal, did_you_mean, quoted},
        schema::{Key, Presence, Text},
    },
    request::header_name,
    shape::{ByName, OneOf, all},
};
use crate::model::rule::{
    action::{Edit, HeaderEdit},
    template::{Template, TemplateError, Variable},
};

/// Header names, each with a text with variables.
pub(super) type HeaderTexts = ByName<HeaderName, Text<Template>>;
type Names = OneOf<Text<HeaderName>>;

const UNCHANGED: Presence = Presence::Optional("unchanged");

const fn texts(
    name: &'static str,
    parse_name: fn(&str) -> Result<HeaderName, Refusal>,
    doc: &'static str,
) -> Key<HeaderTexts> {
    let item = Text { what: "a text with variables", parse: header_template };
    let shape = ByName { of: "header names", name: parse_name, item };
    Key { name, shape, presence: UNCHANGED, doc }
}

const fn names(
    name: &'static str,
    parse: fn(&str) -> Result<HeaderName, Refusal>,
    doc: &'static str,
) -> Key<Names> {
    let shape = OneOf { item: Text { what: "a header name", parse } };
    Key { name, shape, presence: UNCHANGED, doc }
}

pub(super) static REMOVE_REQUEST: Key<Names> =
    names("remove_request_header", edited_header, "Headers that the server does not get.");
pub(super) static SET_REQUEST: Key<HeaderTexts> = texts(
    "set_request_header",
    request_header,
    "Headers that the server gets with this value and no other. `Host` can be set, too.",
);
pub(super) static ADD_REQUEST: Key<HeaderTexts> =
    texts("add_request_header", edited_header, "Headers that the server gets one more line of.");
pub(super) static REMOVE_RESPONSE: Key<Names> = names(
    "remove_response_header",
    edited_header,
    "Headers that the client does not get, whoever answers.",
);
pub(super) static SET_RESPONSE: Key<HeaderTexts> = texts(
    "set_response_header",
    edited_header,
    "Headers that the client gets with this value and no other, whoever answers: a server, a \
     later rule, or the proxy with an error.",
);
pub(super) static ADD_RESPONSE: Key<HeaderTexts> = texts(
    "add_response_header",
    edited_header,
    "Headers that the client gets one more line of, whoever answers.",
);

/// Reads the edits of headers, in the order in which they are made.
pub(super) fn decode(entries: &Entries<'_>, edits: &mut Vec<Option<Edit>>) {
    remove(entries, &REMOVE_REQUEST, Edit::RequestHeader, edits);
    write(entries, &SET_REQUEST, |n, t| Edit::RequestHeader(HeaderEdit::Set(n, t)), edits);
    write(entries, &ADD_REQUEST, |n, t| Edit::RequestHeader(HeaderEdit::Add(n, t)), edits);
    remove(entries, &REMOVE_RESPONSE, Edit::ResponseHeader, edits);
    write(entries, &SET_RESPONSE, |n, t| Edit::ResponseHeader(HeaderEdit::Set(n, t)), edits);
    write(entries, &ADD_RESPONSE, |n, t| Edit::ResponseHeader(HeaderEdit::Add(n, t)), edits);
}

fn remove(
    entries: &Entries<'_>,
    key: &'static Key<Names>,
    edit: fn(HeaderEdit) -> Edit,
    edits: &mut Vec<Option<Edit>>,
) {
    if entries.has(key) {
        match entries.get(key).and_then(all) {
            Some(names) => {
                edits.extend(names.into_iter().map(|name| Some(edit(HeaderEdit::Remove(name)))));
            }
            None => edits.push(None),
        }
    }
}

fn write(
    entries: &Entries<'_>,
    key: &'static Key<HeaderTexts>,
    edit: fn(HeaderName, Template) -> Edit,
    edits: &mut Vec<Option<Edit>>,
) {
    if entries.has(key) {
        match entries.get(key) {
            Some(pairs) => {
                edits.extend(pairs.into_iter().map(|pair| pair.map(|(n, t)| edit(n, t))));
            }
            None => edits.push(None),
        }
    }
}

/// Headers that belong to one connection (RFC 9110 section 7.6.1, RFC 9112 section 6).
const OWN_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn request_header(text: &str) -> Result<HeaderName, Refusal> {
    let name = header_name(text)?;
    if OWN_HEADERS.contains(&name.as_str()) {
        let message = format!("{} is written by the proxy", quoted(text));
        return Err(Refusal::new(message).hint("remove it"));
    }
    Ok(name)
}

fn edited_header(text: &str) -> Result<HeaderName, Refusal> {
    let name = request_header(text)?;
    if name == hyper::http::header::HOST {
        return Err(
            Refusal::new("a request has one Host header").hint("set it with `set_request_header`")
        );
    }
    Ok(name)
}

/// A text with variables for the value of a header.
pub(super) fn header_template(text: &str) -> Result<Template, Refusal> {
    let template = template(text)?;
    if template.texts().any(|text| HeaderValue::from_str(text).is_err()) {
        return Err(Refusal::new(format!("{} is not a header value", quoted(text)))
            .hint("it has no line breaks and no control characters"));
    }
    Ok(template)
}

/// A text with variables.
pub(super) fn template(text: &str) -> Result<Template, Refusal> {
    Template::parse(text).map_err(|error| match &error {
        TemplateError::Unknown(name) => {
            let known: Vec<String> = Variable::names().collect();
            let refusal = Refusal::new(format!("there is no variable {}", quoted(name)));
            match did_you_mean(name, known.iter().map(String::as_str)) {
                Some(meant) => refusal.hint(format!("did you mean {}?", quoted(meant))),
                None => refusal.hint("`$${` writes a dollar sign and a brace"),
            }
        }
        TemplateError::Unclosed => {
            Refusal::new(error.to_string()).hint("`$${` writes a dollar sign and a brace")
        }
        TemplateError::Length | TemplateError::Variables => Refusal::new(error.to_string()),
    })
}
