//! Answers of the proxy itself: denials and pages.

use hyper::{
    body::Bytes,
    http::{HeaderName, HeaderValue, StatusCode, header},
};

use super::{
    super::{
        decision::Answer,
        render::{Escape, render},
        view::View,
    },
    header::value,
};
use crate::model::rule::{
    action::{Body, Content, Respond},
    template::Template,
};

/// An answer, built as far as it is the same for each request.
#[derive(Debug)]
pub(in super::super) struct Responder {
    status: StatusCode,
    headers: Vec<(HeaderName, Template)>,
    content: Option<(HeaderValue, BodySource)>,
}

#[derive(Debug)]
enum BodySource {
    Fixed(Bytes),
    Template(Template, Escape),
}

impl Responder {
    pub(super) fn new(respond: Respond) -> Self {
        let source = |Content { content_type, body }| {
            let escape = escape_of(&content_type);
            let source = match body {
                Body::Fixed(bytes) => BodySource::Fixed(Bytes::copy_from_slice(&bytes)),
                Body::Template(template) => match template.constant() {
                    Some(text) => BodySource::Fixed(Bytes::copy_from_slice(text.as_bytes())),
                    None => BodySource::Template(template, escape),
                },
            };
            (content_type, source)
        };
        Self {
            status: respond.status,
            headers: respond.headers,
            content: respond.content.map(source),
        }
    }

    /// The answer to this request.
    pub(super) fn answer(&self, view: &View<'_>) -> Answer {
        let rendered = self.headers.iter().map(|(name, text)| (name.clone(), value(text, view)));
        let mut headers: Vec<_> = rendered.collect();
        let body = self.content.as_ref().map(|(content_type, source)| {
            headers.push((header::CONTENT_TYPE, content_type.clone()));
            match source {
                BodySource::Fixed(bytes) => bytes.clone(),
                BodySource::Template(template, escape) => render(template, view, *escape).into(),
            }
        });
        Answer { status: self.status, headers, body }
    }
}

/// How values are escaped in content of a type.
fn escape_of(content_type: &HeaderValue) -> Escape {
    let essence = content_type.as_bytes().to_ascii_lowercase();
    let essence = essence.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if essence.ends_with(b"html") || essence.ends_with(b"xml") {
        Escape::Html
    } else if essence.ends_with(b"json") {
        Escape::Json
    } else {
        Escape::Nothing
    }
}
