//! `log.access`: where lines of the access log go and what they look like.

use hyper::http::{HeaderName, HeaderValue};

use super::{
    address::socket_address,
    admin::MAX_SOCKET_BYTES,
    datapath::absolute_path,
    decode::Entries,
    fault::{Refusal, did_you_mean, quoted},
    rules::header_name,
    schema::{Choice, Integer, Key, List, ListItems, Nested, Presence, Section, Text},
    tls::whole,
};
use crate::model::{
    access_log::{
        AccessFormat, AccessLog, AccessTarget, Capture, CapturedNames, LineKind, LogField,
        LogTemplate, LogTemplates, Syslog, SyslogPeer,
    },
    rule::template::TemplateError,
};

/// The section as a shape.
pub(super) const SHAPE: Nested<AccessLog> = Nested { section: &SECTION, decode };

static SECTION: Section = Section {
    path: "log.access",
    doc: "One line for each finished flow, session and request. Lines are written by a thread of \
          their own; those that come faster than the target takes them, and more than 16 MiB of \
          them wait, are lost, and `pointsman status` counts them. SIGUSR1 opens the file, or the \
          connection, again: after a rotation.",
    keys: &[&TARGET, &FORMAT, &TEMPLATE, &CAPTURE, &SYSLOG],
    unbuilt: &[],
};

static TARGET: Key<Text<Target>> = Key {
    name: "target",
    shape: Text { what: "`stdout`, an absolute path or a syslog address", parse: target },
    presence: Presence::Default("stdout"),
    doc: "Standard output; a file that is appended to; or a syslog daemon: `udp@ADDRESS:PORT`, \
          `tcp@ADDRESS:PORT` or `unix@/dev/log`.",
};

static FORMAT: Key<Choice<AccessFormat>> = Key {
    name: "format",
    shape: Choice::of(&[
        ("text", AccessFormat::Text),
        ("http", AccessFormat::Text),
        ("json", AccessFormat::Json),
    ]),
    presence: Presence::Default("text"),
    doc: "`text`, or `http`, which is the same: `key=value` fields for flows, the field order of \
          HAProxy's `tcplog` for sessions and of its `httplog` for requests (times in UTC; why a \
          request did not end well stands in braces where captured headers would). `json`: one \
          object a line.",
};

static TEMPLATE: Key<Nested<LogTemplates>> = Key {
    name: "template",
    shape: Nested { section: &TEMPLATE_SECTION, decode: decode_templates },
    presence: Presence::Default("{}"),
    doc: "Lines of your own making, in place of the format.",
};

static TEMPLATE_SECTION: Section = Section {
    path: "log.access.template",
    doc: "Text with fields in it, by the mode of the frontend. `${NAME}` is a field's value or, if \
          there is none, a dash; `${NAME|TEXT}` is `TEXT` then; `$$` is a dollar sign. What clients \
          and servers wrote is escaped, so that it can stand in quotes and in JSON strings. Times \
          are milliseconds. Every line has `time` (RFC 3339), `time.clf`, `time.unix_ms`, \
          `client.address`, `client.port`, `local.address`, `local.port`, `frontend`, `backend`, \
          `server`, `server.address`, `bytes.in`, `bytes.out`, `timer.total`.",
    keys: &[&OF_HTTP, &OF_TCP, &OF_L4],
    unbuilt: &[],
};

static OF_HTTP: Key<Text<LogTemplate>> = Key {
    name: "http",
    shape: Text { what: "a text with fields", parse: |text| template(LineKind::Http, text) },
    presence: Presence::Optional("as `format` says"),
    doc: "Requests. Besides the above: `timer.request`, `timer.queue`, `timer.connect`, \
          `timer.response`, `request.method`, `request.uri`, `request.path`, `request.query`, \
          `request.version`, `request.header.NAME`, `response.status`, `response.header.NAME`, \
          `state`, `cause`, `phase`, `reason`, `rule`, `retries`, `reused`, `queued`, \
          `connections.process`, `.frontend`, `.backend`, `.server`, `tls`, `tls.sni`, \
          `tls.version`, `tls.cipher`.",
};

static OF_TCP: Key<Text<LogTemplate>> = Key {
    name: "tcp",
    shape: Text { what: "a text with fields", parse: |text| template(LineKind::Tcp, text) },
    presence: Presence::Optional("as `format` says"),
    doc: "Sessions. As requests without `request`, `response`, `timer.request`, `timer.response`, \
          `rule` and `reused`; and `connection.id`.",
};

static OF_L4: Key<Text<LogTemplate>> = Key {
    name: "l4",
    shape: Text { what: "a text with fields", parse: |text| template(LineKind::L4, text) },
    presence: Presence::Optional("as `format` says"),
    doc: "Flows. Besides what every line has: `protocol`, `snat.port`, `packets.in`, \
          `packets.out`, `end`, `tcp.state`.",
};

static CAPTURE: Key<Nested<Capture>> = Key {
    name: "capture",
    shape: Nested { section: &CAPTURE_SECTION, decode: decode_capture },
    presence: Presence::Default("{}"),
    doc: "Headers that lines of requests show.",
};

static CAPTURE_SECTION: Section = Section {
    path: "log.access.capture",
    doc: "Headers, as clients and servers sent them; of several of one name the last. `text` has \
          them in braces before the request, `json` in `request_headers` and `response_headers`; \
          templates have any header, listed here or not.",
    keys: &[&REQUEST_HEADERS, &RESPONSE_HEADERS, &MAX_BYTES],
    unbuilt: &[],
};

static REQUEST_HEADERS: Key<List<Text<HeaderName>>> = headers("request_headers", "Of requests.");
static RESPONSE_HEADERS: Key<List<Text<HeaderName>>> =
    headers("response_headers", "Of the responses of servers.");

static MAX_BYTES: Key<Integer<u32>> = Key {
    name: "max_bytes",
    shape: Integer { min: 1, max: 8192 },
    presence: Presence::Default("256"),
    doc: "Most bytes of a value that are shown.",
};

static SYSLOG: Key<Nested<RawSyslog>> = Key {
    name: "syslog",
    shape: Nested { section: &SYSLOG_SECTION, decode: decode_syslog },
    presence: Presence::Default("{}"),
    doc: "What a syslog daemon is told of each line.",
};

static SYSLOG_SECTION: Section = Section {
    path: "log.access.syslog",
    doc: "The header of messages (RFC 5424). Over TCP each message has its length before it \
          (RFC 6587).",
    keys: &[&FACILITY, &SEVERITY, &APP_NAME, &HOSTNAME],
    unbuilt: &[],
};

static FACILITY: Key<Choice<u8>> = Key {
    name: "facility",
    shape: Choice::of(&[
        ("user", 1),
        ("daemon", 3),
        ("local0", 16),
        ("local1", 17),
        ("local2", 18),
        ("local3", 19),
        ("local4", 20),
        ("local5", 21),
        ("local6", 22),
        ("local7", 23),
    ]),
    presence: Presence::Default("local0"),
    doc: "The facility.",
};

static SEVERITY: Key<Choice<u8>> = Key {
    name: "severity",
    shape: Choice::of(&[("notice", 5), ("info", 6), ("debug", 7)]),
    presence: Presence::Default("info"),
    doc: "The severity.",
};

static APP_NAME: Key<Text<String>> = Key {
    name: "app_name",
    shape: Text { what: "a name of 1 to 48 printable characters", parse: |text| word(text, 48) },
    presence: Presence::Default("pointsman"),
    doc: "Who writes.",
};

static HOSTNAME: Key<Text<String>> = Key {
    name: "hostname",
    shape: Text { what: "a name of 1 to 255 printable characters", parse: |text| word(text, 255) },
    presence: Presence::Optional("the name of this host"),
    doc: "Which host.",
};

const fn headers(name: &'static str, doc: &'static str) -> Key<List<Text<HeaderName>>> {
    let item = Text { what: "a header name", parse: header_name };
    Key { name, shape: List { item }, presence: Presence::Default("[]"), doc }
}

/// `target` as given.
#[derive(Clone, Debug)]
enum Target {
    Local(AccessTarget),
    Syslog(SyslogPeer),
}

/// `syslog` as given.
struct RawSyslog {
    facility: u8,
    severity: u8,
    app_name: String,
    hostname: Option<String>,
}

fn decode(entries: &Entries<'_>) -> Option<AccessLog> {
    let (target, format) = (entries.get(&TARGET), entries.get(&FORMAT));
    let (templates, capture) = (entries.get(&TEMPLATE), entries.get(&CAPTURE));
    let syslog = entries.get(&SYSLOG);
    if entries.has(&SYSLOG) && matches!(target, Some(Target::Local(_))) {
        let refusal = Refusal::new("`target` is no syslog daemon");
        entries.reject(&SYSLOG, refusal.hint("such as target: udp@192.0.2.9:514"));
    }
    let (target, syslog, templates, mut capture) = (target?, syslog?, templates?, capture?);
    for field in templates.http.iter().flat_map(LogTemplate::fields) {
        match field {
            LogField::RequestHeader(name) => capture.request.add(name),
            LogField::ResponseHeader(name) => capture.response.add(name),
            _ => {}
        }
    }
    let target = match target {
        Target::Local(target) => target,
        Target::Syslog(peer) => {
            let RawSyslog { facility, severity, app_name, hostname } = syslog;
            AccessTarget::Syslog(Syslog { peer, facility, severity, app_name, hostname })
        }
    };
    Some(AccessLog { target, format: format?, templates, capture })
}

fn decode_templates(entries: &Entries<'_>) -> Option<LogTemplates> {
    let [http, tcp, l4] = [&OF_HTTP, &OF_TCP, &OF_L4].map(|key| entries.optional(key));
    Some(LogTemplates { http: http?, tcp: tcp?, l4: l4? })
}

fn decode_capture(entries: &Entries<'_>) -> Option<Capture> {
    let names = |names: Option<ListItems<HeaderName>>| {
        let mut captured = CapturedNames::default();
        whole(names?)?.iter().for_each(|name| captured.add(name));
        captured.shown = captured.names.len();
        Some(captured)
    };
    let request = names(entries.get(&REQUEST_HEADERS));
    let response = names(entries.get(&RESPONSE_HEADERS));
    let max_bytes = entries.get(&MAX_BYTES);
    Some(Capture {
        request: request?,
        response: response?,
        max_bytes: usize::try_from(max_bytes?).ok()?,
    })
}

fn decode_syslog(entries: &Entries<'_>) -> Option<RawSyslog> {
    let (facility, severity) = (entries.get(&FACILITY), entries.get(&SEVERITY));
    let (app_name, hostname) = (entries.get(&APP_NAME), entries.optional(&HOSTNAME));
    Some(RawSyslog {
        facility: facility?,
        severity: severity?,
        app_name: app_name?,
        hostname: hostname?,
    })
}

fn target(text: &str) -> Result<Target, Refusal> {
    let hint = "stdout, a file by its absolute path, or udp@, tcp@ or unix@ and a syslog daemon";
    match text.split_once('@') {
        _ if text == "stdout" => Ok(Target::Local(AccessTarget::Stdout)),
        Some(("udp", address)) => socket_address(address).map(SyslogPeer::Udp).map(Target::Syslog),
        Some(("tcp", address)) => socket_address(address).map(SyslogPeer::Tcp).map(Target::Syslog),
        Some(("unix", path)) => match absolute_path(path) {
            Ok(path) if path.as_os_str().len() <= MAX_SOCKET_BYTES => {
                Ok(Target::Syslog(SyslogPeer::Unix(path)))
            }
            _ => Err(Refusal::new(format!("{} names no socket", quoted(text)))
                .hint("unix@/absolute/path, at most 107 bytes")),
        },
        _ => match absolute_path(text) {
            Ok(path) => Ok(Target::Local(AccessTarget::File(path))),
            Err(_) => Err(Refusal::new(format!("{} is not a target", quoted(text))).hint(hint)),
        },
    }
}

/// Printable ASCII without spaces, as headers of syslog have it.
fn word(text: &str, most: usize) -> Result<String, Refusal> {
    if (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    let message = format!("{} can not stand in a syslog header", quoted(text));
    Err(Refusal::new(message).hint(format!("1 to {most} printable ASCII characters, no spaces")))
}

fn template(kind: LineKind, text: &str) -> Result<LogTemplate, Refusal> {
    let template = LogTemplate::parse(kind, text).map_err(|error| match &error {
        TemplateError::Unknown(_) => unknown(kind, &LogTemplate::unknown_fields(kind, text)),
        TemplateError::Unclosed => {
            Refusal::new(error.to_string()).hint("`$${` writes a dollar sign and a brace")
        }
        TemplateError::Length | TemplateError::Variables => Refusal::new(error.to_string()),
    })?;
    if template.texts().any(|text| HeaderValue::from_str(text).is_err()) {
        return Err(Refusal::new("a line has no line breaks and no control characters in it"));
    }
    Ok(template)
}

/// All of them at once: a template has many fields.
fn unknown(kind: LineKind, names: &[String]) -> Refusal {
    let known: Vec<String> = LogField::names(kind).collect();
    let meant = |name: &String| did_you_mean(name, known.iter().map(String::as_str)).map(quoted);
    let meant: Option<Vec<String>> = names.iter().map(meant).collect();
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let refusal = Refusal::new(format!("such lines have no field {}", names.join(", ")));
    match meant {
        Some(meant) => refusal.hint(format!("did you mean {}?", meant.join(", "))),
        None => refusal.hint(format!("they have {}", known.join(", "))),
    }
}
