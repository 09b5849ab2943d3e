//! What became of a packet, for people.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use lb_common::{
    address::{Address6, Be16},
    drop_reason::DropReason,
    trace::{NO_REASON, RecordHead, Tuple},
};

/// `enum xdp_action`.
const ACTIONS: [&str; 5] = ["aborted", "drop", "pass", "tx", "redirect"];

/// One packet as a line. `time`: since 1970.
pub(super) fn line(head: &RecordHead, time: Duration, interface: &str) -> String {
    let time = humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + time);
    let (packet, fate) = (tuple(&head.before), fate(head));
    format!("{time} {interface} {packet}, {} bytes: {fate}\n", head.bytes)
}

/// Verdict, what the packet was sent as if that is another than it came as, and the reason it
/// was counted under.
pub(super) fn fate(head: &RecordHead) -> String {
    let verdict = ACTIONS.get(head.action as usize).copied();
    let mut text = verdict.map_or_else(|| format!("verdict {}", head.action), str::to_owned);
    let lives = verdict.is_some_and(|verdict| !matches!(verdict, "aborted" | "drop"));
    if lives && head.after != head.before {
        text += " as ";
        text += &tuple(&head.after);
    }
    if head.reason != NO_REASON {
        text += &match DropReason::from_index(head.reason) {
            Some(reason) => format!("; {}: {}", reason.name(), reason.description()),
            None => format!("; reason {}", head.reason),
        };
    }
    text
}

fn tuple(tuple: &Tuple) -> String {
    if tuple.is_ip == 0 {
        return "not IP".into();
    }
    let source = end(tuple.source, tuple.source_port);
    let destination = end(tuple.destination, tuple.destination_port);
    let protocol = match tuple.protocol {
        1 => "icmp",
        4 => "ipip",
        6 => "tcp",
        17 => "udp",
        41 => "ip6ip",
        44 => "fragment",
        47 => "gre",
        58 => "icmp6",
        other => return format!("{source} > {destination} protocol {other}"),
    };
    format!("{source} > {destination} {protocol}")
}

fn end(address: Address6, port: Be16) -> String {
    let address: IpAddr = Ipv6Addr::from(address.octets).to_canonical();
    match port.get() {
        0 => address.to_string(),
        port => SocketAddr::new(address, port).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use lb_common::address::Address4;

    use super::*;

    fn ends(source: [u8; 4], source_port: u16, destination: [u8; 4], port: u16) -> Tuple {
        let common = |octets| Address6::mapped(Address4::new(octets));
        Tuple {
            source: common(source),
            destination: common(destination),
            source_port: Be16::new(source_port),
            destination_port: Be16::new(port),
            protocol: 6,
            is_ip: 1,
            padding: 0,
        }
    }

    fn packet(action: u32, reason: u32) -> RecordHead {
        let before = ends([192, 0, 2, 7], 40000, [10, 0, 0, 100], 80);
        let after = ends([10, 0, 0, 1], 40001, [10, 2, 0, 5], 8080);
        RecordHead { bytes: 74, action, reason, before, after, ..RecordHead::default() }
    }

    #[test]
    fn a_packet_that_is_sent_says_as_what() {
        let time = Duration::from_nanos(1_000_000_000_123_456_789);
        assert_eq!(
            line(&packet(4, NO_REASON), time, "eth0"),
            "2001-09-09T01:46:40.123456Z eth0 192.0.2.7:40000 > 10.0.0.100:80 tcp, 74 bytes: \
             redirect as 10.0.0.1:40001 > 10.2.0.5:8080 tcp\n"
        );
    }

    #[test]
    fn a_packet_that_is_dropped_says_why() {
        let dropped = packet(1, DropReason::NoServer as u32);
        let expected = "drop; no_server: The backend has no server that takes new flows.";
        assert_eq!(fate(&dropped), expected);
        assert_eq!(fate(&packet(1, 4711)), "drop; reason 4711");
    }

    #[test]
    fn a_packet_that_passes_says_no_more() {
        let mut passed = packet(2, NO_REASON);
        passed.after = passed.before;
        assert_eq!(fate(&passed), "pass");
        assert_eq!(fate(&RecordHead { action: 9, ..passed }), "verdict 9");
    }

    #[test]
    fn an_answer_says_what_it_stands_for() {
        let mut answered = packet(3, DropReason::ServerDown as u32);
        answered.after = ends([10, 0, 0, 100], 80, [192, 0, 2, 7], 40000);
        let text = fate(&answered);
        let expected = "tx as 10.0.0.100:80 > 192.0.2.7:40000 tcp; server_down: The flow's server";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn packets_without_ports_have_none() {
        let six = |last| {
            let mut octets = [0; 16];
            octets[15] = last;
            Address6::new(octets)
        };
        let mut found = Tuple { source: six(7), destination: six(9), ..Tuple::default() };
        assert_eq!(tuple(&found), "not IP");
        found.is_ip = 1;
        found.protocol = 58;
        assert_eq!(tuple(&found), "::7 > ::9 icmp6");
        found.protocol = 132;
        found.source_port = Be16::new(1);
        assert_eq!(tuple(&found), "[::7]:1 > ::9 protocol 132");
    }
}
