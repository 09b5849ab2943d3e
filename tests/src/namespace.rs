//! Named network namespaces: made, entered, and always removed.
//!
//! Owns the names (`pmt-PID-COUNTER-ROLE`), also those of directories, so that leftovers of a
//! killed run can be told from those of a running one and swept. Must not know what is wired into a namespace.
//!
//! Programs are started with `nsenter --net=...`: `ip netns exec` also enters a mount
//! namespace of its own, in which `/sys/fs/bpf` is not the one the agent pins to.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    panic,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use tempfile::TempDir;

/// Prefix of everything the test bed names: namespaces, pin directories and directories for files.
pub const PREFIX: &str = "pmt-";

const NETNS_DIRECTORY: &str = "/run/netns";

/// A network namespace of this process. Dropping it ends every process inside and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with loopback up. `role` (`client`, `server0`) ends its name.
    ///
    /// # Errors
    /// Without root, or when `ip` fails.
    pub fn create(role: &str) -> Result<Self> {
        require_root()?;
        let namespace = Self { name: format!("{}-{role}", unique_name()) };
        ip(&["netns", "add", &namespace.name])?;
        // Duplicate address detection would delay every IPv6 address by a second or two.
        namespace.run(|| {
            for scope in ["all", "default"] {
                write_sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
                write_sysctl(&format!("net/ipv6/conf/{scope}/dad_transmits"), "0")?;
            }
            anyhow::Ok(())
        })?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that names the namespace for `setns` and `nsenter --net=`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIRECTORY).join(&self.name)
    }

    /// Runs a closure inside, on a thread of its own; sockets it makes stay inside. A panic
    /// of the closure goes on in the caller.
    ///
    /// # Errors
    /// Those of the closure, or when the namespace can not be entered.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| scope.spawn(|| self.enter().and_then(|()| action())).join())
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// Starts a closure inside on a named thread and returns at once.
    ///
    /// # Errors
    /// When the namespace can not be opened or the thread not started.
    pub fn spawn<T: Send + 'static>(
        &self,
        thread_name: &str,
        action: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let file = File::open(self.path()).context("open the namespace")?;
        thread::Builder::new()
            .name(thread_name.into())
            .spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
                action()
            })
            .context("start a thread")
    }

    /// A command that will run inside, and see the same `/sys/fs/bpf` as this process.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs `ip ARGUMENTS` on this namespace.
    ///
    /// # Errors
    /// When `ip` can not be started or says no.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut all = vec!["-n", &self.name];
        all.extend_from_slice(arguments);
        ip(&all)
    }

    /// Ends every process inside with SIGKILL, as a crash would, and waits until they are gone.
    ///
    /// # Errors
    /// When processes are still there after five seconds.
    pub fn kill_processes(&self) -> Result<()> {
        kill_processes(&self.name)
    }

    fn enter(&self) -> Result<()> {
        let file = File::open(self.path()).context("open the namespace")?;
        setns(&file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter the namespace {}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Fails unless this process is root: a privileged test never passes by being skipped.
///
/// # Errors
/// Without root.
pub fn require_root() -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "the test bed makes network namespaces and loads XDP programs: run it as root"
    );
    Ok(())
}

/// A name nobody else has: `pmt-PID-COUNTER`.
pub(crate) fn unique_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Whether a name is ours and its process is gone, so that nobody will clean it up.
pub(crate) fn is_stale(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let pid = rest.split('-').next().and_then(|text| text.parse::<i32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Removes the namespaces of earlier runs that were killed before they could.
///
/// # Errors
/// When the directory of namespaces can not be read.
pub fn sweep_stale() -> Result<()> {
    if !Path::new(NETNS_DIRECTORY).exists() {
        return Ok(());
    }
    for entry in fs::read_dir(NETNS_DIRECTORY).context("list namespaces")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_stale(&name) {
            remove(&name);
        }
    }
    Ok(())
}

/// A directory for files among the temporary ones. Dropping it removes it.
///
/// # Errors
/// When it can not be made.
pub(crate) fn directory() -> Result<TempDir> {
    let prefix = format!("{}-", unique_name());
    tempfile::Builder::new().prefix(&prefix).tempdir().context("make a temporary directory")
}

/// Removes the directories of earlier runs that were killed before they could.
///
/// # Errors
/// When the directory of temporary files can not be read.
pub fn sweep_stale_directories() -> Result<()> {
    for entry in fs::read_dir(env::temp_dir()).context("list temporary files")? {
        let entry = entry?;
        if is_stale(&entry.file_name().to_string_lossy()) {
            // Another run may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Writes a file below `/proc/sys` of the thread's namespace.
///
/// # Errors
/// When there is no such setting or the value is refused.
pub fn write_sysctl(path: &str, value: &str) -> Result<()> {
    fs::write(Path::new("/proc/sys").join(path), value)
        .with_context(|| format!("set {path} to {value}"))
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it can not be started or fails; the error holds what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("start {shown}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} failed with {}: {}{}", output.status, stdout, stderr.trim_end());
    }
    Ok(stdout)
}

fn ip(arguments: &[&str]) -> Result<()> {
    output(Command::new("ip").args(arguments)).map(drop)
}

fn processes(name: &str) -> Result<BTreeSet<i32>> {
    let listed = output(Command::new("ip").args(["netns", "pids", name]))?;
    let own = i32::try_from(std::process::id()).context("own process id")?;
    Ok(listed.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != own).collect())
}

fn kill_processes(name: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let alive: Vec<i32> = processes(name)?.into_iter().filter(|pid| !is_zombie(*pid)).collect();
        if alive.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "processes {alive:?} in {name} do not end");
        for pid in alive {
            // Gone already is as good as killed.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A process that ended and whose parent has not asked yet.
fn is_zombie(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// Best effort: a failure here must not hide the one that is being reported.
fn remove(name: &str) {
    let _ = kill_processes(name);
    let _ = ip(&["netns", "del", name]);
}
