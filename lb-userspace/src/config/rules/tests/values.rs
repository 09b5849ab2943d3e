//! What is given comes out.

use std::{fs, time::Duration};

use hyper::http::{HeaderName, Method, StatusCode, Version, header};

use super::{rule, rules};
use crate::model::{
    fixture::name,
    rule::{
        action::{
            Body, Edit, Ending, HeaderEdit, Mirror, Redirect, RedirectTo, Respond, Rewrite, Scheme,
            TimeoutKind,
        },
        condition::{Condition, Test},
        host::HostPattern,
        path::PathPattern,
        share::{Share, ShareBy, Split},
        template::{CertificateField, Template, VariableName},
        text::TextPattern,
    },
};

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

/// The condition that keys of `if` make.
#[track_caller]
fn condition(keys: &str) -> Condition {
    rule(&format!("if: {{{keys}}}, deny: 403")).condition
}

#[track_caller]
fn check_test(keys: &str, expected: Test) {
    assert_eq!(condition(keys), Condition::Test(expected), "{keys}");
}

#[test]
fn every_key_of_a_request_becomes_a_test() {
    let exact = |text: &str| vec![TextPattern::Exact(text.into())];
    check_test("path: /a", Test::Path(vec![PathPattern::exact("/a").unwrap()]));
    check_test(
        "path_prefix: [/a/, /b]",
        Test::Path(vec![PathPattern::prefix("/a").unwrap(), PathPattern::prefix("/b").unwrap()]),
    );
    check_test("path_suffix: .png", Test::Path(vec![PathPattern::suffix(".png").unwrap()]));
    check_test("path_contains: x", Test::Path(vec![PathPattern::contains("x").unwrap()]));
    assert!(matches!(condition("path_regex: \"^/a\""), Condition::Test(Test::Path(_))));
    check_test("host: A.test", Test::Host(vec![HostPattern::exact("a.test").unwrap()]));
    check_test("host_suffix: a.test", Test::Host(vec![HostPattern::suffix("a.test").unwrap()]));
    check_test(
        "host_wildcard: \"*.a.test\"",
        Test::Host(vec![HostPattern::wildcard("*.a.test").unwrap()]),
    );
    check_test(
        "method: [GET, PURGE]",
        Test::Method(vec![Method::GET, Method::from_bytes(b"PURGE").unwrap()]),
    );
    let region = || HeaderName::from_static("x-region");
    check_test("header: {X-Region: eu}", Test::Header(region(), exact("eu")));
    check_test("header_present: X-Region", Test::Header(region(), vec![TextPattern::Present]));
    check_test(
        "header_prefix: {X-Region: eu-}",
        Test::Header(region(), vec![TextPattern::Prefix("eu-".into())]),
    );
    check_test("query: {a: \"1\"}", Test::Query("a".into(), exact("1")));
    check_test("query_present: a", Test::Query("a".into(), vec![TextPattern::Present]));
    check_test("cookie: {a: \"1\"}", Test::Cookie("a".into(), exact("1")));
    check_test("variable: {a: x}", Test::Variable(VariableName::new("a").unwrap(), exact("x")));
    check_test("version: [\"1.0\", \"2\"]", Test::Version(vec![Version::HTTP_10, Version::HTTP_2]));
    check_test("websocket: true", Test::WebSocket(true));
    check_test("destination_port: 443", Test::DestinationPort(vec![443]));
    check_test("tls: false", Test::Tls(false));
    check_test("sni: a.test", Test::Sni(vec![HostPattern::exact("a.test").unwrap()]));
    check_test(
        "client_certificate: {common_name: alice}",
        Test::Certificate(CertificateField::CommonName, exact("alice")),
    );
    check_test("client_certificate: {present: true}", Test::HasCertificate(true));
    check_test(
        "usable_servers: {backend: api, at_most: 0}",
        Test::UsableServers { backend: name("api"), at_least: 0, at_most: 0 },
    );
}

#[test]
fn networks_come_from_lists_and_files() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "# offices\n10.1.0.0/16  # first\n\n2001:db8::/32\n").unwrap();
    let keys = format!("source: 192.0.2.7, source_file: {}", file.path().display());
    let Condition::Test(Test::Source(networks)) = condition(&keys) else { panic!("no source") };
    for inside in ["192.0.2.7", "10.1.2.3", "2001:db8::1"] {
        assert!(networks.contains(inside.parse().unwrap()), "{inside}");
    }
    assert!(!networks.contains("10.2.0.0".parse().unwrap()));
}

#[test]
fn times_and_shares_are_read() {
    let time = condition("time: {from: \"22:00\", to: \"06:00\", days: fri, timezone: UTC}");
    let Condition::Test(Test::Time(schedule)) = time else { panic!("no time") };
    assert_eq!((schedule.from, schedule.to), (22 * 3600, 6 * 3600));
    assert_eq!(schedule.days, [false, false, false, false, true, false, false]);
    let share =
        |basis_points, by, seed: &str| Test::Share(Share { basis_points, by, seed: seed.into() });
    check_test("percentage: 0.5", share(50, ShareBy::Client, ""));
    check_test(
        "percentage: {of: 10, by: {cookie: id}, seed: x}",
        share(1000, ShareBy::Cookie("id".into()), "x"),
    );
}

#[test]
fn keys_are_anded_and_lists_ored() {
    let tls = || Condition::Test(Test::Tls(true));
    let get = || Condition::Test(Test::Method(vec![Method::GET]));
    assert_eq!(condition("method: GET, tls: true"), Condition::All(vec![get(), tls()]));
    assert_eq!(condition("any: [{tls: true}, {method: GET}]"), Condition::Any(vec![tls(), get()]));
    assert_eq!(condition("not: {tls: true}"), Condition::Not(Box::new(tls())));
    let neither = Condition::Any(vec![tls(), get()]);
    assert_eq!(condition("not: [{tls: true}, {method: GET}]"), Condition::Not(Box::new(neither)));
    assert!(condition("").is_always());
}

#[test]
fn named_conditions_may_use_others() {
    let yaml = "
conditions:
  office: {source: 10.0.0.0/8}
  staff: {condition: office, tls: true}
rules:
  - {if: {not: {condition: staff}}, deny: 403}
";
    let rules = rules(yaml);
    let Condition::Not(inner) = &rules[0].condition else { panic!("{rules:?}") };
    let Condition::Named(staff) = &**inner else { panic!("{inner:?}") };
    assert_eq!(staff.name, name("staff"));
    let Condition::All(parts) = &staff.condition else { panic!("{staff:?}") };
    assert!(matches!(&parts[1], Condition::Named(office) if office.name == name("office")));
}

#[test]
fn every_edit_comes_out_in_its_order() {
    let rule = rule(
        "name: all, \
         add_response_header: {Via: \"1.1 edge\"}, remove_response_header: Server, \
         set_request_header: {X-A: \"${client.address}\", Host: b.test}, \
         set_variable: {v: x}, \
         rewrite: {query: \"\", prefix: {from: /api/, to: /}}, \
         mirror: {backend: shadow, percentage: 5, max_concurrent: 7, body_bytes: 1KiB}, \
         set_timeout: {server: 5m}, \
         error_pages: [{status: [502, 503], body: sorry}]",
    );
    assert_eq!(rule.name, Some(name("all")));
    let x_a = HeaderName::from_static("x-a");
    let expected = [
        Edit::Variable(VariableName::new("v").unwrap(), template("x")),
        Edit::Rewrite(Rewrite::Prefix { from: b"/api".as_slice().into(), to: "".into() }),
        Edit::Rewrite(Rewrite::Query(template(""))),
        Edit::RequestHeader(HeaderEdit::Set(x_a, template("${client.address}"))),
        Edit::RequestHeader(HeaderEdit::Set(header::HOST, template("b.test"))),
        Edit::ResponseHeader(HeaderEdit::Remove(header::SERVER)),
        Edit::ResponseHeader(HeaderEdit::Add(header::VIA, template("1.1 edge"))),
        Edit::Timeout(TimeoutKind::Server, Duration::from_secs(300)),
        Edit::Mirror(Mirror {
            backend: name("shadow"),
            basis_points: 500,
            max_concurrent: 7,
            body_bytes: 1024,
        }),
    ];
    assert_eq!(rule.edits[..9], expected);
    let Edit::ErrorPages(pages) = &rule.edits[9] else { panic!("{:?}", rule.edits[9]) };
    assert_eq!(pages.iter().map(|page| page.status.as_u16()).collect::<Vec<_>>(), [502, 503]);
    assert_eq!((&*pages[0].body, rule.ending), (b"sorry".as_slice(), None));
}

#[test]
fn every_ending_comes_out() {
    let ending = |keys: &str| rule(keys).ending.unwrap();
    assert_eq!(ending("backend: api"), Ending::Backend(name("api")));
    let weights = vec![(name("web"), 95), (name("api"), 5)];
    let split = Split::new(weights, ShareBy::Request, "s".into()).unwrap();
    assert_eq!(
        ending("backend: {web: 95, api: 5}, split_by: request, seed: s"),
        Ending::Split(split)
    );
    let redirect = |status, to| Ending::Redirect(Redirect { status, to });
    assert_eq!(
        ending("redirect: {scheme: https, code: 301}"),
        redirect(
            StatusCode::MOVED_PERMANENTLY,
            RedirectTo::Parts { scheme: Some(Scheme::Https), host: None, port: None }
        )
    );
    assert_eq!(
        ending("redirect: {location: \"/x?next=${request.path}\"}"),
        redirect(StatusCode::FOUND, RedirectTo::Location(template("/x?next=${request.path}")))
    );
    let deny = Respond { status: StatusCode::FORBIDDEN, headers: Vec::new(), content: None };
    assert_eq!(ending("deny: 403"), Ending::Respond(deny.clone()));
    assert_eq!(ending("deny: {}"), Ending::Respond(deny));
    let answer = "return: {status: 503, body: \"<p>${request.id}\", content_type: text/html, \
                  headers: {Retry-After: \"60\"}}";
    let Ending::Respond(respond) = ending(answer) else { panic!("no answer") };
    assert_eq!(respond.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(respond.headers, [(header::RETRY_AFTER, template("60"))]);
    let content = respond.content.unwrap();
    assert_eq!(content.content_type, "text/html");
    assert_eq!(content.body, Body::Template(template("<p>${request.id}")));
}

#[test]
fn bodies_come_from_files() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), b"\xff\x00").unwrap();
    let keys = format!("return: {{file: {}, content_type: image/x}}", file.path().display());
    let Some(Ending::Respond(respond)) = rule(&keys).ending else { panic!("no answer") };
    assert_eq!(respond.content.unwrap().body, Body::Fixed(b"\xff\x00".as_slice().into()));
}
