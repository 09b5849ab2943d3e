//! A small web server and a client of HTTP/1.1, each of a few lines: peers of the proxy whose
//! every byte is known.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::loopback::PATIENCE;

/// A server that answers every request without a body with 200 and this body.
///
/// # Errors
/// When it can not listen.
pub fn server(body: &'static str) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream, body));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream, body: &str) -> std::io::Result<()> {
    let answer =
        format!("HTTP/1.1 200 OK\r\nserver: s\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        seen.extend_from_slice(&chunk[..count]);
        while let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            seen.drain(..end + 4);
            stream.write_all(answer.as_bytes())?;
        }
    }
}

/// A connection of a client.
#[derive(Debug)]
pub struct WebClient(TcpStream);

impl WebClient {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// One request with these header lines; the body of the answer, and how long it took.
    ///
    /// # Errors
    /// When the answer is not 200, or not whole.
    pub fn get(&mut self, path: &str, headers: &str) -> Result<(String, Duration)> {
        let began = Instant::now();
        write!(self.0, "GET {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n")?;
        let mut answer = Vec::new();
        let mut chunk = [0; 16 * 1024];
        loop {
            let count = self.0.read(&mut chunk)?;
            let text = || String::from_utf8_lossy(&answer).into_owned();
            ensure!(count > 0, "closed after {:?}", text());
            answer.extend_from_slice(&chunk[..count]);
            let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            ensure!(head.starts_with("http/1.1 200 "), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.context("no length")?.parse()?;
            let body = &answer[end + 4..];
            if body.len() >= length {
                return Ok((String::from_utf8_lossy(body).into_owned(), began.elapsed()));
            }
        }
    }
}
