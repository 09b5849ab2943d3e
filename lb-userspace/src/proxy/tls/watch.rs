//! Noticing that files have changed: by looking, not by inotify, which sees neither network
//! file systems nor the swapped links that certificates are mounted by in containers.
//!
//! A change is taken when two looks in a row saw the same new state, so that a file is not
//! read while it is being written.

use std::{
    collections::BTreeSet,
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, task, time};
use tokio_util::sync::CancellationToken;

use super::error::{FileErrors, FileWarning};

/// What files looked like: which exist, and when and how they last changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, FileState)>);

/// Device, inode, size, and the times of the last change of content and of anything, in
/// nanoseconds.
type FileState = (u64, u64, u64, i128, i128);

impl Stamp {
    /// Of these files, and of everything in those that are directories.
    pub(super) fn of(paths: &BTreeSet<PathBuf>) -> Self {
        let mut states = Vec::new();
        for path in paths {
            let Some((state, is_directory)) = look(path) else { continue };
            states.push((path.clone(), state));
            if is_directory {
                let entries = fs::read_dir(path).into_iter().flatten().flatten();
                let mut names: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
                names.sort();
                let found = names.into_iter().filter_map(|path| Some((look(&path)?.0, path)));
                states.extend(found.map(|(state, path)| (path, state)));
            }
        }
        Self(states)
    }
}

/// Links are followed: what they lead to is what is read.
fn look(path: &Path) -> Option<(FileState, bool)> {
    let seen = fs::metadata(path).ok()?;
    let time = |seconds: i64, nanoseconds: i64| {
        i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
    };
    let modified = time(seen.mtime(), seen.mtime_nsec());
    let changed = time(seen.ctime(), seen.ctime_nsec());
    Some(((seen.dev(), seen.ino(), seen.size(), modified, changed), seen.is_dir()))
}

/// A path and the names under which parts of the certificate may be beside it.
pub(super) fn with_companions(path: &Path) -> Vec<PathBuf> {
    let mut paths = vec![path.to_owned()];
    for ending in ["key", "ocsp"] {
        let mut appended = path.as_os_str().to_owned();
        appended.push(".");
        appended.push(ending);
        paths.extend([PathBuf::from(appended), path.with_extension(ending)]);
    }
    paths
}

/// Something read from files that can be read again while it is in use.
pub trait Reloadable: fmt::Debug + Send + Sync {
    /// What its files look like now. May block.
    fn stamp(&self) -> Stamp;

    /// What they looked like when they were last read without a fault.
    fn stamp_in_force(&self) -> Stamp;

    /// Reads them again and puts the result in force. May block.
    ///
    /// # Errors
    /// Everything that is wrong; what was in force stays.
    fn reload(&self) -> Result<Vec<FileWarning>, FileErrors>;
}

/// Something to watch, and its key path for the log: `frontends.web.bind[0].tls`.
pub type Watched = (String, Arc<dyn Reloadable>);

/// Looks at the files of everything in `watched` once an `interval` and reloads what has
/// changed, until `cancel`.
pub async fn run(
    watched: watch::Receiver<Vec<Watched>>,
    interval: Duration,
    cancel: CancellationToken,
) {
    let mut seen: Vec<Look> = Vec::new();
    while cancel.run_until_cancelled(time::sleep(interval)).await.is_some() {
        let now = watched.borrow().clone();
        let looking = task::spawn_blocking(move || look_at_all(&now, &seen));
        // Only a panic ends it early, and the next look starts afresh.
        seen = looking.await.unwrap_or_default();
    }
}

/// What one look saw of one thing.
struct Look {
    thing: Arc<dyn Reloadable>,
    stamp: Stamp,
    /// The state was read, with or without success.
    is_settled: bool,
}

fn look_at_all(watched: &[Watched], before: &[Look]) -> Vec<Look> {
    let look_at = |(name, thing): &Watched| {
        let stamp = thing.stamp();
        let before = before.iter().find(|look| Arc::ptr_eq(&look.thing, thing));
        let is_same = before.is_some_and(|look| look.stamp == stamp);
        let was_settled = before.is_some_and(|look| look.is_settled);
        let is_settled = if stamp == thing.stamp_in_force() || (is_same && was_settled) {
            true
        } else {
            if is_same {
                reload(name, thing.as_ref());
            }
            is_same
        };
        Look { thing: Arc::clone(thing), stamp, is_settled }
    };
    watched.iter().map(look_at).collect()
}

/// Reloads and says how it went.
fn reload(name: &str, thing: &dyn Reloadable) {
    match thing.reload() {
        Ok(warnings) => {
            warnings.iter().for_each(|warning| tracing::warn!("{name}: {warning}"));
            tracing::info!("{name}: its files have changed and were read again");
        }
        Err(errors) => {
            tracing::error!(
                "{name}: its files have changed and the old ones stay in force: {errors}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug)]
    struct Counted {
        path: PathBuf,
        in_force: std::sync::Mutex<Stamp>,
        reloads: AtomicUsize,
        is_good: bool,
    }

    impl Counted {
        fn new(path: &Path, is_good: bool) -> Arc<Self> {
            let in_force = std::sync::Mutex::new(Stamp::of(&[path.to_owned()].into()));
            Arc::new(Self { path: path.to_owned(), in_force, reloads: 0.into(), is_good })
        }
    }

    impl Reloadable for Counted {
        fn stamp(&self) -> Stamp {
            Stamp::of(&[self.path.clone()].into())
        }

        fn stamp_in_force(&self) -> Stamp {
            self.in_force.lock().unwrap().clone()
        }

        fn reload(&self) -> Result<Vec<FileWarning>, FileErrors> {
            self.reloads.fetch_add(1, Ordering::Relaxed);
            if !self.is_good {
                return Err(FileErrors(Vec::new()));
            }
            *self.in_force.lock().unwrap() = self.stamp();
            Ok(Vec::new())
        }
    }

    /// Number of reloads after each look, with the file written before those in `writes`.
    fn looks(is_good: bool, writes: &[usize], expected: &[usize]) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), "0").unwrap();
        let counted = Counted::new(directory.path(), is_good);
        let watched: Vec<Watched> = vec![("x".into(), Arc::clone(&counted) as _)];
        let mut seen = Vec::new();
        let mut found = Vec::new();
        for look in 0..expected.len() {
            if writes.contains(&look) {
                // The length tells versions apart however coarse the clock is.
                fs::write(directory.path().join("a"), "0".repeat(look + 2)).unwrap();
            }
            seen = look_at_all(&watched, &seen);
            found.push(counted.reloads.load(Ordering::Relaxed));
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn a_change_is_taken_once_it_has_come_to_rest() {
        looks(true, &[], &[0, 0, 0]);
        looks(true, &[1], &[0, 0, 1, 1, 1]);
        looks(true, &[1, 2, 3], &[0, 0, 0, 0, 1, 1]);
    }

    #[test]
    fn a_faulty_change_is_tried_once() {
        looks(false, &[1], &[0, 0, 1, 1, 1]);
        looks(false, &[1, 4], &[0, 0, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn a_swapped_link_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let [a, b, link] = ["a", "b", "link"].map(|name| directory.path().join(name));
        fs::write(&a, "same").unwrap();
        fs::write(&b, "same").unwrap();
        std::os::unix::fs::symlink(&a, &link).unwrap();
        let before = Stamp::of(&[link.clone()].into());
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&b, &link).unwrap();
        assert_ne!(before, Stamp::of(&[link].into()));
    }
}
