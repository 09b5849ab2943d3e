//! A file that is appended to. It may be a FIFO: opening one that nobody reads, and writing
//! to one whose reader is slow, never blocks for long.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::Path,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Longest wait for a reader that is slow.
const PATIENCE: Duration = Duration::from_millis(500);

/// The file.
#[derive(Debug)]
pub(super) struct Appended {
    file: File,
    is_fifo: bool,
}

impl Appended {
    /// Makes it if there is none.
    ///
    /// # Errors
    /// As open(2): `ENXIO` if it is a FIFO and nobody reads it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // Of files that are none such the flag means nothing.
        let flags = libc::O_NONBLOCK;
        let file = OpenOptions::new().append(true).create(true).custom_flags(flags).open(path)?;
        let is_fifo = file.metadata()?.file_type().is_fifo();
        Ok(Self { file, is_fifo })
    }
}

impl Write for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.file.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.is_fifo => {}
            done => return done,
        }
        let mut wanted = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::ZERO);
        match poll(&mut wanted, timeout)? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => self.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
