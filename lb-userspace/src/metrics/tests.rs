//! Pages of small readings.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use lb_common::counters::TrafficCounters;

use super::{
    families::GROUPS,
    family::{Family, Kind},
    process::ProcessReading,
    reading::{
        AgentReading, BackendReading, CheckReading, DatapathReading, FrontendReading, LayerFour,
        ProxyReading, Requests, ServerReading, VipReading,
    },
    *,
};
use crate::model::{
    histogram::{Histogram, TimingTotals},
    name::Name,
    state::ServerState,
};

fn name(text: &str) -> Name {
    Name::new(text).expect("is a name")
}

/// A reading that has something of everything.
fn reading() -> Reading {
    let traffic = TrafficCounters {
        generation: 3,
        flows: 7,
        forward_packets: 11,
        forward_bytes: 1100,
        reply_packets: 12,
        reply_bytes: 120_000,
        resets: 1,
    };
    let requests = Requests {
        by_class: [1, 0, 20, 3, 4, 5],
        bytes_in: 6,
        bytes_out: 7,
        retries: 2,
        faults: [1, 2, 0, 3],
    };
    let total = Histogram { counts: [5, 4, 3, 2, 1, 0, 0, 0, 0, 6], sum_us: 61_500_000 };
    let timings = TimingTotals { total, ..TimingTotals::default() };
    let proxy = Some(ProxyReading { active: 3, queued: 4, requests });
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Reading {
        agent: AgentReading {
            version: "1.2.3",
            started: at(100),
            configured: at(200),
            reloads: [5, 6],
            last_reload_accepted: false,
            log_lines: [8, 9],
        },
        process: Some(ProcessReading {
            cpu: Duration::from_millis(1500),
            resident: 4096,
            descriptors: Some(12),
            max_descriptors: 1024,
            threads: 4,
        }),
        datapath: Some(DatapathReading {
            interfaces: vec![("eth0".into(), "native"), ("br\"0\\".into(), "off")],
            up_to_date: true,
            syn_cookies: false,
            tables: vec![("FLOWS4", 14, 1000)],
            sweeps: 2,
            sweep_time: Duration::from_micros(250),
            expired: 3,
            stranded: 1,
            rules: [10, 2, 4096],
        }),
        drops: vec![("malformed", 0), ("no_server", 17)],
        vips: vec![VipReading {
            frontend: name("postgres"),
            address: "[2001:db8::1]:5432".into(),
            protocol: "tcp",
            traffic: Some(traffic),
            flows: Some(4),
        }],
        frontends: vec![FrontendReading {
            name: name("web"),
            connections: 2,
            max_connections: 2000,
            accepted: 40,
            refused: [3, 1],
            requests,
            timings,
            copies: [9, 8, 7, 6, 5],
        }],
        backends: vec![BackendReading {
            name: name("pg"),
            usable: 1,
            proxy,
            timings: Some(timings),
        }],
        servers: vec![ServerReading {
            backend: name("pg"),
            name: name("pg1"),
            state: ServerState::Down,
            since: at(300),
            weight: 100,
            backup: false,
            max_connections: Some(50),
            layer_4: Some(LayerFour { traffic, flows: 4 }),
            proxy,
            ejected: Some(true),
            checks: Some(CheckReading {
                passed: 40,
                failed: 3,
                last: Some(Duration::from_millis(2)),
            }),
        }],
    }
}

fn has(page: &str, lines: &[&str]) {
    for line in lines {
        assert!(page.lines().any(|one| one == *line), "no line {line} in\n{page}");
    }
}

#[test]
fn a_page_has_every_family_with_help_type_and_samples() {
    let page = page(reading(), Exposition::Text).expect("it can be written");
    for family in GROUPS.iter().flat_map(|group| group.families) {
        let name = family.full_name();
        assert!(page.contains(&format!("# HELP {name} {}\n", family.help)), "{name}");
        assert!(page.contains(&format!("# TYPE {name} ")), "{name}");
        let suffix = if family.kind == Kind::Histogram { "_bucket" } else { "" };
        let is_sample = |line: &str| {
            let rest = line.strip_prefix(&name).and_then(|rest| rest.strip_prefix(suffix));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        assert!(page.lines().any(is_sample), "{name} has no sample in\n{page}");
    }
}

#[test]
fn names_help_and_labels_are_as_the_formats_want_them() {
    let families = || GROUPS.iter().flat_map(|group| group.families);
    let names: BTreeSet<String> = families().map(Family::full_name).collect();
    assert_eq!(names.len(), families().count());
    for family in families() {
        let name = family.full_name();
        assert!(name.starts_with("pointsman_") || name.starts_with("process_"), "{name}");
        assert!(family.help.ends_with('.') && !family.help.contains(['"', '\\', '\n']), "{name}");
        assert!(!family.help.contains("  "), "{name}");
    }
}

#[test]
fn example_alerts_are_about_metrics_that_there_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/alerts.yml");
    let alerts = std::fs::read_to_string(path).expect("the example is there");
    serde_yaml::from_str::<serde_yaml::Value>(&alerts).expect("it is YAML");
    let families = GROUPS.iter().flat_map(|group| group.families);
    let names: BTreeSet<String> = families.map(Family::full_name).collect();
    let words = alerts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let used: BTreeSet<&str> = words
        .filter(|word| word.starts_with("pointsman_") || word.starts_with("process_"))
        .collect();
    assert!(used.len() > 10, "{used:?}");
    for word in used {
        assert!(names.contains(word), "there is no metric {word}");
    }
}

#[test]
fn samples_say_what_was_read() {
    let text = page(reading(), Exposition::Text).expect("it can be written");
    has(
        &text,
        &[
            "pointsman_build_info{version=\"1.2.3\"} 1",
            "pointsman_reloads_total{result=\"refused\"} 6",
            "pointsman_last_reload_accepted 0",
            "process_cpu_seconds_total 1.5",
            "pointsman_dropped_packets_total{reason=\"no_server\"} 17",
            "pointsman_flow_table_capacity{table=\"FLOWS4\"} 1000",
            "pointsman_sweep_duration_seconds 0.00025",
            "pointsman_vip_bytes_total{frontend=\"postgres\",address=\"[2001:db8::1]:5432\",\
             protocol=\"tcp\",direction=\"reply\"} 120000",
            "pointsman_frontend_requests_total{frontend=\"web\",code=\"2xx\"} 20",
            "pointsman_frontend_requests_total{frontend=\"web\",code=\"none\"} 1",
            "pointsman_frontend_accepted_connections_total{frontend=\"web\"} 40",
            "pointsman_frontend_refused_connections_total{frontend=\"web\",reason=\"limit\"} 1",
            "pointsman_frontend_copies_total{frontend=\"web\",result=\"too_large\"} 8",
            "pointsman_frontend_errors_total{frontend=\"web\",cause=\"policy\"} 3",
            "pointsman_frontend_request_duration_seconds_bucket{frontend=\"web\",le=\"0.001\"} 5",
            "pointsman_frontend_request_duration_seconds_bucket{frontend=\"web\",le=\"0.25\"} 15",
            "pointsman_frontend_request_duration_seconds_bucket{frontend=\"web\",le=\"10\"} 15",
            "pointsman_frontend_request_duration_seconds_bucket{frontend=\"web\",le=\"+Inf\"} 21",
            "pointsman_frontend_request_duration_seconds_count{frontend=\"web\"} 21",
            "pointsman_frontend_request_duration_seconds_sum{frontend=\"web\"} 61.5",
            "pointsman_server_retries_total{backend=\"pg\",server=\"pg1\"} 2",
            "pointsman_server_state{backend=\"pg\",server=\"pg1\",state=\"DOWN\"} 1",
            "pointsman_server_state{backend=\"pg\",server=\"pg1\",state=\"UP\"} 0",
            "pointsman_server_checks_total{backend=\"pg\",server=\"pg1\",result=\"failed\"} 3",
        ],
    );
    assert!(!text.contains("EOF"));
    let open = page(reading(), Exposition::OpenMetrics).expect("it can be written");
    has(&open, &["# TYPE pointsman_vip_bytes counter", "# UNIT pointsman_vip_bytes bytes"]);
    assert!(open.ends_with("# EOF\n"));
}

#[test]
fn values_of_labels_are_escaped() {
    let page = page(reading(), Exposition::Text).expect("it can be written");
    has(&page, &[r#"pointsman_interface_attached{interface="br\"0\\",mode="off"} 0"#]);
}

#[test]
fn what_is_not_there_has_no_samples() {
    let mut reading = reading();
    reading.datapath = None;
    reading.vips[0].traffic = None;
    let server = &mut reading.servers[0];
    (server.layer_4, server.proxy, server.checks) = (None, None, None);
    let page = page(reading, Exposition::Text).expect("it can be written");
    for name in ["flow_table_entries", "vip_packets_total", "server_flows", "server_checks_total"] {
        let sample = format!("pointsman_{name}{{");
        assert!(!page.lines().any(|line| line.starts_with(&sample)), "{name} in\n{page}");
    }
    has(&page, &["pointsman_server_weight{backend=\"pg\",server=\"pg1\"} 100"]);
}
