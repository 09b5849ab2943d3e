//! Headers that are kept until a request is logged.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

use crate::model::access_log::{AccessLog, CapturedNames, Escaped};

/// Headers of one request and its response, as the access log wants them.
#[derive(Debug)]
pub(super) struct Captured {
    log: Arc<AccessLog>,
    request: Box<[Option<HeaderValue>]>,
    response: Box<[Option<HeaderValue>]>,
}

impl Captured {
    /// What the log wants of a request.
    pub(super) fn of_request(log: Arc<AccessLog>, headers: &HeaderMap) -> Box<Self> {
        let request = pick(&log.capture.request, headers);
        Box::new(Self { log, request, response: Box::default() })
    }

    /// Takes what the log wants of a response.
    pub(super) fn take_response(&mut self, headers: &HeaderMap) {
        self.response = pick(&self.log.capture.response, headers);
    }

    /// A header of the request.
    pub(super) fn request(&self, name: &HeaderName) -> Option<Escaped<'_>> {
        let names = &self.log.capture.request;
        self.value(&self.request, names.names.iter().position(|known| known == name)?)
    }

    /// A header of the response.
    pub(super) fn response(&self, name: &HeaderName) -> Option<Escaped<'_>> {
        let names = &self.log.capture.response;
        self.value(&self.response, names.names.iter().position(|known| known == name)?)
    }

    /// Whether every format shows some of them.
    pub(super) fn is_shown(&self) -> bool {
        self.sides().iter().any(|(_, names, _)| names.shown > 0)
    }

    /// ` {A|B} {C}`, those of the request first, as HAProxy has them.
    pub(super) fn braces(&self, f: &mut impl Write) -> fmt::Result {
        for (_, names, values) in self.sides() {
            for index in 0..names.shown {
                f.write_str(if index == 0 { " {" } else { "|" })?;
                if let Some(value) = self.value(values, index) {
                    write!(f, "{value}")?;
                }
            }
            if names.shown > 0 {
                f.write_str("}")?;
            }
        }
        Ok(())
    }

    /// `,"request_headers":{...},"response_headers":{...}`, without those that are missing.
    pub(super) fn json(&self, line: &mut String) -> fmt::Result {
        for (side, names, values) in self.sides() {
            if names.shown == 0 {
                continue;
            }
            write!(line, r#","{side}_headers":{{"#)?;
            let mut separator = "";
            for (index, name) in names.names.iter().take(names.shown).enumerate() {
                if let Some(value) = self.value(values, index) {
                    write!(line, r#"{separator}"{name}":"{value}""#)?;
                    separator = ",";
                }
            }
            line.push('}');
        }
        Ok(())
    }

    fn sides(&self) -> [(&'static str, &CapturedNames, &[Option<HeaderValue>]); 2] {
        let capture = &self.log.capture;
        [
            ("request", &capture.request, &self.request),
            ("response", &capture.response, &self.response),
        ]
    }

    fn value<'a>(&self, values: &'a [Option<HeaderValue>], index: usize) -> Option<Escaped<'a>> {
        let bytes = values.get(index)?.as_ref()?.as_bytes();
        Some(Escaped(&bytes[..bytes.len().min(self.log.capture.max_bytes)]))
    }
}

/// The last header of each name, as HAProxy takes it.
fn pick(names: &CapturedNames, headers: &HeaderMap) -> Box<[Option<HeaderValue>]> {
    names.names.iter().map(|name| headers.get_all(name).iter().next_back().cloned()).collect()
}
