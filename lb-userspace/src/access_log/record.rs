//! One line of the access log. Pure: names and clocks are parameters.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use lb_common::{
    event::{FlowEnd, cause},
    tcp_state::Progress,
};
use serde::Serialize;

use crate::{
    clock::{self, Moment, rfc3339},
    model::{
        access_log::{AccessFormat, AccessLog, LogField, Values, show},
        index::{NameIndex, plain_address},
        snapshot::Protocol,
    },
};

/// One finished flow. The fields of a line are the fields of this type, in this order, in
/// both formats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessRecord {
    /// When the flow ended, RFC 3339, UTC.
    pub time: String,
    /// The same.
    #[serde(skip)]
    pub ended: SystemTime,
    /// The frontend; none if it is no longer configured.
    pub frontend: Option<String>,
    /// The client.
    pub client: SocketAddr,
    /// The VIP.
    pub vip: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The server's name, `BACKEND/SERVER`; none if it is no longer configured.
    pub server: Option<String>,
    /// The server's address.
    pub server_address: SocketAddr,
    /// The source port the server saw.
    pub snat_port: u16,
    /// From the first packet to the end, milliseconds.
    pub duration_ms: u64,
    /// Packets client to server.
    pub forward_packets: u64,
    /// Bytes of those packets, Ethernet header included.
    pub forward_bytes: u64,
    /// Packets server to client.
    pub reply_packets: u64,
    /// Bytes of those packets, Ethernet header included.
    pub reply_bytes: u64,
    /// How it ended: `fin`, `client_reset`, `server_reset`, `server_down`, `timeout`,
    /// `recycled`.
    pub end: &'static str,
    /// The TCP state it ended in; none for UDP.
    pub state: Option<&'static str>,
}

impl AccessRecord {
    /// Reads one event.
    #[must_use]
    pub fn new(event: &FlowEnd, names: &NameIndex, now: &Moment) -> Self {
        let protocol =
            if event.protocol == Protocol::Udp.number() { Protocol::Udp } else { Protocol::Tcp };
        let vip = SocketAddr::new(plain_address(event.vip_address), event.vip_port.get());
        let server = SocketAddr::new(plain_address(event.server_address), event.server_port.get());
        let duration = Duration::from_nanos(event.ended_ns.saturating_sub(event.created_ns));
        Self {
            time: rfc3339(now.wall_of(event.ended_ns)),
            ended: now.wall_of(event.ended_ns),
            frontend: names.frontend(vip, protocol).map(ToString::to_string),
            client: SocketAddr::new(plain_address(event.client), event.client_port.get()),
            vip,
            protocol,
            server: names
                .server(vip, protocol, server)
                .map(|(backend, server)| format!("{backend}/{server}")),
            server_address: server,
            snat_port: event.snat_port.get(),
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            forward_packets: event.forward_packets,
            forward_bytes: event.forward_bytes,
            reply_packets: event.reply_packets,
            reply_bytes: event.reply_bytes,
            end: cause_name(event.cause),
            state: (protocol == Protocol::Tcp).then(|| Progress(event.progress).state().name()),
        }
    }

    /// The line, its newline included.
    #[must_use]
    pub fn line(&self, log: &AccessLog) -> String {
        if let Some(template) = &log.templates.l4 {
            let mut line = String::new();
            template.write(self, &mut line);
            return line;
        }
        match log.format {
            AccessFormat::Text => format!("{self}\n"),
            AccessFormat::Json => {
                // Strings and integers alone: there is always a JSON form.
                let mut line = serde_json::to_string(self).unwrap_or_default();
                line.push('\n');
                line
            }
        }
    }
}

impl Values for AccessRecord {
    fn append(&self, field: &LogField, line: &mut String) {
        let server = self.server.as_deref().and_then(|server| server.split_once('/'));
        match field {
            LogField::Time => show(line, Some(&self.time)),
            LogField::TimeClf => show(line, Some(clock::clf_date(self.ended))),
            LogField::TimeUnix => show(line, Some(clock::unix_ms(self.ended))),
            LogField::ClientAddress => show(line, Some(self.client.ip())),
            LogField::ClientPort => show(line, Some(self.client.port())),
            LogField::LocalAddress => show(line, Some(self.vip.ip())),
            LogField::LocalPort => show(line, Some(self.vip.port())),
            LogField::Frontend => show(line, self.frontend.as_ref()),
            LogField::Backend => show(line, server.map(|(backend, _)| backend)),
            LogField::Server => show(line, server.map(|(_, server)| server)),
            LogField::ServerAddress => show(line, Some(self.server_address)),
            LogField::BytesIn => show(line, Some(self.forward_bytes)),
            LogField::BytesOut => show(line, Some(self.reply_bytes)),
            LogField::PacketsIn => show(line, Some(self.forward_packets)),
            LogField::PacketsOut => show(line, Some(self.reply_packets)),
            LogField::TotalTime => show(line, Some(self.duration_ms)),
            LogField::Protocol => show(line, Some(protocol_name(self.protocol))),
            LogField::SnatPort => show(line, Some(self.snat_port)),
            LogField::End => show(line, Some(self.end)),
            LogField::TcpState => show(line, self.state),
            // Of other kinds of lines.
            LogField::QueueTime
            | LogField::ConnectTime
            | LogField::RequestTime
            | LogField::ResponseTime
            | LogField::State
            | LogField::Cause
            | LogField::Phase
            | LogField::Reason
            | LogField::Retries
            | LogField::ProcessConnections
            | LogField::FrontendConnections
            | LogField::BackendConnections
            | LogField::ServerConnections
            | LogField::Queued
            | LogField::Tls
            | LogField::Sni
            | LogField::TlsVersion
            | LogField::TlsCipher
            | LogField::Reused
            | LogField::Rule
            | LogField::Method
            | LogField::Uri
            | LogField::Path
            | LogField::Query
            | LogField::Version
            | LogField::Status
            | LogField::RequestHeader(_)
            | LogField::ResponseHeader(_)
            | LogField::ConnectionId => {}
        }
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

impl fmt::Display for AccessRecord {
    /// `key=value` fields, `-` where nothing is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = protocol_name(self.protocol);
        write!(f, "time={} frontend={}", self.time, or_dash(self.frontend.as_deref()))?;
        write!(f, " client={} vip={} protocol={protocol}", self.client, self.vip)?;
        write!(f, " server={}", or_dash(self.server.as_deref()))?;
        write!(f, " server_address={} snat_port={}", self.server_address, self.snat_port)?;
        write!(f, " duration_ms={}", self.duration_ms)?;
        write!(f, " forward_packets={}", self.forward_packets)?;
        write!(f, " forward_bytes={}", self.forward_bytes)?;
        write!(f, " reply_packets={} reply_bytes={}", self.reply_packets, self.reply_bytes)?;
        write!(f, " end={} state={}", self.end, or_dash(self.state))
    }
}

fn or_dash(text: Option<&str>) -> &str {
    text.unwrap_or("-")
}

fn cause_name(number: u8) -> &'static str {
    match number {
        cause::FIN => "fin",
        cause::CLIENT_RESET => "client_reset",
        cause::SERVER_RESET => "server_reset",
        cause::SERVER_DOWN => "server_down",
        cause::TIMEOUT => "timeout",
        cause::RECYCLED => "recycled",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use lb_common::address::{Address4, Address6, Be16};

    use super::*;
    use crate::model::{
        access_log::{LineKind, LogTemplate, LogTemplates},
        fixture,
    };

    fn names() -> NameIndex {
        NameIndex::new(&fixture::snapshot(&[("pg1", "10.0.1.20:5432")]))
    }

    fn event() -> FlowEnd {
        let address = |octets| Address6::mapped(Address4::new(octets));
        FlowEnd {
            created_ns: 1_000_000_000,
            ended_ns: 2_500_000_000,
            forward_packets: 6,
            forward_bytes: 420,
            reply_packets: 5,
            reply_bytes: 9000,
            client: address([192, 0, 2, 9]),
            vip_address: address([10, 0, 0, 100]),
            server_address: address([10, 0, 1, 20]),
            client_port: Be16::new(40000),
            vip_port: Be16::new(5432),
            server_port: Be16::new(5432),
            snat_port: Be16::new(1234),
            progress: Progress::SYN
                | Progress::SYN_ACK
                | Progress::CONFIRMED
                | Progress::SERVER_RST,
            protocol: 6,
            cause: cause::SERVER_RESET,
            ..FlowEnd::default()
        }
    }

    fn check(event: &FlowEnd, names: &NameIndex, format: AccessFormat, expected: &str) {
        check_log(event, names, &AccessLog { format, ..AccessLog::default() }, expected);
    }

    fn check_log(event: &FlowEnd, names: &NameIndex, log: &AccessLog, expected: &str) {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let now = Moment { wall, monotonic_ns: 3_000_000_000 };
        assert_eq!(AccessRecord::new(event, names, &now).line(log), expected);
    }

    #[test]
    fn a_template_shows_every_field_of_a_flow() {
        let names_of_fields: Vec<String> = LogField::names(LineKind::L4)
            .filter(|name| !name.starts_with("time"))
            .map(|name| format!("${{{name}}}"))
            .collect();
        let text = "${time.clf} ${time.unix_ms} ".to_owned() + &names_of_fields.join(" ");
        let l4 = Some(LogTemplate::parse(LineKind::L4, &text).unwrap());
        let templates = LogTemplates { l4, ..LogTemplates::default() };
        check_log(
            &event(),
            &names(),
            &AccessLog { templates, ..AccessLog::default() },
            "14/Nov/2023:22:13:19 +0000 1699999999500 192.0.2.9 40000 10.0.0.100 5432 postgres pg \
             pg1 10.0.1.20:5432 420 9000 tcp 1234 6 5 server_reset closed\n",
        );
    }

    #[test]
    fn a_finished_flow_is_one_line_of_text() {
        check(
            &event(),
            &names(),
            AccessFormat::Text,
            "time=2023-11-14T22:13:19.500Z frontend=postgres client=192.0.2.9:40000 \
             vip=10.0.0.100:5432 protocol=tcp server=pg/pg1 server_address=10.0.1.20:5432 \
             snat_port=1234 duration_ms=1500 forward_packets=6 forward_bytes=420 \
             reply_packets=5 reply_bytes=9000 end=server_reset state=closed\n",
        );
    }

    #[test]
    fn a_finished_flow_is_one_json_object() {
        check(
            &event(),
            &names(),
            AccessFormat::Json,
            concat!(
                r#"{"time":"2023-11-14T22:13:19.500Z","frontend":"postgres","#,
                r#""client":"192.0.2.9:40000","vip":"10.0.0.100:5432","protocol":"tcp","#,
                r#""server":"pg/pg1","server_address":"10.0.1.20:5432","snat_port":1234,"#,
                r#""duration_ms":1500,"forward_packets":6,"forward_bytes":420,"#,
                r#""reply_packets":5,"reply_bytes":9000,"end":"server_reset","state":"closed"}"#,
                "\n"
            ),
        );
    }

    #[test]
    fn a_flow_of_a_removed_frontend_keeps_its_addresses() {
        let udp = FlowEnd { protocol: 17, progress: 0, cause: cause::TIMEOUT, ..event() };
        check(
            &udp,
            &NameIndex::default(),
            AccessFormat::Text,
            "time=2023-11-14T22:13:19.500Z frontend=- client=192.0.2.9:40000 \
             vip=10.0.0.100:5432 protocol=udp server=- server_address=10.0.1.20:5432 \
             snat_port=1234 duration_ms=1500 forward_packets=6 forward_bytes=420 \
             reply_packets=5 reply_bytes=9000 end=timeout state=-\n",
        );
    }
}
