//! Each action: what it does, and what a hostile client can not make of it.

use std::{sync::Arc, time::Duration};

use hyper::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use proptest::prelude::*;

use super::{Request, answer, edit, end, template};
use crate::{
    model::{
        fixture::name,
        rule::{
            action::{
                Body, Content, Edit, Ending, ErrorPage, HeaderEdit, Mirror, Redirect, RedirectTo,
                Respond, Rewrite, Scheme, TimeoutKind,
            },
            share::{ShareBy, Split},
            template::VariableName,
            text::Regex,
        },
    },
    proxy::rules::{End, Refusal, RuleSet},
};

fn redirect(to: RedirectTo) -> Ending {
    Ending::Redirect(Redirect { status: StatusCode::FOUND, to })
}

/// Where a request is sent.
#[track_caller]
fn location(to: RedirectTo, request: &Request) -> String {
    let answer = answer(&[end(redirect(to))], request);
    assert_eq!((answer.status, answer.body), (StatusCode::FOUND, None));
    let (name, value) = &answer.headers[0];
    assert_eq!(name, header::LOCATION);
    value.to_str().unwrap().to_owned()
}

fn parts(scheme: Option<Scheme>, host: Option<&str>, port: Option<u16>) -> RedirectTo {
    RedirectTo::Parts { scheme, host: host.map(template), port }
}

#[test]
fn a_redirect_keeps_what_it_does_not_change() {
    let request = Request::get("/a//b/../c?x=1&y=%20").host("Example.com:8080");
    let https = Some(Scheme::Https);
    assert_eq!(location(parts(https, None, None), &request), "https://example.com/a/c?x=1&y=%20");
    assert_eq!(
        location(parts(https, None, Some(8443)), &request),
        "https://example.com:8443/a/c?x=1&y=%20"
    );
    assert_eq!(
        location(parts(https, None, Some(443)), &request),
        "https://example.com/a/c?x=1&y=%20"
    );
    assert_eq!(
        location(parts(None, Some("www.${request.host}"), None), &request),
        "http://www.example.com/a/c?x=1&y=%20"
    );
    assert_eq!(
        location(parts(None, None, None), &request),
        "http://example.com:8080/a/c?x=1&y=%20"
    );
    let v6 = Request::get("/").host("[2001:db8::1]:80").tls("");
    assert_eq!(location(parts(Some(Scheme::Http), None, None), &v6), "http://[2001:db8::1]/");
    assert_eq!(location(parts(None, None, None), &Request::get("*")), "http://www.example.com/");
}

#[test]
fn a_redirect_takes_a_prefix_or_a_template() {
    let request = Request::get("/a?x=1");
    let prefix = |text| RedirectTo::Prefix(template(text));
    assert_eq!(location(prefix("https://new.test/old/"), &request), "https://new.test/old/a?x=1");
    assert_eq!(location(prefix("/v2"), &request), "/v2/a?x=1");
    let to = |text| RedirectTo::Location(template(text));
    assert_eq!(location(to("/sign-in?next=${request.path}"), &request), "/sign-in?next=/a");
    assert_eq!(location(to("${request.uri}"), &request), "/a?x=1");
}

#[test]
fn a_client_can_not_choose_where_it_is_sent() {
    let to = |text| RedirectTo::Location(template(text));
    let evil = Request::get("//evil.test/?next=//evil.test/&u=https://evil.test");
    assert_eq!(location(to("${request.path}"), &evil), "/evil.test/");
    assert_eq!(location(to("/${request.path}"), &evil), "/evil.test/");
    assert_eq!(location(to("${request.query.next}"), &evil), "%2F%2Fevil.test%2F");
    assert_eq!(location(to("/x/${request.query.u}"), &evil), "/x/https%3A%2F%2Fevil.test");
    assert_eq!(location(RedirectTo::Prefix(template("")), &evil).chars().nth(1), Some('e'));
    let backslash = Request::get("/\\evil.test/");
    assert_eq!(location(to("${request.path}"), &backslash), "/%5Cevil.test/");
    let header = Request::get("/").header("x-next", "a?b#c/../\"<>");
    assert_eq!(location(to("/${request.header.x-next}"), &header), "/a%3Fb%23c%2F..%2F%22%3C%3E");
}

#[test]
fn a_redirect_without_a_good_host_is_refused() {
    let rules = RuleSet::new(&[end(redirect(parts(Some(Scheme::Https), None, None)))]);
    for host in ["", "a@b", "a/b", "a b", "\u{e9}.test"] {
        Request::get("/").host(host).with(|facts| {
            let decision = rules.evaluate(facts);
            assert!(matches!(decision.end, End::Refuse(Refusal::Host)), "{host}: {decision:?}");
        });
    }
}

/// What a server is asked for after these rewrites.
fn rewritten(rewrites: Vec<Rewrite>, request: &Request) -> String {
    let rules: Vec<_> = rewrites.into_iter().map(|rewrite| edit(Edit::Rewrite(rewrite))).collect();
    let rules = RuleSet::new(&rules);
    request.with(|facts| {
        let decision = rules.evaluate(facts);
        match decision.end {
            End::Refuse(refusal) => format!("{refusal:?}"),
            _ => decision.edits.path_and_query().unwrap().unwrap().to_string(),
        }
    })
}

fn prefix(from: &str, to: &str) -> Rewrite {
    Rewrite::Prefix { from: from.as_bytes().into(), to: to.into() }
}

fn path_regex(regex: &str, replacement: &str) -> Rewrite {
    Rewrite::PathRegex { regex: Regex::new(regex).unwrap(), replacement: replacement.into() }
}

#[test]
fn a_prefix_is_rewritten_by_whole_segments() {
    let check = |from, to, target: &str, expected: &str| {
        let got = rewritten(vec![prefix(from, to)], &Request::get(target));
        assert_eq!(got, expected, "{from} {to} {target}");
    };
    check("/api", "", "/api/users?x=1", "/users?x=1");
    check("/api", "", "/api", "/");
    check("/api", "/v2", "/api/", "/v2/");
    check("/api", "/v2", "/apis", "/apis");
    check("", "/app", "/x", "/app/x");
    check("/a b", "/c", "/a%20b/d", "/c/d");
    // An encoded slash in what follows stays one.
    check("/mq", "", "/mq/api/queues/%2F/x", "/api/queues/%2F/x");
}

#[test]
fn rewrites_build_on_each_other() {
    let request = Request::get("/api/user/7?a=1&b=2");
    let rewrites = vec![
        prefix("/api", ""),
        path_regex("^/user/([0-9]+)$", "/users/$1/profile"),
        Rewrite::QueryRegex { regex: Regex::new("a=1&?").unwrap(), replacement: "".into() },
    ];
    assert_eq!(rewritten(rewrites, &request), "/users/7/profile?b=2");
    let rewrites = vec![
        Rewrite::Path(template("/x${request.path}")),
        Rewrite::Query(template("id=${request.id}&q=${request.query.b}")),
    ];
    assert_eq!(
        rewritten(rewrites, &request),
        "/x/api/user/7?id=0000000000000000000000000000f00d&q=2"
    );
    assert_eq!(rewritten(vec![Rewrite::Query(template(""))], &request), "/api/user/7");
}

#[test]
fn a_rewrite_can_not_lead_upwards_or_out_of_the_path() {
    let by_header = |value| {
        let request = Request::get("/").header("x-user", value);
        rewritten(vec![Rewrite::Path(template("/users/${request.header.x-user}/x"))], &request)
    };
    assert_eq!(by_header("7"), "/users/7/x");
    assert_eq!(by_header("a/b?c#d e"), "/users/a%2Fb%3Fc%23d%20e/x");
    assert_eq!(by_header(".."), "Rewrite");
    assert_eq!(by_header("../../admin"), "Rewrite");
    let regex = path_regex("^/files/(.*)$", "/$1");
    assert_eq!(rewritten(vec![regex], &Request::get("/files/a%3Fb")), "/a%3Fb");
    let dots = path_regex("x", ".");
    assert_eq!(rewritten(vec![dots], &Request::get("/x./admin")), "Rewrite");
}

#[test]
fn headers_are_set_added_and_removed_in_order() {
    let edits = [
        HeaderEdit::Remove(header::COOKIE),
        HeaderEdit::Set(header::FORWARDED, template("for=${client.address};by=${local.address}")),
        HeaderEdit::Add(header::VIA, template("${request.version} ${tls.sni|none} $$")),
        HeaderEdit::Add(header::VIA, template("fixed")),
    ];
    let rules: Vec<_> = edits.into_iter().map(|one| edit(Edit::RequestHeader(one))).collect();
    let rules = RuleSet::new(&rules);
    let request = Request::get("/").header("cookie", "a").header("via", "old");
    request.with(|facts| {
        let mut headers = request.headers.clone();
        rules.evaluate(facts).edits.apply_to_request(&mut headers);
        let via: Vec<_> = headers.get_all(header::VIA).iter().collect();
        assert_eq!(via, ["old", "1.1 none $", "fixed"]);
        assert_eq!(headers[header::FORWARDED], "for=192.0.2.7;by=198.51.100.1");
        assert!(!headers.contains_key(header::COOKIE));
    });
}

#[test]
fn an_answer_has_a_status_headers_and_an_escaped_body() {
    let body = |content_type: &'static str, text: &str| {
        let content = Content {
            content_type: HeaderValue::from_static(content_type),
            body: Body::Template(template(text)),
        };
        let headers = vec![(header::RETRY_AFTER, template("${request.query.n|60}"))];
        let status = StatusCode::IM_A_TEAPOT;
        let respond = Respond { status, headers, content: Some(content) };
        let request = Request::get("/?x=%3Cscript%3E%22%0a&n=5");
        answer(&[end(Ending::Respond(respond))], &request)
    };
    let html = body("text/html; charset=utf-8", "<b>${request.query.x}</b>");
    assert_eq!(html.status, StatusCode::IM_A_TEAPOT);
    assert_eq!(html.body.unwrap(), "<b>&lt;script&gt;&quot;\n</b>");
    assert_eq!(html.headers[0], (header::RETRY_AFTER, HeaderValue::from_static("5")));
    assert_eq!(html.headers[1].0, header::CONTENT_TYPE);
    let json = body("application/problem+json", "{\"x\": \"${request.query.x}\"}");
    assert_eq!(json.body.unwrap(), "{\"x\": \"<script>\\\"\\n\"}");
    assert_eq!(body("text/plain", "${request.query.x}").body.unwrap(), "<script>\"\n");
}

#[test]
fn timeouts_pages_and_mirrors_accumulate() {
    let page = |status, body: &[u8]| ErrorPage {
        status,
        content_type: HeaderValue::from_static("text/plain"),
        body: body.into(),
    };
    let (unavailable, gateway) = (StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY);
    let mirror = |basis_points| {
        let backend = name("shadow");
        Mirror { backend, basis_points, max_concurrent: 1, body_bytes: 0 }
    };
    let rules = RuleSet::new(&[
        edit(Edit::Timeout(TimeoutKind::Server, Duration::from_secs(1))),
        edit(Edit::Timeout(TimeoutKind::Server, Duration::from_secs(2))),
        edit(Edit::ErrorPages(Arc::new([page(unavailable, b"old"), page(gateway, b"gateway")]))),
        edit(Edit::ErrorPages(Arc::new([page(unavailable, b"new")]))),
        edit(Edit::Mirror(mirror(10_000))),
        edit(Edit::Mirror(mirror(5_000))),
    ]);
    let request = |random| Request { random, ..Request::get("/") };
    request(u64::MAX).with(|facts| {
        let edits = rules.evaluate(facts).edits;
        assert_eq!(edits.timeout(TimeoutKind::Server), Some(Duration::from_secs(2)));
        assert_eq!(edits.timeout(TimeoutKind::Tunnel), None);
        assert_eq!(&*edits.error_page(unavailable).unwrap().body, b"new");
        assert_eq!(&*edits.error_page(gateway).unwrap().body, b"gateway");
        assert!(edits.error_page(StatusCode::NOT_FOUND).is_none());
        assert_eq!(edits.mirrors.len(), 1);
    });
    request(0).with(|facts| assert_eq!(rules.evaluate(facts).edits.mirrors.len(), 2));
}

#[test]
fn a_split_gives_a_client_the_same_backend_each_time() {
    let weights = vec![(name("blue"), 50), (name("green"), 50)];
    let split = Split::new(weights, ShareBy::Client, "".into()).unwrap();
    let rules = RuleSet::new(&[end(Ending::Split(split))]);
    let backend = |random| {
        let request = Request { random, ..Request::get("/") };
        request.with(|facts| match rules.evaluate(facts).end {
            End::Backend(backend) => backend.clone(),
            other => panic!("{other:?}"),
        })
    };
    assert!((0..100).all(|random| backend(random) == backend(1000)));
}

#[test]
fn variables_of_variables_do_not_grow_without_bound() {
    let grow = VariableName::new("grow").unwrap();
    let doubled = template(&format!("x{}", "${variable.grow}".repeat(64)));
    let mut rules: Vec<_> =
        (0..100).map(|_| edit(Edit::Variable(grow.clone(), doubled.clone()))).collect();
    let show = HeaderEdit::Set(HeaderName::from_static("x-grown"), template("${variable.grow}"));
    rules.push(edit(Edit::RequestHeader(show)));
    let rules = RuleSet::new(&rules);
    Request::get("/").with(|facts| {
        let mut headers = HeaderMap::new();
        rules.evaluate(facts).edits.apply_to_request(&mut headers);
        assert!(headers["x-grown"].len() < 10_000);
    });
}

proptest! {
    #[test]
    fn no_request_makes_a_bad_header_or_target(
        path in r"/([a-z%./\\;+]|%[0-9a-f]{2}|\PC){0,20}",
        query in r"([a-z=&%+]|%[0-9a-f]{2}|\PC){0,20}",
        host in r"([a-z.:\[\]@/]|\PC){0,12}",
        value in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let everything = "${request.uri}${request.host}${request.query.a}${request.header.x-a}\
                          ${request.cookie.a}${variable.v}";
        let variable = VariableName::new("v").unwrap();
        let custom = HeaderName::from_static("x-a");
        let rules = RuleSet::new(&[
            edit(Edit::Variable(variable, template("${request.header.x-a}${request.query.a}"))),
            edit(Edit::RequestHeader(HeaderEdit::Set(custom.clone(), template(everything)))),
            edit(Edit::Rewrite(Rewrite::Query(template(everything)))),
            edit(Edit::Rewrite(Rewrite::Path(template(&format!("/{everything}"))))),
            edit(Edit::Rewrite(path_regex("[a-f]+", "${0}."))),
            end(redirect(RedirectTo::Location(template(&format!("/x{everything}"))))),
        ]);
        let mut request = Request::get(&format!("{path}?{query}")).host(&host);
        request.method = Method::POST;
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            request.headers.insert(custom, value);
        }
        request.with(|facts| {
            let decision = rules.evaluate(facts);
            if let Ok(Some(target)) = decision.edits.path_and_query() {
                prop_assert!(target.path().starts_with('/'));
                prop_assert!(!target.path().contains("/../"));
            }
            if let End::Answer(answer) = &decision.end {
                prop_assert!(answer.headers[0].1.to_str().is_ok_and(|text| text.starts_with("/x")));
            }
            if !matches!(decision.end, End::Refuse(_)) {
                prop_assert!(decision.edits.path_and_query().is_ok());
            }
            Ok(())
        })?;
    }
}
