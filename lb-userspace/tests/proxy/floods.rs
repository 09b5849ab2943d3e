//! HTTP/2 clients that make work, frame by frame (RFC 9113, 6): each is cut off.

use std::{io::Write, thread};

use crate::rig::{OK, PATIENCE, Rig, Server};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PROTOCOL_ERROR: u8 = 1;
const ENHANCE_YOUR_CALM: u8 = 0xb;

/// GET, http, /, and `:authority: a` as a literal (RFC 7541, 6).
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
/// The same with POST.
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 0x01, b'a'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Stream ids of a client.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

/// Sends all of it after the preface and empty SETTINGS, and waits until the proxy closes:
/// what it said, frame by frame, as type and payload.
#[track_caller]
fn cut_off(rig: &Rig, frames: impl Iterator<Item = Vec<u8>>) -> Vec<(u8, Vec<u8>)> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    frames.for_each(|frame| bytes.extend(frame));
    let client = rig.connect();
    let mut writer = client.0.try_clone().expect("a descriptor is left");
    let sending = thread::spawn(move || {
        // It may be cut off in the middle.
        let _ = writer.write_all(&bytes);
    });
    let mut answers = Vec::new();
    let ended = std::io::Read::read_to_end(&mut &client.0, &mut answers);
    let is_late = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!is_late, "it is not cut off within {PATIENCE:?}");
    drop(client);
    sending.join().expect("the sender ends");
    let mut said = Vec::new();
    let mut rest = &answers[..];
    while let [a, b, c, kind, _, _, _, _, _, after @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some((payload, next)) = after.split_at_checked(length) else { break };
        said.push((*kind, payload.to_vec()));
        rest = next;
    }
    said
}

/// Whether the proxy ended the connection with GOAWAY and this code.
fn is_told(said: &[(u8, Vec<u8>)], code: u8) -> bool {
    const GOAWAY: u8 = 7;
    said.iter().any(|(kind, payload)| *kind == GOAWAY && payload.get(7) == Some(&code))
}

#[test]
fn resets_of_streams_that_were_taken_up() {
    let rig = Rig::new("limits: {resets: 10}", Server::new().address);
    let reset = |stream| {
        [
            frame(HEADERS, END_STREAM | END_HEADERS, stream, GET),
            frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ]
        .concat()
    };
    cut_off(&rig, streams(10_000).map(reset));
    rig.logged("{resets}");
}

#[test]
fn faults_for_which_the_proxy_resets_streams() {
    let rig = Rig::new("limits: {resets: 10}", Server::new().address);
    // No window is that large.
    let fault = |stream| {
        [
            frame(HEADERS, END_HEADERS, stream, POST),
            frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]),
        ]
        .concat()
    };
    assert!(is_told(&cut_off(&rig, streams(500).map(fault)), ENHANCE_YOUR_CALM));
    let line = rig.logged("{http2_limits}");
    assert!(line.contains(" PR-- ") && line.contains("\"<BADREQ> / HTTP/2.0\""), "{line}");
}

#[test]
fn frames_that_carry_nothing() {
    let rig = Rig::new("limits: {control_frames: 100}", Server::new().address);
    let floods: [(u8, u32, &[u8]); 5] = [
        (PING, 0, &[0; 8]),
        (SETTINGS, 0, &[0, 3, 0, 0, 0, 100]),
        (PRIORITY, 1, &[0, 0, 0, 0, 1]),
        (WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
        (0xbe, 0, &[]),
    ];
    for (kind, stream, payload) in floods {
        cut_off(&rig, (0..100_000).map(|_| frame(kind, 0, stream, payload)));
    }
    rig.logged("{control_frames}");
    let open = frame(HEADERS, END_HEADERS, 1, POST);
    let empty = (0..100_000).map(|_| frame(DATA, 0, 1, &[]));
    cut_off(&rig, std::iter::once(open).chain(empty));
}

#[test]
fn a_push_promise_that_never_ends() {
    let rig = Rig::new("", Server::answering(OK));
    let request = frame(HEADERS, END_HEADERS, 1, POST);
    // Stream 2 is promised, and `:status: 200`.
    for flags in [0, END_HEADERS] {
        let promise = frame(PUSH_PROMISE, flags, 1, &[0, 0, 0, 2, 0x88]);
        for before in [&b""[..], &request] {
            let said = cut_off(&rig, [before.to_vec(), promise.clone()].into_iter());
            assert!(is_told(&said, PROTOCOL_ERROR), "{flags} {}: {said:?}", before.len());
        }
    }
}

#[test]
fn a_header_that_never_ends() {
    let rig = Rig::new("limits: {control_frames: 1000000}", Server::new().address);
    for payload in [&b""[..], &[0; 1], &[0x82; 1000]] {
        let start = frame(HEADERS, END_STREAM, 1, GET);
        let more = (0..100_000).map(|_| frame(CONTINUATION, 0, 1, payload));
        cut_off(&rig, std::iter::once(start).chain(more));
    }
}

#[test]
fn a_small_header_that_grows_when_it_is_read() {
    let rig = Rig::new("", Server::new().address);
    // A field of 4,000 bytes into the table, and then that field 10,000 times (RFC 7541, 6.1
    // and 6.2.1): 40 MB out of 14 KB.
    let mut block = [GET, &[0x40, 1, b'x', 0x7f]].concat();
    // 4,000 less 127, in groups of seven bits.
    block.extend([0xa1, 0x1e]);
    block.extend([b'a'; 4000]);
    block.extend([0xbe; 10_000]);
    cut_off(&rig, [frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)].into_iter());
}

#[test]
fn a_header_that_is_too_large_is_answered() {
    let rig = Rig::new("", Server::answering(OK));
    let large = format!("X-Large: {}", "y".repeat(20_000));
    let status = |fields: &[&str]| {
        let output = std::process::Command::new("curl")
            .args(["-sS", "--http2-prior-knowledge", "--noproxy", "*", "--max-time", "10"])
            .args(["-o", "/dev/null", "-w", "%{http_code}"])
            .args(fields.iter().flat_map(|field| ["-H", *field]))
            .arg(format!("http://{}/", rig.address))
            .output()
            .expect("curl is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(status(&[&large]), "431");
    assert_eq!(status(&["X-Small: y"]), "200");
}

#[test]
fn a_response_that_is_not_taken_does_not_hold_its_server() {
    let server = Server::new();
    let keys = "timeouts: {client: 200ms, keep_alive: 200ms, http_request: 200ms}";
    let rig = Rig::new(keys, server.address);
    // No stream has a window (RFC 9113, 6.5.2).
    let closed = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let get = frame(HEADERS, END_STREAM | END_HEADERS, 1, GET);
    let far = thread::spawn(move || {
        let mut connection = server.accept();
        connection.until("\r\n\r\n");
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
        connection.send(head.as_bytes());
        // Until nobody wants it.
        while connection.0.write_all(&[b'x'; 1000]).is_ok() {}
    });
    cut_off(&rig, [closed, get].into_iter());
    far.join().expect("the server is let go");
    let line = rig.logged("{client_timeout}");
    assert!(line.contains(" cD-- "), "{line}");
}

#[test]
fn what_is_no_http2_is_the_clients_fault_in_the_log() {
    let rig = Rig::new("", Server::new().address);
    // A stream of a server's own.
    let even = frame(HEADERS, END_STREAM | END_HEADERS, 2, GET);
    assert!(is_told(&cut_off(&rig, std::iter::once(even)), PROTOCOL_ERROR));
    let line = rig.logged("{malformed}");
    assert!(line.contains(" CR-- ") && line.contains("\"<BADREQ> / HTTP/2.0\""), "{line}");
}

#[test]
fn a_stream_that_its_client_resets_is_in_the_log() {
    let server = Server::new();
    let rig = Rig::new("", server.address);
    let cancel = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    let get = |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
    let mut client = rig.connect();
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    client.send(&frame(SETTINGS, 0, 0, &[]));
    // While the server has it.
    client.send(&get(1));
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    client.send(&cancel(1));
    let line = rig.logged(" -1 0 - - ");
    assert!(
        line.contains(" CH-- ") && line.contains("{client_left} \"GET http://a/ HTTP/2.0\""),
        "{line}"
    );
    assert_eq!(connection.rest(), "", "nobody waits for its answer");
    // While the response is under way.
    client.send(&get(3));
    let mut connection = server.accept();
    connection.until("\r\n\r\n");
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(b"hello") {
        std::io::Read::read_exact(&mut client.0, &mut byte).expect("it comes");
        seen.extend(byte);
    }
    client.send(&cancel(3));
    let line = rig.logged(" 200 5 - - ");
    assert!(line.contains(" CD-- ") && line.contains("{client_left}"), "{line}");
    // At once, before anybody has looked at it.
    client.send(&[get(5), cancel(5)].concat());
    let line = rig.logged(" CC-- ");
    assert!(line.contains(" -1 0 - - ") && line.contains("{client_left}"), "{line}");
}
