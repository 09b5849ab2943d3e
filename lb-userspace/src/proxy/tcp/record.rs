//! One line of the access log for one session, in the field order of HAProxy's `tcplog`
//! (configuration manual, section 8.2.2) or as JSON.

use std::{fmt, net::SocketAddr, time::SystemTime};

use serde::{Serialize, Serializer};

use super::outcome::Outcome;
use crate::{
    clock::rfc3339,
    model::{name::Name, snapshot::AccessFormat},
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
    /// The server name the client asked for, by TLS.
    pub sni: Option<Box<str>>,
    /// The backend, once it was known.
    pub backend: Option<Name>,
    /// The server, once one was chosen.
    pub server: Option<Name>,
    /// Its address.
    pub server_address: Option<SocketAddr>,
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
    /// The line, its newline included.
    #[must_use]
    pub fn line(&self, format: AccessFormat) -> String {
        match format {
            AccessFormat::Text => format!("{self}\n"),
            AccessFormat::Json => {
                // Strings and integers alone: there is always a JSON form.
                let mut line = serde_json::to_string(&Json::from(self)).unwrap_or_default();
                line.push('\n');
                line
            }
        }
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
        write!(f, "{} [{}]", self.client, Date(self.accepted))?;
        write!(f, " {}{tilde} {backend}/{server}", self.frontend)?;
        let (queue, connect) = (Millis(self.queue_ms), Millis(self.connect_ms));
        write!(f, " {queue}/{connect}/{} {} {}", self.total_ms, self.bytes_down, self.outcome)?;
        write!(f, " {process}/{frontend}/{of_backend}/{of_server}/{}", self.retries)?;
        write!(f, " {server_queue}/{backend_queue}")
    }
}

/// A time that may not have been reached: -1 then.
struct Millis(Option<u64>);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ms) => ms.fmt(f),
            None => f.write_str("-1"),
        }
    }
}

/// `06/Feb/2009:12:12:51.443`, UTC.
struct Date(SystemTime);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        // `2009-02-06T12:12:51.443Z`, of fixed width but for the fraction.
        let text = rfc3339(self.0);
        let part = |from: usize, to: usize| text.get(from..to).unwrap_or("?");
        let month = part(5, 7).parse::<usize>().ok().and_then(|month| MONTHS.get(month - 1));
        write!(f, "{}/{}/{}", part(8, 10), month.unwrap_or(&"?"), part(0, 4))?;
        let milliseconds = match part(19, 20) {
            "." => part(20, 23),
            _ => "000",
        };
        write!(f, ":{}.{milliseconds}", part(11, 19))
    }
}

/// The fields of a line of JSON, in this order.
#[derive(Serialize)]
struct Json<'a> {
    time: String,
    mode: &'static str,
    frontend: &'a Name,
    client: SocketAddr,
    destination: SocketAddr,
    tls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    backend: Option<&'a Name>,
    server: Option<&'a Name>,
    server_address: Option<SocketAddr>,
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

fn as_text<S: Serializer>(outcome: &Outcome, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(outcome)
}

impl<'a> From<&'a Record> for Json<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            time: rfc3339(record.accepted),
            mode: "tcp",
            frontend: &record.frontend,
            client: record.client,
            destination: record.destination,
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

    use super::{
        super::outcome::{Cause, Phase},
        *,
    };

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
            outcome: Outcome::FINISHED,
            connections: [4, 3, 2, 1],
            retries: 3,
            queued: [0, 0],
        }
    }

    #[test]
    fn the_fields_are_in_haproxys_order() {
        let expected = "10.0.1.2:33312 [06/Feb/2009:12:12:51.443] fnt bck/srv1 0/1/5007 212 -- \
                        4/3/2/1/3 0/0\n";
        assert_eq!(record().line(AccessFormat::Text), expected);
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
        assert_eq!(refused.line(AccessFormat::Text), expected);
    }

    #[test]
    fn json_says_the_reason_and_escapes_what_clients_write() {
        let sni = Some("a\"\n.test".into());
        let line = Record { sni, ..record() }.line(AccessFormat::Json);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line.lines().count(), 1);
        assert_eq!(value["sni"], "a\"\n.test");
        assert_eq!((&value["state"], &value["reason"]), (&"--".into(), &"done".into()));
    }
}
