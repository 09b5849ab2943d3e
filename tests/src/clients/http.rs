//! One HTTP/1.1 request; the server closes first, so the client's port is free at once.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use super::{Failure, PATIENCE, tcp::prepare};

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// Body, trailing line end removed.
    pub body: String,
}

/// `GET path` on a connection that stands, read to the end of the connection.
///
/// # Errors
/// Any [`Failure`].
pub fn get(mut stream: TcpStream, path: &str) -> Result<HttpAnswer, Failure> {
    prepare(&stream, PATIENCE).map_err(|error| Failure::io("set-up", &error))?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: testbed\r\n\r\n").as_bytes())
        .map_err(|error| Failure::io("write", &error))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| Failure::io("read", &error))?;
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(HttpAnswer { status, body: body.trim_end().to_owned() })
    });
    parsed.ok_or_else(|| Failure::wrong("an HTTP answer", &answer))
}
