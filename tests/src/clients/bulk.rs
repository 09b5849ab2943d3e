//! Bulk transfers: the hash of what arrived against the hash of what was sent.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{Failure, PATIENCE, tcp::prepare};
use crate::content::{Content, Fingerprint};

/// A transfer whose hash was right.
#[derive(Debug)]
pub struct Transfer {
    /// What was transferred.
    pub fingerprint: Fingerprint,
    /// How long it took, connect included.
    pub elapsed: Duration,
}

impl Transfer {
    /// Megabits a second.
    #[must_use]
    pub fn megabits_per_second(&self) -> u64 {
        let microseconds = u64::try_from(self.elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
        self.fingerprint.bytes.saturating_mul(8) / microseconds
    }
}

/// Fetches `bytes` bytes from [`port::SOURCE`](crate::servers::port::SOURCE).
///
/// # Errors
/// Any [`Failure`]; a different length or hash is a wrong answer.
pub fn download(target: SocketAddr, bytes: u64) -> Result<Transfer, Failure> {
    fetch(target, bytes, false)
}

/// The same, but the client ends its direction right after the request: everything comes
/// over a half-closed connection.
///
/// # Errors
/// Any [`Failure`]; a different length or hash is a wrong answer.
pub fn download_half_closed(target: SocketAddr, bytes: u64) -> Result<Transfer, Failure> {
    fetch(target, bytes, true)
}

/// Sends `bytes` bytes to [`port::DIGEST`](crate::servers::port::DIGEST), ends its
/// direction, and compares the hash the server then answers.
///
/// # Errors
/// Any [`Failure`]; a different length or hash is a wrong answer.
pub fn upload(target: SocketAddr, bytes: u64) -> Result<Transfer, Failure> {
    let start = Instant::now();
    let mut stream = open(target)?;
    io::copy(&mut Content::new(bytes), &mut stream)
        .map_err(|error| Failure::io("upload", &error))?;
    stream.shutdown(Shutdown::Write).map_err(|error| Failure::io("half-close", &error))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| Failure::io("read", &error))?;
    let fingerprint = expected(bytes)?;
    let wanted = format!("{} {}", fingerprint.bytes, fingerprint.sha256);
    match answer.trim_end().split_once(' ') {
        Some((_, got)) if got == wanted => Ok(Transfer { fingerprint, elapsed: start.elapsed() }),
        _ => Err(Failure::wrong(&wanted, &answer)),
    }
}

fn fetch(target: SocketAddr, bytes: u64, half_close: bool) -> Result<Transfer, Failure> {
    let start = Instant::now();
    let mut stream = open(target)?;
    stream
        .write_all(format!("{bytes}\n").as_bytes())
        .map_err(|error| Failure::io("write", &error))?;
    if half_close {
        stream.shutdown(Shutdown::Write).map_err(|error| Failure::io("half-close", &error))?;
    }
    let fingerprint =
        Fingerprint::of(&mut stream).map_err(|error| Failure::io("download", &error))?;
    let elapsed = start.elapsed();
    let wanted = expected(bytes)?;
    if fingerprint == wanted {
        Ok(Transfer { fingerprint, elapsed })
    } else {
        Err(Failure::wrong(&format!("{wanted:?}"), &format!("{fingerprint:?}")))
    }
}

fn open(target: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE)
        .map_err(|error| Failure::io("connect", &error))?;
    prepare(&stream, PATIENCE).map_err(|error| Failure::io("set-up", &error))?;
    Ok(stream)
}

fn expected(bytes: u64) -> Result<Fingerprint, Failure> {
    Fingerprint::of(&mut Content::new(bytes)).map_err(|error| Failure::io("hash", &error))
}
