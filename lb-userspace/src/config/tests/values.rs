//! What good values become.

use std::time::Duration;

use crate::{
    config::{load, parse},
    model::{
        access_log::{AccessFormat, AccessLog, AccessTarget, SyslogPeer},
        name::Name,
        snapshot::{
            AttachMode, Backend, Bind, BodyExpectation, Check, CheckKind, HashBy, LogTarget,
            OnDown, Protocol, Snapshot, SynCookies,
        },
    },
};

/// A snapshot from a text that follows a good `datapath`.
#[track_caller]
fn snapshot(yaml: &str) -> Snapshot {
    let text = format!("datapath: {{interfaces: [eth0]}}\n{yaml}");
    parse(&text, "c").unwrap_or_else(|faults| panic!("{faults}")).snapshot
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// The VIPs of a layer-4 frontend.
fn vips(snapshot: &Snapshot, frontend: &str) -> Vec<Bind> {
    snapshot.frontends[&name(frontend)].as_l4().unwrap().bind.clone()
}

/// The check of a backend, with these `defaults.check` and this `check`.
#[track_caller]
fn check_of(defaults: &str, check: &str) -> Check {
    let yaml = format!(
        "defaults: {{check: {{{defaults}}}}}\nbackends: {{b: {{check: {check}, servers: {{}}}}}}\n"
    );
    snapshot(&yaml).backends.remove(&name("b")).unwrap().check.unwrap()
}

#[test]
fn absent_keys_take_their_defaults() {
    let Snapshot { datapath, admin, log, frontends, backends } = snapshot("");
    assert_eq!(datapath.mode, AttachMode::Auto);
    assert_eq!(datapath.pin_directory.to_str(), Some("/sys/fs/bpf/pointsman"));
    assert!(!datapath.manage_addresses && datapath.answer_echo);
    assert_eq!((datapath.syn_cookies, datapath.syn_cookie_threshold), (SynCookies::Auto, 50));
    assert_eq!(datapath.snat_ports, (1024, 32767));
    assert_eq!((datapath.max_flows, datapath.max_half_open), (262_144, 65_536));
    let timeouts = datapath.timeouts;
    let seconds = [
        timeouts.half_open,
        timeouts.established,
        timeouts.closing,
        timeouts.closed,
        timeouts.udp,
        datapath.sweep_interval,
    ];
    assert_eq!(seconds.map(|duration| duration.as_secs()), [30, 10_800, 600, 10, 60, 5]);
    assert_eq!(admin.socket.to_str(), Some("/run/pointsman/admin.sock"));
    assert_eq!(admin.listen, None);
    assert_eq!((log.target, log.access), (LogTarget::Stderr, None));
    assert!(frontends.is_empty() && backends.is_empty());
}

#[test]
fn empty_sections_take_their_defaults() {
    let access = snapshot("log: {access: {}}\ndefaults: {timeouts: {}, check: }\n").log.access;
    let access = access.unwrap();
    assert_eq!(*access, AccessLog { capture: access.capture.clone(), ..AccessLog::default() });
}

#[test]
fn given_keys_take_their_place() {
    let text = "
datapath:
  interfaces: [eth0, eth1.100]
  mode: generic
  pin_directory: /sys/fs/bpf/other
  manage_addresses: true
  answer_echo: false
  snat_ports: 2048-4095
  max_flows: 1000
  max_half_open: 2000
  timeouts: {half_open: 1s, established: 1h30m, closing: 2s, closed: 100ms, udp: 4s}
  sweep_interval: 250ms
admin: {socket: /tmp/a.sock, listen: \"[::1]:9900\"}
log: {target: journald, access: {target: /var/log/a.log, format: json}}
";
    let Snapshot { datapath, admin, log, .. } = parse(text, "c").unwrap().snapshot;
    assert_eq!(datapath.interfaces, ["eth0", "eth1.100"]);
    assert_eq!(datapath.mode, AttachMode::Generic);
    assert_eq!(datapath.pin_directory.to_str(), Some("/sys/fs/bpf/other"));
    assert!(datapath.manage_addresses && !datapath.answer_echo);
    assert_eq!(datapath.snat_ports, (2048, 4095));
    assert_eq!((datapath.max_flows, datapath.max_half_open), (1000, 2000));
    let timeouts = datapath.timeouts;
    let millis = [
        timeouts.half_open,
        timeouts.established,
        timeouts.closing,
        timeouts.closed,
        timeouts.udp,
        datapath.sweep_interval,
    ];
    assert_eq!(
        millis.map(|duration| duration.as_millis()),
        [1000, 5_400_000, 2000, 100, 4000, 250]
    );
    assert_eq!(admin.socket.to_str(), Some("/tmp/a.sock"));
    assert_eq!(admin.listen, Some("[::1]:9900".parse().unwrap()));
    assert_eq!(log.target, LogTarget::Journald);
    let access = log.access.unwrap();
    assert_eq!(access.target, AccessTarget::File("/var/log/a.log".into()));
    assert_eq!(access.format, AccessFormat::Json);
}

#[test]
fn a_vip_has_three_spellings() {
    let snapshot = snapshot(
        "
frontends:
  dns:
    mode: l4
    bind: [\"10.0.0.53:53\", \"10.0.0.53:53/udp\", {address: \"10.0.0.53:54\", protocol: udp}]
    backend: dns
backends: {dns: {servers: {}}}
",
    );
    let vips: Vec<_> = vips(&snapshot, "dns")
        .into_iter()
        .map(|bind| (bind.address.to_string(), bind.protocol))
        .collect();
    assert_eq!(
        vips,
        [
            ("10.0.0.53:53".into(), Protocol::Tcp),
            ("10.0.0.53:53".into(), Protocol::Udp),
            ("10.0.0.53:54".into(), Protocol::Udp),
        ]
    );
}

#[test]
fn addresses_need_no_quotes_unless_they_start_with_a_bracket() {
    let text = "
frontends: {a: {mode: l4, bind: [10.0.0.1:80, 10.0.0.1:80/udp], backend: b}}
backends:
  b:
    servers: {s: 10.0.1.1:80, t: {address: 10.0.1.2:80}}
";
    let snapshot = snapshot(text);
    assert_eq!(vips(&snapshot, "a").len(), 2);
    assert_eq!(snapshot.backends[&name("b")].servers.len(), 2);
}

#[test]
fn backends_and_servers_take_their_defaults() {
    let backends = snapshot(
        "
backends:
  plain: {servers: {s: \"10.0.1.1:80\"}}
  given:
    balance: maglev
    hash: source
    on_down: keep
    check: false
    servers: {s: {address: \"10.0.1.1:80\", weight: 0, backup: true}, t: {address: \"10.0.1.2:80\"}}
",
    )
    .backends;
    let Backend { hash, on_down, check, servers, .. } = &backends[&name("plain")];
    assert_eq!((*hash, *on_down, check), (HashBy::Tuple, OnDown::Reset, &None));
    let server = servers[&name("s")];
    assert_eq!((server.weight, server.backup), (100, false));
    let Backend { hash, on_down, check, servers, .. } = &backends[&name("given")];
    assert_eq!((*hash, *on_down, check), (HashBy::Source, OnDown::Keep, &None));
    let server = servers[&name("s")];
    assert_eq!((server.weight, server.backup), (0, true));
    assert_eq!(servers[&name("t")].weight, 100);
}

#[test]
fn a_check_completes_itself_from_the_defaults() {
    let times = |check: &Check| {
        [check.interval, check.fast_interval, check.timeout].map(|duration| duration.as_millis())
    };
    let plain = check_of("", "{}");
    assert!(matches!(plain.kind, CheckKind::Tcp));
    assert_eq!((times(&plain), plain.fall, plain.rise), ([2000, 2000, 1000], 3, 2));
    assert_eq!(plain.port, None);

    let defaults = "interval: 4s, fast_interval: 1s, timeout: 3s, fall: 5, rise: 4";
    let inherited = check_of(defaults, "{}");
    assert_eq!((times(&inherited), inherited.fall, inherited.rise), ([4000, 1000, 3000], 5, 4));

    let own = "{interval: 9s, fast_interval: 8s, timeout: 7s, fall: 6, rise: 5, port: 80}";
    let own = check_of(defaults, own);
    assert_eq!((times(&own), own.fall, own.rise), ([9000, 8000, 7000], 6, 5));
    assert_eq!(own.port, Some(80));
}

#[test]
fn inherited_times_give_way_to_a_shorter_interval() {
    let short = check_of("interval: 4s, fast_interval: 1s, timeout: 3s", "{interval: 500ms}");
    let half = Duration::from_millis(500);
    assert_eq!((short.interval, short.fast_interval, short.timeout), (half, half, half));
    let short = check_of("interval: 500ms", "{}");
    assert_eq!((short.interval, short.fast_interval, short.timeout), (half, half, half));
}

#[test]
fn an_http_check_takes_its_defaults() {
    let CheckKind::Http(http) = check_of("", "{type: http}").kind else { panic!("not http") };
    assert_eq!((http.method.as_str(), http.path.as_str(), &http.host), ("GET", "/", &None));
    assert_eq!((http.headers.len(), &*http.status), (0, &[(200, 399)][..]));
    assert!(http.body.is_none() && !http.disable_on_404);
}

#[test]
fn an_http_check_takes_what_is_given() {
    let check = "{type: http, method: HEAD, path: \"/h?a=1\", host: \"a.test:80\", \
                 headers: {X-A: \"1\", X-B: b}, disable_on_404: true, \
                 expect: {status: [200, \"300-399\"], body_regex: \"^ok$\"}}";
    let CheckKind::Http(http) = check_of("", check).kind else { panic!("not http") };
    assert_eq!((http.method.as_str(), http.path.as_str()), ("HEAD", "/h?a=1"));
    assert_eq!(http.host.as_deref(), Some("a.test:80"));
    assert_eq!(http.headers, [("X-A".into(), "1".into()), ("X-B".into(), "b".into())]);
    assert_eq!(http.status, [(200, 200), (300, 399)]);
    assert!(matches!(&http.body, Some(BodyExpectation::Matches(r)) if r.as_str() == "^ok$"));
    assert!(http.disable_on_404);
    let check = "{type: http, expect: {status: 204, body: ok}}";
    let CheckKind::Http(http) = check_of("", check).kind else { panic!("not http") };
    assert_eq!(http.status, [(204, 204)]);
    assert!(matches!(&http.body, Some(BodyExpectation::Contains(text)) if text == "ok"));
}

#[test]
fn the_examples_say_what_they_say() {
    let files = super::examples();
    let example = |file: &str| {
        let path = files.iter().find(|path| path.ends_with(file)).unwrap();
        load(path).unwrap().snapshot
    };
    let databases = example("databases.yaml");
    assert_eq!(databases.frontends.len(), 3);
    assert_eq!(databases.backends[&name("pg")].servers[&name("pg2")].weight, 50);
    let dual_stack = example("dual-stack.yaml");
    assert!(vips(&dual_stack, "dns6").iter().all(|bind| bind.address.is_ipv6()));
    let web = &example("http-checks.yaml").backends[&name("web")];
    let check = web.check.as_ref().unwrap();
    assert!(matches!(&check.kind, CheckKind::Http(http) if http.disable_on_404));
}

#[test]
fn an_access_log_can_go_to_a_daemon_in_lines_of_ones_own() {
    let access = snapshot(
        "
log:
  access:
    target: unix@/dev/log
    format: http
    template: {http: \"${request.header.X-Id} ${response.header.server|none}\"}
    capture: {request_headers: [User-Agent, user-agent], max_bytes: 64}
    syslog: {facility: local3, severity: notice, app_name: edge, hostname: lb1}
",
    );
    let access = access.log.access.unwrap();
    assert_eq!(access.format, AccessFormat::Text);
    let AccessTarget::Syslog(syslog) = &access.target else { panic!("{access:?}") };
    assert_eq!(syslog.peer, SyslogPeer::Unix("/dev/log".into()));
    assert_eq!((syslog.facility, syslog.severity), (19, 5));
    assert_eq!((&*syslog.app_name, syslog.hostname.as_deref()), ("edge", Some("lb1")));
    let request = &access.capture.request;
    assert_eq!((request.shown, request.names.len()), (1, 2), "{request:?}");
    assert_eq!(access.capture.response.names, ["server"]);
    assert!(access.templates.http.is_some() && access.templates.tcp.is_none());
}
