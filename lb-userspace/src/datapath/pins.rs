//! Where everything is pinned: `DIRECTORY/NAME` for maps, `DIRECTORY/program` for the
//! program, `DIRECTORY/stages-ID` for the stages behind it, `DIRECTORY/settle`,
//! `DIRECTORY/expire4` and `DIRECTORY/expire6` for those that sweeps run, `DIRECTORY/origin` for
//! what they were loaded from, `DIRECTORY/link-IFNAME` for links.
//!
//! The directory is on a BPF file system, which outlives the agent; whoever may write it
//! owns the data plane, hence mode 0700. A BPF file system holds no ordinary file, so the
//! lock is taken on the directory itself.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use lb_common::abi::RUN_BY_AGENT;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::error::{DatapathError, HostError, PinsError};

const PROGRAM: &str = "program";
const ORIGIN: &str = "origin";
/// What follows the name of a pin that is about to take the place of another.
const NEXT: &str = "-next";
const LINK_PREFIX: &str = "link-";
const STAGES_PREFIX: &str = "stages-";
const USUAL_MOUNT: &str = "/sys/fs/bpf";

/// The paths of the pins; touches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// Pins in `directory`, whether or not it exists.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The pin of the program.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.directory.join(PROGRAM)
    }

    /// The pin of a program that the agent runs, by its name.
    #[must_use]
    pub fn run_by_agent(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The pin of what is known of the pinned programs.
    #[must_use]
    pub fn origin(&self) -> PathBuf {
        self.directory.join(ORIGIN)
    }

    /// The pins that [`Self::replace`] replaces, and what may be left of doing so.
    pub(crate) fn replaced(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let names = [PROGRAM, ORIGIN].into_iter().chain(RUN_BY_AGENT);
        names.flat_map(|name| [name.to_owned(), format!("{name}{NEXT}")]).map(|it| self.map(&it))
    }

    /// Pins something in the place of what is pinned there, if anything is.
    ///
    /// # Errors
    /// If it can not be pinned, or not take that place.
    pub(crate) fn replace(
        &self,
        path: &Path,
        pin: impl FnOnce(&Path) -> Result<(), PinsError>,
    ) -> Result<(), PinsError> {
        let mut next = path.as_os_str().to_owned();
        next.push(NEXT);
        let next = PathBuf::from(next);
        self.remove(&next)?;
        pin(&next)?;
        fs::rename(&next, path).map_err(|source| self.file("replace", path, source))
    }

    /// The pin of an array of stages by the id of the map.
    pub(crate) fn stages(&self, map: u32) -> PathBuf {
        self.directory.join(format!("{STAGES_PREFIX}{map}"))
    }

    /// The pins of all arrays of stages; none if there is no directory.
    ///
    /// # Errors
    /// If the directory can not be read.
    pub fn all_stages(&self) -> Result<Vec<PathBuf>, PinsError> {
        let ids = self.names_behind(STAGES_PREFIX)?;
        Ok(ids.iter().map(|id| self.directory.join(format!("{STAGES_PREFIX}{id}"))).collect())
    }

    /// The pin of the link to an interface. A BPF file system refuses dots, which names of
    /// VLAN devices have, so they become colons, which no interface name has.
    #[must_use]
    pub fn link(&self, interface: &str) -> PathBuf {
        self.directory.join(format!("{LINK_PREFIX}{}", interface.replace('.', ":")))
    }

    /// The interfaces that have a pinned link, in order; none if there is no directory.
    ///
    /// # Errors
    /// If the directory can not be read.
    pub fn linked_interfaces(&self) -> Result<Vec<String>, PinsError> {
        let mut interfaces = self.names_behind(LINK_PREFIX)?;
        for interface in &mut interfaces {
            *interface = interface.replace(':', ".");
        }
        interfaces.sort();
        Ok(interfaces)
    }

    /// What follows a prefix in the names of the pins that have it.
    fn names_behind(&self, prefix: &str) -> Result<Vec<String>, PinsError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.file("read", &self.directory, source)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| self.file("read", &self.directory, source))?;
            let name = entry.file_name();
            if let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(prefix)) {
                names.push(rest.to_owned());
            }
        }
        Ok(names)
    }

    /// Removes a pin; false if there was none.
    ///
    /// # Errors
    /// If it can not be removed.
    pub(crate) fn remove(&self, pin: &Path) -> Result<bool, PinsError> {
        match fs::remove_file(pin) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.file("remove", pin, source)),
        }
    }

    #[expect(clippy::unused_self, reason = "reads better at the call than a free function")]
    fn file(&self, action: &'static str, path: &Path, source: io::Error) -> PinsError {
        PinsError::File { action, path: path.to_owned(), source }
    }
}

/// Pins that no other agent uses while this value lives.
#[derive(Debug)]
pub struct LockedPins {
    pins: Pins,
    /// Held for its lock.
    _directory: Flock<File>,
}

impl LockedPins {
    /// Makes the directory if it is missing and locks it.
    ///
    /// # Errors
    /// If it is not on a BPF file system, can not be made, or another agent holds it.
    pub fn acquire(pins: Pins) -> Result<Self, DatapathError> {
        let directory = &pins.directory;
        require_bpffs(directory)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| pins.file("make", directory, source))?;
        let file = File::open(directory).map_err(|source| pins.file("open", directory, source))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { pins, _directory: lock }),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(PinsError::Locked { directory: directory.clone() }.into())
            }
            Err((_, errno)) => Err(pins.file("lock", directory, errno.into()).into()),
        }
    }
}

impl std::ops::Deref for LockedPins {
    type Target = Pins;

    fn deref(&self) -> &Pins {
        &self.pins
    }
}

/// Whether the directory, or the nearest above it that exists, is on a BPF file system.
#[must_use]
pub fn is_on_bpffs(directory: &Path) -> bool {
    let nearest = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    statfs(nearest).is_ok_and(|status| status.filesystem_type() == BPF_FS_MAGIC)
}

fn require_bpffs(directory: &Path) -> Result<(), HostError> {
    if is_on_bpffs(directory) {
        return Ok(());
    }
    let usual = Path::new(USUAL_MOUNT);
    let mount_point = if directory.starts_with(usual) { usual } else { directory };
    Err(HostError::NotBpffs {
        directory: directory.to_owned(),
        mount_point: mount_point.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_vlan_devices_have_no_dot() {
        let pins = Pins::new("/sys/fs/bpf/pointsman");
        assert_eq!(pins.link("eth0.100"), Path::new("/sys/fs/bpf/pointsman/link-eth0:100"));
        assert_eq!(pins.map("VIPS"), Path::new("/sys/fs/bpf/pointsman/VIPS"));
    }

    #[test]
    fn linked_interfaces_are_read_back_from_their_pins() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let pins = Pins::new(directory.path());
        for interface in ["eth1", "eth0.100"] {
            fs::write(pins.link(interface), "").expect("writable");
        }
        fs::write(pins.map("VIPS"), "").expect("writable");
        assert_eq!(pins.linked_interfaces().expect("readable"), ["eth0.100", "eth1"]);
    }

    #[test]
    fn an_ordinary_directory_is_refused_with_the_mount_command() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let wanted = directory.path().join("pins");
        let error = LockedPins::acquire(Pins::new(&wanted)).expect_err("not a BPF file system");
        let text = error.to_string();
        assert!(text.contains(&format!("mount -t bpf bpf {}", wanted.display())), "{text}");
    }
}
