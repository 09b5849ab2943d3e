//! Every kind of fault and warning, as the operator reads it. A case is a YAML text and
//! the lines that come out, without the file's name.

use crate::config::{Loaded, parse};

/// Holds the faults of a text against the expected lines.
#[track_caller]
pub(super) fn check(yaml: &str, expected: &[&str]) {
    let lines: Vec<String> = match parse(yaml, "c") {
        Ok(_) => Vec::new(),
        Err(faults) => faults.to_string().lines().map(str::to_owned).collect(),
    };
    let lines: Vec<&str> = lines.iter().map(|line| line.strip_prefix("c:").unwrap()).collect();
    assert_eq!(lines, expected, "\n{yaml}");
}

/// As [`check`] for a text that follows a good `datapath` in line 1.
#[track_caller]
pub(super) fn check_with_datapath(yaml: &str, expected: &[&str]) {
    check(&format!("datapath: {{interfaces: [eth0]}}\n{yaml}"), expected);
}

/// As [`check`] for one frontend `web` with these keys and a good backend.
#[track_caller]
pub(super) fn check_frontend(keys: &str, expected: &[&str]) {
    let rest = "backends: {b: {servers: {s: \"10.0.1.1:80\"}}}";
    check_with_datapath(&format!("frontends:\n  web: {{{keys}}}\n{rest}\n"), expected);
}

/// As [`check`] for one backend `b` with these keys and a good frontend.
#[track_caller]
fn check_backend(keys: &str, expected: &[&str]) {
    let rest = "frontends: {web: {mode: l4, bind: [\"10.0.0.1:80\"], backend: b}}";
    check_with_datapath(&format!("{rest}\nbackends:\n  b: {{{keys}}}\n"), expected);
}

/// Holds the warnings of a good text against the expected lines.
#[track_caller]
pub(super) fn check_warnings(yaml: &str, expected: &[&str]) {
    let Loaded { warnings, .. } = parse(yaml, "c").unwrap_or_else(|faults| panic!("{faults}"));
    let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let lines: Vec<&str> = lines.iter().map(|line| line.strip_prefix("c:").unwrap()).collect();
    assert_eq!(lines, expected, "\n{yaml}");
}

#[test]
fn good_configurations_have_none() {
    check("datapath: {mode: off}", &[]);
    check_with_datapath("", &[]);
    check_frontend("mode: l4, bind: [\"10.0.0.1:80\"], backend: b", &[]);
    check_backend("servers: {}", &[]);
    check_backend("check: false, servers: {s: \"10.0.1.1:80\"}", &[]);
    check_with_datapath("defaults:\n  # nothing yet\nlog:\n", &[]);
}

#[test]
fn the_form_of_the_yaml() {
    const EMPTY: &str =
        "1: the file is empty (hint: configs/minimal.yaml is a configuration to start from)";
    const NO_REFERENCES: &str = "YAML anchors, aliases and merge keys are not used \
        (hint: write the value out, or give it once under `defaults`)";
    check("", &[EMPTY]);
    check("# nothing\n", &[EMPTY]);
    check("---\n", &[EMPTY]);
    check("null\n", &[EMPTY]);
    check(
        "- a\n",
        &["1: expected a mapping, got a list \
           (hint: its keys are datapath, admin, log, defaults, conditions, frontends, backends)"],
    );
    check(
        "datapath: {mode: off}\nlog: {}\nlog: {}\n",
        &["3: log: \"log\" is given twice, first in line 2 (hint: keep one of the two)"],
    );
    check(
        "log: &l {}\nadmin: *l\n",
        &[&format!("1: log: {NO_REFERENCES}"), &format!("2: admin: {NO_REFERENCES}")],
    );
    check("log:\n  <<: {}\n", &[&format!("2: log.<<: {NO_REFERENCES}")]);
    check(
        "log: !secret {}\n",
        &["1: log: YAML tags are not used in a configuration \
           (hint: remove the word that starts with '!')"],
    );
    check(
        "log: {}\n---\nlog: {}\n",
        &["2: a second YAML document starts here \
           (hint: a configuration is one document; remove the `---`)"],
    );
    check(
        "? [a, b]\n: c\n",
        &["1: ?: a key is text, not a list or a mapping \
           (hint: put quotes around text that starts with '[' or '{')"],
    );
    check("log: {access:}\n", &["1: not valid YAML: found unexpected ':'"]);
    check_with_datapath(
        "backends:\n  1: {servers: {}}\n",
        &["3: backends.1: a key is text (hint: put it in quotes: \"1\")"],
    );
    check(
        "log: [\n",
        &["2: log[0]: not valid YAML: while parsing a node, did not find expected node content"],
    );
}

#[test]
fn tabs_and_bare_ipv6_addresses_get_a_hint() {
    check(
        "log:\n\ttarget: stderr\n",
        &[
            "2: log: not valid YAML: tabs disallowed within this context (block indentation) (hint: indent with spaces, not with tabs)",
        ],
    );
    check_with_datapath(
        "frontends:\n  web:\n    bind:\n      - [::1]:53\n",
        &[
            "5: frontends.web.bind[1]: not valid YAML: while parsing a block collection, did not find expected '-' indicator (hint: put IPv6 addresses in quotes: \"[2001:db8::1]:53\")",
        ],
    );
}

#[test]
fn keys_and_types() {
    check_with_datapath(
        "front-ends: {}\nzzz: 1\n",
        &[
            "2: front-ends: unknown key (hint: did you mean \"frontends\"?)",
            "3: zzz: unknown key \
             (hint: its keys are datapath, admin, log, defaults, conditions, frontends, backends)",
        ],
    );
    check_with_datapath(
        "log: stderr\n",
        &[
            "2: log: expected a mapping, got the text \"stderr\" (hint: its keys are target, access)",
        ],
    );
    check_with_datapath(
        "frontends: [a]\n",
        &["2: frontends: expected a mapping from names to settings, got a list"],
    );
    check_frontend(
        "mode: l4, bind: \"10.0.0.1:80\", backend: 5",
        &[
            "3: frontends.web.bind: expected a list, got the text \"10.0.0.1:80\" (hint: write [\"10.0.0.1:80\"])",
            "3: frontends.web.backend: expected a name of a backend, got the number 5 (hint: put it in quotes: \"5\")",
        ],
    );
    check_frontend(
        "bind: []",
        &[
            "3: frontends.web.backend: is missing (hint: the name of a backend under `backends`)",
            "3: frontends.web.mode: is missing (hint: mode: l4)",
            "3: frontends.web.bind: names no address (hint: bind: [\"10.0.0.100:5432\"])",
        ],
    );
    check_with_datapath(
        "frontends: {\"a b\": {}, \"\": {}}\n",
        &[
            "2: frontends.a b: a name is made of letters, digits, '-', '_' and '.', and starts with a letter or a digit",
            "2: frontends.: a name has 1 to 63 characters, this one 0",
        ],
    );
}

#[test]
fn values_of_the_datapath() {
    check("log: {}", &["1: datapath.interfaces: is missing (hint: interfaces: [eth0])"]);
    check(
        "datapath:\n  interfaces: []\n",
        &["2: datapath.interfaces: names no interface (hint: interfaces: [eth0])"],
    );
    check(
        "datapath:\n  interfaces: [eth0, a/b, eth0, \"an interface too long\", 7, .]\n",
        &[
            "2: datapath.interfaces[1]: \"a/b\" is not an interface name (hint: `ip link` lists them)",
            "2: datapath.interfaces[2]: \"eth0\" is listed twice, first in line 2 (hint: keep one of the two)",
            "2: datapath.interfaces[3]: \"an interface too long\" is not an interface name (hint: it has 1 to 15 bytes)",
            "2: datapath.interfaces[4]: expected an interface name, got the number 7 (hint: put it in quotes: \"7\")",
            "2: datapath.interfaces[5]: \".\" is not an interface name (hint: `ip link` lists them)",
        ],
    );
    check(
        "datapath:\n  mode: of\n  pin_directory: pins\n  manage_addresses: yes\n  max_flows: 0\n  max_half_open: 1e9\n",
        &[
            "2: datapath.mode: \"of\" is not one of auto, native, generic, off (hint: did you mean \"off\"?)",
            "3: datapath.pin_directory: \"pins\" is not an absolute path (hint: start it with '/')",
            "4: datapath.manage_addresses: expected true or false, got the text \"yes\"",
            "5: datapath.max_flows: 0 is less than 16 (hint: an integer from 16 to 16777216)",
            "6: datapath.max_half_open: 1e9 is not an integer (hint: an integer from 1024 to 16777216)",
        ],
    );
    for (range, fault) in [
        ("5", "expected a range of ports, got the number 5 (hint: put it in quotes: \"5\")"),
        ("a-b", "\"a-b\" is not a range of ports (hint: write it like 1024-32767)"),
        ("1024-70000", "\"1024-70000\" is not a range of ports (hint: write it like 1024-32767)"),
        ("2000-1024", "the range is empty: 2000 is more than 1024 (hint: write 1024-2000)"),
        ("80-2000", "80 is less than 1024 (hint: lower ports belong to this host's services)"),
    ] {
        let yaml = format!("datapath:\n  mode: off\n  snat_ports: {range}\n");
        check(&yaml, &[&format!("3: datapath.snat_ports: {fault}")]);
    }
    check(
        "datapath:\n  mode: off\n  timeouts: {udp: 60, closed: 1 s, closing: 1ms, half_open: 31d, established: {}}\n",
        &[
            "3: datapath.timeouts.udp: \"60\" has no unit (hint: such as 5s or 100ms)",
            "3: datapath.timeouts.closed: \"1 s\" is not a duration (hint: durations are written like 100ms, 5s, 1h30m)",
            "3: datapath.timeouts.closing: 1ms is less than 100ms (hint: a duration from 100ms to 30d)",
            "3: datapath.timeouts.half_open: 31d is more than 30d (hint: a duration from 100ms to 30d)",
            "3: datapath.timeouts.established: expected a duration, got a mapping (hint: durations are written like 100ms, 5s, 1h30m)",
        ],
    );
}

#[test]
fn values_of_admin_log_and_defaults() {
    let long = format!("/{}", "s".repeat(107));
    check_with_datapath(
        &format!("admin:\n  socket: {long}\n  listen: localhost:9900\n"),
        &[
            "3: admin.socket: 108 bytes are more than a Unix socket's path may have (hint: at most 107 bytes)",
            "4: admin.listen: \"localhost:9900\" is not an address and a port (hint: names are not looked up; write the IP address)",
        ],
    );
    check_with_datapath(
        "log:\n  access: {target: access.log, format: xml}\n",
        &[
            "3: log.access.target: \"access.log\" is not a target (hint: stdout, a file by its absolute path, or udp@, tcp@ or unix@ and a syslog daemon)",
            "3: log.access.format: \"xml\" is not one of text, http, json",
        ],
    );
    check_with_datapath(
        "defaults:\n  timeouts: {conect: 5s, client: 30}\n  check: {interval: 1s, timeout: 2s, fast_interval: 3s, type: tcp}\n",
        &[
            "3: defaults.timeouts.conect: unknown key (hint: did you mean \"connect\"?)",
            "3: defaults.timeouts.client: \"30\" has no unit (hint: such as 5s or 100ms)",
            "4: defaults.check.timeout: 2s is longer than the check's interval, 1s (hint: at most 1s, or raise interval)",
            "4: defaults.check.fast_interval: 3s is longer than the check's interval, 1s (hint: at most 1s, or raise interval)",
            "4: defaults.check.type: unknown key (hint: its keys are interval, fast_interval, timeout, fall, rise)",
        ],
    );
}

#[test]
fn words_that_are_not_built_say_so() {
    check_frontend(
        "mode: http, forward: dsr, rules: [], tls: {}, bind: [{address: \"0.0.0.0:443\", tls: {}}], backend: b",
        &[
            "3: frontends.web.forward: needs `mode: l4`",
            "3: frontends.web.tls: \"tls\" is not built in this version (hint: it is a key of the entries of `bind`)",
            "3: frontends.web.bind[0].tls.certificates: is missing (hint: certificates: /etc/pointsman/certs)",
        ],
    );
    check_frontend(
        "mode: l4, rules: [{deny: 403}], bind: [\"10.0.0.1:80\"], backend: b",
        &["3: frontends.web.rules: needs `mode: http`"],
    );
    check_frontend(
        "mode: l5, forward: tunnel, bind: [\"10.0.0.1:80\"], backend: b",
        &[
            "3: frontends.web.mode: \"l5\" is not one of l4, tcp, http (hint: did you mean \"l4\"?)",
            "3: frontends.web.forward: \"tunnel\" is not one of nat, dsr, ipip, gue",
        ],
    );
    for (balance, instead) in [
        ("random", "use `balance: maglev`, which spreads flows evenly by weight"),
        ("first", "mark the other servers with `backup: true`"),
        ("source", "use `balance: maglev` with `hash: source`"),
    ] {
        let fault = format!(
            "4: backends.b.balance: \"{balance}\" is a balancing algorithm that is not built for \
             layer 4 in this version (hint: {instead})"
        );
        check_backend(&format!("balance: {balance}, servers: {{}}"), &[&fault]);
    }
    check_backend(
        "balance: least-connections, hash: source, servers: {}",
        &[
            "4: backends.b: has `hash: source`, which `least-connections` does not use (hint: keep one of the two)",
        ],
    );
    check_backend(
        "balance: round-robin, hash: source, servers: {}",
        &[
            "4: backends.b: has `hash: source`, which `round-robin` does not use (hint: keep one of the two)",
        ],
    );
    check_backend("balance: least-connections, servers: {}", &[]);
    check_backend("balance: round-robin, slow_start: 30s, servers: {}", &[]);
    check_backend("hash: source, affinity: 18h, servers: {}", &[]);
    check_backend(
        "affinity: 10m, servers: {}",
        &["4: backends.b.affinity: needs `mode: l4` and `hash: source` \
           (hint: in the proxy, `persistence` keeps clients)"],
    );
    check_backend(
        "on_full: queue, servers: {s: {address: \"10.0.1.1:80\", max_connections: 65536}, \
         t: {address: \"10.0.1.2:80\", max_connections: 65535}}",
        &[
            "4: backends.b.on_full: \"queue\" is not one of overflow, reset",
            "4: backends.b.servers.s.max_connections: 65536 are more flows than layer 4 counts \
             for a server, 65535 (hint: leave it out for no limit)",
        ],
    );
    check_backend(
        "balance: magle, servers: {}",
        &[
            "4: backends.b.balance: \"magle\" is not one of maglev, round-robin, least-connections, \
           random, first \
           (hint: did you mean \"maglev\"?)",
        ],
    );
}

#[test]
fn the_whole_vocabulary_is_understood() {
    let parsed = parse(include_str!("vocabulary.yaml"), "c");
    assert!(parsed.is_ok(), "{}", parsed.unwrap_err());
}

#[test]
fn addresses_of_vips() {
    check_frontend(
        "mode: l4, bind: [\"0.0.0.0:80\", \"127.0.0.1:80\", \"10.0.0.1\", \"10.0.0.1:0\", \"10.0.0.1:80/sctp\", 80], backend: b",
        &[
            "3: frontends.web.bind[0]: 0.0.0.0:80 can not be a VIP: the address is unspecified (hint: a VIP is one address that clients connect to)",
            "3: frontends.web.bind[1]: 127.0.0.1:80 can not be a VIP: the address is loopback (hint: a VIP is one address that clients connect to)",
            "3: frontends.web.bind[2]: \"10.0.0.1\" is not an address and a port (hint: add the port: 10.0.0.1:PORT)",
            "3: frontends.web.bind[3]: the port of \"10.0.0.1:0\" is 0 (hint: a port is an integer from 1 to 65535)",
            "3: frontends.web.bind[4]: \"sctp\" is not a protocol (hint: an address may end in /tcp or /udp)",
            "3: frontends.web.bind[5]: expected an address and a port, got the number 80 (hint: put it in quotes: \"80\")",
        ],
    );
    check_frontend(
        "mode: l4, bind: [{address: \"10.0.0.1:53/udp\", protocol: tcp}, {protocol: sctp}], backend: b",
        &[
            "3: frontends.web.bind[0].protocol: contradicts the protocol behind the address (hint: keep one of the two)",
            "3: frontends.web.bind[1].address: is missing (hint: address: \"10.0.0.100:5432\")",
            "3: frontends.web.bind[1].protocol: \"sctp\" is not one of tcp, udp",
        ],
    );
    check_frontend(
        "mode: l4, bind: [\"10.0.0.1:80\", \"[2001:db8::1]:80\"], backend: b",
        &[
            "3: frontends.web.bind[1]: [2001:db8::1]:80 is IPv6, the VIPs before it are IPv4 (hint: give each family its own frontend and its own backend)",
        ],
    );
    check_frontend(
        "mode: l4, bind: [\"[2001:db8::1]:80\"], backend: b",
        &[
            "3: frontends.web.backend: its servers are IPv4, the frontend's VIPs are IPv6 (hint: give each family its own frontend and its own backend)",
        ],
    );
    check_frontend(
        "mode: l4, forward: dsr, bind: [\"10.0.0.1:80\", \"10.0.0.1:443\"], backend: b",
        &[
            "3: frontends.web.backend: `forward: dsr` leaves ports as they are, but its server s has port 80 and the VIP 10.0.0.1:443 another (hint: give the servers the VIP's port, or use `forward: nat`)",
        ],
    );
    check_frontend(
        "mode: l4, forward: dsr, bind: [\"[2001:db8::1]:80\"], backend: b",
        &[
            "3: frontends.web.backend: its servers are IPv4, the frontend's VIPs are IPv6 (hint: give each family its own frontend and its own backend)",
        ],
    );
    check_frontend("mode: l4, forward: ipip, bind: [\"[2001:db8::1]:80\"], backend: b", &[]);
    check_frontend("mode: l4, snat: false, bind: [\"10.0.0.1:81\"], backend: b", &[]);
    check_frontend(
        "mode: l4, snat: false, forward: dsr, bind: [\"10.0.0.1:80\"], backend: b",
        &["3: frontends.web.snat: needs `forward: nat`; servers see clients anyway"],
    );
    check_frontend(
        "mode: tcp, snat: true, bind: [\"10.0.0.1:80\"], backend: b",
        &["3: frontends.web.snat: needs `mode: l4`"],
    );
    check_frontend("mode: l4, syn_cookies: always, bind: [\"10.0.0.1:81\"], backend: b", &[]);
    check_frontend(
        "mode: l4, syn_cookies: auto, forward: dsr, bind: [\"10.0.0.1:80\"], backend: b",
        &[
            "3: frontends.web.syn_cookies: needs `forward: nat` (hint: answers of servers do not come by here)",
        ],
    );
    check_frontend(
        "mode: http, syn_cookies: auto, bind: [\"10.0.0.1:80\"], backend: b",
        &["3: frontends.web.syn_cookies: needs `mode: l4`"],
    );
    check_frontend(
        "mode: l4, forward: gue, bind: [\"[2001:db8::1]:81\"], backend: b",
        &[
            "3: frontends.web.backend: `forward: gue` leaves ports as they are, but its server s has port 80 and the VIP [2001:db8::1]:81 another (hint: give the servers the VIP's port, or use `forward: nat`)",
        ],
    );
    check_frontend(
        "mode: l4, bind: [\"10.0.0.1:80\"], backend: bb",
        &["3: frontends.web.backend: there is no backend \"bb\" (hint: did you mean \"b\"?)"],
    );
    check_with_datapath(
        "frontends:\n  b: {mode: l4, bind: [\"10.0.0.1:80\"], backend: b}\n  a: {mode: l4, bind: [\"10.0.0.1:80/udp\", \"10.0.0.1:80\", \"10.0.0.1:80/udp\"], backend: b}\nbackends: {b: {servers: {}}}\n",
        &[
            "4: frontends.a.bind[1]: 10.0.0.1:80 is given twice, first in line 3 (frontends.b.bind[0]) (hint: a VIP belongs to one frontend)",
            "4: frontends.a.bind[2]: 10.0.0.1:80/udp is given twice, first in line 4 (frontends.a.bind[0]) (hint: a VIP belongs to one frontend)",
        ],
    );
}

#[test]
fn servers_of_backends() {
    check_backend(
        "balance: maglev",
        &[
            "4: backends.b.servers: is missing (hint: servers: {db1: \"10.0.1.20:5432\"}, or {} for none yet)",
        ],
    );
    check_backend(
        "hash: client, on_down: drop, servers: {s: {address: \"10.0.1.1:80\", weight: 257, backup: 1}}",
        &[
            "4: backends.b.hash: \"client\" is not one of tuple, source, uri, path",
            "4: backends.b.on_down: \"drop\" is not one of reset, reroute, keep",
            "4: backends.b.servers.s.weight: 257 is more than 256 (hint: an integer from 0 to 256)",
            "4: backends.b.servers.s.backup: expected true or false, got the number 1",
        ],
    );
    check_backend(
        "servers: {a: {weight: -1}, b: {address: \"10.0.1.1:80\", weight: 1.5}, c: {address: \"10.0.1.1:80\", wait: 1}}",
        &[
            "4: backends.b.servers.a.address: is missing (hint: address: \"10.0.1.20:5432\")",
            "4: backends.b.servers.a.weight: -1 is less than 0 (hint: an integer from 0 to 256)",
            "4: backends.b.servers.b.weight: 1.5 is not an integer (hint: an integer from 0 to 256)",
            "4: backends.b.servers.c: 10.0.1.1:80 is given twice, first in line 4 (backends.b.servers.b) (hint: use `weight` for a larger share)",
            "4: backends.b.servers.c.wait: unknown key (hint: its keys are address, weight, backup, max_connections)",
        ],
    );
    check_backend(
        "servers: {a: \"10.0.1.1:80\", b: \"[2001:db8::1]:80\", c: \"10.0.0.1:80\", d: \"10.0.1.2:80/udp\", e: \"224.0.0.1:80\", f: \"db1:80\"}",
        &[
            "4: backends.b.servers.b: [2001:db8::1]:80 is IPv6, the servers before it are IPv4 (hint: give each family its own backend)",
            "4: backends.b.servers.c: 10.0.0.1:80 is itself a VIP, line 2 (frontends.web.bind[0]) (hint: a server is a machine behind the balancer; this would loop)",
            "4: backends.b.servers.d: a server has no protocol of its own (hint: write \"10.0.1.2:80\"; `bind` says which)",
            "4: backends.b.servers.e: 224.0.0.1:80 can not be a server: the address is multicast (hint: a server is another machine that the balancer has a route to)",
            "4: backends.b.servers.f: \"db1:80\" is not an address and a port (hint: names are not looked up; write the IP address)",
        ],
    );
}

#[test]
fn checks_that_go_the_way_of_traffic() {
    let judge = |frontend: &str, server: &str, expected: &[&str]| {
        let backend = format!("{{check: {{via: vip}}, servers: {{s: \"{server}\"}}}}");
        let yaml = format!("frontends:\n  web: {{{frontend}}}\nbackends: {{b: {backend}}}\n");
        check_with_datapath(&yaml, expected);
    };
    let four = |keys: &str| format!("mode: l4, {keys}, bind: [\"10.0.0.1:80\"], backend: b");
    judge(&four("forward: dsr"), "10.0.1.1:80", &[]);
    judge(&four("forward: gue"), "10.0.1.1:80", &[]);
    judge(
        &four("forward: ipip"),
        "[2001:db8::1]:80",
        &[
            "4: backends.b.check.via: the servers are IPv6, and no VIP of this backend is: checks are in their family (hint: give a frontend of that family the backend too, or use server)",
        ],
    );
    let others = "4: backends.b.check.via: \"vip\" needs frontends whose `forward` is dsr, ipip or gue, and this backend has others (hint: server: there the check goes the way of traffic anyway)";
    judge(&four("forward: nat"), "10.0.1.1:80", &[others]);
    judge("mode: http, bind: [\"10.0.0.1:80\"], backend: b", "10.0.1.1:80", &[others]);
    check_backend(
        "check: {via: tunnel}, servers: {}",
        &["4: backends.b.check.via: \"tunnel\" is not one of server, vip"],
    );
}

#[test]
fn checks() {
    check_backend(
        "check: true, servers: {}",
        &["4: backends.b.check: expected a mapping or false, got true (hint: write {type: tcp})"],
    );
    check_backend(
        "check: {type: icmp}, servers: {}",
        &["4: backends.b.check.type: \"icmp\" is not one of tcp, http"],
    );
    check_backend(
        "check: {path: /, disable_on_404: true, port: 0, fall: 0}, servers: {}",
        &[
            "4: backends.b.check.path: is a key of http checks, and this one is tcp (hint: add `type: http`, or remove it)",
            "4: backends.b.check.disable_on_404: is a key of http checks, and this one is tcp (hint: add `type: http`, or remove it)",
            "4: backends.b.check.port: 0 is less than 1 (hint: an integer from 1 to 65535)",
            "4: backends.b.check.fall: 0 is less than 1 (hint: an integer from 1 to 1000)",
        ],
    );
    check_backend(
        "check: {timeout: 3s, fast_interval: 1m}, servers: {}",
        &[
            "4: backends.b.check.timeout: 3s is longer than the check's interval, 2s (hint: at most 2s, or raise interval)",
            "4: backends.b.check.fast_interval: 1m is longer than the check's interval, 2s (hint: at most 2s, or raise interval)",
        ],
    );
    check_backend(
        "check: {type: http, method: \"G T\", path: health, host: \"a b\", headers: {Host: a, Content-Length: b, \"a b\": c, d: \"e\\nf\", g: 5}}, servers: {}",
        &[
            "4: backends.b.check.method: \"G T\" is not a method for checks (hint: such as GET, HEAD, OPTIONS)",
            "4: backends.b.check.path: \"health\" is not a path (hint: it starts with '/' and has no spaces: /health?full=1)",
            "4: backends.b.check.host: \"a b\" is not a host (hint: such as www.example.com)",
            "4: backends.b.check.headers.Host: the Host header has a key of its own (hint: write it as `host` next to `headers`)",
            "4: backends.b.check.headers.Content-Length: \"Content-Length\" is written by the agent (hint: remove it)",
            "4: backends.b.check.headers.a b: \"a b\" is not a header name",
            "4: backends.b.check.headers.d: \"e\\nf\" is not a header value (hint: it has no line breaks and no control characters)",
            "4: backends.b.check.headers.g: expected a text, got the number 5 (hint: put it in quotes: \"5\")",
        ],
    );
    check_backend(
        "check: {type: http, expect: {status: [99, \"300-200\", x, {}], body: a, body_regex: b}}, servers: {}",
        &[
            "4: backends.b.check.expect.status[0]: \"99\" is not a status code nor a range of them (hint: codes are 100 to 599: 200 or \"200-299\")",
            "4: backends.b.check.expect.status[1]: \"300-200\" is not a status code nor a range of them (hint: codes are 100 to 599: 200 or \"200-299\")",
            "4: backends.b.check.expect.status[2]: \"x\" is not a status code nor a range of them (hint: codes are 100 to 599: 200 or \"200-299\")",
            "4: backends.b.check.expect.status[3]: expected a status code, got a mapping (hint: such as 200 or \"200-299\")",
            "4: backends.b.check.expect.body_regex: is given together with body (hint: keep one of the two)",
        ],
    );
    check_backend(
        "check: {type: http, expect: {status: [], body_regex: \"(\"}}, servers: {}",
        &[
            "4: backends.b.check.expect.status: no status is accepted (hint: such as [200])",
            "4: backends.b.check.expect.body_regex: \"(\" is not a regular expression: unclosed group",
        ],
    );
}

#[test]
fn every_fault_of_a_file_is_reported_at_once() {
    check(
        include_str!("faulty.yaml"),
        &[
            "3: datapath.mode: \"nativ\" is not one of auto, native, generic, off (hint: did you mean \"native\"?)",
            "4: datapath.sweep_intervall: unknown key (hint: did you mean \"sweep_interval\"?)",
            "5: admin.listen: \"127.0.0.1\" is not an address and a port (hint: add the port: 127.0.0.1:PORT)",
            "7: defaults.check.interval: \"2\" has no unit (hint: such as 5s or 100ms)",
            "11: frontends.postgres.bind[1]: 10.0.0.100:5432 is given twice, first in line 11 (frontends.postgres.bind[0]) (hint: a VIP belongs to one frontend)",
            "12: frontends.postgres.backend: there is no backend \"pgg\" (hint: did you mean \"pg\"?)",
            "19: backends.pg.check.path: is a key of http checks, and this one is tcp (hint: add `type: http`, or remove it)",
            "21: backends.pg.servers.pg1: 10.0.0.100:5432 is itself a VIP, line 11 (frontends.postgres.bind[0]) (hint: a server is a machine behind the balancer; this would loop)",
            "22: backends.pg.servers.pg2.weight: 300 is more than 256 (hint: an integer from 0 to 256)",
            "23: backends.pg.servers.pg3: 10.0.1.21:5432 is given twice, first in line 22 (backends.pg.servers.pg2) (hint: use `weight` for a larger share)",
            "26: backends.web.servers.w1: \"web1.example.com:80\" is not an address and a port (hint: names are not looked up; write the IP address)",
        ],
    );
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    check_warnings(
        "datapath: {interfaces: [eth0], snat_ports: 1024-60000}",
        &[
            "1: frontends: there is no frontend: nothing is forwarded",
            "1: datapath.snat_ports: reaches into the ports Linux takes for its own connections by default (hint: end it at 32767, or move net.ipv4.ip_local_port_range)",
        ],
    );
    check_warnings(
        "datapath: {mode: off, snat_ports: 1024-60000, pin_directory: /a}",
        &[
            "1: frontends: there is no frontend: nothing is forwarded",
            "1: datapath.snat_ports: does nothing with `mode: off` (hint: the kernel takes ports out of net.ipv4.ip_local_port_range)",
            "1: datapath.pin_directory: does nothing with `mode: off` (hint: nothing is pinned)",
        ],
    );
    check_warnings(
        "datapath: {mode: off}\nfrontends: {a: {mode: l4, bind: [\"10.0.0.1:80\"], backend: b}}\nbackends:\n  b: {hash: source, affinity: 1m, on_full: reset, slow_start: 1m, servers: {s: \"10.0.1.1:80\"}}\n",
        &[
            "4: backends.b.affinity: does nothing with `datapath.mode: off` (hint: `hash: source` still sends a client to one server while the servers are the same)",
        ],
    );
    check_warnings(
        "datapath: {mode: off}\nfrontends: {a: {mode: l4, syn_cookies: always, bind: [\"10.0.0.1:80\"], backend: b}}\nbackends:\n  b: {servers: {s: \"10.0.1.1:80\"}}\n",
        &[
            "2: frontends.a: `syn_cookies` does nothing with `datapath.mode: off` (hint: the kernel's are in force: sysctl net.ipv4.tcp_syncookies)",
        ],
    );
    check_warnings(
        "datapath: {mode: off}\nfrontends: {a: {mode: l4, bind: [\"10.0.0.1:80\"], backend: b}}\nbackends:\n  b: {servers: {}}\n  c: {servers: {s: {address: \"10.0.1.1:80\", weight: 0}}}\n",
        &[
            "4: backends.b: there is no server: clients are refused",
            "5: backends.c: every weight is 0: no server takes new flows",
            "5: backends.c: no frontend uses the backend \"c\"",
        ],
    );
}

#[test]
fn more_than_the_maps_hold_is_a_fault() {
    let binds: Vec<String> =
        (0..513).map(|n| format!("\"10.0.{}.{}:80\"", n / 256, n % 256)).collect();
    let binds = binds.join(", ");
    let servers: Vec<String> =
        (0..4097).map(|n| format!("s{n}: \"10.1.{}.{}:80\"", n / 256, n % 256)).collect();
    let servers = servers.join(", ");
    let backends: Vec<String> = (0..513).map(|n| format!("  b{n}: {{servers: {{}}}}\n")).collect();
    let backends = backends.concat();
    check_with_datapath(
        &format!(
            "frontends: {{a: {{mode: l4, bind: [{binds}], backend: b}}}}\nbackends:\n  b: {{servers: {{{servers}}}}}\n{backends}"
        ),
        &[
            "2: frontends: 513 VIPs are more than 512 (hint: spread them over several pairs of balancers)",
            "3: backends: 4097 servers are more than 4096 (hint: spread them over several pairs of balancers)",
            "3: backends: 514 backends are more than 512 (hint: spread them over several pairs of balancers)",
        ],
    );
}

#[test]
fn what_only_the_proxy_has_is_refused_in_layer_4() {
    const HINT: &str = "is for the proxy; a frontend of `mode: l4` uses this backend \
        (hint: give that frontend a backend of its own, with the same servers)";
    let at = |path: &str, name: &str| format!("4: backends.b.{path}: \"{name}\" {HINT}");
    check_backend(
        "slow_start: 30s, persistence: {cookie: SRV}, passive: {}, retries: 1, queue_length: 5, \
         servers: {s: {address: \"10.0.1.1:80\", max_connections: 9}}",
        &[
            &at("persistence", "persistence"),
            &at("passive", "passive"),
            &at("retries", "retries"),
            &at("queue_length", "queue_length"),
        ],
    );
}

#[test]
fn frontends_of_the_proxy() {
    check_frontend(
        "mode: tcp, bind: [\"127.0.0.1:80\", \"unix@/run/x\", \"fd@3\"], backend: b",
        &[],
    );
    check_frontend(
        "mode: tcp, forward: nat, bind: [\"127.0.0.1:80\", \"127.0.0.1:80\", \"10.0.0.1:53/udp\"], backend: b",
        &[
            "3: frontends.web.forward: needs `mode: l4`",
            "3: frontends.web.bind[1]: 127.0.0.1:80 is given twice, first in line 3 (frontends.web.bind[0]) (hint: it belongs to one frontend)",
            "3: frontends.web.bind[2]: the proxy does not take UDP (hint: `mode: l4` does)",
        ],
    );
    check_frontend(
        "mode: tcp, bind: [{address: \"[::1]:80\", mode: \"0888\", accept_proxy: {from: [10.0.0.0/99]}}], backend: b, sni: {\"*.a.test\": b, \"a test\": b, b.test: c}",
        &[
            "3: frontends.web.bind[0].mode: \"0888\" are no permission bits (hint: octal, in quotes, such as \"0660\")",
            "3: frontends.web.bind[0].accept_proxy.from[0]: \"10.0.0.0/99\" is not a network (hint: such as 10.0.0.0/8 or 2001:db8::/32)",
            "3: frontends.web.sni.a test: \"a test\" is not a server name (hint: such as www.example.com)",
        ],
    );
    check_frontend(
        "mode: tcp, bind: [\"127.0.0.1:80\"], backend: b, sni: {b.test: c}",
        &["3: frontends.web.sni.b.test: there is no backend \"c\" (hint: did you mean \"b\"?)"],
    );
    check_frontend(
        "mode: tcp, bind: [\"127.0.0.1:80\"], backend: b, limits: {connections: 5, streams: 5}",
        &[
            "3: frontends.web.limits: is about requests, which `mode: tcp` does not see (hint: connections, connections_per_source)",
        ],
    );
    check_frontend(
        "mode: l4, bind: [{address: \"10.0.0.1:80\", tls: {certificates: /c}}], sni: {}, backend: b",
        &[
            "3: frontends.web.bind[0]: \"tls\" is not for `mode: l4` (hint: a layer-4 frontend passes connections through as they are)",
            "3: frontends.web.sni: is not for `mode: l4`",
        ],
    );
}

#[test]
fn persistence_and_passive_checks_of_a_proxied_backend() {
    let check = |keys: &str, expected: &[&str]| {
        let rest = "frontends: {web: {mode: http, bind: [\"10.0.0.1:80\"], backend: b}}";
        let servers = "servers: {s: \"10.0.1.1:80\"}";
        check_with_datapath(&format!("{rest}\nbackends:\n  b: {{{keys}, {servers}}}\n"), expected);
    };
    check("persistence: {cookie: SRV, key: 0123456789abcdef, signed: 1h}", &[]);
    check("passive: {action: mark-down}, check: {type: tcp}", &[]);
    check(
        "persistence: {cookie: \"a b\"}",
        &["4: backends.b.persistence.cookie: \"a b\" is not a name of a cookie \
           (hint: letters, digits, '-' and '_', at most 128)"],
    );
    check(
        "persistence: {cookie: SRV, signed: 1h}",
        &["4: backends.b.persistence.signed: needs a `key`: nobody can sign with one that all \
           know (hint: key: a secret of at least 16 bytes)"],
    );
    check(
        "persistence: {cookie: SRV, key: short}",
        &["4: backends.b.persistence.key: 5 bytes are too few for a secret \
           (hint: 16 at least, such as those of `openssl rand -hex 16`)"],
    );
    check(
        "passive: {action: mark-down}",
        &["4: backends.b.passive: marks servers down, and no check finds them up again \
           (hint: give the backend a `check`)"],
    );
    check(
        "passive: {failures: 0}",
        &["4: backends.b.passive.failures: is 0, and so is `error_percent`: nothing counts \
           (hint: leave `passive` out)"],
    );
    check(
        "passive: {eject_time: 1m, longest_eject_time: 10s}",
        &["4: backends.b.passive.longest_eject_time: is shorter than `eject_time`"],
    );
}

#[test]
fn tls_of_bind_addresses_and_backends() {
    let check_tls = |keys: &str, expected: &[&str]| {
        let bind = format!("{{address: \"127.0.0.1:443\", tls: {{{keys}}}}}");
        check_frontend(&format!("mode: tcp, bind: [{bind}], backend: b"), expected);
    };
    check_tls(
        "certificates: /c, alpn: [h2], ciphers: [TLS_AES_128_GCM_SHA256, ECDHE-RSA-AES128-GCM-SHA256]",
        &[],
    );
    check_tls(
        "certificates: [/c, {certificate: /a, key: /b}], client_auth: {ca: /d, required: false}",
        &[],
    );
    check_tls(
        "certificates: c.pem, min_version: \"1.3\", max_version: \"1.2\", ticket_rotation: 1d",
        &[
            "3: frontends.web.bind[0].tls.certificates: \"c.pem\" is not an absolute path (hint: start it with '/')",
            "3: frontends.web.bind[0].tls.min_version: is higher than max_version (hint: keep one of the two)",
            "3: frontends.web.bind[0].tls.ticket_rotation: 1d is more than 6h (hint: a duration from 1m to 6h)",
        ],
    );
    check_tls(
        "certificates: /c, min_version: \"1.1\", ciphers: [RC4]",
        &[
            "3: frontends.web.bind[0].tls.min_version: \"1.1\" is not one of 1.2, 1.3 (hint: did you mean \"1.2\"?)",
            "3: frontends.web.bind[0].tls.ciphers[0]: \"RC4\" is not a cipher suite (hint: such as TLS_AES_128_GCM_SHA256)",
        ],
    );
    check_tls(
        "certificates: /c, ciphers: [TLS_AES_128_GCM_SHA256]",
        &[
            "3: frontends.web.bind[0].tls.ciphers: has no suite of TLS 1.2, which is spoken (hint: add one, or narrow min_version and max_version)",
        ],
    );
    let front = "frontends: {t: {mode: tcp, bind: [\"127.0.0.1:80\"], backend: b}}";
    let servers = "{s: \"127.0.0.1:81\"}";
    check_with_datapath(
        &format!(
            "{front}\nbackends:\n  b: {{servers: {servers}, tls: {{ca: /c, verify: false, sni: 10.0.0.1}}}}\n"
        ),
        &[
            "4: backends.b.tls.verify: contradicts `ca`, which would not be used (hint: keep one of the two)",
            "4: backends.b.tls.sni: \"10.0.0.1\" is not a server name (hint: such as www.example.com)",
        ],
    );
}

#[test]
fn the_access_log() {
    let check = |keys: &str, expected: &[&str]| {
        check_with_datapath(&format!("log:\n  access: {{{keys}}}\n"), expected);
    };
    check(
        "target: udp@10.0.0.1, format: haproxy, \
         template: {http: \"${requst.uri} ${tls.snj}\"}",
        &[
            "3: log.access.target: \"10.0.0.1\" is not an address and a port (hint: add the port: \
             10.0.0.1:PORT)",
            "3: log.access.format: \"haproxy\" is not one of text, http, json",
            "3: log.access.template.http: such lines have no field \"requst.uri\", \"tls.snj\" \
             (hint: did you mean \"request.uri\", \"tls.sni\"?)",
        ],
    );
    check(
        "template: {http: \"a\\nb\", tcp: \"${timer.conect}\", l4: \"${\"}",
        &[
            "3: log.access.template.http: a line has no line breaks and no control characters in it",
            "3: log.access.template.tcp: such lines have no field \"timer.conect\" (hint: did you \
             mean \"timer.connect\"?)",
            "3: log.access.template.l4: a '${' has no '}' (hint: `$${` writes a dollar sign and a \
             brace)",
        ],
    );
    check(
        "target: udp@10.0.0.1:514, syslog: {facility: kern}",
        &["3: log.access.syslog.facility: \"kern\" is not one of user, daemon, local0, local1, \
           local2, local3, local4, local5, local6, local7"],
    );
    check(
        "target: tcp@10.0.0.1:514, syslog: {app_name: \"a b\"}",
        &[
            "3: log.access.syslog.app_name: \"a b\" can not stand in a syslog header (hint: 1 to 48 \
           printable ASCII characters, no spaces)",
        ],
    );
    check(
        "target: /a, syslog: {}",
        &["3: log.access.syslog: `target` is no syslog daemon (hint: such as target: \
           udp@192.0.2.9:514)"],
    );
    check(
        "capture: {request_headers: [\"a b\"]}",
        &["3: log.access.capture.request_headers[0]: \"a b\" is not a header name"],
    );
    check(
        "capture: {max_bytes: 0}",
        &["3: log.access.capture.max_bytes: 0 is less than 1 (hint: an integer from 1 to 8192)"],
    );
    check(
        "target: unix@log",
        &[
            "3: log.access.target: \"unix@log\" names no socket (hint: unix@/absolute/path, at most \
           107 bytes)",
        ],
    );
}

#[test]
fn keys_about_requests_need_somebody_with_requests() {
    const BACKEND: &str = "backends:\n  b: {balance: maglev, hash: uri, persistence: {cookie: c}, \
                           protocol: http2, servers: {s: \"10.0.1.1:80\"}}\n";
    let tcp = "frontends:\n  t: {mode: tcp, bind: [\"10.0.0.1:80\"], backend: b}\n";
    check_with_datapath(
        &format!("{tcp}{BACKEND}"),
        &[
            "5: backends.b.hash: `hash` names a part of requests; frontends of `mode: tcp` alone \
             use this backend (hint: tuple or source)",
            "5: backends.b.persistence: \"persistence\" is about requests; frontends of \
             `mode: tcp` alone use this backend (hint: remove it, or use `mode: http`)",
            "5: backends.b.protocol: \"protocol\" is about requests; frontends of `mode: tcp` \
             alone use this backend (hint: remove it, or use `mode: http`)",
        ],
    );
    // Somebody has, by a rule or by default.
    let http = "  h: {mode: http, bind: [\"10.0.0.1:81\"], backend: b}\n";
    check_with_datapath(&format!("{tcp}{http}{BACKEND}"), &[]);
    let rule = "  h: {mode: http, bind: [\"10.0.0.1:81\"], backend: c, rules: [{if: {path: /}, \
                backend: b}]}\n";
    let other = "  c: {servers: {s: \"10.0.1.2:80\"}}\n";
    check_with_datapath(&format!("{tcp}{rule}{BACKEND}{other}"), &[]);
}

#[test]
fn statuses_that_are_tried_again() {
    check_with_datapath(
        "frontends: {h: {mode: http, bind: [\"10.0.0.1:80\"], backend: b}}\nbackends:\n  \
         b: {servers: {s: \"10.0.1.1:80\"}, retry_statuses: [503, 418, 200, x]}\n",
        &[
            "4: backends.b.retry_statuses[1]: 418 is never tried again (hint: one of 401, 403, \
             404, 408, 425, 500, 501, 502, 503, 504)",
            "4: backends.b.retry_statuses[2]: 200 is less than 401 (hint: an integer from 401 to \
             504)",
            "4: backends.b.retry_statuses[3]: expected an integer from 401 to 504, got the text \
             \"x\"",
        ],
    );
}

#[test]
fn servers_on_unix_sockets() {
    let text = |mode: &str, backend: &str| {
        format!(
            "datapath: {{mode: off}}\nfrontends: {{web: {{{mode}, backend: b}}}}\n\
             backends: {{b: {{{backend}}}}}\n"
        )
    };
    let tcp = "mode: tcp, bind: [\"127.0.0.1:80\"]";
    let socket = "servers: {s: \"unix@/run/s.sock\"}";
    check(&text(tcp, socket), &[]);
    check(&text(tcp, &format!("check: {{type: tcp}}, tls: {{verify: false}}, {socket}")), &[]);
    check(
        &text(tcp, &format!("check: {{type: tcp, port: 80}}, {socket}")),
        &[
            "3: backends.b.servers.s: unix@/run/s.sock has no port, and `check` names one (hint: leave the port out: the check connects to the socket)",
        ],
    );
    check(
        &text(tcp, &format!("tls: {{}}, {socket}")),
        &[
            "3: backends.b.servers.s: unix@/run/s.sock is no address that a certificate names (hint: name the servers in `tls`: {sni: www.example.com})",
        ],
    );
    check(
        &text(tcp, "servers: {s: \"unix@run/s.sock\"}"),
        &[
            "3: backends.b.servers.s: \"unix@run/s.sock\" names no socket (hint: unix@/absolute/path, at most 107 bytes)",
        ],
    );
    check(
        &text(tcp, "servers: {s: \"unix@/run/s.sock\", t: \"unix@/run/s.sock\"}"),
        &[
            "3: backends.b.servers.t: unix@/run/s.sock is given twice, first in line 3 (backends.b.servers.s) (hint: use `weight` for a larger share)",
        ],
    );
    check(
        &text("mode: l4, bind: [\"10.0.0.1:80\"]", socket),
        &[
            "3: backends.b.servers.s: unix@/run/s.sock can not be a server of layer 4 (hint: packets reach addresses; `mode: tcp` connects to unix sockets)",
        ],
    );
}
