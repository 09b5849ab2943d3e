//! A gibibyte each way, by hash, in constant memory.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use testbed::{
    content::{Content, Fingerprint},
    loopback::{Loopback, free},
};

/// What goes over HTTP/1.1, and what over HTTP/2, bytes.
const SIZES: [(&str, u64); 2] = [("--http1.1", 1 << 30), ("--http2-prior-knowledge", 1 << 30)];
/// What the agent may grow by meanwhile, KiB: buffers of both connections, and pages that the
/// allocator keeps.
const GROWTH_KIB: u64 = 48 * 1024;

/// Sends content of as many bytes as the path says, and answers an upload with its
/// fingerprint.
fn server() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let mut length = None;
        while !line.trim().is_empty() {
            line.clear();
            reader.read_line(&mut line)?;
            let lower = line.to_ascii_lowercase();
            length = length.or(lower.strip_prefix("content-length: ").map(|l| l.trim().parse()));
        }
        if words.first().is_some_and(|method| method == "GET") {
            let length = words.get(1).context("a path")?.trim_start_matches('/').parse()?;
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")?;
            io::copy(&mut Content::new(length), &mut stream)?;
            continue;
        }
        let found = match length {
            Some(length) => Fingerprint::of(&mut reader.by_ref().take(length?))?,
            None => Fingerprint::of(&mut Chunks { reader: &mut reader, left: 0, ended: false })?,
        };
        let body = format!("{} {}", found.bytes, found.sha256);
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    }
}

/// A chunked body (RFC 9112, 7.1) without extensions and trailers.
struct Chunks<'a> {
    reader: &'a mut BufReader<TcpStream>,
    left: u64,
    ended: bool,
}

impl Read for Chunks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            self.left = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            self.ended = self.left == 0;
            if self.ended {
                self.reader.read_line(&mut String::new())?;
            }
        }
        let count = self.reader.by_ref().take(self.left).read(buffer)?;
        self.left -= count as u64;
        if self.left == 0 && !self.ended {
            self.reader.read_line(&mut String::new())?;
        }
        Ok(count)
    }
}

/// What curl sends back after it was given `upload` bytes, if any.
fn curl(version: &str, url: &str, upload: Option<u64>) -> Result<Fingerprint> {
    let mut command = Command::new("curl");
    command.args(["-sS", "--fail", "--max-time", "300", version]);
    if upload.is_some() {
        // From a pipe: curl does not know the length either.
        command.args(["-T", "-", "-H", "Expect:"]);
    }
    let mut child =
        command.arg(url).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("curl")?;
    let mut stdin = child.stdin.take().context("standard input")?;
    let feeder = thread::spawn(move || match upload {
        Some(length) => io::copy(&mut Content::new(length), &mut stdin).map(drop),
        None => Ok(()),
    });
    let mut stdout = child.stdout.take().context("standard output")?;
    let found = match upload {
        None => Fingerprint::of(&mut stdout)?,
        Some(_) => {
            let mut answer = String::new();
            stdout.read_to_string(&mut answer)?;
            let (bytes, sha256) = answer.split_once(' ').with_context(|| answer.clone())?;
            Fingerprint { bytes: bytes.parse()?, sha256: sha256.to_owned() }
        }
    };
    let status = child.wait()?;
    feeder.join().map_err(|_| anyhow!("the feeder panicked"))??;
    ensure!(status.success(), "curl ended with {status}");
    Ok(found)
}

#[test]
fn a_gibibyte_each_way_comes_whole_and_the_agent_does_not_grow() -> Result<()> {
    let (mut place, front, server) = (Loopback::new()?, free()?, server()?);
    place.start(&format!(
        "frontends: {{f: {{mode: http, bind: [\"{front}\"], backend: b}}}}\n\
         backends: {{b: {{servers: {{s: \"{server}\"}}}}}}\n"
    ))?;
    for (version, length) in SIZES {
        let expected = Fingerprint::of(&mut Content::new(length))?;
        for upload in [None, Some(length)] {
            let before = place.resident_kib()?;
            let (peak, stop) = (AtomicU64::new(before), Arc::new(AtomicBool::new(false)));
            let found = thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        peak.fetch_max(place.resident_kib().unwrap_or(0), Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(20));
                    }
                });
                let found = curl(version, &format!("http://{front}/{length}"), upload);
                stop.store(true, Ordering::Relaxed);
                found
            })?;
            let what = if upload.is_some() { "upload" } else { "download" };
            ensure!(found == expected, "{version} {what}: {found:?} is not {expected:?}");
            let grown = peak.load(Ordering::Relaxed).saturating_sub(before);
            ensure!(grown < GROWTH_KIB, "{version} {what}: the agent grew by {grown} KiB");
        }
    }
    Ok(())
}
