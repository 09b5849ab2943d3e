//! From YAML text to a validated [`Snapshot`](crate::model::snapshot::Snapshot): raw, then
//! resolved, with every fault at once.
//!
//! | file | owns |
//! |---|---|
//! | `fault` | what is wrong, and where it collects |
//! | `position` | where keys and values stand; faults of the YAML itself |
//! | `schema` | how keys are declared |
//! | `decode` | holding a file against the declarations |
//! | `access` | lists of sources and limits of a source |
//! | `datapath`, `admin`, `log`, `access_log`, `defaults`, `timeouts`, `frontend`, `limits`, `backend`, `spread`, `check`, `http_check`, `persistence`, `passive` | a section each: its keys and what they become |
//! | `rules` | routing rules and named conditions |
//! | `resolve` | what can only be judged together |
//! | `reference` | the manual, from the same declarations |
//!
//! It must not look at the machine: whether an interface exists is for who attaches to it.

mod access;
mod access_log;
mod address;
mod admin;
mod backend;
mod check;
mod check_path;
mod datapath;
mod decode;
mod defaults;
mod duration;
mod fault;
mod forwarding;
mod frontend;
mod http_check;
mod limits;
mod log;
mod passive;
mod persistence;
mod position;
mod proxy;
mod reference;
mod resolve;
mod rules;
mod schema;
mod size;
mod spread;
#[cfg(test)]
mod tests;
mod timeouts;
mod tls;
mod user_space;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde_yaml::Value;

use self::{
    backend::RawBackend,
    decode::{Cursor, Entries},
    fault::{Refusal, Sink},
    frontend::RawFrontend,
    position::{Mark, start},
    resolve::Raw,
    rules::CONDITIONS,
    schema::{Key, Named, Nested, Presence, Section},
};
pub use self::{
    fault::{Fault, Faults, Loaded, Warning},
    reference::reference_markdown,
};

/// Largest file that is read, in bytes; full tables of VIPs and servers take a tenth.
const MAX_BYTES: usize = 4 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("can not read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was read and is at fault.
    #[error(transparent)]
    Faults(Faults),
}

/// Reads and validates a configuration file.
///
/// # Errors
/// [`ConfigError`]: the file can not be read, or it is at fault.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    let file = path.display().to_string();
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Err(ConfigError::Faults(not_utf8(&error, &file))),
    };
    parse(&text, &file).map_err(ConfigError::Faults)
}

/// Validates a configuration; `file` is its name in faults.
///
/// # Errors
/// [`Faults`]: everything that is wrong with it.
pub fn parse(text: &str, file: &str) -> Result<Loaded, Faults> {
    let sink = Sink::new(file);
    let snapshot = read(text, &sink).and_then(|raw| raw.resolve(&sink));
    sink.finish(snapshot)
}

fn read(text: &str, sink: &Sink) -> Option<Raw> {
    if text.len() > MAX_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_BYTES >> 20);
        sink.fault(&start(), Refusal::new(message));
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let root = position::read(text, sink)?;
    let value: Value = match serde_yaml::from_str(text) {
        Ok(value) => value,
        Err(error) => {
            let mark = error.location().map_or(Mark::START, |location| Mark {
                line: location.line(),
                column: location.column(),
            });
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            let refusal = Refusal::new(format!("not valid YAML: {message}"));
            sink.fault(&fault::Place { mark, ..start() }, refusal);
            return None;
        }
    };
    let entries = Cursor::root(sink, &value, &root).entries(&ROOT)?;
    Some(decode_root(&entries))
}

fn decode_root(entries: &Entries<'_>) -> Raw {
    Raw {
        datapath: entries.get(&DATAPATH),
        admin: entries.get(&ADMIN),
        log: entries.get(&LOG),
        defaults: entries.get(&DEFAULTS),
        conditions: entries.get(&CONDITIONS),
        frontends: entries.locate(&FRONTENDS),
        backends: entries.locate(&BACKENDS),
    }
}

fn not_utf8(error: &std::string::FromUtf8Error, file: &str) -> Faults {
    let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = good.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    Faults::one(Fault {
        file: file.to_owned(),
        line,
        column,
        path: String::new(),
        value: None,
        message: "the file is not UTF-8 text".into(),
        hint: Some("save it as UTF-8".into()),
    })
}

static ROOT: Section = Section {
    path: "",
    doc: "The sections of a configuration.",
    keys: &[&DATAPATH, &ADMIN, &LOG, &DEFAULTS, &CONDITIONS, &FRONTENDS, &BACKENDS],
    unbuilt: &[],
};

static DATAPATH: Key<Nested<crate::model::snapshot::Datapath>> = Key {
    name: "datapath",
    shape: datapath::SHAPE,
    presence: Presence::Default("{}"),
    doc: "The kernel half.",
};

static ADMIN: Key<Nested<crate::model::snapshot::Admin>> = Key {
    name: "admin",
    shape: admin::SHAPE,
    presence: Presence::Default("{}"),
    doc: "Where the agent answers.",
};

static LOG: Key<Nested<crate::model::snapshot::Log>> = Key {
    name: "log",
    shape: log::SHAPE,
    presence: Presence::Default("{}"),
    doc: "The agent's log and the access log.",
};

static DEFAULTS: Key<Nested<defaults::Defaults>> = Key {
    name: "defaults",
    shape: defaults::SHAPE,
    presence: Presence::Default("{}"),
    doc: "What frontends and backends that do not say otherwise use.",
};

static FRONTENDS: Key<Named<Nested<RawFrontend>>> = Key {
    name: "frontends",
    shape: frontend::SHAPE,
    presence: Presence::Default("{}"),
    doc: "What clients connect to.",
};

static BACKENDS: Key<Named<Nested<RawBackend>>> = Key {
    name: "backends",
    shape: backend::SHAPE,
    presence: Presence::Default("{}"),
    doc: "Pools of servers.",
};
