//! Claims the path of the admin socket: one agent at a time, for the owner alone.
//!
//! A unix socket file outlives a killed agent. Whether one answers tells a dead agent from
//! a live one (`ECONNREFUSED`, unix(7)).

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

/// A claimed socket; dropping it removes the file.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a claimed socket; dropping it removes the file.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

/// Why the socket could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent answers there.
    #[error(
        "another agent answers on {}; stop it first, or give this one another admin.socket",
        .0.display()
    )]
    Live(PathBuf),
    /// Something that is not a socket is there.
    #[error("{} exists and is not a socket; remove it or choose another admin.socket", .0.display())]
    NotASocket(PathBuf),
    /// The operating system refused.
    #[error("can not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl AdminSocket {
    /// Listens on `path` with mode 0600, creating the directory if it is missing and
    /// replacing the file of a dead agent.
    ///
    /// # Errors
    /// [`SocketError`] if another agent is alive there, something else is in the way, or
    /// the operating system refuses.
    pub fn claim(path: &Path) -> Result<Self, SocketError> {
        if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .map_err(failed("create the directory", directory))?;
        }
        refuse_occupied(path)?;
        // Bound under another name and renamed, so that nobody can connect before the mode
        // is set, and a dead agent's file is replaced in one step.
        let mut hidden = path.as_os_str().to_owned();
        hidden.push(format!(".{}", std::process::id()));
        let hidden = PathBuf::from(hidden);
        match fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &hidden)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&hidden).map_err(failed("listen on", path))?;
        let hidden_file = SocketFile(hidden.clone());
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))
            .map_err(failed("set the mode of", path))?;
        listener.set_nonblocking(true).map_err(failed("listen on", path))?;
        fs::rename(&hidden, path).map_err(failed("create", path))?;
        drop(hidden_file);
        Ok(Self { listener, file: SocketFile(path.to_owned()) })
    }

    /// The listener, non-blocking, and the guard of its file.
    #[must_use]
    pub fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The file may have been removed already; there is nothing left to do then.
        let _ = fs::remove_file(&self.0);
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    move |source| SocketError::Io { action, path: path.to_owned(), source }
}

fn refuse_occupied(path: &Path) -> Result<(), SocketError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.into()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Live(path.into())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(failed("connect to", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_socket_is_for_its_owner_alone_and_goes_with_the_claim() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/admin.sock");
        let socket = AdminSocket::claim(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_agents_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = AdminSocket::claim(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_live_agents_socket_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let _live = AdminSocket::claim(&path).unwrap();
        assert!(matches!(AdminSocket::claim(&path), Err(SocketError::Live(_))));
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(AdminSocket::claim(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
