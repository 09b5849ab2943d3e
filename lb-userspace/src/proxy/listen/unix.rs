//! Opening a unix socket (unix(7)) in place of one that a dead process left behind.
//!
//! The new socket is made under another name and renamed, so that at every moment either
//! the old or the new one is there, with its permissions, and a client never finds none.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{ListenError, open};
use crate::model::frontend::ListenAddress;

/// The name of a socket in the file system; removed with it, unless it is another's by then.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// A listening socket at `path` that those may connect to whom `mode` lets write.
///
/// # Errors
/// [`ListenError`]: somebody listens there, the file is no socket, or the system refuses.
pub(super) fn open(path: &Path, mode: u32) -> Result<(OwnedFd, SocketFile), ListenError> {
    let refused =
        |source| ListenError::Refused { address: ListenAddress::Unix(path.into()), source };
    judge_old(path)?;
    let draft = draft(path);
    // Of our own name and process: left by one that died between two steps.
    let _ = fs::remove_file(&draft);
    let opened = make(&draft, mode).and_then(|(socket, identity)| {
        fs::rename(&draft, path)?;
        Ok((socket, SocketFile { path: path.into(), identity }))
    });
    opened.map_err(|source| {
        let _ = fs::remove_file(&draft);
        refused(source)
    })
}

/// Whether what is at `path` may be replaced: nothing, or a socket nobody listens on.
fn judge_old(path: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Err(_nothing_there) => return Ok(()),
        Ok(old) if !old.file_type().is_socket() => {
            return Err(ListenError::NotSocket(path.into()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Connected, too busy to take us, or not a stream socket: somebody is there.
        _ => Err(ListenError::InUse(path.into())),
    }
}

fn draft(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

fn make(path: &Path, mode: u32) -> io::Result<(OwnedFd, (u64, u64))> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Before it listens, so that nobody connects who may not.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    open::listen(&socket)?;
    let made = fs::symlink_metadata(path)?;
    Ok((socket.into(), (made.dev(), made.ino())))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let still_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if still_ours {
            // Nothing is lost if it stays: the next one replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.sock");
        (directory, path)
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_listener() {
        let (_directory, path) = place();
        let (socket, file) = open(&path, 0o620).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o620);
        UnixStream::connect(&path).unwrap();
        drop((socket, file));
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let (_directory, path) = place();
        let live = UnixListener::bind(&path).unwrap();
        assert!(matches!(open(&path, 0o600), Err(ListenError::InUse(_))));
        drop(live);
        let (_socket, _file) = open(&path, 0o600).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let (_directory, path) = place();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(open(&path, 0o600), Err(ListenError::NotSocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(matches!(open(&path, 0o600), Err(ListenError::NotSocket(_))));
    }

    #[test]
    fn the_successors_socket_stays_when_the_old_one_goes() {
        let (_directory, path) = place();
        let (old, old_file) = open(&path, 0o600).unwrap();
        drop(old);
        let (_new, _new_file) = open(&path, 0o600).unwrap();
        drop(old_file);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_path_that_does_not_fit_is_an_error() {
        let path = Path::new("/tmp").join("x".repeat(200));
        assert!(matches!(open(&path, 0o600), Err(ListenError::Refused { .. })));
    }
}
