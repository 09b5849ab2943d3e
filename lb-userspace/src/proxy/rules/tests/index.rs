//! The index changes nothing but the time: on random rules and requests its outcome is that
//! of looking at every rule in turn.

use std::sync::Arc;

use hyper::http::{Method, header};
use proptest::prelude::*;

use super::{Request, route, shown};
use crate::{
    model::{
        fixture::name,
        rule::{
            Rule,
            action::{Edit, Ending, HeaderEdit},
            condition::{Condition, NamedCondition, Test},
            host::HostPattern,
            path::PathPattern,
            text::{Regex, TextPattern},
        },
    },
    proxy::rules::{End, RuleSet, index::Index},
};

fn host() -> impl Strategy<Value = String> {
    "[ab](\\.[ab]){0,2}".prop_map(String::from)
}

fn path() -> impl Strategy<Value = String> {
    "(/[ab]){1,3}/?".prop_map(String::from)
}

fn host_pattern() -> impl Strategy<Value = HostPattern> {
    prop_oneof![
        4 => host().prop_map(|host| HostPattern::exact(&host).unwrap()),
        2 => host().prop_map(|host| HostPattern::suffix(&host).unwrap()),
        1 => host().prop_map(|host| HostPattern::wildcard(&format!("*.{host}")).unwrap()),
        1 => Just(HostPattern::Regex(Regex::new("^a").unwrap())),
    ]
}

fn path_pattern() -> impl Strategy<Value = PathPattern> {
    prop_oneof![
        3 => path().prop_map(|path| PathPattern::exact(&path).unwrap()),
        3 => path().prop_map(|path| PathPattern::prefix(&path).unwrap()),
        1 => Just(PathPattern::prefix("/").unwrap()),
        1 => path().prop_map(|path| PathPattern::suffix(&path).unwrap()),
        1 => Just(PathPattern::Regex(Regex::new("b/$").unwrap())),
    ]
}

fn test() -> impl Strategy<Value = Test> {
    let some = 0..3_usize;
    prop_oneof![
        4 => prop::collection::vec(host_pattern(), some.clone()).prop_map(Test::Host),
        4 => prop::collection::vec(path_pattern(), some).prop_map(Test::Path),
        1 => any::<bool>().prop_map(Test::Tls),
        1 => Just(Test::Method(vec![Method::GET])),
        1 => Just(Test::Header(header::ACCEPT, vec![TextPattern::Present])),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    test().prop_map(Condition::Test).prop_recursive(3, 12, 3, |inner| {
        let several = prop::collection::vec(inner.clone(), 0..3);
        prop_oneof![
            3 => several.clone().prop_map(Condition::All),
            3 => several.prop_map(Condition::Any),
            2 => inner.clone().prop_map(|one| Condition::Not(Box::new(one))),
            1 => inner.prop_map(|condition| {
                // One name stands for one condition.
                let hash = crate::model::rule::share::text_hash(format!("{condition:?}").as_bytes(), "");
                let name = name(&format!("n{hash}"));
                Condition::Named(Arc::new(NamedCondition { name, condition }))
            }),
        ]
    })
}

/// Rules that leave a trace in a header, some of which end the request.
fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = (condition(), prop::bool::weighted(0.3));
    prop::collection::vec(rule, 0..24).prop_map(|rules| {
        let rule = |(number, (condition, ends)): (usize, (Condition, bool))| {
            let trace = super::template(&number.to_string());
            let trace = Edit::RequestHeader(HeaderEdit::Add(header::VIA, trace));
            let ending = ends.then(|| Ending::Backend(name(&format!("b{number}"))));
            Rule { name: None, condition, edits: vec![trace], ending }
        };
        rules.into_iter().enumerate().map(rule).collect()
    })
}

fn request() -> impl Strategy<Value = Request> {
    let path = prop_oneof![4 => path(), 1 => r"/[ab./%]{0,8}".prop_map(String::from)];
    let host = prop_oneof![6 => host(), 1 => r"[aAbB.:]{0,6}".prop_map(String::from)];
    (path, host, any::<[bool; 3]>()).prop_map(|(path, host, [tls, post, accept])| {
        let mut request = Request::get(&path).host(&host);
        request.sni = tls.then_some("a");
        if post {
            request.method = Method::POST;
        }
        if accept { request.header("accept", "*/*") } else { request }
    })
}

proptest! {
    // More if PROPTEST_CASES says so.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(2000)))]

    #[test]
    fn the_outcome_is_that_of_every_rule_in_turn(
        rules in rules(),
        requests in prop::collection::vec(request(), 1..8),
    ) {
        let rules = RuleSet::new(&rules);
        for request in requests {
            request.with(|facts| {
                let indexed = shown(&rules.evaluate(facts));
                prop_assert_eq!(indexed, shown(&rules.evaluate_every_rule(facts)));
                Ok(())
            })?;
        }
    }
}

/// Conditions for a thousand services: host and path of each.
fn services() -> Vec<Condition> {
    let service = |n: usize| {
        let host = HostPattern::exact(&format!("s{}.example.com", n / 10)).unwrap();
        let path = PathPattern::prefix(&format!("/api/v{}", n % 10)).unwrap();
        Condition::All(vec![
            Condition::Test(Test::Path(vec![path])),
            Condition::Test(Test::Host(vec![host])),
        ])
    };
    (0..1000).map(service).collect()
}

#[test]
fn of_a_thousand_services_a_handful_is_looked_at() {
    let conditions = services();
    let index = Index::new(conditions.iter());
    let candidates: Vec<usize> = index.candidates("s42.example.com", b"/api/v7/users").collect();
    assert_eq!(candidates, (420..430).collect::<Vec<_>>());
    assert_eq!(index.candidates("other.example.com", b"/api/v7/users").count(), 0);
    let rules: Vec<Rule> = conditions.into_iter().map(|one| route(one, "hit")).collect();
    let rules = RuleSet::new(&rules);
    Request::get("/api/v7/users").host("S42.example.com:80").with(|facts| {
        let decision = rules.evaluate(facts);
        assert!(matches!(decision.end, End::Backend(_)) && decision.rule == Some(427));
    });
}

#[test]
fn very_deep_hosts_and_paths_are_found() {
    let host = ["a"; 60].join(".");
    let path = "/a".repeat(60);
    let rules = RuleSet::new(&[
        route(Condition::Test(Test::Path(vec![PathPattern::prefix(&path).unwrap()])), "path"),
        route(Condition::Test(Test::Host(vec![HostPattern::suffix(&host).unwrap()])), "host"),
    ]);
    let ends = |path: &str, host: &str| {
        Request::get(path).host(host).with(|facts| rules.evaluate(facts).rule)
    };
    assert_eq!(ends(&format!("{path}/b"), ""), Some(0));
    assert_eq!(ends(&"/a".repeat(59), &format!("b.{host}")), Some(1));
    assert_eq!(ends(&"/a".repeat(59), &["a"; 59].join(".")), None);
}
