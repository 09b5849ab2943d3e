//! Peers that are slow, break off or talk nonsense: what the other side is told, what is
//! logged, and that nothing is left behind.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use testbed::{
    loopback::{Loopback, PATIENCE, free},
    process::wait_until,
};

/// It is closed after, and says so: the next request must not meet the end of it.
const DRIP: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\ndrip";

/// What a server does with a request once it has read its header.
#[derive(Clone, Copy, Debug)]
enum Server {
    /// Sends this and closes.
    Says(&'static str),
    /// Sends this and resets.
    Breaks(&'static str),
    /// Sends this and nothing more.
    Hangs(&'static str),
    /// A good response, a byte at a time.
    Drips,
    /// A response of 64 MiB, as fast as it is taken.
    Pours,
}

impl Server {
    /// Where it listens, and how many requests it has got.
    fn start(self) -> Result<(SocketAddr, Arc<AtomicUsize>)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let count = Arc::clone(&count);
                thread::spawn(move || self.serve(stream, &count));
            }
        });
        Ok((address, requests))
    }

    fn serve(self, mut stream: TcpStream, requests: &AtomicUsize) -> std::io::Result<()> {
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte)? == 0 {
                return Ok(());
            }
            seen.push(byte[0]);
        }
        requests.fetch_add(1, Ordering::SeqCst);
        match self {
            Self::Says(text) => stream.write_all(text.as_bytes()),
            Self::Breaks(text) => {
                stream.write_all(text.as_bytes())?;
                reset(&stream);
                Ok(())
            }
            Self::Hangs(text) => {
                stream.write_all(text.as_bytes())?;
                stream.read_to_end(&mut Vec::new()).map(drop)
            }
            Self::Drips => {
                for byte in DRIP.bytes() {
                    stream.write_all(&[byte])?;
                    thread::sleep(Duration::from_millis(10));
                }
                Ok(())
            }
            Self::Pours => {
                let (part, parts) = (vec![b'x'; 1 << 16], 1 << 10);
                let length = part.len() * parts;
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")?;
                (0..parts).try_for_each(|_| stream.write_all(&part))
            }
        }
    }
}

/// Closing the socket sends a RST.
fn reset(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // Without it the connection just closes.
    let _ = setsockopt(stream, sockopt::Linger, &linger);
}

/// An agent with one frontend before this server, and short timeouts. The frontend's address,
/// and how many requests the server has got.
fn start(server: Server) -> Result<(Loopback, SocketAddr, Arc<AtomicUsize>)> {
    let (mut place, front) = (Loopback::new()?, free()?);
    // Servers that are not meant to are not too slow on a busy machine either.
    let silence = if matches!(server, Server::Hangs(_)) { 1 } else { PATIENCE.as_secs() };
    let (server, requests) = server.start()?;
    place.start(&format!(
        "defaults: {{timeouts: {{client: 1s, server: {silence}s, http_request: 1s}}}}\n\
         frontends: {{f: {{mode: http, bind: [\"{front}\"], backend: b, \
         limits: {{body_rate: 0B}}}}}}\n\
         backends: {{b: {{retries: 0, servers: {{s: \"{server}\"}}}}}}\n"
    ))?;
    Ok((place, front, requests))
}

/// Waits until no connection and no request is left.
fn require_nothing_left(place: &Loopback) -> Result<()> {
    let waited = wait_until("nothing is left", PATIENCE, || {
        let status = place.status()?;
        let frontend = status.frontends.first().context("a frontend")?;
        let backend = status.backends.first().context("a backend")?;
        let load = backend.proxy.context("it is proxied")?;
        ensure!(frontend.connections == 0, "{frontend:?}");
        ensure!((load.active, load.queued) == (0, 0), "{load:?}");
        Ok(())
    });
    waited.map(drop)
}

/// What curl makes of a server over HTTP/1.1 and HTTP/2, and what is logged: a status or none,
/// curl's exit code, the two letters.
#[track_caller]
fn check(server: Server, status: &str, is_whole: bool, state: &str, reason: &str) -> Result<()> {
    let (place, front, _) = start(server)?;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "20", version, "-o", "/dev/null", "-w", "%{http_code}"]);
        let output = curl.arg(format!("http://{front}/")).output()?;
        let code = String::from_utf8_lossy(&output.stdout).into_owned();
        // On a stream of HTTP/2 the end that is no end may overtake the header.
        let is_overtaken = !is_whole && version != "--http1.1" && code == "000";
        ensure!(code == status || is_overtaken, "{server:?} {version}: {code}");
        ensure!(output.status.success() == is_whole, "{server:?} {version}: {}", output.status);
    }
    let log = place.log(2)?;
    let good = |line: &serde_json::Value| line["state"] == state && line["reason"] == reason;
    ensure!(log.iter().all(good), "{server:?}: {log:?}");
    require_nothing_left(&place)
}

#[test]
fn what_becomes_of_servers_that_do_not_answer_well() -> Result<()> {
    const HEAD: &str = "HTTP/1.1 200 OK\r\n";
    const SHORT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
    const CHUNK: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    check(Server::Says(""), "502", true, "SH", "response_missing")?;
    check(Server::Says(HEAD), "502", true, "SH", "response_missing")?;
    check(Server::Says("nonsense\r\n\r\n"), "502", true, "SH", "response_malformed")?;
    check(Server::Breaks(HEAD), "502", true, "SH", "response_missing")?;
    check(Server::Hangs(""), "504", true, "sH", "server_timeout")?;
    check(Server::Hangs(HEAD), "504", true, "sH", "server_timeout")?;
    // The client can not take half a response for a whole one.
    check(Server::Says(SHORT), "200", false, "SD", "response_broken")?;
    check(Server::Says(CHUNK), "200", false, "SD", "response_broken")?;
    check(Server::Breaks(SHORT), "200", false, "SD", "response_broken")?;
    check(Server::Hangs(CHUNK), "200", false, "sD", "server_timeout")?;
    check(Server::Drips, "200", true, "--", "done")
}

/// A client that connects, sends this, waits until so many requests have come to the server,
/// and is gone.
fn abort(
    front: SocketAddr,
    says: &str,
    resets: bool,
    (requests, until): (&AtomicUsize, usize),
) -> Result<()> {
    let mut stream = TcpStream::connect(front)?;
    stream.write_all(says.as_bytes())?;
    wait_until("the server has the request", PATIENCE, || {
        ensure!(requests.load(Ordering::SeqCst) >= until);
        Ok(())
    })?;
    if resets {
        reset(&stream);
    }
    Ok(())
}

#[test]
fn clients_that_break_off_are_to_blame_and_leave_nothing() -> Result<()> {
    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const HALF: &str = "GET / HTTP/1.1\r\nhost:";
    const UPLOAD: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999\r\n\r\npart";
    for server in [Server::Hangs(""), Server::Pours] {
        for resets in [false, true] {
            let (place, front, requests) = start(server)?;
            // Half a header goes no further than the proxy.
            for (says, until) in [(GET, 1), (HALF, 1), (UPLOAD, 2)] {
                abort(front, says, resets, (&requests, until))?;
            }
            let log = place.log(2)?;
            let others: Vec<_> = log.iter().filter(|line| line["cause"] != "client").collect();
            ensure!(others.is_empty(), "{server:?} {resets}: {others:?}");
            ensure!(log.iter().all(|line| line["status"].as_u64() < Some(500)), "{log:?}");
            require_nothing_left(&place)?;
        }
    }
    Ok(())
}

#[test]
fn a_client_that_takes_nothing_holds_the_server_back_and_is_given_up() -> Result<()> {
    let (place, front, _) = start(Server::Pours)?;
    let before = place.resident_kib()?;
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(front)?;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")?;
            Ok::<_, anyhow::Error>(stream)
        })
        .collect::<Result<_>>()?;
    let log = place.log(20)?;
    let grown = place.resident_kib()?.saturating_sub(before);
    ensure!(log.iter().all(|line| line["state"] == "cD"), "{log:?}");
    // 20 x 64 MiB were on offer.
    ensure!(grown < 64 * 1024, "the agent grew by {grown} KiB");
    drop(clients);
    require_nothing_left(&place)
}

#[test]
fn a_client_that_takes_little_gets_all_of_it() -> Result<()> {
    let (place, front, _) = start(Server::Pours)?;
    let mut stream = TcpStream::connect(front)?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
    let mut chunk = vec![0; 1 << 20];
    let (mut all, began) = (0, Instant::now());
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            count => all += count,
        }
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(all > 64 << 20, "{all} bytes came");
    // Longer than any timeout, none of which is about the whole.
    ensure!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
    ensure!(place.log(1)?[0]["reason"] == "done");
    require_nothing_left(&place)
}

#[test]
fn a_header_that_does_not_end_is_answered_408() -> Result<()> {
    let (place, front, _) = start(Server::Drips)?;
    let mut stream = TcpStream::connect(front)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Most of the time it may take; not after it, when writing would meet a closed connection.
    for byte in "GET / HTTP/1.1\r\nhost: a\r\nx: ".bytes() {
        stream.write_all(&[byte])?;
        thread::sleep(Duration::from_millis(20));
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let log = place.log(1)?;
    ensure!(log[0]["state"] == "cR", "{log:?}");
    require_nothing_left(&place)
}
