//! What rules read from files: lists of networks, bodies of answers. Only plain files are
//! read, and no more of them than the bounds say.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    super::{
        decode::Cursor,
        fault::{Refusal, quoted},
        schema::{Shape, Text},
    },
    connection::network,
};
use crate::model::rule::action::MAX_BODY;

/// Largest list of networks, in bytes.
const MAX_LIST: usize = 16 << 20;
/// Faults of one list that are told.
const MAX_FAULTS: usize = 5;

const PATH: Text<PathBuf> = Text { what: "an absolute path", parse: absolute };

/// A file with a network a line.
pub(in crate::config) struct NetworkFile;

impl Shape for NetworkFile {
    type Output = Vec<IpNet>;

    fn describe(&self) -> String {
        PATH.describe()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Vec<IpNet>> {
        let path = PATH.decode(cursor)?;
        let text = match read(&path, MAX_LIST) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(refusal) => return cursor.reject(refusal),
        };
        let mut networks = Vec::new();
        let mut faults = 0;
        for (index, line) in text.lines().enumerate() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            match network(entry) {
                Ok(network) => networks.push(network),
                Err(Refusal { message, hint }) => {
                    faults += 1;
                    let message = format!("line {} of the file: {message}", index + 1);
                    cursor.reject::<()>(Refusal { message, hint });
                    if faults == MAX_FAULTS {
                        break;
                    }
                }
            }
        }
        (faults == 0).then_some(networks)
    }
}

/// A file that is sent as it is.
pub(super) struct BodyFile;

impl Shape for BodyFile {
    type Output = Arc<[u8]>;

    fn describe(&self) -> String {
        PATH.describe()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Arc<[u8]>> {
        match read(&PATH.decode(cursor)?, MAX_BODY) {
            Ok(bytes) => Some(bytes.into()),
            Err(refusal) => cursor.reject(refusal),
        }
    }
}

fn absolute(text: &str) -> Result<PathBuf, Refusal> {
    if text.starts_with('/') && !text.contains('\0') {
        return Ok(text.into());
    }
    Err(Refusal::new(format!("{} is not an absolute path", quoted(text)))
        .hint("it starts with '/'"))
}

fn read(path: &Path, most: usize) -> Result<Vec<u8>, Refusal> {
    let shown = path.display().to_string();
    let unreadable =
        |error: std::io::Error| Refusal::new(format!("can not read {}: {error}", quoted(&shown)));
    // Opening a pipe would wait for its other end.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(Refusal::new(format!("{} is not a file", quoted(&shown))));
    }
    let mut bytes = Vec::new();
    let limit = most as u64 + 1;
    File::open(path)
        .map_err(unreadable)?
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > most {
        let message = format!("{} is larger than {} KiB", quoted(&shown), most >> 10);
        return Err(Refusal::new(message));
    }
    Ok(bytes)
}
