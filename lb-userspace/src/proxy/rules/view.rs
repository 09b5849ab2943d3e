//! A request as conditions and templates see it: path and host in normal form, parameters
//! and cookies by name, and the variables that rules have set so far.

use std::borrow::Cow;

use hyper::http::{HeaderMap, HeaderValue, header};
use percent_encoding::percent_decode;

use super::facts::{CertificateFacts, Facts};
use crate::model::rule::{
    host::normal_host,
    path::{AmbiguousPath, NormalPath},
    share::{ShareBy, address_hash, text_hash},
    template::{CertificateField, VariableName},
};

/// One request during its evaluation.
pub(super) struct View<'a> {
    pub(super) facts: &'a Facts<'a>,
    pub(super) path: NormalPath<'a>,
    pub(super) host: Cow<'a, str>,
    /// The server name, as hosts are compared; empty without one.
    pub(super) sni: Cow<'a, str>,
    /// Set by rules; each name once.
    variables: Vec<(VariableName, Vec<u8>)>,
}

impl<'a> View<'a> {
    /// Brings a request into the form in which it is compared.
    pub(super) fn new(facts: &'a Facts<'a>) -> Result<Self, AmbiguousPath> {
        let sni = facts.tls.and_then(|tls| tls.sni).map(normal_host).unwrap_or_default();
        Ok(Self {
            facts,
            path: NormalPath::new(facts.path)?,
            host: normal_host(facts.authority),
            sni,
            variables: Vec::new(),
        })
    }

    /// The value of a variable that a rule has set.
    pub(super) fn variable(&self, name: &VariableName) -> Option<&[u8]> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Sets a variable.
    pub(super) fn set_variable(&mut self, name: &VariableName, value: Vec<u8>) {
        match self.variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.variables.push((name.clone(), value)),
        }
    }

    /// The decoded values of a parameter of the query.
    pub(super) fn parameters(&self, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
        let pairs = self.facts.query.unwrap_or_default().split('&');
        pairs.filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let is_meant = key == name || *form_decode(key) == *name.as_bytes();
            (is_meant && !pair.is_empty()).then(|| form_decode(value))
        })
    }

    /// The values of a cookie.
    pub(super) fn cookies(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let headers: &'a HeaderMap = self.facts.headers;
        let lines = headers.get_all(header::COOKIE).into_iter().map(HeaderValue::as_bytes);
        let pairs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
        pairs.filter_map(move |pair| {
            let pair = pair.trim_ascii();
            let end = pair.iter().position(|byte| *byte == b'=')?;
            (pair[..end] == *name.as_bytes()).then(|| &pair[end + 1..])
        })
    }

    /// The client's verified certificate.
    pub(super) fn certificate(&self) -> Option<CertificateFacts<'a>> {
        self.facts.tls?.client
    }

    /// The place of the client on the ring that shares are taken from.
    pub(super) fn hash(&self, by: &ShareBy, seed: &str) -> u64 {
        let by_value = match by {
            ShareBy::Request => return text_hash(&self.facts.random.to_ne_bytes(), seed),
            ShareBy::Client => None,
            ShareBy::Header(name) => self.facts.headers.get(name).map(HeaderValue::as_bytes),
            ShareBy::Cookie(name) => self.cookies(name).next(),
        };
        match (by_value, self.facts.client) {
            (Some(value), _) => text_hash(value, seed),
            (None, Some(client)) => address_hash(client.ip(), seed),
            (None, None) => text_hash(b"", seed),
        }
    }
}

/// The values of a field of a certificate.
pub(super) fn certificate_values(
    certificate: CertificateFacts<'_>,
    field: CertificateField,
) -> impl Iterator<Item = &str> {
    let one = match field {
        CertificateField::Subject => Some(certificate.subject),
        CertificateField::CommonName => certificate.common_name,
        CertificateField::Issuer => Some(certificate.issuer),
        CertificateField::Serial => Some(certificate.serial),
        CertificateField::Fingerprint => Some(certificate.fingerprint),
        CertificateField::DnsName => None,
    };
    let names: &[String] = match field {
        CertificateField::DnsName => certificate.alternative_names,
        _ => &[],
    };
    one.into_iter().chain(names.iter().filter_map(|name| name.strip_prefix("DNS:")))
}

/// A part of a query as forms write it: `+` is a space (WHATWG URL, section 5.1).
fn form_decode(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return Cow::Owned(percent_decode(spaced.as_bytes()).collect());
    }
    percent_decode(text.as_bytes()).into()
}
