//! A program running in the background: its output kept in a file, ended when dropped.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Lines of output shown when something went wrong.
const SHOWN_LINES: usize = 60;

/// A running program. Dropping it sends SIGKILL.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command with standard output and error appended to the file `log`.
    ///
    /// # Errors
    /// When the file can not be opened or the program not started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let child = command
            // Ctrl-C in the terminal is for us: we end our processes in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The process id.
    ///
    /// # Errors
    /// Never in practice: the kernel's process ids fit.
    pub fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id()).context("process id")?))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("send {signal}"))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel can not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("ask for the exit status")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it is still running after `patience`; the error holds its last output.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(anyhow!("still running after {patience:?}; {}", self.last_output()));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Everything it printed.
    #[must_use]
    pub fn output(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of what it printed, for failure reports.
    #[must_use]
    pub fn last_output(&self) -> String {
        let all = self.output();
        let lines: Vec<&str> = all.lines().collect();
        let from = lines.len().saturating_sub(SHOWN_LINES);
        format!("its last output:\n{}", lines.get(from..).unwrap_or_default().join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks again every 5 ms until there is an answer, and says how long it took.
///
/// # Errors
/// When there is none after `patience`; `what` and the last "not yet" are in the error.
pub fn wait_until<T>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> Result<T>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        let not_yet = match ask() {
            Ok(answer) => return Ok((answer, start.elapsed())),
            Err(not_yet) => not_yet,
        };
        if start.elapsed() >= patience {
            return Err(not_yet.context(format!("waited {patience:?} for: {what}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
}
