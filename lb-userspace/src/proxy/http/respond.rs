//! Responses of our own.

use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};

use super::{
    admit::Refused,
    body::{ResponseBody, UploadFailure},
    outcome::{Cause, Outcome, Phase},
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

    pub(super) const fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// The response.
    pub(super) fn response(self) -> Response<ResponseBody> {
        let text = format!(
            "{} {}\n",
            self.status.as_str(),
            self.status.canonical_reason().unwrap_or("Error")
        );
        let mut response = Response::new(ResponseBody::Whole(Some(Bytes::from(text))));
        *response.status_mut() = self.status;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
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

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let (status, cause, why) = match refused {
            Refused::Connect => (StatusCode::METHOD_NOT_ALLOWED, Cause::Policy, "connect"),
            Refused::Target => (StatusCode::BAD_REQUEST, Cause::Client, "request_target"),
            Refused::TargetTooLong => (StatusCode::URI_TOO_LONG, Cause::Policy, "uri_bytes"),
            Refused::TooManyFields => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Cause::Policy, "header_count")
            }
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
        let (status, cause, why) = match failure {
            UploadFailure::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Cause::Policy, "body_bytes"),
            UploadFailure::Timeout => {
                (StatusCode::REQUEST_TIMEOUT, Cause::ClientTimeout, "client_timeout")
            }
            UploadFailure::TooSlow => {
                (StatusCode::REQUEST_TIMEOUT, Cause::ClientTimeout, "body_rate")
            }
            UploadFailure::Broken => (StatusCode::BAD_REQUEST, Cause::Client, "request_broken"),
        };
        Self::new(status, cause, Phase::Headers, why).closing()
    }
}
