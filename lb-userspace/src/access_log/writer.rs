//! Brings finished flows, and lines of the proxy, to a file or standard output, on a thread of its own.
//!
//! A slow disk must never hold up the control loop or the reading of events: the queue is
//! bounded, and what does not fit is lost and counted.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use lb_common::event::FlowEnd;
use tokio::sync::mpsc;

use super::record::AccessRecord;
use crate::{
    clock::Moment,
    model::{
        index::NameIndex,
        snapshot::{AccessFormat, AccessLog, AccessTarget},
    },
};

/// Finished flows waiting for the disk at most.
const QUEUE: usize = 16 * 1024;

/// The handle of a running access log. Dropping it writes out what is queued.
#[derive(Debug)]
pub struct AccessLogger {
    queue: Option<mpsc::Sender<Message>>,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Why the access log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    /// The file can not be appended to.
    #[error("can not append to the access log {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("can not start the thread of the access log")]
    Thread(#[source] io::Error),
}

#[derive(Debug)]
enum Message {
    Flow(FlowEnd),
    /// So many lines that are text already.
    Lines(String, u64),
    /// Nothing to write; look at the flags.
    Wake,
}

#[derive(Debug, Default)]
struct Shared {
    names: Mutex<Arc<NameIndex>>,
    reopen: AtomicBool,
    written: AtomicU64,
    lost: AtomicU64,
}

impl AccessLogger {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// [`AccessLogError`] if the file can not be opened or no thread started.
    pub fn start(config: &AccessLog, names: Arc<NameIndex>) -> Result<Self, AccessLogError> {
        let output = Output::open(&config.target)?;
        let shared = Arc::new(Shared { names: Mutex::new(names), ..Shared::default() });
        let (queue, messages) = mpsc::channel(QUEUE);
        let writer = Writer {
            output: BufWriter::new(output),
            target: config.target.clone(),
            format: config.format,
            shared: Arc::clone(&shared),
            failing: false,
        };
        let thread = thread::Builder::new()
            .name("access-log".into())
            .spawn(move || writer.run(messages))
            .map_err(AccessLogError::Thread)?;
        Ok(Self { queue: Some(queue), shared, thread: Some(thread) })
    }

    /// Queues one finished flow; lost and counted if the queue is full.
    pub fn log(&self, event: FlowEnd) {
        if !self.send(Message::Flow(event)) {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues lines that are text already, each with its newline; lost and counted if the
    /// queue is full.
    pub fn log_lines(&self, lines: String, count: u64) {
        if !self.send(Message::Lines(lines, count)) {
            self.shared.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Takes new names after a reload.
    pub fn set_names(&self, names: Arc<NameIndex>) {
        *self.shared.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Opens the file again under its name, after a rotation.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // A full queue wakes the thread anyway.
        self.send(Message::Wake);
    }

    /// Lines written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Lines lost so far, to a full queue or a failing disk.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    fn send(&self, message: Message) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.try_send(message).is_ok())
    }
}

impl Drop for AccessLogger {
    fn drop(&mut self) {
        // Closing the queue ends the thread once it is empty.
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the access log panicked");
        }
    }
}

struct Writer {
    output: BufWriter<Output>,
    target: AccessTarget,
    format: AccessFormat,
    shared: Arc<Shared>,
    /// The last write failed; said once, and again when it works.
    failing: bool,
}

enum Output {
    Stdout(io::Stdout),
    File(File),
}

impl Writer {
    fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        // Lines in the buffer, not known to be on the disk.
        let mut pending = 0;
        while let Some(message) = messages.blocking_recv() {
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.flush(&mut pending);
                self.reopen();
            }
            match message {
                Message::Flow(event) => {
                    let names = self.shared.names.lock();
                    let names = Arc::clone(&names.unwrap_or_else(PoisonError::into_inner));
                    let record = AccessRecord::new(&event, &names, &Moment::now());
                    self.write(&record.line(self.format), 1, &mut pending);
                }
                Message::Lines(lines, count) => self.write(&lines, count, &mut pending),
                Message::Wake => {}
            }
            if messages.is_empty() {
                self.flush(&mut pending);
            }
        }
        self.flush(&mut pending);
    }

    /// Writes text of `count` lines.
    fn write(&mut self, text: &str, count: u64, pending: &mut u64) {
        *pending += count;
        // Whole lines only: what does not fit the buffer any more starts a new one.
        if self.output.buffer().len() + text.len() > self.output.capacity() {
            let fits = std::mem::replace(pending, count) - count;
            self.settle(fits);
        }
        if let Err(error) = self.output.write_all(text.as_bytes()) {
            self.lose(std::mem::take(pending), &error);
        }
    }

    fn flush(&mut self, pending: &mut u64) {
        let lines = std::mem::take(pending);
        self.settle(lines);
    }

    /// Brings the buffer, which holds `lines` lines, to the target.
    fn settle(&mut self, lines: u64) {
        match self.output.flush() {
            Ok(()) => {
                self.shared.written.fetch_add(lines, Ordering::Relaxed);
                if lines > 0 && std::mem::take(&mut self.failing) {
                    tracing::info!("the access log is written again");
                }
            }
            Err(error) => self.lose(lines, &error),
        }
    }

    /// Gives up the buffer: a log that grows in memory while the disk is full helps nobody.
    fn lose(&mut self, lines: u64, error: &io::Error) {
        self.shared.lost.fetch_add(lines, Ordering::Relaxed);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, "can not write the access log; lines are lost");
        }
        self.reopen();
    }

    fn reopen(&mut self) {
        match Output::open(&self.target) {
            Ok(output) => {
                // Not flushed: what is in the buffer was written or given up before.
                let (_, _unwritten) =
                    std::mem::replace(&mut self.output, BufWriter::new(output)).into_parts();
            }
            Err(error) => {
                tracing::error!(%error, "the access log stays as it was");
            }
        }
    }
}

impl Output {
    fn open(target: &AccessTarget) -> Result<Self, AccessLogError> {
        match target {
            AccessTarget::Stdout => Ok(Self::Stdout(io::stdout())),
            AccessTarget::File(path) => Self::append(path),
        }
    }

    fn append(path: &Path) -> Result<Self, AccessLogError> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map(Self::File)
            .map_err(|source| AccessLogError::Open { path: path.to_owned(), source })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::File(file) => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn start(path: &Path) -> AccessLogger {
        let config =
            AccessLog { target: AccessTarget::File(path.into()), format: AccessFormat::Text };
        AccessLogger::start(&config, Arc::default()).unwrap()
    }

    fn lines(path: &Path) -> usize {
        fs::read_to_string(path).unwrap().lines().count()
    }

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        for _ in 0..500 {
            if condition() {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("still waiting for: {what}");
    }

    #[test]
    fn every_flow_is_a_line_and_a_restart_appends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        for _ in 0..2 {
            let logger = start(&path);
            for _ in 0..1000 {
                logger.log(FlowEnd::default());
            }
            drop(logger);
        }
        assert_eq!(lines(&path), 2000);
    }

    #[test]
    fn reopening_starts_a_new_file_and_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (path, rotated) = (directory.path().join("a.log"), directory.path().join("a.log.1"));
        let logger = start(&path);
        logger.log(FlowEnd::default());
        wait_until("the first line", || logger.written() == 1);
        fs::rename(&path, &rotated).unwrap();
        logger.reopen();
        wait_until("the new file", || path.exists());
        logger.log(FlowEnd::default());
        drop(logger);
        assert_eq!((lines(&rotated), lines(&path)), (1, 1));
    }

    #[test]
    fn a_full_disk_loses_lines_and_counts_them() {
        let logger = start(Path::new("/dev/full"));
        for _ in 0..10 {
            logger.log(FlowEnd::default());
        }
        wait_until("all lines", || logger.lost() == 10);
        assert_eq!(logger.written(), 0);
    }

    #[test]
    fn a_file_that_can_not_be_opened_is_an_error() {
        let config = AccessLog {
            target: AccessTarget::File("/nonexistent/access.log".into()),
            format: AccessFormat::Json,
        };
        let error = AccessLogger::start(&config, Arc::default()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/access.log"));
    }
}
