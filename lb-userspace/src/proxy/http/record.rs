//! One line of the access log for one request: in the field order of HAProxy's `httplog`
//! (configuration manual, section 8.2.3), or as JSON. Nothing from outside gets into a line
//! unescaped.

use std::{
    cell::RefCell,
    fmt::{self, Display, Write},
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use hyper::{StatusCode, Uri, Version};

use super::outcome::Outcome;
use crate::{
    clock,
    model::{rule::Rule, snapshot::AccessFormat},
};

/// A finished request.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) client: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) received: SystemTime,
    pub(super) frontend: &'a str,
    pub(super) is_tls: bool,
    pub(super) backend: Option<&'a str>,
    pub(super) server: Option<(&'a str, SocketAddr)>,
    /// From the first byte of the header to its end.
    pub(super) header_time: Duration,
    pub(super) queue_time: Option<Duration>,
    pub(super) connect_time: Option<Duration>,
    /// From sending the request to the response's header.
    pub(super) response_time: Option<Duration>,
    pub(super) total_time: Duration,
    pub(super) status: Option<StatusCode>,
    /// Bytes of the request's body.
    pub(super) bytes_in: u64,
    /// Bytes of the response's body.
    pub(super) bytes_out: u64,
    pub(super) outcome: Outcome,
    /// Of the process, the frontend, the backend, the server.
    pub(super) connections: [u32; 4],
    pub(super) retries: u32,
    pub(super) reused: bool,
    /// Requests waiting for the backend.
    pub(super) queued: u32,
    /// The number, from 0, of the rule that ended it, and that rule.
    pub(super) rule: Option<(usize, Option<&'a Rule>)>,
    pub(super) method: &'a str,
    pub(super) uri: &'a Uri,
    pub(super) version: Version,
}

/// Milliseconds, or -1 if that phase was not reached.
struct Timer(Option<Duration>);

/// A time as HAProxy writes it, `14/Nov/2023:22:13:20.000`, in UTC.
struct Clock(SystemTime);

/// A text without quotes, control characters and bytes that are not ASCII.
struct Escaped<'a>(&'a str);

impl Record<'_> {
    /// Appends the line, its newline included.
    pub(super) fn write(&self, format: AccessFormat, line: &mut String) {
        // Writing to a String does not fail.
        let _ = match format {
            AccessFormat::Text => writeln!(line, "{self}"),
            AccessFormat::Json => self.json(line),
        };
    }

    fn json(&self, line: &mut String) -> fmt::Result {
        write!(line, r#"{{"time":"{}""#, clock::rfc3339(self.received))?;
        write!(line, r#","frontend":"{}","client":"{}""#, self.frontend, self.client)?;
        write!(line, r#","destination":"{}","tls":{}"#, self.destination, self.is_tls)?;
        if let Some(backend) = self.backend {
            write!(line, r#","backend":"{backend}""#)?;
        }
        if let Some((server, address)) = self.server {
            write!(line, r#","server":"{server}","server_address":"{address}""#)?;
        }
        write!(line, r#","method":"{}","uri":"{}""#, Escaped(self.method), Target(self.uri))?;
        write!(line, r#","version":"{:?}""#, self.version)?;
        if let Some(status) = self.status {
            write!(line, r#","status":{}"#, status.as_u16())?;
        }
        write!(line, r#","bytes_in":{},"bytes_out":{}"#, self.bytes_in, self.bytes_out)?;
        write!(line, r#","request_ms":{}"#, Timer(Some(self.header_time)))?;
        let timers = [
            ("queue_ms", self.queue_time),
            ("connect_ms", self.connect_time),
            ("response_ms", self.response_time),
        ];
        for (name, time) in timers.into_iter().filter(|(_, time)| time.is_some()) {
            write!(line, r#","{name}":{}"#, Timer(time))?;
        }
        write!(line, r#","total_ms":{}"#, Timer(Some(self.total_time)))?;
        write!(line, r#","retries":{},"reused":{}"#, self.retries, self.reused)?;
        let Outcome { cause, phase, reason } = self.outcome;
        write!(line, r#","cause":"{}","phase":"{}""#, cause.word(), phase.word())?;
        if let Some((number, rule)) = self.rule {
            match rule.and_then(|rule| rule.name.as_ref()) {
                Some(name) => write!(line, r#","rule":"{name}""#)?,
                None => write!(line, r#","rule":"{}""#, number + 1)?,
            }
        }
        writeln!(line, r#","reason":"{reason}","state":"{}"}}"#, self.outcome)
    }
}

impl Display for Record<'_> {
    /// `CLIENT [TIME] FRONTEND BACKEND/SERVER TR/Tw/Tc/Tr/Ta STATUS BYTES - - STATE--
    /// ACTCONN/FECONN/BECONN/SRVCONN/RETRIES SRVQUEUE/BACKENDQUEUE {REASON} "REQUEST"`. The
    /// reason of what did not end well stands where HAProxy has captured headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tilde = if self.is_tls { "~" } else { "" };
        let backend = self.backend.unwrap_or(self.frontend);
        let server = self.server.map_or("<NOSRV>", |(name, _)| name);
        write!(f, "{} [{}]", self.client, Clock(self.received))?;
        write!(f, " {}{tilde} {backend}/{server}", self.frontend)?;
        let [request, total] = [Timer(Some(self.header_time)), Timer(Some(self.total_time))];
        let [queue, connect, response] =
            [Timer(self.queue_time), Timer(self.connect_time), Timer(self.response_time)];
        write!(f, " {request}/{queue}/{connect}/{response}/{total}")?;
        match self.status {
            Some(status) => write!(f, " {}", status.as_u16())?,
            None => f.write_str(" -1")?,
        }
        let [all, frontend, backend, server] = self.connections;
        write!(f, " {} - - {}--", self.bytes_out, self.outcome)?;
        write!(f, " {all}/{frontend}/{backend}/{server}/{}", self.retries)?;
        write!(f, " 0/{}", self.queued)?;
        let (method, target) = (Escaped(self.method), Target(self.uri));
        if self.outcome != Outcome::ANSWERED {
            write!(f, " {{{}}}", self.outcome.reason)?;
        }
        write!(f, " \"{method} {target} {:?}\"", self.version)
    }
}

impl Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => time.as_millis().fmt(f),
            None => f.write_str("-1"),
        }
    }
}

thread_local! {
    /// The last second that was written, and how: lines come many a second.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

impl Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        SECOND.with_borrow_mut(|(second, text)| {
            if *second != since.as_secs() {
                *second = since.as_secs();
                *text = day_and_time(self.0);
            }
            f.write_str(text)
        })?;
        write!(f, ".{:03}", since.subsec_millis())
    }
}

/// `14/Nov/2023:22:13:20`.
fn day_and_time(time: SystemTime) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = clock::rfc3339(time);
    let part = |range| text.get(range).unwrap_or_default();
    let month = part(5..7).parse::<usize>().ok().and_then(|month| MONTHS.get(month - 1));
    let month = month.copied().unwrap_or_default();
    format!("{}/{month}/{}:{}", part(8..10), part(0..4), part(11..19))
}

/// The target of a request, as far as it is in the `Uri`.
struct Target<'a>(&'a Uri);

impl Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(authority) = self.0.authority() {
            let scheme = self.0.scheme_str().unwrap_or_default();
            write!(f, "{scheme}://{}", Escaped(authority.as_str()))?;
        }
        Escaped(self.0.path_and_query().map_or("", |path| path.as_str())).fmt(f)
    }
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !br#""\"#.contains(byte);
        if self.0.bytes().all(|byte| is_plain(&byte)) {
            return f.write_str(self.0);
        }
        for byte in self.0.bytes() {
            match is_plain(&byte) {
                true => f.write_char(char::from(byte))?,
                false => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::outcome::{Cause, Phase},
        *,
    };

    fn record(uri: &Uri) -> Record<'_> {
        Record {
            client: "192.0.2.9:40000".parse().unwrap(),
            destination: "192.0.2.1:80".parse().unwrap(),
            received: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            frontend: "web",
            is_tls: true,
            backend: Some("app"),
            server: Some(("a1", "10.0.0.1:8080".parse().unwrap())),
            header_time: Duration::from_millis(1),
            queue_time: Some(Duration::ZERO),
            connect_time: Some(Duration::from_millis(2)),
            response_time: None,
            total_time: Duration::from_millis(30_003),
            status: Some(StatusCode::GATEWAY_TIMEOUT),
            bytes_in: 5,
            bytes_out: 42,
            outcome: Outcome::new(Cause::ServerTimeout, Phase::Headers, "server_timeout"),
            connections: [4, 3, 2, 1],
            retries: 1,
            reused: false,
            queued: 0,
            rule: None,
            method: "GET",
            uri,
            version: Version::HTTP_11,
        }
    }

    #[track_caller]
    fn check(uri: &str, format: AccessFormat, expected: &str) {
        let uri = uri.parse().unwrap();
        let mut line = String::new();
        record(&uri).write(format, &mut line);
        assert_eq!(line, expected);
    }

    #[test]
    fn text_is_in_the_field_order_of_haproxy() {
        check(
            "/a?b=%22",
            AccessFormat::Text,
            "192.0.2.9:40000 [14/Nov/2023:22:13:20.000] web~ app/a1 1/0/2/-1/30003 504 42 - - sH-- \
             4/3/2/1/1 0/0 {server_timeout} \"GET /a?b=%22 HTTP/1.1\"\n",
        );
    }

    #[test]
    fn json_is_one_object_that_any_reader_takes() {
        let expected = concat!(
            r#"{"time":"2023-11-14T22:13:20.000Z","frontend":"web","client":"192.0.2.9:40000","#,
            r#""destination":"192.0.2.1:80","tls":true,"backend":"app","server":"a1","#,
            r#""server_address":"10.0.0.1:8080","method":"GET","uri":"/%22","#,
            r#""version":"HTTP/1.1","status":504,"bytes_in":5,"bytes_out":42,"request_ms":1,"#,
            r#""queue_ms":0,"connect_ms":2,"total_ms":30003,"retries":1,"reused":false,"#,
            r#""cause":"server","phase":"headers","reason":"server_timeout","state":"sH"}"#,
            "\n"
        );
        check("/\"", AccessFormat::Json, expected);
        serde_json::from_str::<serde_json::Value>(expected).unwrap();
    }
}
