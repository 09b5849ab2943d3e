//! The HTTP service of an embedded server: just enough of RFC 9112 for checks and `curl`.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::TcpStream,
};

use super::{Shared, Wellness};

/// [`super::port::HTTP`].
pub(super) fn answer(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, body) = match path {
        "/" => ("200 OK", format!("{}\n", shared.name)),
        "/health" => match shared.wellness() {
            Wellness::Well => ("200 OK", format!("{} is well\n", shared.name)),
            Wellness::Unwell => {
                ("503 Service Unavailable", format!("{} is not well\n", shared.name))
            }
            Wellness::Leaving => ("404 Not Found", format!("{} is leaving\n", shared.name)),
        },
        _ => ("404 Not Found", format!("no {path}\n")),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    writer.write_all(format!("{head}{body}").as_bytes())
}
