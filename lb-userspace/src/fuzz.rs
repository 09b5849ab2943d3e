//! Parsers of bytes and texts from outside, as a fuzzer calls them: each with bytes of its
//! choice, and with what must hold whatever they are. A panic is a finding.
//!
//! Only with the feature `fuzz`, for the test bed's fuzzer.

use crate::{
    balance::cookie,
    config,
    model::{
        access_log::{LineKind, LogTemplate},
        rule::{
            host::{HostPattern, normal_host},
            path::{NormalPath, PathPattern},
            template::Template,
        },
    },
    proxy::{http, proxy_protocol, sni},
};

/// A parser.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Gives it bytes.
    pub run: fn(&[u8]),
    /// Good input to begin with.
    pub seeds: &'static [&'static [u8]],
}

/// All parsers of our own.
pub const TARGETS: [Target; 11] = [
    Target {
        name: "configuration",
        run: configuration,
        seeds: &[
            include_bytes!("../../configs/api-gateway.yaml"),
            include_bytes!("../../configs/postgres-split.yaml"),
        ],
    },
    Target {
        name: "rules",
        run: rules,
        seeds: &[
            b"    - {if: {path_prefix: /a/, not: {source: [10.0.0.0/8]}}, deny: 403}\n",
            b"    - {if: {any: [{host_wildcard: \"*.a.b\"}, {path_regex: \"^/v([0-9]+)\"}]}, \
              redirect: {scheme: https, code: 301}}\n",
            b"    - {set_response_header: {X-A: \"${request.header.x-b|none}$$\"}}\n",
            b"    - {rewrite: {prefix: {from: /a/, to: /}, query_regex: {match: a, replace: $1}}}\n",
        ],
    },
    Target {
        name: "rule_template",
        run: rule_template,
        seeds: &[b"a ${client.address|x} $$ ${request.header.host}"],
    },
    Target {
        name: "log_template",
        run: log_template,
        seeds: &[b"${frontend} [${request.header.x|none}] ${timer.queue} $$"],
    },
    Target { name: "host", run: host, seeds: &[b"WWW.example.com.:443", b"[::1]:80", b"*.a.b"] },
    Target { name: "path", run: path, seeds: &[b"/a/%2e%2e/b//c;x=y/./?q=1", b"/caf%c3%a9"] },
    Target {
        name: "http1",
        run: http::fuzz::http1,
        seeds: &[
            b"\x05POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
            b"\x10POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
            b"\x03GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\nxyz",
        ],
    },
    Target {
        name: "http2",
        run: http::fuzz::http2,
        seeds: &[b"\x07PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x04\x08\0\0\0\0\0abcd"],
    },
    Target {
        name: "proxy_protocol",
        run: proxy_protocol,
        seeds: &[
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xc0\0\x02\x01\xc0\0\x02\x02\0\x01\0\x02\x02\0\x04a.bc",
        ],
    },
    Target {
        // The format is rustls' to parse; the loop around it is ours.
        name: "server_name",
        run: sni::fuzz,
        seeds: &[
            b"@\x16\x03\x01\0W\x01\0\0S\x03\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
              \0\0\0\0\0\0\0\0\0\0\0\0\0\x02\xc0+\x01\0\0(\0\0\0\x0b\0\x09\0\0\x06a.test\0\
              \x0a\0\x04\0\x02\0\x17\0\x0d\0\x04\0\x02\x04\x03\0\x10\0\x05\0\x03\x02h2",
        ],
    },
    Target { name: "cookie", run: cookie, seeds: &[b"a=b; SRV=0f~abc; c=\"d\"", b"SRV=1; SRV=2"] },
];

fn configuration(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        require_faults(text);
    }
}

/// Rules of a frontend.
fn rules(bytes: &[u8]) {
    const BEFORE: &str = "backends:\n  a: {servers: {s: \"192.0.2.1:80\"}}\nfrontends:\n  web:\n    \
                          mode: http\n    bind: [\"192.0.2.9:80\"]\n    backend: a\n    rules:\n";
    if let Ok(text) = std::str::from_utf8(bytes) {
        require_faults(&format!("{BEFORE}{text}"));
    }
}

/// What is not a configuration has faults, each with a place and on one line.
fn require_faults(text: &str) {
    let Err(faults) = config::parse(text, "c") else { return };
    assert!(!faults.as_slice().is_empty());
    let shown = faults.to_string();
    assert_eq!(shown.lines().count(), faults.as_slice().len(), "{shown}");
    for fault in faults.as_slice() {
        assert!(fault.line >= 1 && fault.column >= 1, "{fault}");
        assert!(!fault.message.is_empty() && !fault.message.contains("please report"), "{fault}");
    }
}

fn rule_template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(template) = Template::parse(text) {
        assert!(template.texts().map(str::len).sum::<usize>() <= text.len());
    }
}

fn log_template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for kind in LineKind::ALL {
        if let Ok(template) = LogTemplate::parse(kind, text) {
            assert!(template.texts().map(str::len).sum::<usize>() <= text.len());
        }
    }
}

fn host(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let host = normal_host(text);
    assert!(host.len() <= text.len());
    let _ = HostPattern::exact(text).map(|pattern| pattern.matches(&host));
    let _ = HostPattern::wildcard(text).map(|pattern| pattern.matches(&host));
}

fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = PathPattern::prefix(text);
    let _ = PathPattern::contains(text);
    // What has no slash in front (`*`) stays as it is.
    if let (true, Ok(path)) = (text.starts_with('/'), NormalPath::new(text)) {
        assert!(path.clean.starts_with('/'), "{:?}", path.clean);
        let again = NormalPath::new(&path.clean).expect("a normal form is a path");
        assert_eq!(again.clean, path.clean);
        assert!(!again.had_dots);
    }
}

fn proxy_protocol(bytes: &[u8]) {
    if let Ok(header) = proxy_protocol::parse(bytes) {
        assert!(bytes.len() <= proxy_protocol::MAX_BYTES, "{header:?}");
        if let Some(addresses) = header.addresses {
            let families = (addresses.source.is_ipv4(), addresses.destination.is_ipv4());
            assert_eq!(families.0, families.1, "{addresses:?}");
        }
    }
}

fn cookie(bytes: &[u8]) {
    let _ = cookie::value_in(bytes, "SRV");
    let _ = cookie::without_prefix(bytes, "SRV");
    let _ = cookie::split_prefix(bytes);
    if let Some(rest) = cookie::without(bytes, "SRV") {
        assert_eq!(cookie::value_in(&rest, "SRV"), None);
    }
    if let Some(prefixed) = cookie::prefixed(bytes, "SRV", "0f") {
        assert!(prefixed.windows(3).any(|three| three == b"0f~"));
    }
}
