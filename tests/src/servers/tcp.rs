//! The TCP services of an embedded server.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::TcpStream,
};

use super::Shared;
use crate::content::{Content, Fingerprint};

/// [`super::port::LINE`].
pub(super) fn answer_lines(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        writer.write_all(format!("{} {}\n", shared.name, line?).as_bytes())?;
    }
    Ok(())
}

/// [`super::port::DIGEST`].
pub(super) fn answer_digest(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    let Fingerprint { bytes, sha256 } = Fingerprint::of(&mut stream)?;
    stream.write_all(format!("{} {bytes} {sha256}\n", shared.name).as_bytes())
}

/// [`super::port::SOURCE`].
pub(super) fn send_content(_shared: &Shared, stream: TcpStream) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let length = line.trim().parse().map_err(io::Error::other)?;
    io::copy(&mut Content::new(length), &mut writer).map(drop)
}
