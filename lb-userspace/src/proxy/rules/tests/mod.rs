//! What the rules promise: each condition, each action, the order, and that the index
//! changes nothing but the time.

mod actions;
mod conditions;
mod index;
mod paths;

use hyper::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use super::{Answer, CertificateFacts, ConnectionTls, Decision, End, Facts, RuleSet};
use crate::model::{
    fixture::name,
    name::Name,
    rule::{
        Rule,
        action::{Edit, Ending},
        condition::{Condition, Test},
        template::Template,
    },
};

/// A request, owned, that facts are borrowed from.
#[derive(Clone, Debug)]
struct Request {
    method: Method,
    version: Version,
    target: String,
    authority: String,
    headers: HeaderMap,
    is_websocket: bool,
    client: &'static str,
    sni: Option<&'static str>,
    certificate: bool,
    now: i64,
    random: u64,
    usable: usize,
}

impl Request {
    /// A GET of `target` from `www.example.com` over plain HTTP/1.1.
    fn get(target: &str) -> Self {
        Self {
            method: Method::GET,
            version: Version::HTTP_11,
            target: target.to_owned(),
            authority: "www.example.com".into(),
            headers: HeaderMap::new(),
            is_websocket: false,
            client: "192.0.2.7:50000",
            sni: None,
            certificate: false,
            now: 0,
            random: 0,
            usable: 0,
        }
    }

    fn host(mut self, authority: &str) -> Self {
        self.authority = authority.to_owned();
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    fn tls(mut self, sni: &'static str) -> Self {
        self.sni = Some(sni);
        self
    }

    /// Hands the facts of the request to `f`.
    fn with<T>(&self, f: impl FnOnce(&Facts<'_>) -> T) -> T {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target.as_str(), None),
        };
        let names = ["DNS:alice.example.com".to_owned(), "IP:10.0.0.1".to_owned()];
        let certificate = CertificateFacts {
            subject: "CN=alice, O=Example",
            common_name: Some("alice"),
            issuer: "CN=ca",
            serial: "0a",
            fingerprint: "ff",
            alternative_names: &names,
        };
        let tls = self.sni.map(|sni| ConnectionTls {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            sni: (!sni.is_empty()).then_some(sni),
            alpn: Some(b"h2"),
            client: self.certificate.then_some(certificate),
        });
        let usable = self.usable;
        f(&Facts {
            method: &self.method,
            version: self.version,
            path,
            query,
            authority: &self.authority,
            headers: &self.headers,
            is_websocket: self.is_websocket,
            client: Some(self.client.parse().unwrap()),
            local: Some("198.51.100.1:8080".parse().unwrap()),
            tls,
            id: 0xf00d,
            now: self.now,
            random: self.random,
            usable_servers: &|_: &Name| usable,
        })
    }
}

/// A rule that ends requests at a backend.
fn route(condition: Condition, backend: &str) -> Rule {
    let ending = Some(Ending::Backend(name(backend)));
    Rule { name: None, condition, edits: Vec::new(), ending }
}

/// A rule that changes something for all requests.
fn edit(edit: Edit) -> Rule {
    Rule { name: None, condition: Condition::always(), edits: vec![edit], ending: None }
}

/// A rule that ends all requests like this.
fn end(ending: Ending) -> Rule {
    let condition = Condition::always();
    Rule { name: None, condition, edits: Vec::new(), ending: Some(ending) }
}

/// A template that is known to be one.
fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

/// Whether a test is true for a request.
fn holds(test: Test, request: &Request) -> bool {
    let rules = RuleSet::new(&[route(Condition::Test(test), "hit")]);
    request.with(|facts| matches!(rules.evaluate(facts).end, End::Backend(_)))
}

/// The answer that rules give to a request.
#[track_caller]
fn answer(rules: &[Rule], request: &Request) -> Answer {
    let rules = RuleSet::new(rules);
    request.with(|facts| match rules.evaluate(facts).end {
        End::Answer(answer) => answer,
        other => panic!("no answer: {other:?}"),
    })
}

/// What a decision does, in a form that can be compared.
fn shown(decision: &Decision<'_>) -> String {
    format!("{decision:?}")
}

#[test]
fn the_first_rule_that_ends_a_request_decides_and_edits_before_it_count() {
    use hyper::http::header::{SERVER, VIA};

    use crate::model::rule::action::HeaderEdit;
    let rules = RuleSet::new(&[
        edit(Edit::ResponseHeader(HeaderEdit::Set(SERVER, template("before")))),
        route(Condition::Any(Vec::new()), "never"),
        route(Condition::always(), "first"),
        edit(Edit::ResponseHeader(HeaderEdit::Set(VIA, template("after")))),
        route(Condition::always(), "second"),
    ]);
    Request::get("/").with(|facts| {
        let decision = rules.evaluate(facts);
        assert!(matches!(decision.end, End::Backend(backend) if backend.as_str() == "first"));
        assert_eq!(decision.rule, Some(2));
        let mut headers = HeaderMap::new();
        decision.edits.apply_to_response(&mut headers);
        assert_eq!(headers[SERVER], "before");
        assert_eq!(headers.len(), 1);
    });
}

#[test]
fn without_an_ending_the_default_serves() {
    let rules = RuleSet::new(&[]);
    Request::get("/").with(|facts| {
        let decision = rules.evaluate(facts);
        assert!(matches!(decision.end, End::Default) && decision.rule.is_none());
        assert_eq!(decision.edits.path_and_query().unwrap(), None);
        assert!(decision.edits.error_page(StatusCode::BAD_GATEWAY).is_none());
    });
}
