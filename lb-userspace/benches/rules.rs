//! What rules cost a request, by their number: `cargo bench -p lb-userspace --bench rules`.
//!
//! Each rule sends one host, or one path prefix, to a backend of its own; requests go to all
//! of them in turn. The last figures are those of requests that no rule is for.

use std::{hint::black_box, time::Instant};

use hyper::http::{HeaderMap, Method, Version};
use pointsman::{
    model::{
        name::Name,
        rule::{
            Rule,
            action::Ending,
            condition::{Condition, Test},
            host::HostPattern,
            path::PathPattern,
        },
    },
    proxy::rules::{Facts, RuleSet},
};

const COUNTS: [usize; 4] = [1, 10, 100, 1000];
const ROUNDS: usize = 200_000;

fn main() -> anyhow::Result<()> {
    for by_host in [true, false] {
        for count in COUNTS {
            let rules = (0..count).map(|number| rule(number, by_host));
            let rules = RuleSet::new(&rules.collect::<anyhow::Result<Vec<_>>>()?);
            let hit = nanoseconds(&rules, &requests(count, by_host));
            let miss = nanoseconds(&rules, &[("other.example.net".into(), "/other/x".into())]);
            let kind = if by_host { "hosts" } else { "prefixes" };
            report(&format!("{count:>5} {kind:<9} hit {hit:>6.0} ns   miss {miss:>6.0} ns"));
        }
    }
    Ok(())
}

fn rule(number: usize, by_host: bool) -> anyhow::Result<Rule> {
    let test = if by_host {
        Test::Host(vec![HostPattern::exact(&format!("service-{number}.example.com"))?])
    } else {
        Test::Path(vec![PathPattern::prefix(&format!("/service-{number}/"))?])
    };
    let ending = Some(Ending::Backend(Name::new(&format!("b{number}"))?));
    Ok(Rule { name: None, condition: Condition::Test(test), edits: Vec::new(), ending })
}

/// Host and path of requests for each rule.
fn requests(count: usize, by_host: bool) -> Vec<(String, String)> {
    let request = |number: usize| {
        if by_host {
            (format!("service-{number}.example.com"), "/api/users/7".to_owned())
        } else {
            ("www.example.com".to_owned(), format!("/service-{number}/api/users/7"))
        }
    };
    (0..count).map(request).collect()
}

/// Median over five runs of the time of one evaluation.
fn nanoseconds(rules: &RuleSet, requests: &[(String, String)]) -> f64 {
    let headers = HeaderMap::new();
    let mut runs: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            for (host, path) in requests.iter().cycle().take(ROUNDS) {
                black_box(rules.evaluate(&facts(host, path, &headers)));
            }
            start.elapsed().as_secs_f64() * 1e9 / ROUNDS as f64
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[2]
}

fn facts<'a>(host: &'a str, path: &'a str, headers: &'a HeaderMap) -> Facts<'a> {
    Facts {
        method: &Method::GET,
        version: Version::HTTP_11,
        path,
        query: None,
        authority: host,
        headers,
        is_websocket: false,
        client: None,
        local: None,
        tls: None,
        id: 0,
        now: 0,
        random: 0,
        usable_servers: &|_| 0,
    }
}

#[expect(clippy::print_stdout, reason = "the figures are the output")]
fn report(line: &str) {
    println!("{line}");
}
