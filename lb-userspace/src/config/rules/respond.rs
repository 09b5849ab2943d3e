//! `deny`, `return` and `error_pages`: answers of the proxy itself.

use hyper::http::{HeaderName, HeaderValue, StatusCode};

use super::{
    super::{
        decode::{Cursor, Entries},
        fault::{Refusal, quoted},
        schema::{Integer, Key, List, Nested, Presence, Section, Shape, Text},
    },
    file::BodyFile,
    header::{HeaderTexts, header_template, template},
    request::header_name,
    shape::{ByName, OneOf, all},
};
use crate::model::rule::{
    action::{Body, Content, ErrorPage, Respond},
    template::Template,
};

/// `deny`.
pub(super) static DENY: Key<AnswerShape> = Key {
    name: "deny",
    shape: AnswerShape { section: &DENY_SECTION, status: &DENY_STATUS },
    presence: Presence::Optional("the request is not denied"),
    doc: "Ends the request: the client is refused. A status alone stands for `{status: STATUS}`.",
};

/// `return`.
pub(super) static RETURN: Key<AnswerShape> = Key {
    name: "return",
    shape: AnswerShape { section: &RETURN_SECTION, status: &RETURN_STATUS },
    presence: Presence::Optional("the proxy does not answer"),
    doc: "Ends the request: the proxy answers. A status alone stands for `{status: STATUS}`.",
};

/// `error_pages`.
pub(super) static ERROR_PAGES: Key<List<Nested<Vec<ErrorPage>>>> = Key {
    name: "error_pages",
    shape: List { item: Nested { section: &PAGE_SECTION, decode: decode_page } },
    presence: Presence::Optional("unchanged"),
    doc: "What clients get when the proxy itself answers with an error, by its status. Answers \
          of servers pass as they are.",
};

static DENY_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].deny",
    doc: "How the client is refused.",
    keys: &[&DENY_STATUS, &BODY, &FILE, &CONTENT_TYPE, &HEADERS],
    unbuilt: &[],
};

static RETURN_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].return",
    doc: "What the proxy answers.",
    keys: &[&RETURN_STATUS, &BODY, &FILE, &CONTENT_TYPE, &HEADERS],
    unbuilt: &[],
};

static PAGE_SECTION: Section = Section {
    path: "frontends.NAME.rules[N].error_pages[N]",
    doc: "A page and the errors it stands in for.",
    keys: &[&PAGE_STATUS, &PAGE_BODY, &FILE, &CONTENT_TYPE],
    unbuilt: &[],
};

static DENY_STATUS: Key<Integer<u16>> = Key {
    name: "status",
    shape: Integer { min: 400, max: 599 },
    presence: Presence::Default("403"),
    doc: "The status code.",
};

static RETURN_STATUS: Key<Integer<u16>> = Key {
    name: "status",
    shape: Integer { min: 200, max: 599 },
    presence: Presence::Default("200"),
    doc: "The status code.",
};

static PAGE_STATUS: Key<OneOf<Integer<u16>>> = Key {
    name: "status",
    shape: OneOf { item: Integer { min: 400, max: 599 } },
    presence: Presence::Required("status: [502, 503, 504]"),
    doc: "The status codes.",
};

static BODY: Key<Text<Template>> = Key {
    name: "body",
    shape: Text { what: "a text with variables", parse: template },
    presence: Presence::Optional("that of `file`, or else of an error page, or else a short text"),
    doc: "The body. Values of variables are escaped as `content_type` asks for (HTML, JSON).",
};

static PAGE_BODY: Key<Text<String>> = Key {
    name: "body",
    shape: Text { what: "a text", parse: |text| Ok(text.to_owned()) },
    presence: Presence::Optional("that of `file`"),
    doc: "The body, without variables.",
};

static FILE: Key<BodyFile> = Key {
    name: "file",
    shape: BodyFile,
    presence: Presence::Optional("`body`"),
    doc: "A file, up to 1 MiB, that is the body, as it is. It is read with the configuration. \
          Not together with `body`.",
};

static CONTENT_TYPE: Key<Text<HeaderValue>> = Key {
    name: "content_type",
    shape: Text { what: "a media type", parse: media_type },
    presence: Presence::Default("text/plain; charset=utf-8"),
    doc: "`Content-Type` of the body.",
};

static HEADERS: Key<HeaderTexts> = Key {
    name: "headers",
    shape: ByName {
        of: "header names",
        name: answer_header,
        item: Text { what: "a text with variables", parse: header_template },
    },
    presence: Presence::Optional("none"),
    doc: "Further headers of the answer.",
};

/// A status or a mapping.
pub(super) struct AnswerShape {
    section: &'static Section,
    status: &'static Key<Integer<u16>>,
}

impl Shape for AnswerShape {
    type Output = Respond;

    fn describe(&self) -> String {
        let Integer { min, max } = self.status.shape;
        format!("status from {min} to {max}, or mapping")
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Respond> {
        if !cursor.value.is_mapping() {
            let status = StatusCode::from_u16(self.status.shape.decode(cursor)?).ok()?;
            return Some(Respond { status, headers: Vec::new(), content: None });
        }
        let entries = cursor.clone().entries(self.section)?;
        let status = entries.get(self.status);
        let body = entries.get(&BODY).map(Body::Template);
        let body = content(&entries, entries.has(&BODY), body);
        let headers = match entries.get(&HEADERS) {
            Some(headers) => all(headers),
            None => (!entries.has(&HEADERS)).then(Vec::new),
        };
        let status = status?;
        // RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5.
        if matches!(status, 204 | 205 | 304) && matches!(&body, Some(Some(_))) {
            return cursor.reject(
                Refusal::new(format!("an answer with status {status} has no body"))
                    .hint("remove `body` or `file`"),
            );
        }
        let status = StatusCode::from_u16(status).ok()?;
        Some(Respond { status, headers: headers?, content: body? })
    }

    fn section(&self) -> Option<&'static Section> {
        Some(self.section)
    }
}

/// The content of an answer: none if it is at fault, none inside if there is none.
fn content(entries: &Entries<'_>, has_body: bool, body: Option<Body>) -> Option<Option<Content>> {
    let file = entries.get(&FILE).map(Body::Fixed);
    let content_type = entries.get(&CONTENT_TYPE);
    if has_body && entries.has(&FILE) {
        let refusal = Refusal::new("is given together with body");
        entries.reject(&FILE, refusal.hint("keep one of the two"));
        return None;
    }
    if !has_body && !entries.has(&FILE) {
        return Some(None);
    }
    Some(Some(Content { content_type: content_type?, body: body.or(file)? }))
}

fn decode_page(entries: &Entries<'_>) -> Option<Vec<ErrorPage>> {
    let statuses = entries.get(&PAGE_STATUS).and_then(all);
    let has_body = entries.has(&PAGE_BODY);
    let body = entries.get(&PAGE_BODY);
    let body = body.map(|text| Body::Fixed(text.into_bytes().into()));
    let content = content(entries, has_body, body)?;
    if content.is_none() {
        let refusal = Refusal::new("is missing: there is no page");
        entries.reject(&FILE, refusal.hint("file: /etc/pointsman/503.html, or body"));
    }
    let Content { content_type, body: Body::Fixed(body) } = content? else { return None };
    let page = |status: u16| {
        let status = StatusCode::from_u16(status).ok()?;
        Some(ErrorPage { status, content_type: content_type.clone(), body: body.clone() })
    };
    statuses?.into_iter().map(page).collect()
}

/// Headers that follow from other keys, or from the body.
const OWN_HEADERS: [&str; 6] =
    ["connection", "content-length", "content-type", "location", "transfer-encoding", "upgrade"];

fn answer_header(text: &str) -> Result<HeaderName, Refusal> {
    let name = header_name(text)?;
    match name.as_str() {
        "content-type" => Err(Refusal::new("the Content-Type has a key of its own")
            .hint("write it as `content_type`")),
        "location" => {
            Err(Refusal::new("an answer with a Location redirects").hint("use `redirect`"))
        }
        own if OWN_HEADERS.contains(&own) => {
            Err(Refusal::new(format!("{} is written by the proxy", quoted(text))).hint("remove it"))
        }
        _ => Ok(name),
    }
}

fn media_type(text: &str) -> Result<HeaderValue, Refusal> {
    let is_one =
        text.split_once('/').is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty());
    match HeaderValue::from_str(text) {
        Ok(value) if is_one && text.is_ascii() => Ok(value),
        _ => Err(Refusal::new(format!("{} is not a media type", quoted(text)))
            .hint("such as text/html; charset=utf-8")),
    }
}
