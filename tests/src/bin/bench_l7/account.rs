//! What a process has used: processor time from `schedstat`, memory from `status`.

use std::{fs, io, path::PathBuf};

use anyhow::{Context, Result};
use testbed::process::Process;

/// The account of one process.
#[derive(Debug)]
pub(crate) struct Account {
    directory: PathBuf,
}

impl Account {
    /// Of a process that runs the proxy itself, not a wrapper that waits for it.
    ///
    /// # Errors
    /// Never in practice: the kernel's process ids fit.
    pub(crate) fn of(process: &Process) -> Result<Self> {
        Ok(Self { directory: PathBuf::from(format!("/proc/{}", process.pid()?)) })
    }

    /// Time that all its threads have been running, in user space and in the kernel, in
    /// microseconds. Threads that have ended do not count.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn busy_us(&self) -> Result<f64> {
        let threads = fs::read_dir(self.directory.join("task")).context("list threads")?;
        let mut busy_ns = 0;
        for thread in threads {
            match fs::read_to_string(thread?.path().join("schedstat")) {
                Ok(text) => busy_ns += parse_schedstat(&text)?,
                // It ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).context("read schedstat"),
            }
        }
        // Exact up to a hundred days.
        Ok(busy_ns as f64 / 1000.0)
    }

    /// Resident memory in MiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let text = fs::read_to_string(self.directory.join("status")).context("read status")?;
        Ok(parse_resident_kib(&text).context("status has no VmRSS")? as f64 / 1024.0)
    }
}

/// The first of three numbers is the time spent running, in ns.
fn parse_schedstat(text: &str) -> Result<u64> {
    let running = text.split_whitespace().next().context("schedstat is empty")?;
    running.parse().with_context(|| format!("schedstat begins with {running:?}"))
}

fn parse_resident_kib(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        assert_eq!(parse_schedstat("123456 789 10\n").unwrap(), 123_456);
        assert!(parse_schedstat("").is_err());
        assert_eq!(parse_resident_kib("VmPeak:\t 9 kB\nVmRSS:\t   10240 kB\n"), Some(10_240));
        assert_eq!(parse_resident_kib("VmPeak:\t 9 kB\n"), None);
    }
}
