//! One direction of a session: from one side to the other until the sender has finished,
//! then that end is passed on.
//!
//! Bytes are copied through the worker's buffer, which costs a session no memory, until
//! several reads in a row have filled it; then they are spliced through a pipe, which spares
//! the copying but takes a pipe and cannot be had for little. Small
//! transfers are never spliced, and a transfer that becomes small goes back to copying.
//! Nothing is read while something is still to be written: that is the back-pressure.

use std::{
    io,
    task::{Context, Poll, ready},
};

use tokio::io::{Interest, ReadBuf};

use super::pipe::{CAPACITY, Pipe, Pipes};
use crate::proxy::stream::Stream;

/// Bytes copied at once.
pub(super) const BUFFER: usize = 16 << 10;
/// Full buffers in a row after which bytes are spliced.
const FULL_READS: u32 = 4;
/// A splice that moves fewer bytes is a small one.
const SMALL: usize = 4 << 10;
/// Small splices in a row after which bytes are copied.
const SMALL_READS: u32 = 8;
/// Rounds before other sessions of the worker get their turn.
const ROUNDS: u32 = 16;

/// What a worker lends to its sessions.
pub(super) struct Lent<'a> {
    pub(super) pipes: &'a Pipes,
    /// Of [`BUFFER`] bytes; holds nothing between two polls.
    pub(super) buffer: &'a mut [u8],
}

/// Which side an error came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Sender,
    Receiver,
}

/// What a direction waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// For the sender to send.
    Sender,
    /// For the receiver to take.
    Receiver,
    /// For nothing more.
    Over,
}

/// One direction of a session.
#[derive(Debug)]
pub(super) struct Direction {
    /// Bytes read and not written.
    carry: Vec<u8>,
    /// How many of `carry` are written.
    written: usize,
    pipe: Option<Pipe>,
    method: Method,
    /// Reads in a row that speak for the other method.
    streak: u32,
    needs_flush: bool,
    waiting: Waiting,
    /// The sender has finished.
    is_ended: bool,
    /// Bytes written.
    total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Copy,
    Splice,
    /// Splicing was refused by a socket.
    CopyAlways,
}

impl Direction {
    /// A direction on which `first` has come already.
    pub(super) fn new(first: Vec<u8>) -> Self {
        Self {
            carry: first,
            written: 0,
            pipe: None,
            method: Method::Copy,
            streak: 0,
            needs_flush: false,
            waiting: Waiting::Sender,
            is_ended: false,
            total: 0,
        }
    }

    /// Bytes that the receiver has taken.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// What it waited for when it was polled last.
    pub(super) fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Moves what can be moved. Ready when the end has been passed on.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        lent: &mut Lent<'_>,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        if self.waiting == Waiting::Over {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..ROUNDS {
            self.waiting = Waiting::Receiver;
            ready!(self.poll_empty(context, to)).map_err(|error| (Side::Receiver, error))?;
            if self.is_ended {
                ready!(to.poll_finish(context)).map_err(|error| (Side::Receiver, error))?;
                self.waiting = Waiting::Over;
                return Poll::Ready(Ok(()));
            }
            self.waiting = Waiting::Sender;
            ready!(self.poll_fetch(context, from, to, lent))?;
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes everything that was read.
    fn poll_empty(&mut self, context: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        while self.written < self.carry.len() {
            let written = ready!(to.poll_write(context, &self.carry[self.written..]))?;
            self.note_written(written)?;
            self.written += written;
        }
        if !self.carry.is_empty() {
            // Gives the memory back: the next read goes through the worker's buffer.
            self.carry = Vec::new();
            self.written = 0;
        }
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held() > 0) {
            let Some(socket) = to.plain() else {
                return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
            };
            ready!(socket.poll_writable(context))?;
            match socket.try_io(Interest::WRITABLE, || pipe.drain(socket)) {
                Ok(moved) => self.note_written(moved)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.needs_flush {
            ready!(to.poll_flush(context))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn note_written(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.total += count as u64;
        self.needs_flush = true;
        Ok(())
    }

    /// Reads once, and writes at once what goes at once.
    fn poll_fetch(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        lent: &mut Lent<'_>,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        if self.method == Method::Splice && from.plain().is_some() && to.plain().is_some() {
            let fetched = ready!(self.poll_splice(context, from, lent));
            return Poll::Ready(fetched.map_err(|error| (Side::Sender, error)));
        }
        let mut buffer = ReadBuf::new(lent.buffer);
        ready!(from.poll_read(context, &mut buffer)).map_err(|error| (Side::Sender, error))?;
        let read = buffer.filled();
        self.is_ended = read.is_empty();
        self.judge(read.len() == BUFFER, FULL_READS, Method::Copy, Method::Splice);
        let mut left = read;
        while !left.is_empty() {
            match to.poll_write(context, left) {
                Poll::Ready(Ok(written)) => {
                    self.note_written(written).map_err(|error| (Side::Receiver, error))?;
                    left = &left[written..];
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err((Side::Receiver, error))),
                Poll::Pending => {
                    self.carry = left.to_vec();
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_splice(
        &mut self,
        context: &mut Context<'_>,
        from: &Stream,
        lent: &Lent<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(socket) = from.plain() else { return Poll::Ready(Ok(())) };
        if socket.poll_readable(context)?.is_pending() {
            // Empty: another session may have it meanwhile.
            self.pipe = None;
            return Poll::Pending;
        }
        let pipe = match self.pipe.take() {
            Some(pipe) => self.pipe.insert(pipe),
            None => match lent.pipes.lend() {
                Ok(pipe) => self.pipe.insert(pipe),
                // No descriptors left: copying needs none.
                Err(_) => {
                    self.method = Method::Copy;
                    return Poll::Ready(Ok(()));
                }
            },
        };
        match socket.try_io(Interest::READABLE, || pipe.fill(socket)) {
            Ok(0) => self.is_ended = true,
            Ok(moved) => {
                self.judge(moved < SMALL, SMALL_READS, Method::Splice, Method::Copy);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.pipe = None;
                self.method = Method::CopyAlways;
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }

    /// Counts a read that speaks for another method, and takes it up after enough of them.
    fn judge(&mut self, speaks_for_it: bool, enough: u32, now: Method, other: Method) {
        if self.method != now {
            return;
        }
        self.streak = if speaks_for_it { self.streak + 1 } else { 0 };
        if self.streak >= enough {
            self.method = other;
            self.streak = 0;
        }
    }
}

const _: () = assert!(CAPACITY > SMALL && BUFFER > SMALL);
