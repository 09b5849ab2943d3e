//! Responses of our own.

use std::sync::Arc;

use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use lb_common::drop_reason::DropReason;

use super::{
    admit::Refused,
    body::{ResponseBody, UploadFailure},
};
use crate::{
    model::rule::action::ErrorPage,
    proxy::{
        outcome::{Cause, Outcome, Phase},
        rules::{Answer, Edits, Refusal},
    },
};

/// Why a request is not answered by a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) outcome: Outcome,
    /// What comes next on the connection can not be trusted to be a request.
    pub(super) closes: bool,
}

impl Failure {
    pub(super) const fn new(
        status: StatusCode,
        cause: Cause,
        phase: Phase,
        why: &'static str,
    ) -> Self {
        Self { status, outcome: Outcome::new(cause, phase, why), closes: false }
    }

    /// For a client that the lists do not let in any more.
    pub(super) const fn expelled(reason: DropReason) -> Self {
        let why = reason.name();
        Self::new(StatusCode::FORBIDDEN, Cause::Policy, Phase::Request, why).closing()
    }

    pub(super) const fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// Whether what came was no request at all.
    pub(super) fn is_of_malformed_request(self) -> bool {
        self.closes && self.status == StatusCode::BAD_REQUEST
    }

    /// The response, or the page that a rule has for it.
    pub(super) fn response(self, edits: &Edits) -> Response<ResponseBody> {
        let (content_type, body) = page(self.status, edits);
        let mut response = Response::new(ResponseBody::Whole(Some(body)));
        *response.status_mut() = self.status;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, content_type);
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                fields.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                fields.insert(ALLOW, HeaderValue::from_static(""));
            }
            _ => {}
        }
        if self.closes {
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// What is said over HTTP/1.1 in place of an answer to a request whose header does not come to
/// its end.
pub(super) fn timed_out(pages: &[Arc<[ErrorPage]>]) -> Vec<u8> {
    let edits = Edits::with_pages(pages);
    let mut answer = b"HTTP/1.1 408 Request Timeout\r\n".to_vec();
    let page = edits.error_page(StatusCode::REQUEST_TIMEOUT);
    if let Some(page) = page {
        answer.extend([b"content-type: ", page.content_type.as_bytes(), b"\r\n"].concat());
    }
    let body = page.map_or(&[][..], |page| &page.body);
    let end = format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    answer.extend([end.as_bytes(), body].concat());
    answer
}

/// The answer of a rule.
pub(super) fn of_rule(answer: Answer, edits: &Edits) -> Response<ResponseBody> {
    let Answer { status, headers, body } = answer;
    let is_error = status.is_client_error() || status.is_server_error();
    let (content_type, body) = match body {
        Some(body) => (None, body),
        None if is_error => {
            let (content_type, body) = page(status, edits);
            (Some(content_type), body)
        }
        None => (None, Bytes::new()),
    };
    let mut response = Response::new(match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => ResponseBody::Empty,
        _ => ResponseBody::Whole(Some(body)),
    });
    *response.status_mut() = status;
    let fields = response.headers_mut();
    if let Some(content_type) = content_type {
        fields.insert(CONTENT_TYPE, content_type);
    }
    for (name, value) in headers {
        fields.append(name, value);
    }
    response
}

/// What is said with a status: the page of a rule, or the status in words.
fn page(status: StatusCode, edits: &Edits) -> (HeaderValue, Bytes) {
    if let Some(page) = edits.error_page(status) {
        return (page.content_type.clone(), Bytes::copy_from_slice(&page.body));
    }
    let reason = status.canonical_reason().unwrap_or("Error");
    let text = format!("{} {reason}\n", status.as_str());
    (HeaderValue::from_static("text/plain"), Bytes::from(text))
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let why = match refusal {
            Refusal::Path(_) => "ambiguous_path",
            Refusal::Rewrite => "rewritten_path",
            Refusal::Host => "redirect_host",
        };
        Self::new(StatusCode::BAD_REQUEST, Cause::Client, Phase::Request, why)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let (status, cause, why) = match refused {
            Refused::Connect => (StatusCode::METHOD_NOT_ALLOWED, Cause::Policy, "connect"),
            Refused::ConnectContent => (StatusCode::BAD_REQUEST, Cause::Client, "connect_content"),
            Refused::Protocol => (StatusCode::NOT_IMPLEMENTED, Cause::Policy, "protocol"),
            Refused::Target => (StatusCode::BAD_REQUEST, Cause::Client, "request_target"),
            Refused::TargetTooLong => (StatusCode::URI_TOO_LONG, Cause::Policy, "uri_bytes"),
            Refused::TooManyFields => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Cause::Policy, "header_count")
            }
            Refused::Value => (StatusCode::BAD_REQUEST, Cause::Client, "field_value"),
            Refused::Host => (StatusCode::BAD_REQUEST, Cause::Client, "host"),
            Refused::OtherHost => (StatusCode::BAD_REQUEST, Cause::Client, "other_host"),
            Refused::Connection => (StatusCode::BAD_REQUEST, Cause::Client, "connection_field"),
            Refused::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Cause::Policy, "body_bytes"),
            Refused::Expectation => (StatusCode::EXPECTATION_FAILED, Cause::Client, "expectation"),
        };
        Self::new(status, cause, Phase::Request, why).closing()
    }
}

impl From<UploadFailure> for Failure {
    fn from(failure: UploadFailure) -> Self {
        let status = match failure {
            UploadFailure::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            UploadFailure::Timeout | UploadFailure::TooSlow => StatusCode::REQUEST_TIMEOUT,
            UploadFailure::Broken => StatusCode::BAD_REQUEST,
        };
        let (cause, why) = failure.blame();
        Self::new(status, cause, Phase::Headers, why).closing()
    }
}
