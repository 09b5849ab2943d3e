//! Pipes for splicing (splice(2)): lent by the worker while bytes are in them, kept by it
//! when they are empty, closed when they are not or when there are enough.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};

use nix::{
    fcntl::{OFlag, SpliceFFlags, splice},
    unistd::pipe2,
};

/// Empty pipes a worker keeps; a pipe is two descriptors and no memory while it is empty.
const MOST_KEPT: usize = 64;
/// Bytes that are asked for at once, as many as a pipe holds (pipe(7)).
pub(super) const CAPACITY: usize = 64 << 10;

/// A worker's pipes.
#[derive(Clone, Debug, Default)]
pub struct Pipes(Rc<RefCell<Vec<Ends>>>);

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe that is lent.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Always there until it is dropped.
    ends: Option<Ends>,
    /// Bytes in it.
    held: usize,
    home: Pipes,
}

impl Pipes {
    /// An empty pipe.
    ///
    /// # Errors
    /// If the process has too many descriptors.
    pub(super) fn lend(&self) -> io::Result<Pipe> {
        let kept = self.0.borrow_mut().pop();
        let ends = match kept {
            Some(ends) => ends,
            None => {
                let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
                Ends { read, write }
            }
        };
        Ok(Pipe { ends: Some(ends), held: 0, home: self.clone() })
    }

    /// How many empty pipes are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.0.borrow().len()
    }
}

impl Pipe {
    /// Bytes in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Moves what has come on a socket into the pipe, which is empty. 0 means that the peer
    /// has finished sending.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has come.
    pub(super) fn fill(&mut self, from: &impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let moved = splice(from, None, &ends.write, None, CAPACITY, flags())?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves what is in the pipe, which is not empty, onto a socket as far as there is room.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room.
    pub(super) fn drain(&mut self, to: &impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let moved = splice(&ends.read, None, to, None, self.held, flags())?;
        self.held -= moved;
        Ok(moved)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut kept = self.home.0.borrow_mut();
        if self.held == 0 && kept.len() < MOST_KEPT {
            kept.extend(self.ends.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn only_empty_pipes_are_kept_and_not_too_many() {
        let pipes = Pipes::default();
        let lent: Vec<Pipe> = (0..MOST_KEPT + 5).map(|_| pipes.lend().unwrap()).collect();
        drop(lent);
        assert_eq!(pipes.kept(), MOST_KEPT);
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"bytes of a session that ended").unwrap();
        let mut used = pipes.lend().unwrap();
        assert_eq!(used.fill(&far).unwrap(), 29);
        drop(used);
        assert_eq!(pipes.kept(), MOST_KEPT - 1, "nobody gets another session's bytes");
    }

    #[test]
    fn bytes_go_through_and_the_end_is_seen() {
        let pipes = Pipes::default();
        let [(mut near, far), (to, mut end)] = [(); 2].map(|()| UnixStream::pair().unwrap());
        far.set_nonblocking(true).unwrap();
        let mut pipe = pipes.lend().unwrap();
        assert_eq!(pipe.fill(&far).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        near.write_all(b"hello").unwrap();
        drop(near);
        assert_eq!((pipe.fill(&far).unwrap(), pipe.held()), (5, 5));
        assert_eq!((pipe.drain(&to).unwrap(), pipe.held()), (5, 0));
        assert_eq!(pipe.fill(&far).unwrap(), 0);
        drop(to);
        let mut text = String::new();
        end.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
}
