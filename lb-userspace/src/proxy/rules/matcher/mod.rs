//! Conditions, compiled. What has lists of its own is in a file of its own; what is one
//! comparison is here.

mod host;
mod path;
mod text;

use std::{collections::HashMap, sync::Arc};

use hyper::http::{HeaderName, HeaderValue, Method, Version};

use self::{host::HostMatcher, path::PathMatcher, text::TextMatcher};
use super::view::{View, certificate_values};
use crate::model::{
    name::Name,
    rule::{
        condition::{Condition, Test},
        networks::Networks,
        schedule::Schedule,
        share::Share,
        template::{CertificateField, VariableName},
    },
};

/// What a request must be.
#[derive(Debug)]
pub(super) enum Matcher {
    All(Vec<Matcher>),
    Any(Vec<Matcher>),
    Not(Box<Matcher>),
    Shared(Arc<Matcher>),
    Path(PathMatcher),
    Host(HostMatcher),
    Sni(HostMatcher),
    Method(Vec<Method>),
    Header(HeaderName, TextMatcher),
    Query(Box<str>, TextMatcher),
    Cookie(Box<str>, TextMatcher),
    Variable(VariableName, TextMatcher),
    Source(Arc<Networks>),
    DestinationPort(Vec<u16>),
    Tls(bool),
    HasCertificate(bool),
    Certificate(CertificateField, TextMatcher),
    Version(Vec<Version>),
    WebSocket(bool),
    Time(Schedule),
    Share(Share),
    UsableServers { backend: Name, at_least: u32, at_most: u32 },
}

/// Compiles conditions; those with a name once, however many rules use them.
#[derive(Debug, Default)]
pub(super) struct Compiler {
    named: HashMap<Name, Arc<Matcher>>,
}

impl Compiler {
    /// Compiles a condition.
    pub(super) fn compile(&mut self, condition: &Condition) -> Matcher {
        match condition {
            Condition::All(parts) => match &**parts {
                [one] => self.compile(one),
                parts => Matcher::All(self.each(parts)),
            },
            Condition::Any(parts) => match &**parts {
                [one] => self.compile(one),
                parts => Matcher::Any(self.each(parts)),
            },
            Condition::Not(part) => Matcher::Not(Box::new(self.compile(part))),
            Condition::Named(named) => {
                if let Some(matcher) = self.named.get(&named.name) {
                    return Matcher::Shared(Arc::clone(matcher));
                }
                let matcher = Arc::new(self.compile(&named.condition));
                self.named.insert(named.name.clone(), Arc::clone(&matcher));
                Matcher::Shared(matcher)
            }
            Condition::Test(test) => Matcher::of_test(test),
        }
    }

    fn each(&mut self, parts: &[Condition]) -> Vec<Matcher> {
        parts.iter().map(|part| self.compile(part)).collect()
    }
}

impl Matcher {
    fn of_test(test: &Test) -> Self {
        match test.clone() {
            Test::Path(patterns) => Self::Path(PathMatcher::new(patterns)),
            Test::Host(patterns) => Self::Host(HostMatcher::new(patterns)),
            Test::Sni(patterns) => Self::Sni(HostMatcher::new(patterns)),
            Test::Method(methods) => Self::Method(methods),
            Test::Header(name, patterns) => Self::Header(name, TextMatcher::new(patterns)),
            Test::Query(name, patterns) => Self::Query(name, TextMatcher::new(patterns)),
            Test::Cookie(name, patterns) => Self::Cookie(name, TextMatcher::new(patterns)),
            Test::Variable(name, patterns) => Self::Variable(name, TextMatcher::new(patterns)),
            Test::Source(networks) => Self::Source(networks),
            Test::DestinationPort(ports) => Self::DestinationPort(ports),
            Test::Tls(wanted) => Self::Tls(wanted),
            Test::HasCertificate(wanted) => Self::HasCertificate(wanted),
            Test::Certificate(field, patterns) => {
                Self::Certificate(field, TextMatcher::new(patterns))
            }
            Test::Version(versions) => Self::Version(versions),
            Test::WebSocket(wanted) => Self::WebSocket(wanted),
            Test::Time(schedule) => Self::Time(schedule),
            Test::Share(share) => Self::Share(share),
            Test::UsableServers { backend, at_least, at_most } => {
                Self::UsableServers { backend, at_least, at_most }
            }
        }
    }

    /// Whether the request is what it must be.
    pub(super) fn matches(&self, view: &View<'_>) -> bool {
        let facts = view.facts;
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(view)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(view)),
            Self::Not(part) => !part.matches(view),
            Self::Shared(matcher) => matcher.matches(view),
            Self::Path(matcher) => matcher.matches(&view.path.matched),
            Self::Host(matcher) => matcher.matches(&view.host),
            Self::Sni(matcher) => matcher.matches(&view.sni),
            Self::Method(methods) => methods.contains(facts.method),
            Self::Header(name, matcher) => {
                let lines = facts.headers.get_all(name).into_iter();
                matcher.matches_any(lines.map(HeaderValue::as_bytes))
            }
            Self::Query(name, matcher) => matcher.matches_any(view.parameters(name)),
            Self::Cookie(name, matcher) => matcher.matches_any(view.cookies(name)),
            Self::Variable(name, matcher) => matcher.matches_any(view.variable(name).into_iter()),
            Self::Source(networks) => {
                facts.client.is_some_and(|client| networks.contains(client.ip()))
            }
            Self::DestinationPort(ports) => {
                facts.local.is_some_and(|local| ports.contains(&local.port()))
            }
            Self::Tls(wanted) => facts.tls.is_some() == *wanted,
            Self::HasCertificate(wanted) => view.certificate().is_some() == *wanted,
            Self::Certificate(field, matcher) => view.certificate().is_some_and(|certificate| {
                matcher.matches_any(certificate_values(certificate, *field).map(str::as_bytes))
            }),
            Self::Version(versions) => versions.contains(&facts.version),
            Self::WebSocket(wanted) => facts.is_websocket == *wanted,
            Self::Time(schedule) => schedule.contains(facts.now),
            Self::Share(share) => share.holds(view.hash(&share.by, &share.seed)),
            Self::UsableServers { backend, at_least, at_most } => {
                let usable = (facts.usable_servers)(backend);
                (*at_least as usize..=*at_most as usize).contains(&usable)
            }
        }
    }
}
