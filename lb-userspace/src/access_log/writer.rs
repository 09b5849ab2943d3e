//! Brings finished flows, and lines of the proxy, to their target, on a thread of its own.
//!
//! A slow disk or daemon must never hold up the control loop, the reading of events or a
//! request: what waits is bounded, and what does not fit is lost and counted.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lb_common::event::FlowEnd;
use tokio::sync::{mpsc, oneshot};

use super::{
    appended::Appended,
    record::AccessRecord,
    syslog::{Sender, Sent},
};
use crate::{
    clock::Moment,
    model::{
        access_log::{AccessLog, AccessTarget},
        index::NameIndex,
    },
};

/// Finished flows, and pieces of text, waiting for the target at most.
const QUEUE: usize = 16 * 1024;
/// Bytes of text waiting at most.
const QUEUE_BYTES: usize = 16 << 20;
/// How long what waits is still brought to the target once the log ends.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a target may take to open while others wait for it.
const OPENING: Duration = Duration::from_millis(500);

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
    /// Nobody reads the FIFO.
    #[error("nobody reads the FIFO {} that the access log is to go to", path.display())]
    Unread {
        /// The FIFO.
        path: PathBuf,
    },
    /// Opening it takes too long.
    #[error("the target of the access log does not open within {after:?}")]
    Late {
        /// How long it was waited for.
        after: Duration,
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
    /// The log ends.
    is_closing: AtomicBool,
    /// Bytes of text in the queue.
    waiting: AtomicUsize,
    written: AtomicU64,
    lost: AtomicU64,
}

impl AccessLogger {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// [`AccessLogError`] if the file can not be opened or no thread started.
    pub fn start(config: &Arc<AccessLog>, names: Arc<NameIndex>) -> Result<Self, AccessLogError> {
        let output = Output::open(&config.target)?;
        let shared = Arc::new(Shared { names: Mutex::new(names), ..Shared::default() });
        let (queue, messages) = mpsc::channel(QUEUE);
        let writer = Writer {
            output,
            config: Arc::clone(config),
            shared: Arc::clone(&shared),
            failing: false,
        };
        let thread = thread::Builder::new()
            .name("access-log".into())
            .spawn(move || writer.run(messages))
            .map_err(AccessLogError::Thread)?;
        Ok(Self { queue: Some(queue), shared, thread: Some(thread) })
    }

    /// The same without blocking, however the target is: [`Self::start`] on a thread of its own.
    ///
    /// # Errors
    /// As [`Self::start`], and [`AccessLogError::Late`].
    pub async fn start_aside(
        config: &Arc<AccessLog>,
        names: Arc<NameIndex>,
    ) -> Result<Self, AccessLogError> {
        let config = Arc::clone(config);
        let (sender, started) = oneshot::channel();
        let start = move || drop(sender.send(Self::start(&config, names)));
        let opener = thread::Builder::new().name("access-log-open".into());
        opener.spawn(start).map_err(AccessLogError::Thread)?;
        let late = || AccessLogError::Late { after: OPENING };
        match tokio::time::timeout(OPENING, started).await {
            Ok(Ok(started)) => started,
            // Nobody waits for that thread: it may hang in the kernel, and takes back what it
            // has opened.
            Ok(Err(_)) | Err(_) => Err(late()),
        }
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
        let waiting = &self.shared.waiting;
        let bytes = lines.len();
        let fits = waiting.fetch_add(bytes, Ordering::AcqRel) + bytes <= QUEUE_BYTES;
        if !fits || !self.send(Message::Lines(lines, count)) {
            waiting.fetch_sub(bytes, Ordering::AcqRel);
            self.shared.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Takes new names after a reload.
    pub fn set_names(&self, names: Arc<NameIndex>) {
        *self.shared.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Opens the file again under its name, after a rotation; connects anew to a daemon.
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

    /// Lines lost so far, to a full queue, a failing disk or a daemon that does not take them.
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
        self.shared.is_closing.store(true, Ordering::Release);
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the access log panicked");
        }
    }
}

struct Writer {
    output: Output,
    config: Arc<AccessLog>,
    shared: Arc<Shared>,
    /// The last write failed; said once, and again when it works.
    failing: bool,
}

enum Output {
    Stdout(BufWriter<io::Stdout>),
    File(BufWriter<Appended>),
    Syslog(Box<Sender>),
}

impl Writer {
    fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        // Lines in the buffer, not known to be on the disk.
        let mut pending = 0;
        let mut deadline = None;
        while let Some(message) = messages.blocking_recv() {
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.flush(&mut pending);
                self.reopen();
            }
            if deadline.is_none() && self.shared.is_closing.load(Ordering::Acquire) {
                deadline = Some(Instant::now() + FAREWELL);
            }
            let is_late = deadline.is_some_and(|deadline| Instant::now() > deadline);
            match message {
                Message::Flow(_) if is_late => self.count_lost(1),
                Message::Flow(event) => {
                    let names = self.shared.names.lock();
                    let names = Arc::clone(&names.unwrap_or_else(PoisonError::into_inner));
                    let record = AccessRecord::new(&event, &names, &Moment::now());
                    let line = record.line(&self.config);
                    self.write(&line, 1, &mut pending);
                }
                Message::Lines(lines, count) => {
                    self.shared.waiting.fetch_sub(lines.len(), Ordering::AcqRel);
                    match is_late {
                        true => self.count_lost(count),
                        false => self.write(&lines, count, &mut pending),
                    }
                }
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
        if let Output::Syslog(sender) = &mut self.output {
            let sent = sender.send(text, count);
            return self.note(&sent);
        }
        *pending += count;
        // Whole lines only: what does not fit the buffer any more starts a new one.
        if self.output.is_full_with(text.len()) {
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
            Ok(()) => self.count_written(lines),
            Err(error) => self.lose(lines, &error),
        }
    }

    /// What became of messages to a daemon.
    fn note(&mut self, sent: &Sent) {
        if let Some(error) = &sent.error {
            self.fail(error);
        }
        self.count_lost(sent.lost);
        match sent.lost {
            0 => self.count_written(sent.written),
            _ => _ = self.shared.written.fetch_add(sent.written, Ordering::Relaxed),
        }
    }

    fn count_written(&mut self, lines: u64) {
        self.shared.written.fetch_add(lines, Ordering::Relaxed);
        if lines > 0 && std::mem::take(&mut self.failing) {
            tracing::info!("the access log is written again");
        }
    }

    fn count_lost(&self, lines: u64) {
        self.shared.lost.fetch_add(lines, Ordering::Relaxed);
    }

    /// Gives up the buffer: a log that grows in memory while the disk is full helps nobody.
    fn lose(&mut self, lines: u64, error: &io::Error) {
        self.count_lost(lines);
        self.fail(error);
        self.reopen();
    }

    fn fail(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, "can not write the access log; lines are lost");
        }
    }

    fn reopen(&mut self) {
        if let Output::Syslog(sender) = &mut self.output {
            return sender.reconnect();
        }
        match Output::open(&self.config.target) {
            // Not flushed: what is in the buffer was written or given up before.
            Ok(output) => match std::mem::replace(&mut self.output, output) {
                Output::Stdout(old) => drop(old.into_parts()),
                Output::File(old) => drop(old.into_parts()),
                Output::Syslog(_) => {}
            },
            Err(error) => {
                tracing::error!(%error, "the access log stays as it was");
            }
        }
    }
}

impl Output {
    fn open(target: &AccessTarget) -> Result<Self, AccessLogError> {
        match target {
            AccessTarget::Stdout => Ok(Self::Stdout(BufWriter::new(io::stdout()))),
            AccessTarget::File(path) => Self::append(path),
            AccessTarget::Syslog(config) => Ok(Self::Syslog(Box::new(Sender::new(config)))),
        }
    }

    fn append(path: &Path) -> Result<Self, AccessLogError> {
        match Appended::open(path) {
            Ok(file) => Ok(Self::File(BufWriter::new(file))),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                Err(AccessLogError::Unread { path: path.to_owned() })
            }
            Err(source) => Err(AccessLogError::Open { path: path.to_owned(), source }),
        }
    }

    /// Whether so many more bytes do not fit the buffer.
    fn is_full_with(&self, bytes: usize) -> bool {
        match self {
            Self::Stdout(out) => out.buffer().len() + bytes > out.capacity(),
            Self::File(out) => out.buffer().len() + bytes > out.capacity(),
            Self::Syslog(_) => false,
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.write_all(bytes),
            Self::File(out) => out.write_all(bytes),
            Self::Syslog(_) => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(out) => out.flush(),
            Self::Syslog(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener};

    use super::*;
    use crate::model::access_log::{Syslog, SyslogPeer};

    fn start(path: &Path) -> AccessLogger {
        AccessLogger::start(&config(AccessTarget::File(path.into())), Arc::default()).unwrap()
    }

    fn config(target: AccessTarget) -> Arc<AccessLog> {
        Arc::new(AccessLog { target, ..AccessLog::default() })
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
        let config = config(AccessTarget::File("/nonexistent/access.log".into()));
        let error = AccessLogger::start(&config, Arc::default()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/access.log"));
    }

    fn fifo() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        (directory, path)
    }

    #[test]
    fn a_fifo_that_nobody_reads_is_an_error() {
        let (_directory, path) = fifo();
        let config = config(AccessTarget::File(path.clone()));
        let error = AccessLogger::start(&config, Arc::default()).unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with("nobody reads the FIFO") && said.contains(path.to_str().unwrap()));
    }

    #[test]
    fn a_fifo_takes_lines_and_a_reader_that_is_slow_holds_nobody_up() {
        let (_directory, path) = fifo();
        let opening = path.clone();
        let reader = thread::spawn(move || fs::File::open(opening).unwrap());
        let config = config(AccessTarget::File(path));
        // Until the reader is there.
        let logger = (0..500).find_map(|_| {
            let started = AccessLogger::start(&config, Arc::default()).ok();
            if started.is_none() {
                thread::sleep(Duration::from_millis(10));
            }
            started
        });
        let (logger, mut reader) = (logger.unwrap(), reader.join().unwrap());
        logger.log_lines("first\n".into(), 1);
        let mut line = [0; 6];
        io::Read::read_exact(&mut reader, &mut line).unwrap();
        assert_eq!(&line, b"first\n");
        // More than a pipe has room for.
        for _ in 0..100 {
            logger.log_lines("x".repeat(30_000) + "\n", 1);
        }
        let began = Instant::now();
        drop(logger);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    /// A daemon that takes connections and reads nothing.
    fn clogged() -> (TcpListener, Arc<AccessLog>) {
        let daemon = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = SyslogPeer::Tcp(daemon.local_addr().unwrap());
        let syslog =
            Syslog { peer, facility: 16, severity: 6, app_name: "lb".into(), hostname: None };
        (daemon, config(AccessTarget::Syslog(syslog)))
    }

    #[test]
    fn a_clogged_daemon_holds_nobody_up_and_every_line_is_counted() {
        let (_daemon, config) = clogged();
        let logger = AccessLogger::start(&config, Arc::default()).unwrap();
        let piece = format!("{}\n", "x".repeat(999)).repeat(32);
        let mut slowest = Duration::ZERO;
        for _ in 0..4000 {
            let began = Instant::now();
            logger.log_lines(piece.clone(), 32);
            slowest = slowest.max(began.elapsed());
        }
        // 128 MB came, 16 MiB may wait.
        assert!(logger.shared.waiting.load(Ordering::Relaxed) <= QUEUE_BYTES);
        // Far below what the daemon is waited for; a scheduler's slice on a busy machine.
        assert!(slowest < Duration::from_millis(400), "{slowest:?}");
        wait_until("all lines", || logger.written() + logger.lost() == 4000 * 32);
        assert!(logger.lost() > 100_000, "{}", logger.lost());
        assert_eq!(logger.shared.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_clogged_daemon_does_not_hold_up_the_end() {
        let (_daemon, config) = clogged();
        let logger = AccessLogger::start(&config, Arc::default()).unwrap();
        for _ in 0..500 {
            logger.log_lines("x".repeat(30_000) + "\n", 1);
        }
        let began = Instant::now();
        drop(logger);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
