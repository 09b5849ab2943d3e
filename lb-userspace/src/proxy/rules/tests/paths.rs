//! Nothing gets around a rule for a path by writing the path in another way.

use hyper::http::StatusCode;

use super::Request;
use crate::{
    model::rule::{
        Rule,
        action::{Ending, Respond},
        condition::{Condition, Test},
        path::PathPattern,
    },
    proxy::rules::{End, RuleSet},
};

fn deny(patterns: Vec<PathPattern>) -> Rule {
    let respond = Respond { status: StatusCode::FORBIDDEN, headers: Vec::new(), content: None };
    Rule {
        name: None,
        condition: Condition::Test(Test::Path(patterns)),
        edits: Vec::new(),
        ending: Some(Ending::Respond(respond)),
    }
}

/// What comes of a path behind a rule that denies `/admin/`: the code, or what the server
/// is asked for.
fn outcome(path: &str) -> String {
    let rules = RuleSet::new(&[deny(vec![PathPattern::prefix("/admin/").unwrap()])]);
    Request::get(path).with(|facts| {
        let decision = rules.evaluate(facts);
        match decision.end {
            End::Answer(answer) => answer.status.as_str().to_owned(),
            End::Refuse(_) => "400".into(),
            End::Default | End::Backend(_) => match decision.edits.path_and_query().unwrap() {
                Some(target) => target.as_str().to_owned(),
                None => path.to_owned(),
            },
        }
    })
}

#[test]
fn a_denied_prefix_is_denied_in_every_spelling() {
    for path in [
        "/admin/",
        "/admin",
        "//admin/",
        "///admin//x",
        "/%61dmin/",
        "/%61%64%6d%69%6e/x",
        "/./admin/",
        "/x/../admin/",
        "/x/%2e%2e/admin/",
        "/../../admin/x",
        "/admin%2fx",
        "/admin%5Cx",
        "/admin\\x",
        "/%2fadmin/",
        "/admin/?x=1",
    ] {
        assert_eq!(outcome(path), "403", "{path}");
    }
}

#[test]
fn what_servers_could_take_for_the_denied_path_is_refused() {
    for path in ["/x/..%2fadmin/", "/admin/..%2fx", "/x\\..\\admin/", "/x/..;/admin/", "/admin%00"]
    {
        assert_eq!(outcome(path), "400", "{path}");
    }
}

#[test]
fn other_paths_pass_as_they_came() {
    for path in ["/", "/administrator", "/x/admin/", "/ADMIN/", "/%2561dmin/", "/a%20b//c", "*"] {
        assert_eq!(outcome(path), path);
    }
}

#[test]
fn dot_segments_do_not_reach_the_server() {
    assert_eq!(outcome("/admin/../x"), "/x");
    assert_eq!(outcome("/a/./b/%2e%2e/c%20d/?q=1"), "/a/c%20d/?q=1");
    assert_eq!(outcome("/.well-known/x"), "/.well-known/x");
}
