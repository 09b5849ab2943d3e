//! Lists and limits of sources: values, precedence, files, hostile input.

use std::io::Write as _;

use super::{
    super::parse,
    faults::{check_frontend, check_warnings, check_with_datapath},
};
use crate::model::{
    access::RateLimit,
    frontend::{Frontend, L4Frontend},
    snapshot::Snapshot,
};

const L4: &str = "mode: l4, bind: [\"10.0.0.1:80\"], backend: b";

fn read(datapath: &str, frontend: &str) -> Snapshot {
    let text = format!(
        "datapath: {{interfaces: [eth0]{datapath}}}\nfrontends:\n  web: {{{L4}{frontend}}}\n\
         backends: {{b: {{servers: {{s: \"10.0.1.1:80\"}}}}}}\n"
    );
    parse(&text, "c").unwrap_or_else(|faults| panic!("{faults}")).snapshot
}

fn web(snapshot: &Snapshot) -> &L4Frontend {
    let frontend = snapshot.frontends.values().next().and_then(Frontend::as_l4);
    frontend.expect("a frontend of layer 4")
}

fn file(content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

#[test]
fn nothing_said_is_nobody_kept_out() {
    let snapshot = read("", "");
    assert!(snapshot.datapath.access.is_empty() && web(&snapshot).access.is_empty());
    let limits = web(&snapshot).limits;
    assert_eq!((limits.flows, limits.flow_rate, limits.packet_rate), (None, None, None));
    assert_eq!((snapshot.datapath.max_prefixes, snapshot.datapath.max_sources), (262_144, 65_536));
}

#[test]
fn lists_are_single_values_lists_and_files_together() {
    let listed = file("# bad ones\n\n192.0.2.0/24  # scans\n2001:db8::/32\n10.0.0.1\n");
    let path = listed.path().display();
    let snapshot = read(
        ", allow: 10.0.0.0/8",
        &format!(", deny: [10.0.0.1, \"::ffff:172.16.0.0/108\"], deny_file: {path}"),
    );
    let shown =
        |list: &[ipnet::IpNet]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(shown(&snapshot.datapath.access.allow), "10.0.0.0/8");
    assert_eq!(
        shown(&web(&snapshot).access.deny),
        "10.0.0.1/32 172.16.0.0/12 192.0.2.0/24 2001:db8::/32"
    );
}

#[test]
fn limits_have_a_burst_of_their_rate() {
    let limits = "connections_per_source: 7, new_flows: {rate: 10}, packets: {rate: 5, burst: 9}";
    let limits = web(&read("", &format!(", limits: {{{limits}}}"))).limits;
    assert_eq!(limits.flows, Some(7));
    assert_eq!(limits.flow_rate, Some(RateLimit { per_second: 10, burst: 10 }));
    assert_eq!(limits.packet_rate, Some(RateLimit { per_second: 5, burst: 9 }));
}

#[test]
fn hostile_networks_are_refused_one_by_one() {
    check_frontend(
        &format!("{L4}, deny: [10.0.0.0/33, 10.0.0.1/8, host, \"\", \"fe80::1%eth0\", 7]"),
        &[
            "3: frontends.web.deny[0]: \"10.0.0.0/33\" is not a network (hint: such as 10.0.0.0/8 or \"2001:db8::/32\")",
            "3: frontends.web.deny[1]: \"10.0.0.1/8\" has bits behind its prefix (hint: write 10.0.0.0/8)",
            "3: frontends.web.deny[2]: \"host\" is not a network (hint: such as 10.0.0.0/8 or \"2001:db8::/32\")",
            "3: frontends.web.deny[3]: \"\" is not a network (hint: such as 10.0.0.0/8 or \"2001:db8::/32\")",
            "3: frontends.web.deny[4]: \"fe80::1%eth0\" is not a network (hint: such as 10.0.0.0/8 or \"2001:db8::/32\")",
            "3: frontends.web.deny[5]: expected a network or an address, got the number 7 (hint: put it in quotes: \"7\")",
        ],
    );
}

#[test]
fn faults_of_files_name_the_line_and_a_missing_file_is_one() {
    let bad = file("10.0.0.0/8\n10.0.0.0/99\nhost # x\n");
    let path = bad.path().display();
    check_frontend(
        &format!("{L4}, deny_file: {path}"),
        &[
            "3: frontends.web.deny_file: line 2 of the file: \"10.0.0.0/99\" is not a network (hint: such as 10.0.0.0/8 or \"2001:db8::/32\")",
            "3: frontends.web.deny_file: line 3 of the file: \"host\" is not a network (hint: such as 10.0.0.0/8 or \"2001:db8::/32\")",
        ],
    );
    check_frontend(
        &format!("{L4}, deny_file: [relative, /nonexistent/list, /]"),
        &[
            "3: frontends.web.deny_file[0]: \"relative\" is not an absolute path (hint: it starts with '/')",
            "3: frontends.web.deny_file[1]: can not read \"/nonexistent/list\": No such file or directory (os error 2)",
            "3: frontends.web.deny_file[2]: \"/\" is not a file",
        ],
    );
}

#[test]
fn empty_file_of_the_allowed_does_not_let_everybody_in() {
    let empty = file("# nobody yet\n");
    let path = empty.path().display();
    check_frontend(
        &format!("{L4}, allow_file: {path}"),
        &[
            "3: frontends.web.allow_file: names no network, which would let everybody in (hint: put 0.0.0.0/0 and ::/0 into it to mean that)",
        ],
    );
    assert!(web(&read("", &format!(", deny_file: {path}"))).access.is_empty());
}

#[test]
fn network_on_both_lists_is_warned_of() {
    check_warnings(
        "datapath: {interfaces: [eth0], allow: [10.0.0.0/8], deny: [10.0.0.0/8, 10.1.0.0/16]}\n\
         frontends: {web: {mode: l4, bind: [\"10.0.0.1:80\"], backend: b}}\n\
         backends: {b: {servers: {s: \"10.0.1.1:80\"}}}\n",
        &[
            "1: datapath.deny: 10.0.0.0/8 is allowed and denied; it is denied (hint: take it off one of the two lists)",
        ],
    );
}

#[test]
fn more_networks_than_there_is_room_for_are_refused_with_the_key_to_raise() {
    let lines: String =
        (0..1025_u32).map(|n| format!("{}\n", std::net::Ipv4Addr::from(n))).collect();
    let listed = file(&lines);
    let yaml = format!(
        "datapath: {{interfaces: [eth0], max_prefixes: 1024}}\n\
         frontends: {{web: {{{L4}, deny_file: {}}}}}\nbackends: {{b: {{servers: {{}}}}}}\n",
        listed.path().display()
    );
    let faults = parse(&yaml, "c").unwrap_err().to_string();
    assert_eq!(
        faults,
        "c:2: frontends: 1025 networks of one family are on lists of sources (hint: raise \
         datapath.max_prefixes (1024), and leave room for blocks)"
    );
}

#[test]
fn keys_of_another_mode_are_refused() {
    check_frontend(
        &format!("{L4}, limits: {{streams: 5}}"),
        &[
            "3: frontends.web.limits: says something that `mode: l4` does not limit (hint: connections_per_source, new_flows, packets)",
        ],
    );
    check_frontend(
        "mode: http, bind: [\"127.0.0.1:80\"], backend: b, deny: [10.0.0.0/33], limits: {packets: {rate: 5}}",
        &[
            "3: frontends.web.deny[0]: \"10.0.0.0/33\" is not a network (hint: such as 10.0.0.0/8 or \"2001:db8::/32\")",
            "3: frontends.web.limits: new_flows and packets need `mode: l4` (hint: connections, connections_per_source)",
        ],
    );
}

#[test]
fn the_proxys_frontends_have_lists_too() {
    for mode in ["tcp", "http"] {
        let frontend = "bind: [\"127.0.0.1:80\"], backend: b, deny: 10.0.0.1, allow: 10.0.0.0/8";
        let text = format!(
            "datapath: {{mode: off}}\nfrontends: {{web: {{mode: {mode}, {frontend}}}}}\n\
             backends: {{b: {{servers: {{s: \"10.0.1.1:80\"}}}}}}\n"
        );
        let snapshot = parse(&text, "c").unwrap_or_else(|faults| panic!("{faults}")).snapshot;
        let frontend = snapshot.frontends.values().next().expect("it is there");
        let shown =
            |list: &[ipnet::IpNet]| list.iter().map(ToString::to_string).collect::<String>();
        assert_eq!(shown(&frontend.access().deny), "10.0.0.1/32", "{mode}");
        assert_eq!(shown(&frontend.access().allow), "10.0.0.0/8", "{mode}");
    }
}

#[test]
fn hostile_rates_are_refused() {
    check_frontend(
        &format!("{L4}, limits: {{new_flows: {{rate: 0, burst: 0}}, packets: {{burst: 4}}}}"),
        &[
            "3: frontends.web.limits.new_flows.rate: 0 is less than 1 (hint: an integer from 1 to 10000000)",
            "3: frontends.web.limits.new_flows.burst: 0 is less than 1 (hint: an integer from 1 to 1000000000)",
            "3: frontends.web.limits.packets.rate: is missing (hint: rate: 100)",
        ],
    );
    check_with_datapath("log:\n  target: stderr\n", &[]);
}
