//! What outlives the agent besides the maps: the operator's words (of servers, of sources that
//! are blocked, of lists and limits) and what the checks found, in a JSON file beside the admin socket.
//!
//! A restarted agent goes on where the last one stopped: a dead server stays evicted until
//! a check says otherwise, a healthy one is not put to the test anew, a drained one stays
//! drained. The file lives in `/run`, which a reboot clears, as it clears the maps.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::{
    blocks::{BlockBook, BlockId, BlockRecord, Expiry},
    book::{Memory, Record, ServerBook},
    overrides::OverrideBook,
};
use crate::{
    admin::access::AccessView,
    clock::{Moment, rfc3339},
    model::{
        access::canonical,
        address::ServerAddress,
        name::Name,
        snapshot::Server,
        state::{AdminState, Health, ServerStatus},
    },
};

/// Version of the file's format; another version is not read.
const VERSION: u32 = 1;

/// The file, and what it held when it was last written.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    written: Option<Vec<u8>>,
}

/// Why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The file system failed.
    #[error("can not {action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The content makes no sense.
    #[error("can not read {}; it is kept with `.bad` behind its name", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// The content is of another version.
    #[error("{} has version {found}, not {VERSION}; it is kept with `.bad` behind its name", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    servers: Vec<Line>,
    /// Agents that could not block wrote none.
    #[serde(default)]
    blocks: Vec<BlockLine>,
    /// An [`AccessView`]. Agents that could not change lists wrote nothing, and others may know
    /// words that this one does not.
    #[serde(default)]
    access: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct BlockLine {
    network: String,
    frontend: Option<String>,
    since: String,
    expires: Option<String>,
    reason: String,
}

/// What an earlier process knew.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Of servers.
    pub servers: Vec<Memory>,
    /// Of what the operator blocks; none if there was no file.
    pub blocks: Option<BlockBook>,
    /// Of what the operator says of lists and limits.
    pub overrides: OverrideBook,
}

#[derive(Serialize, Deserialize)]
struct Line {
    backend: String,
    server: String,
    address: ServerAddress,
    configured_weight: u16,
    admin: AdminState,
    weight: Option<u16>,
    checked: bool,
    health: Health,
    reason: String,
    since: String,
}

impl StateFile {
    /// The file beside the admin socket `socket`.
    #[must_use]
    pub fn beside(socket: &Path) -> Self {
        Self { path: socket.with_extension("state.json"), written: None }
    }

    /// What an earlier process knew; nothing if there is no file.
    ///
    /// # Errors
    /// [`StateFileError`] if the file can not be read or makes no sense.
    pub fn read(&self, now: Moment) -> Result<Remembered, StateFileError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Remembered::default());
            }
            Err(error) => return Err(self.failed("read")(error)),
        };
        let content = self.parse(&bytes).inspect_err(|_| {
            // The next write would take its place. If this fails the first error says enough.
            let _ = fs::rename(&self.path, self.path.with_extension("json.bad"));
        })?;
        // A line with a name that can not be configured belongs to no server.
        let servers = content.servers.into_iter().filter_map(memory_of).collect();
        let mut blocks = BlockBook::default();
        for (id, record) in content.blocks.into_iter().filter_map(|line| block_of(line, now)) {
            blocks.insert(id, record);
        }
        let overrides = OverrideBook::from_view(&access_of(&content.access));
        Ok(Remembered { servers, blocks: Some(blocks), overrides })
    }

    fn parse(&self, bytes: &[u8]) -> Result<Content, StateFileError> {
        let path = self.path.clone();
        match serde_json::from_slice::<Content>(bytes) {
            Ok(content) if content.version == VERSION => Ok(content),
            Ok(content) => Err(StateFileError::Version { path, found: content.version }),
            Err(source) => Err(StateFileError::Content { path, source }),
        }
    }

    /// Writes what is known, in one step, if it differs from what was last written.
    ///
    /// # Errors
    /// [`StateFileError`] if the file system refuses; the old file is still there.
    pub fn write(
        &mut self,
        book: &ServerBook,
        blocks: &BlockBook,
        overrides: &OverrideBook,
    ) -> Result<(), StateFileError> {
        let unsound = |source| StateFileError::Content { path: self.path.clone(), source };
        let content = Content {
            version: VERSION,
            servers: book.iter().map(line_of).collect(),
            blocks: blocks.iter().map(block_line).collect(),
            access: serde_json::to_value(overrides.view()).map_err(unsound)?,
        };
        let bytes = serde_json::to_vec_pretty(&content).map_err(unsound)?;
        if self.written.as_ref() == Some(&bytes) {
            return Ok(());
        }
        let new = self.path.with_extension("json.new");
        let written = File::create(&new).and_then(|mut file| file.write_all(&bytes));
        written.and_then(|()| fs::rename(&new, &self.path)).map_err(self.failed("write"))?;
        self.written = Some(bytes);
        Ok(())
    }

    /// Removes the file; not an error if there is none.
    ///
    /// # Errors
    /// [`StateFileError`] if the file system refuses.
    pub fn remove(&mut self) -> Result<(), StateFileError> {
        self.written = None;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("remove")(error))
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> StateFileError {
        let path = self.path.clone();
        move |source| StateFileError::File { action, path, source }
    }
}

fn line_of((id, record): (&(Name, Name), &Record)) -> Line {
    Line {
        backend: id.0.to_string(),
        server: id.1.to_string(),
        address: record.server.address,
        configured_weight: record.server.weight,
        admin: record.status.admin,
        weight: record.status.weight,
        checked: record.checked,
        health: record.status.health,
        reason: record.status.reason.clone(),
        since: rfc3339(record.since),
    }
}

fn block_line(((frontend, network), record): (&BlockId, &BlockRecord)) -> BlockLine {
    BlockLine {
        network: network.to_string(),
        frontend: frontend.as_ref().map(ToString::to_string),
        since: rfc3339(record.since),
        expires: record.expiry.map(|expiry| rfc3339(expiry.at)),
        reason: record.reason.clone(),
    }
}

/// None for a line that makes no sense, or a block that has ended meanwhile.
fn block_of(line: BlockLine, now: Moment) -> Option<(BlockId, BlockRecord)> {
    let frontend = match line.frontend {
        Some(name) => Some(Name::new(&name).ok()?),
        None => None,
    };
    let expiry = match line.expires {
        Some(at) => {
            let at = humantime::parse_rfc3339(&at).ok()?;
            Some(Expiry::after(now, at.duration_since(now.wall).ok()?))
        }
        None => None,
    };
    let since = humantime::parse_rfc3339(&line.since).unwrap_or(SystemTime::UNIX_EPOCH);
    let network = canonical(line.network.parse().ok()?);
    Some(((frontend, network), BlockRecord { since, expiry, reason: line.reason }))
}

/// What can be read of what was said of lists and limits.
fn access_of(value: &serde_json::Value) -> AccessView {
    fn all<T: serde::de::DeserializeOwned>(value: Option<&serde_json::Value>) -> Vec<T> {
        let Some(lines) = value.and_then(serde_json::Value::as_array) else { return Vec::new() };
        let read = |line: &serde_json::Value| match serde_json::from_value(line.clone()) {
            Ok(line) => Some(line),
            Err(error) => {
                tracing::warn!(%error, "passed over in the state file: {line}");
                None
            }
        };
        lines.iter().filter_map(read).collect()
    }
    AccessView { entries: all(value.get("entries")), limits: all(value.get("limits")) }
}

fn memory_of(line: Line) -> Option<Memory> {
    let id = (Name::new(&line.backend).ok()?, Name::new(&line.server).ok()?);
    let server = Server {
        address: line.address,
        weight: line.configured_weight,
        backup: false,
        max_connections: None,
    };
    let status = ServerStatus {
        admin: line.admin,
        health: line.health,
        weight: line.weight,
        reason: line.reason,
    };
    let since = humantime::parse_rfc3339(&line.since).unwrap_or(SystemTime::UNIX_EPOCH);
    Some(Memory { id, record: Record { server, status, checked: line.checked, since } })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        admin::{access::Says, api::ServerSet},
        model::fixture::{pg, snapshot},
    };

    fn bed() -> (tempfile::TempDir, StateFile) {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let file = StateFile::beside(&directory.path().join("admin.sock"));
        (directory, file)
    }

    fn book() -> ServerBook {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let servers = [("pg1", "10.0.1.20:5432"), ("pg2", "10.0.1.21:5432")];
        let mut book = ServerBook::new(&snapshot(&servers), Vec::new(), now);
        let set = ServerSet { state: Some(AdminState::Drain), weight: Some(5) };
        book.set(&pg("pg1"), set, now);
        book.note_health(&pg("pg2"), Health::Down, "connection refused".into(), now);
        book
    }

    #[test]
    fn a_restarted_agent_knows_what_the_last_one_knew() {
        let (_directory, mut file) = bed();
        assert!(file.read(Moment::now()).unwrap().servers.is_empty());
        file.write(&book(), &BlockBook::default(), &OverrideBook::default()).unwrap();
        let memories = file.read(Moment::now()).unwrap().servers;
        let servers = [("pg1", "10.0.1.20:5432"), ("pg2", "10.0.1.21:5432")];
        let later = SystemTime::now();
        assert_eq!(ServerBook::new(&snapshot(&servers), memories, later), book());
    }

    #[test]
    fn blocks_are_remembered_until_they_end() {
        let (_directory, mut file) = bed();
        assert!(file.read(Moment::now()).unwrap().blocks.is_none());
        let now = Moment { wall: SystemTime::now(), monotonic_ns: 77_000_000_000 };
        let mut blocks = BlockBook::default();
        for (frontend, network, time_s) in [
            (Some("postgres"), "192.0.2.0/24", Some(600)),
            (None, "2001:db8::1/128", None),
            (None, "198.51.100.7/32", Some(1)),
        ] {
            let expiry = time_s.map(|time_s| Expiry::after(now, Duration::from_secs(time_s)));
            let id = (frontend.map(|name| Name::new(name).unwrap()), network.parse().unwrap());
            let reason = "scans".to_owned();
            blocks.insert(id, BlockRecord { since: now.wall, expiry, reason });
        }
        file.write(&book(), &blocks, &OverrideBook::default()).unwrap();
        // Another boot, another monotonic clock, five seconds later.
        let later = Moment { wall: now.wall + Duration::from_secs(5), monotonic_ns: 3_000_000_000 };
        let known = file.read(later).unwrap().blocks.expect("there is a file");
        let found: Vec<_> = known.orders().iter().map(|block| block.expires_s).collect();
        assert_eq!((found.as_slice(), known.len()), ([0, 598].as_slice(), 2));
        assert!(known.iter().all(|(_, record)| record.reason == "scans"));
    }

    #[test]
    fn what_was_said_of_lists_and_limits_is_remembered() {
        let (_directory, mut file) = bed();
        let mut overrides = OverrideBook::default();
        let id = (Some(Name::new("postgres").unwrap()), "192.0.2.0/24".parse().unwrap());
        overrides.say(id, Says::Deny);
        file.write(&book(), &BlockBook::default(), &overrides).unwrap();
        assert_eq!(file.read(Moment::now()).unwrap().overrides, overrides);
    }

    #[test]
    fn words_of_another_agent_cost_nothing_but_themselves() {
        let (directory, file) = bed();
        let access = r#"{"entries": [{"source": "192.0.2.1", "says": "deny"},
            {"source": "192.0.2.2", "says": "greet"}, {"source": "192.0.2.3", "says": "deny"}],
            "limits": [{"frontend": "web", "smells": 7}]}"#;
        let content = format!(r#"{{"version": 1, "servers": [], "access": {access}}}"#);
        fs::write(directory.path().join("admin.state.json"), content).unwrap();
        let known = file.read(Moment::now()).unwrap().overrides.view();
        let sources: Vec<_> = known.entries.iter().map(|entry| entry.source.as_str()).collect();
        assert_eq!(
            (sources.as_slice(), known.limits.len()),
            (["192.0.2.1", "192.0.2.3"].as_slice(), 0)
        );
    }

    #[test]
    fn nothing_is_left_beside_the_file_and_removing_it_twice_is_fine() {
        let (directory, mut file) = bed();
        file.write(&book(), &BlockBook::default(), &OverrideBook::default()).unwrap();
        file.write(&book(), &BlockBook::default(), &OverrideBook::default()).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_makes_no_sense_is_an_error_and_not_a_panic() {
        let (directory, file) = bed();
        let path = directory.path().join("admin.state.json");
        for content in ["", "[]", r#"{"version": 2, "servers": []}"#, r#"{"version": 1}"#] {
            fs::write(&path, content).unwrap();
            assert!(file.read(Moment::now()).is_err(), "{content}");
            let kept = fs::read_to_string(path.with_extension("json.bad")).unwrap();
            assert_eq!(kept, content, "for whoever wants to know");
        }
        let unnamed = r#"{"version": 1, "servers": [{"backend": "", "server": "x",
            "address": "10.0.0.1:1", "configured_weight": 1, "admin": "ready", "weight": null,
            "checked": true, "health": "up", "reason": "", "since": "?"}]}"#;
        fs::write(&path, unnamed).unwrap();
        assert!(file.read(Moment::now()).unwrap().servers.is_empty());
    }
}
