//! One line of the access log for one session, in the field order of HAProxy's `tcplog`
//! (configuration manual, section 8.2.2) or as JSON.

use std::{fmt, net::SocketAddr, time::SystemTime};

use serde::{Serialize, Serializer};

use crate::{
    clock::{self, rfc3339},
    model::{
        access_log::{AccessFormat, AccessLog, Escaped, LogField, Values, show},
        address::ServerAddress,
        name::Name,
    },
    proxy::{
        outcome::Outcome,
        record::{Common, End, Timer},
    },
};

/// A finished session.
#[derive(Clone, Debug)]
pub struct Record {
    /// The client, as the PROXY protocol told or the kernel has it.
    pub client: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
    /// When it was accepted.
    pub accepted: SystemTime,
    /// The frontend.
    pub frontend: Name,
    /// TLS was terminated; HAProxy marks the frontend with a tilde.
    pub is_tls: bool,
    /// Version and cipher suite of the TLS that was terminated, once it was agreed on.
    pub tls: Option<(&'static str, &'static str)>,
    /// The server name the client asked for, by TLS.
    pub sni: Option<Box<str>>,
    /// The backend, once it was known.
    pub backend: Option<Name>,
    /// The server, once one was chosen.
    pub server: Option<Name>,
    /// Its address.
    pub server_address: Option<ServerAddress>,
    /// The name of the connection, if the server was told one.
    pub unique_id: Option<String>,
    /// Milliseconds in the queue; none if it never got there.
    pub queue_ms: Option<u64>,
    /// Milliseconds of connecting, of the attempt that succeeded; none if none did.
    pub connect_ms: Option<u64>,
    /// Milliseconds from the acceptance to the end.
    pub total_ms: u64,
    /// Bytes from the client to the server.
    pub bytes_up: u64,
    /// Bytes from the server to the client.
    pub bytes_down: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Connections at the end: of the process, the frontend, the backend, the server.
    pub connections: [u32; 4],
    /// Servers tried after the first.
    pub retries: u32,
    /// Sessions that waited before it: for its server, for the backend.
    pub queued: [u32; 2],
}

impl Record {
    /// Appends the line, its newline included.
    pub fn write(&self, log: &AccessLog, line: &mut String) {
        if let Some(template) = &log.templates.tcp {
            return template.write(self, line);
        }
        match log.format {
            AccessFormat::Text => show(line, Some(self)),
            // Strings and integers alone: there is always a JSON form.
            AccessFormat::Json => {
                show(line, Some(serde_json::to_string(&Json::from(self)).unwrap_or_default()));
            }
        }
        line.push('\n');
    }
}

/// Stands for a server that was never chosen.
const NO_SERVER: &str = "<NOSRV>";

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tilde = if self.is_tls { "~" } else { "" };
        let backend = self.backend.as_ref().unwrap_or(&self.frontend);
        let server = self.server.as_ref().map_or(NO_SERVER, Name::as_str);
        let [process, frontend, of_backend, of_server] = self.connections;
        let [server_queue, backend_queue] = self.queued;
        write!(f, "{} [{}]", End(self.client), clock::HaproxyDate(self.accepted))?;
        write!(f, " {}{tilde} {backend}/{server}", self.frontend)?;
        let (queue, connect) =
            (Timer(self.queue_ms.map(u128::from)), Timer(self.connect_ms.map(u128::from)));
        write!(f, " {queue}/{connect}/{} {} {}", self.total_ms, self.bytes_down, self.outcome)?;
        write!(f, " {process}/{frontend}/{of_backend}/{of_server}/{}", self.retries)?;
        write!(f, " {server_queue}/{backend_queue}")
    }
}

impl Values for Record {
    fn append(&self, field: &LogField, line: &mut String) {
        let common = Common {
            client: self.client,
            destination: self.destination,
            time: self.accepted,
            frontend: self.frontend.as_str(),
            backend: self.backend.as_ref().map(Name::as_str),
            server: self.server.as_ref().map(Name::as_str).zip(self.server_address),
            bytes_in: self.bytes_up,
            bytes_out: self.bytes_down,
            queue_ms: self.queue_ms.map(u128::from),
            connect_ms: self.connect_ms.map(u128::from),
            total_ms: self.total_ms.into(),
            outcome: self.outcome,
            connections: self.connections,
            retries: self.retries,
            queued: self.queued[1],
            is_tls: self.is_tls,
            tls: self.tls,
            sni: self.sni.as_deref(),
        };
        match field {
            LogField::ConnectionId => {
                show(line, self.unique_id.as_deref().map(|id| Escaped(id.as_bytes())));
            }
            LogField::Time
            | LogField::TimeClf
            | LogField::TimeUnix
            | LogField::ClientAddress
            | LogField::ClientPort
            | LogField::LocalAddress
            | LogField::LocalPort
            | LogField::Frontend
            | LogField::Backend
            | LogField::Server
            | LogField::ServerAddress
            | LogField::BytesIn
            | LogField::BytesOut
            | LogField::TotalTime
            | LogField::QueueTime
            | LogField::ConnectTime
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
            | LogField::TlsCipher => common.append(field, line),
            // Of other kinds of lines.
            LogField::RequestTime
            | LogField::ResponseTime
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
            | LogField::Protocol
            | LogField::SnatPort
            | LogField::PacketsIn
            | LogField::PacketsOut
            | LogField::End
            | LogField::TcpState => {}
        }
    }
}

/// The fields of a line of JSON, in this order.
#[derive(Serialize)]
struct Json<'a> {
    time: String,
    mode: &'static str,
    frontend: &'a Name,
    #[serde(serialize_with = "as_text")]
    client: End,
    #[serde(serialize_with = "as_text")]
    destination: End,
    tls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    backend: Option<&'a Name>,
    server: Option<&'a Name>,
    server_address: Option<ServerAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_id: Option<&'a str>,
    queue_ms: Option<u64>,
    connect_ms: Option<u64>,
    total_ms: u64,
    bytes_up: u64,
    bytes_down: u64,
    #[serde(serialize_with = "as_text")]
    state: Outcome,
    reason: &'static str,
    retries: u32,
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl<'a> From<&'a Record> for Json<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            time: rfc3339(record.accepted),
            mode: "tcp",
            frontend: &record.frontend,
            client: End(record.client),
            destination: End(record.destination),
            tls: record.is_tls,
            sni: record.sni.as_deref(),
            backend: record.backend.as_ref(),
            server: record.server.as_ref(),
            server_address: record.server_address,
            unique_id: record.unique_id.as_deref(),
            queue_ms: record.queue_ms,
            connect_ms: record.connect_ms,
            total_ms: record.total_ms,
            bytes_up: record.bytes_up,
            bytes_down: record.bytes_down,
            state: record.outcome,
            reason: record.outcome.reason,
            retries: record.retries,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::access_log::{LineKind, LogTemplate, LogTemplates};
    use crate::proxy::outcome::{Cause, Phase};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn record() -> Record {
        Record {
            client: "10.0.1.2:33312".parse().unwrap(),
            destination: "10.0.0.1:5432".parse().unwrap(),
            accepted: SystemTime::UNIX_EPOCH + Duration::from_millis(1_233_922_371_443),
            frontend: name("fnt"),
            is_tls: false,
            tls: None,
            sni: None,
            backend: Some(name("bck")),
            server: Some(name("srv1")),
            server_address: Some("10.0.2.1:5432".parse().unwrap()),
            unique_id: None,
            queue_ms: Some(0),
            connect_ms: Some(1),
            total_ms: 5007,
            bytes_up: 99,
            bytes_down: 212,
            outcome: Outcome::DONE,
            connections: [4, 3, 2, 1],
            retries: 3,
            queued: [0, 0],
        }
    }

    fn line(record: &Record, format: AccessFormat) -> String {
        let mut line = String::new();
        record.write(&AccessLog { format, ..AccessLog::default() }, &mut line);
        line
    }

    #[test]
    fn a_template_shows_every_field_there_is_and_escapes_it() {
        let names: Vec<String> = LogField::names(LineKind::Tcp).collect();
        let text: Vec<String> = names.iter().map(|name| format!("{name}=${{{name}}}")).collect();
        let tcp = LogTemplate::parse(LineKind::Tcp, &text.join(" ")).unwrap();
        let templates = LogTemplates { tcp: Some(tcp), ..LogTemplates::default() };
        let mut line = String::new();
        let record = Record {
            is_tls: true,
            tls: Some(("TLSv1.3", "TLS_AES_128_GCM_SHA256")),
            sni: Some("a\nb".into()),
            unique_id: Some("id".into()),
            ..record()
        };
        record.write(&AccessLog { templates, ..AccessLog::default() }, &mut line);
        assert!(!line.contains("=- ") && line.contains("tls.sni=a%0Ab "), "{line}");
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn the_fields_are_in_haproxys_order() {
        let expected = "10.0.1.2:33312 [06/Feb/2009:12:12:51.443] fnt bck/srv1 0/1/5007 212 -- \
                        4/3/2/1/3 0/0\n";
        assert_eq!(line(&record(), AccessFormat::Text), expected);
        let refused = Record {
            is_tls: true,
            backend: None,
            server: None,
            queue_ms: None,
            connect_ms: None,
            outcome: Outcome::new(Cause::Client, Phase::Request, "tls_alert"),
            ..record()
        };
        let expected = "10.0.1.2:33312 [06/Feb/2009:12:12:51.443] fnt~ fnt/<NOSRV> -1/-1/5007 212 \
                        CR 4/3/2/1/3 0/0\n";
        assert_eq!(line(&refused, AccessFormat::Text), expected);
    }

    #[test]
    fn a_client_of_a_unix_socket_has_no_address() {
        let none = crate::proxy::socket::Addresses::NONE;
        let record = Record { client: none.source, destination: none.destination, ..record() };
        assert!(line(&record, AccessFormat::Text).starts_with("unix:0 ["));
        let json = line(&record, AccessFormat::Json);
        assert!(json.contains(r#""client":"unix:0","destination":"unix:0","#), "{json}");
    }

    #[test]
    fn json_says_the_reason_and_escapes_what_clients_write() {
        let sni = Some("a\"\n.test".into());
        let line = line(&Record { sni, ..record() }, AccessFormat::Json);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line.lines().count(), 1);
        assert_eq!(value["sni"], "a\"\n.test");
        assert_eq!((&value["state"], &value["reason"]), (&"--".into(), &"done".into()));
    }
}
