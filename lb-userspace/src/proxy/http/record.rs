//! One line of the access log for one request: in the field order of HAProxy's `httplog`
//! (configuration manual, section 8.2.3), or as JSON. Nothing from outside gets into a line
//! unescaped.

use std::{
    fmt::{self, Display, Write},
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use hyper::{StatusCode, Uri, Version};

use super::captured::Captured;
use crate::{
    clock,
    model::{
        access_log::{AccessFormat, AccessLog, Escaped, LogField, Values, show},
        address::ServerAddress,
        rule::Rule,
    },
    proxy::{
        outcome::Outcome,
        record::{Common, End, Timer},
        tls::facts::TlsFacts,
    },
};

/// Room for a line, so that it does not grow piece by piece.
const USUAL_LINE: usize = 256;

/// A finished request.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) client: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) received: SystemTime,
    pub(super) frontend: &'a str,
    pub(super) tls: Option<&'a TlsFacts>,
    pub(super) backend: Option<&'a str>,
    pub(super) server: Option<(&'a str, ServerAddress)>,
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
    pub(super) captured: Option<&'a Captured>,
}

impl Record<'_> {
    /// Appends the line, its newline included.
    pub(super) fn write(&self, log: &AccessLog, line: &mut String) {
        if let Some(template) = &log.templates.http {
            return template.write(self, line);
        }
        // Writing to a String does not fail.
        let _ = match log.format {
            AccessFormat::Text => self.text(line),
            AccessFormat::Json => self.json(line),
        };
    }

    /// `CLIENT [TIME] FRONTEND BACKEND/SERVER TR/Tw/Tc/Tr/Ta STATUS BYTES - - STATE--
    /// ACTCONN/FECONN/BECONN/SRVCONN/RETRIES SRVQUEUE/BACKENDQUEUE {REASON} "REQUEST"`. The
    /// reason of what did not end well stands where captured headers would, and gives way
    /// to them.
    ///
    /// Put together by hand: every request has such a line, and `write!` costs several times
    /// as much.
    fn text(&self, line: &mut String) -> fmt::Result {
        line.reserve(USUAL_LINE);
        push_address(line, self.client)?;
        line.push_str(" [");
        clock::push_haproxy_date(line, self.received);
        line.push_str("] ");
        line.push_str(self.frontend);
        line.push_str(if self.tls.is_some() { "~ " } else { " " });
        line.push_str(self.backend.unwrap_or(self.frontend));
        line.push('/');
        line.push_str(self.server.map_or("<NOSRV>", |(name, _)| name));
        line.push(' ');
        push_number(line, milliseconds(self.header_time));
        let total_time = Some(self.total_time);
        for time in [self.queue_time, self.connect_time, self.response_time, total_time] {
            line.push('/');
            match time {
                Some(time) => push_number(line, milliseconds(time)),
                None => line.push_str("-1"),
            }
        }
        match self.status {
            Some(status) => {
                line.push(' ');
                line.push_str(status.as_str());
            }
            None => line.push_str(" -1"),
        }
        line.push(' ');
        push_number(line, self.bytes_out);
        line.push_str(" - - ");
        line.push_str(self.outcome.letters());
        line.push_str("--");
        let [all, frontend, backend, server] = self.connections;
        line.push(' ');
        push_number(line, all.into());
        for count in [frontend, backend, server, self.retries] {
            line.push('/');
            push_number(line, count.into());
        }
        line.push_str(" 0/");
        push_number(line, self.queued.into());
        match self.captured {
            Some(captured) if captured.is_shown() => captured.braces(line)?,
            _ if self.outcome != Outcome::DONE => {
                line.push_str(" {");
                line.push_str(self.outcome.reason);
                line.push('}');
            }
            _ => {}
        }
        line.push_str(" \"");
        Escaped::push(self.method, line)?;
        line.push(' ');
        Target(self.uri).write_to(line)?;
        line.push(' ');
        line.push_str(version(self.version));
        line.push_str("\"\n");
        Ok(())
    }

    fn json(&self, line: &mut String) -> fmt::Result {
        write!(line, r#"{{"time":"{}""#, clock::rfc3339(self.received))?;
        write!(line, r#","frontend":"{}","client":"{}""#, self.frontend, End(self.client))?;
        let destination = End(self.destination);
        write!(line, r#","destination":"{destination}","tls":{}"#, self.tls.is_some())?;
        if let Some(backend) = self.backend {
            write!(line, r#","backend":"{backend}""#)?;
        }
        if let Some((server, address)) = self.server {
            write!(line, r#","server":"{server}","server_address":"{address}""#)?;
        }
        write!(
            line,
            r#","method":"{}","uri":"{}""#,
            Escaped(self.method.as_bytes()),
            Target(self.uri)
        )?;
        write!(line, r#","version":"{:?}""#, self.version)?;
        if let Some(status) = self.status {
            write!(line, r#","status":{}"#, status.as_u16())?;
        }
        write!(line, r#","bytes_in":{},"bytes_out":{}"#, self.bytes_in, self.bytes_out)?;
        write!(line, r#","request_ms":{}"#, timer(Some(self.header_time)))?;
        let timers = [
            ("queue_ms", self.queue_time),
            ("connect_ms", self.connect_time),
            ("response_ms", self.response_time),
        ];
        for (name, time) in timers.into_iter().filter(|(_, time)| time.is_some()) {
            write!(line, r#","{name}":{}"#, timer(time))?;
        }
        write!(line, r#","total_ms":{}"#, timer(Some(self.total_time)))?;
        write!(line, r#","retries":{},"reused":{}"#, self.retries, self.reused)?;
        let Outcome { cause, phase, reason } = self.outcome;
        write!(line, r#","cause":"{}","phase":"{}""#, cause.word(), phase.word())?;
        if let Some((number, rule)) = self.rule {
            match rule.and_then(|rule| rule.name.as_ref()) {
                Some(name) => write!(line, r#","rule":"{name}""#)?,
                None => write!(line, r#","rule":"{}""#, number + 1)?,
            }
        }
        write!(line, r#","reason":"{reason}","state":"{}""#, self.outcome)?;
        if let Some(captured) = self.captured {
            captured.json(line)?;
        }
        line.write_str("}\n")
    }
}

/// An end with its port, as `Display` has it.
fn push_address(line: &mut String, address: SocketAddr) -> fmt::Result {
    let address = match address {
        SocketAddr::V4(address) if !address.ip().is_unspecified() => address,
        other => return write!(line, "{}", End(other)),
    };
    for (octet, after) in address.ip().octets().into_iter().zip(['.', '.', '.', ':']) {
        push_number(line, octet.into());
        line.push(after);
    }
    push_number(line, address.port().into());
    Ok(())
}

fn push_number(line: &mut String, number: u64) {
    // Most are a digit.
    match u8::try_from(number) {
        Ok(digit @ 0..=9) => line.push(char::from(b'0' + digit)),
        _ => line.push_str(itoa::Buffer::new().format(number)),
    }
}

/// Whole milliseconds, as far as they fit.
fn milliseconds(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1000).saturating_add(time.subsec_millis().into())
}

/// As it stands in a request line.
fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

fn timer(time: Option<Duration>) -> Timer {
    Timer(time.map(|time| time.as_millis()))
}

/// The target of a request, as far as it is in the `Uri`.
struct Target<'a>(&'a Uri);

impl Target<'_> {
    fn write_to(&self, to: &mut impl Write) -> fmt::Result {
        if let Some(authority) = self.0.authority() {
            // Alone it is the target of a CONNECT.
            if let Some(scheme) = self.0.scheme_str() {
                to.write_str(scheme)?;
                to.write_str("://")?;
            }
            Escaped::push(authority.as_str(), to)?;
        }
        let target = self.0.path_and_query().map_or("", |path| path.as_str());
        Escaped::push(target, to)
    }
}

impl Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_to(f)
    }
}

impl Record<'_> {
    fn common(&self) -> Common<'_> {
        let ms = |time: Duration| time.as_millis();
        Common {
            client: self.client,
            destination: self.destination,
            time: self.received,
            frontend: self.frontend,
            backend: self.backend,
            server: self.server,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            queue_ms: self.queue_time.map(ms),
            connect_ms: self.connect_time.map(ms),
            total_ms: ms(self.total_time),
            outcome: self.outcome,
            connections: self.connections,
            retries: self.retries,
            queued: self.queued,
            is_tls: self.tls.is_some(),
            tls: self.tls.map(|tls| (tls.version, tls.cipher)),
            sni: self.tls.and_then(|tls| tls.sni.as_deref()),
        }
    }
}

impl Values for Record<'_> {
    fn append(&self, field: &LogField, line: &mut String) {
        let time = |time: Option<Duration>| time.map(|time| time.as_millis());
        let escaped = |text: &'_ str| Escaped(text.as_bytes()).to_string();
        match field {
            LogField::RequestTime => show(line, time(Some(self.header_time))),
            LogField::ResponseTime => show(line, time(self.response_time)),
            LogField::Reused => show(line, Some(u8::from(self.reused))),
            LogField::Rule => {
                let Some((number, rule)) = self.rule else { return };
                match rule.and_then(|rule| rule.name.as_ref()) {
                    Some(name) => show(line, Some(name)),
                    None => show(line, Some(number + 1)),
                }
            }
            LogField::Method => show(line, Some(escaped(self.method))),
            LogField::Uri => show(line, Some(Target(self.uri))),
            LogField::Path => show(line, Some(escaped(self.uri.path()))),
            LogField::Query => show(line, self.uri.query().map(escaped)),
            LogField::Version => show(line, Some(format_args!("{:?}", self.version))),
            LogField::Status => show(line, self.status.map(|status| status.as_u16())),
            LogField::RequestHeader(name) => {
                show(line, self.captured.and_then(|captured| captured.request(name)));
            }
            LogField::ResponseHeader(name) => {
                show(line, self.captured.and_then(|captured| captured.response(name)));
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
            | LogField::TlsCipher => self.common().append(field, line),
            // Of other kinds of lines.
            LogField::ConnectionId
            | LogField::Protocol
            | LogField::SnatPort
            | LogField::PacketsIn
            | LogField::PacketsOut
            | LogField::End
            | LogField::TcpState => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper::{
        HeaderMap,
        header::{HeaderName, HeaderValue, REFERER, SERVER, USER_AGENT},
    };

    use super::*;
    use crate::model::access_log::{Capture, CapturedNames, LineKind, LogTemplate, LogTemplates};
    use crate::proxy::outcome::{Cause, Phase};

    fn record<'a>(uri: &'a Uri, tls: &'a TlsFacts, captured: Option<&'a Captured>) -> Record<'a> {
        Record {
            client: "192.0.2.9:40000".parse().unwrap(),
            destination: "192.0.2.1:80".parse().unwrap(),
            received: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            frontend: "web",
            tls: Some(tls),
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
            captured,
        }
    }

    const TLS: TlsFacts = TlsFacts {
        version: "TLSv1.3",
        cipher: "TLS_AES_128_GCM_SHA256",
        sni: None,
        alpn: None,
        resumed: false,
        client: None,
    };

    #[track_caller]
    fn check(uri: &str, format: AccessFormat, expected: &str) {
        check_log(uri, AccessLog { format, ..AccessLog::default() }, expected);
    }

    #[track_caller]
    fn check_log(uri: &str, log: AccessLog, expected: &str) {
        let (uri, log) = (uri.parse().unwrap(), Arc::new(log));
        let headers = HeaderMap::from_iter([
            (USER_AGENT, HeaderValue::from_static("first")),
            (USER_AGENT, HeaderValue::from_static("curl|\"8\"")),
            (SERVER, HeaderValue::from_static("nginx")),
        ]);
        let mut captured = Captured::of_request(Arc::clone(&log), &headers);
        captured.take_response(&headers);
        let mut line = String::new();
        record(&uri, &TLS, Some(&captured)).write(&log, &mut line);
        assert_eq!(line, expected);
    }

    #[test]
    fn a_client_of_a_unix_socket_has_no_address() {
        let uri = Uri::from_static("/");
        let mut record = record(&uri, &TLS, None);
        let none = crate::proxy::socket::Addresses::NONE;
        (record.client, record.destination) = (none.source, none.destination);
        let template = "${client.address} ${client.port} ${local.address} ${local.port}";
        let http = LogTemplate::parse(LineKind::Http, template).unwrap();
        let templates = LogTemplates { http: Some(http), ..LogTemplates::default() };
        let json = AccessLog { format: AccessFormat::Json, ..AccessLog::default() };
        for (log, part) in [
            (AccessLog::default(), "unix:0 ["),
            (json, r#""client":"unix:0","destination":"unix:0","#),
            (AccessLog { templates, ..AccessLog::default() }, "unix 0 unix 0"),
        ] {
            let mut line = String::new();
            record.write(&log, &mut line);
            assert!(line.contains(part), "{line}");
        }
    }

    fn capturing(format: AccessFormat) -> AccessLog {
        let names =
            |names: &[HeaderName]| CapturedNames { names: names.into(), shown: names.len() };
        let (request, response) = (names(&[USER_AGENT, REFERER]), names(&[SERVER]));
        let capture = Capture { request, response, max_bytes: 7 };
        AccessLog { format, capture, ..AccessLog::default() }
    }

    #[test]
    fn captured_headers_stand_in_braces_and_in_json() {
        check_log(
            "/",
            capturing(AccessFormat::Text),
            "192.0.2.9:40000 [14/Nov/2023:22:13:20.000] web~ app/a1 1/0/2/-1/30003 504 42 - - sH-- \
             4/3/2/1/1 0/0 {curl%7C%228|} {nginx} \"GET / HTTP/1.1\"\n",
        );
        let log = Arc::new(capturing(AccessFormat::Json));
        let headers = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static("a\"b"))]);
        let captured = Captured::of_request(Arc::clone(&log), &headers);
        let (uri, mut line) = ("/".parse().unwrap(), String::new());
        record(&uri, &TLS, Some(&captured)).write(&log, &mut line);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["request_headers"]["user-agent"], "a%22b");
        assert_eq!(value["response_headers"], serde_json::json!({}));
    }

    #[test]
    fn a_template_shows_every_field_of_a_request() {
        let is_fixed = |name: &String| {
            !name.starts_with("time.") && name != "time" && !name.ends_with(".NAME")
        };
        let text: Vec<String> = LogField::names(LineKind::Http)
            .filter(is_fixed)
            .map(|name| format!("${{{name}}}"))
            .chain(["[${request.header.user-agent}] ${response.header.server}".into()])
            .collect();
        let http = Some(LogTemplate::parse(LineKind::Http, &text.join(" ")).unwrap());
        let templates = LogTemplates { http, ..LogTemplates::default() };
        check_log(
            "/a?b=%22",
            AccessLog { templates, ..capturing(AccessFormat::Text) },
            "192.0.2.9 40000 192.0.2.1 80 web app a1 10.0.0.1:8080 5 42 30003 0 2 sH server headers \
             server_timeout 1 4 3 2 1 0 1 - TLSv1.3 TLS_AES_128_GCM_SHA256 1 - 0 - GET /a?b=%22 /a \
             b=%22 HTTP/1.1 504 [curl%7C%228] nginx\n",
        );
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
