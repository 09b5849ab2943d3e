//! Each condition: what it holds for and what it does not.

use std::sync::Arc;

use hyper::http::{HeaderName, Method, Version, header};

use super::{Request, holds, route};
use crate::{
    model::{
        fixture::name,
        rule::{
            action::Edit,
            condition::{Condition, NamedCondition, Test},
            host::HostPattern,
            networks::Networks,
            schedule::{DAY, Schedule},
            share::{Share, ShareBy},
            template::{CertificateField, VariableName},
            text::{Regex, TextPattern},
        },
    },
    proxy::rules::{End, RuleSet},
};

fn exact(text: &str) -> Vec<TextPattern> {
    vec![TextPattern::Exact(text.into())]
}

#[test]
fn hosts_are_compared_without_port_case_and_trailing_dot() {
    let test = || Test::Host(vec![HostPattern::exact("api.example.com").unwrap()]);
    for host in ["api.example.com", "API.Example.COM:8443", "api.example.com."] {
        assert!(holds(test(), &Request::get("/").host(host)), "{host}");
    }
    for host in ["", "example.com", "api.example.com.evil.test", "xapi.example.com"] {
        assert!(!holds(test(), &Request::get("/").host(host)), "{host}");
    }
    let suffix = || Test::Host(vec![HostPattern::suffix("example.com").unwrap()]);
    assert!(holds(suffix(), &Request::get("/").host("a.b.example.com")));
    assert!(!holds(suffix(), &Request::get("/").host("badexample.com")));
    let regex = || Test::Host(vec![HostPattern::Regex(Regex::new(".*").unwrap())]);
    assert!(holds(regex(), &Request::get("/")) && !holds(regex(), &Request::get("/").host("")));
}

#[test]
fn methods_and_versions_are_compared() {
    assert!(holds(Test::Method(vec![Method::POST, Method::GET]), &Request::get("/")));
    assert!(!holds(Test::Method(vec![Method::POST]), &Request::get("/")));
    assert!(holds(Test::Version(vec![Version::HTTP_11]), &Request::get("/")));
    assert!(!holds(Test::Version(vec![Version::HTTP_2]), &Request::get("/")));
}

#[test]
fn one_line_of_a_header_is_enough() {
    let region = HeaderName::from_static("x-region");
    let request = Request::get("/").header("x-region", "us").header("x-region", "eu");
    assert!(holds(Test::Header(region.clone(), exact("eu")), &request));
    assert!(!holds(Test::Header(region.clone(), exact("EU")), &request));
    assert!(holds(Test::Header(region.clone(), vec![TextPattern::Present]), &request));
    assert!(!holds(Test::Header(region, vec![TextPattern::Present]), &Request::get("/")));
}

#[test]
fn parameters_are_decoded_and_every_value_counts() {
    let value = |target: &str, name: &str, text: &str| {
        holds(Test::Query(name.into(), exact(text)), &Request::get(target))
    };
    assert!(value("/?a=1&a=2", "a", "2"));
    assert!(value("/?%61=x+y%21", "a", "x y!"));
    assert!(value("/?debug", "debug", "") && !value("/?debugger", "debug", ""));
    assert!(!value("/?&", "", "") && !value("/", "a", ""));
}

#[test]
fn cookies_are_found_in_every_line() {
    let request = Request::get("/").header("cookie", "a=1; b=2").header("cookie", "c=3;d = 4");
    for (name, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        assert!(holds(Test::Cookie(name.into(), exact(value)), &request), "{name}");
    }
    assert!(!holds(Test::Cookie("A".into(), exact("1")), &request));
    assert!(!holds(Test::Cookie("e".into(), vec![TextPattern::Present]), &request));
}

#[test]
fn the_connection_is_compared() {
    let networks = Networks::new(["192.0.2.0/24".parse().unwrap()]);
    assert!(holds(Test::Source(Arc::new(networks)), &Request::get("/")));
    let networks = Networks::new(["10.0.0.0/8".parse().unwrap()]);
    assert!(!holds(Test::Source(Arc::new(networks)), &Request::get("/")));
    assert!(holds(Test::DestinationPort(vec![80, 8080]), &Request::get("/")));
    assert!(!holds(Test::DestinationPort(vec![80]), &Request::get("/")));
    let (plain, tls) = (Request::get("/"), Request::get("/").tls("a.example.com"));
    assert!(holds(Test::Tls(true), &tls) && holds(Test::Tls(false), &plain));
    assert!(!holds(Test::Tls(false), &tls) && !holds(Test::Tls(true), &plain));
    let sni = || Test::Sni(vec![HostPattern::exact("a.example.com").unwrap()]);
    assert!(holds(sni(), &tls) && !holds(sni(), &plain));
    let any = || Test::Sni(vec![HostPattern::Regex(Regex::new("").unwrap())]);
    assert!(holds(any(), &tls) && !holds(any(), &Request::get("/").tls("")));
}

#[test]
fn only_a_verified_certificate_has_fields() {
    let with = Request { certificate: true, ..Request::get("/").tls("a") };
    let without = Request::get("/").tls("a");
    assert!(holds(Test::HasCertificate(true), &with));
    assert!(holds(Test::HasCertificate(false), &without));
    assert!(holds(Test::HasCertificate(false), &Request::get("/")));
    let fields = [
        (CertificateField::Subject, "CN=alice, O=Example"),
        (CertificateField::CommonName, "alice"),
        (CertificateField::Issuer, "CN=ca"),
        (CertificateField::Serial, "0a"),
        (CertificateField::Fingerprint, "ff"),
        (CertificateField::DnsName, "alice.example.com"),
    ];
    for (field, value) in fields {
        assert!(holds(Test::Certificate(field, exact(value)), &with), "{field:?}");
        assert!(!holds(Test::Certificate(field, exact(value)), &without), "{field:?}");
    }
    assert!(!holds(Test::Certificate(CertificateField::DnsName, exact("10.0.0.1")), &with));
}

#[test]
fn a_request_for_a_websocket_is_told_apart() {
    let upgrade = Request { is_websocket: true, ..Request::get("/") };
    assert!(holds(Test::WebSocket(true), &upgrade) && !holds(Test::WebSocket(false), &upgrade));
    assert!(holds(Test::WebSocket(false), &Request::get("/")));
}

#[test]
fn time_and_servers_are_parameters() {
    let monday = [true, false, false, false, false, false, false];
    let schedule = Schedule { days: monday, from: 0, to: DAY, zone: jiff::tz::TimeZone::UTC };
    // The epoch was a Thursday.
    let at = |day: i64| Request { now: day * i64::from(DAY), ..Request::get("/") };
    assert!(holds(Test::Time(schedule.clone()), &at(4)) && !holds(Test::Time(schedule), &at(5)));
    let servers = |at_least, at_most| Test::UsableServers { backend: name("b"), at_least, at_most };
    let two = Request { usable: 2, ..Request::get("/") };
    assert!(holds(servers(0, 2), &two) && holds(servers(2, u32::MAX), &two));
    assert!(!holds(servers(0, 1), &two) && !holds(servers(3, u32::MAX), &two));
}

#[test]
fn a_share_is_stable_for_what_stands_for_the_client() {
    let share = |by| Test::Share(Share { basis_points: 5000, by, seed: "".into() });
    let cookie = || ShareBy::Cookie("id".into());
    let one = Request::get("/").header("cookie", "id=7");
    let roamed = Request { client: "203.0.113.9:1", random: 7, ..one.clone() };
    assert_eq!(holds(share(cookie()), &one), holds(share(cookie()), &roamed));
    let header = || ShareBy::Header(header::COOKIE);
    assert_eq!(holds(share(header()), &one), holds(share(header()), &roamed));
    let taken = |by: &ShareBy| {
        let random = (0..200).map(|random| Request { random, ..one.clone() });
        random.filter(|request| holds(share(by.clone()), request)).count()
    };
    assert!(matches!(taken(&ShareBy::Client), 0 | 200));
    assert!((60..140).contains(&taken(&ShareBy::Request)));
}

#[test]
fn conditions_combine() {
    let tls = || Condition::Test(Test::Tls(true));
    let get = || Condition::Test(Test::Method(vec![Method::GET]));
    let named = Condition::Named(Arc::new(NamedCondition {
        name: name("secure"),
        condition: Condition::All(vec![tls(), get()]),
    }));
    let truth = |condition: &Condition, request: &Request| {
        let rules = RuleSet::new(&[route(condition.clone(), "hit")]);
        request.with(|facts| matches!(rules.evaluate(facts).end, End::Backend(_)))
    };
    let (plain, secure) = (Request::get("/"), Request::get("/").tls("a"));
    for (condition, for_plain, for_secure) in [
        (Condition::All(vec![tls(), get()]), false, true),
        (Condition::Any(vec![tls(), get()]), true, true),
        (Condition::Not(Box::new(tls())), true, false),
        (Condition::Not(Box::new(Condition::Not(Box::new(tls())))), false, true),
        (named, false, true),
        (Condition::All(vec![]), true, true),
        (Condition::Any(vec![]), false, false),
    ] {
        assert_eq!(truth(&condition, &plain), for_plain, "{condition:?}");
        assert_eq!(truth(&condition, &secure), for_secure, "{condition:?}");
    }
}

#[test]
fn a_rule_sees_variables_that_earlier_ones_have_set() {
    let tenant = VariableName::new("tenant").unwrap();
    let is_acme = Condition::Test(Test::Variable(tenant.clone(), exact("acme")));
    let set = super::edit(Edit::Variable(tenant, super::template("${request.header.x-tenant}")));
    let rules = RuleSet::new(&[route(is_acme.clone(), "early"), set, route(is_acme, "late")]);
    let backend = |request: &Request| {
        request.with(|facts| match rules.evaluate(facts).end {
            End::Backend(backend) => backend.as_str().to_owned(),
            _ => "none".into(),
        })
    };
    assert_eq!(backend(&Request::get("/").header("x-tenant", "acme")), "late");
    assert_eq!(backend(&Request::get("/")), "none");
}
