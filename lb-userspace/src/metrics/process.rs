//! The agent's own process, as proc(5) has it.

use std::{fs, path::Path, time::Duration};

use nix::{
    sys::resource::{Resource, UsageWho, getrlimit, getrusage},
    sys::time::TimeValLike,
    unistd::{SysconfVar, sysconf},
};

/// The process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessReading {
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Open descriptors; none if that takes counting them one by one (before Linux 6.2).
    pub descriptors: Option<u64>,
    /// Most descriptors it may have.
    pub max_descriptors: u64,
    /// Threads.
    pub threads: u64,
}

impl ProcessReading {
    /// This process; none if the kernel does not say.
    #[must_use]
    pub fn now() -> Option<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
        let (threads, pages) = threads_and_pages(&fs::read_to_string("/proc/self/stat").ok()?)?;
        let listed = fs::metadata(Path::new("/proc/self/fd")).ok()?.len();
        let (max_descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        Some(Self {
            cpu: Duration::from_micros(micros.try_into().ok()?),
            resident: pages * u64::try_from(page).ok()?,
            descriptors: (listed > 0).then_some(listed),
            max_descriptors,
            threads,
        })
    }
}

/// Threads and resident pages in the text of `/proc/PID/stat`. The name of the process, in
/// parentheses, may hold anything.
fn threads_and_pages(stat: &str) -> Option<(u64, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // The third field of the file comes first here.
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    Some((field(20)?, field(24)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_confuses_nobody() {
        let stat = "7 (a) 1 (b) S 1 7 7 0 -1 4194560 9 0 0 0 3 2 0 0 20 0 11 0 77 4096000 512 18";
        assert_eq!(threads_and_pages(stat), Some((11, 512)));
        assert_eq!(threads_and_pages("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_what_every_process_has() {
        let process = ProcessReading::now().expect("proc is mounted");
        assert!(process.resident > 100_000 && process.threads >= 1, "{process:?}");
        assert!(process.descriptors.is_none_or(|open| (3..100_000).contains(&open)), "{process:?}");
    }
}
