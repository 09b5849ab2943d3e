//! What rules do to requests and responses, seen from both sides.

use std::time::{Duration, Instant};

use super::bed::{Agent, Server, free_port, get};

/// Serves rules, one YAML line each, in front of the server `app` and calls `test` with the
/// port. The backend `none` has no server, `slow` answers after two seconds.
fn with_rules(rules: &[&str], test: impl FnOnce(u16)) {
    let app = Server::start("app", Duration::ZERO);
    let slow = Server::start("slow", Duration::from_secs(2));
    let port = free_port();
    let rules: String = rules.iter().map(|rule| format!("      - {rule}\n")).collect();
    let configuration = format!(
        "datapath: {{mode: off}}\n\
         frontends:\n  web:\n    mode: http\n    bind: [\"127.0.0.1:{port}\"]\n    rules:\n{rules}    \
         backend: app\n\
         backends:\n  app: {{servers: {{a: \"{}\"}}}}\n  slow: {{servers: {{s: \"{}\"}}}}\n  \
         none: {{servers: {{}}}}\n",
        app.address, slow.address
    );
    let _agent = Agent::start(&configuration, &[port]);
    test(port);
}

#[test]
fn headers_change_on_both_ways() {
    let rules = [
        "{remove_request_header: [X-Secret, Cookie], set_request_header: {X-From: \"${client.address}\", Host: \"inner.${request.host}\"}}",
        "{remove_response_header: Server, add_response_header: {Via: \"1.1 edge\"}}",
    ];
    with_rules(&rules, |port| {
        let answer = get(port, "/", "example.com", &["X-Secret: 1", "Cookie: a=b", "X-From: me"]);
        assert_eq!(
            (answer.status, answer.header("via"), answer.header("server")),
            (200, "1.1 edge", "")
        );
        let sent = answer.body.to_lowercase();
        assert!(sent.contains("\r\nx-from: 127.0.0.1\r\n"), "{sent}");
        assert!(sent.contains("\r\nhost: inner.example.com\r\n"), "{sent}");
        assert!(!sent.contains("x-secret") && !sent.contains("cookie"), "{sent}");
    });
}

#[test]
fn a_client_can_not_put_lines_into_a_header() {
    let rules = [
        "{set_request_header: {X-Q: \"${request.query.q}\"}, set_response_header: {X-Q: \"${request.query.q}\"}}",
    ];
    with_rules(&rules, |port| {
        let answer = get(port, "/?q=a%0d%0aX-Evil:%201", "a", &[]);
        assert_eq!(answer.header("x-q"), "a%0D%0AX-Evil: 1");
        assert_eq!(answer.header("x-evil"), "");
        assert!(!answer.body.to_lowercase().contains("\nx-evil"), "{}", answer.body);
    });
}

#[test]
fn paths_are_rewritten_and_never_upwards() {
    let rules = [
        "{if: {path_prefix: /files/}, rewrite: {path: \"/u/${request.header.x-user}/f\"}}",
        "{if: {path_prefix: /old/}, rewrite: {prefix: {from: /old, to: /new}, query: \"${request.query}&v=2\"}}",
    ];
    with_rules(&rules, |port| {
        let first = |target: &str, lines: &[&str]| {
            let answer = get(port, target, "a", lines);
            let line = answer.body.lines().next().unwrap_or_default().to_owned();
            (answer.status, line)
        };
        let sent = |line: &str| (200, line.to_owned());
        assert_eq!(first("/old/a%2Fb?x=1", &[]), sent("GET /new/a%2Fb?x=1&v=2 HTTP/1.1"));
        assert_eq!(first("/files/", &["X-User: 7/8"]), sent("GET /u/7%2F8/f HTTP/1.1"));
        assert_eq!(first("/files/", &["X-User: .."]).0, 400);
        assert_eq!(first("/a/../b", &[]), sent("GET /b HTTP/1.1"));
        assert_eq!(first("//a%20b", &[]), sent("GET //a%20b HTTP/1.1"));
    });
}

#[test]
fn errors_have_pages_and_headers_of_rules() {
    let rules = [
        "{error_pages: [{status: [403, 503], body: \"<h1>sorry</h1>\", content_type: text/html}], set_response_header: {X-Edge: e}}",
        "{if: {path: /none}, backend: none}",
        "{if: {path: /denied}, deny: 403}",
        "{if: {path: /own}, deny: {status: 403, body: mine}}",
        "{if: {path: /gone}, deny: 410}",
    ];
    with_rules(&rules, |port| {
        let check = |target: &str, status: u16, body: &str| {
            let answer = get(port, target, "a", &[]);
            assert_eq!((answer.status, &*answer.body), (status, body), "{target}");
            assert_eq!(answer.header("x-edge"), "e", "{target}");
        };
        check("/none", 503, "<h1>sorry</h1>");
        check("/denied", 403, "<h1>sorry</h1>");
        check("/own", 403, "mine");
        check("/gone", 410, "410 Gone\n");
    });
}

#[test]
fn a_rule_may_shorten_a_timeout() {
    let rules = [
        "{if: {path: /hurry}, set_timeout: {server: 200ms}, backend: slow}",
        "{if: {path: /in-all}, set_timeout: {total: 200ms}, backend: slow}",
        "{if: {path: /patient}, backend: slow}",
    ];
    with_rules(&rules, |port| {
        let start = Instant::now();
        assert_eq!(get(port, "/hurry", "a", &[]).status, 504);
        assert_eq!(get(port, "/in-all", "a", &[]).status, 504);
        assert!(start.elapsed() < Duration::from_millis(1900), "{:?}", start.elapsed());
        assert_eq!(get(port, "/patient", "a", &[]).server(), "slow");
    });
}

#[test]
fn redirects_answer_without_a_server() {
    let rules = [
        "{if: {tls: false, host: secure.test}, redirect: {scheme: https, code: 301}}",
        "{if: {path: /old}, redirect: {location: \"/new?from=${request.path}\"}}",
        "{if: {path_prefix: /moved}, redirect: {prefix: \"https://other.test/base\"}}",
    ];
    with_rules(&rules, |port| {
        let check = |target: &str, host: &str, status: u16, location: &str| {
            let answer = get(port, target, host, &[]);
            let got = (answer.status, answer.header("location"), answer.server());
            assert_eq!(got, (status, location, ""), "{target}");
        };
        check("/x?y", "secure.test:80", 301, "https://secure.test/x?y");
        check("/old", "a", 302, "/new?from=/old");
        check("/moved/x", "a", 302, "https://other.test/base/moved/x");
    });
}
