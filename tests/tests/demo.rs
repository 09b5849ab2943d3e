//! The demo as its user runs it, by `cargo xtask demo`: it shows every step, waits if asked to,
//! leaves nothing behind, and fails when a step does not hold.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testbed::{namespace::output, process::wait_until, report::note};

/// All of the demo with the servers of the bed.
const STEPS: u32 = 11;

/// `cargo xtask demo`, as this test's own: `--stop` knows it from a user's.
fn command(pid_file: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["xtask", "demo"])
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env("POINTSMAN_DEMO_PID_FILE", pid_file);
    command
}

/// A demo that is read line by line.
struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: String,
    /// What the names of all that it makes begin with, once it has said it.
    prefix: Option<String>,
}

impl Demo {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
        Ok(Self { child, lines, said: String::new(), prefix: None })
    }

    /// Reads up to a line with these words, which it must print.
    fn read_to(&mut self, words: &str) -> Result<String> {
        let found = self.read_while(|line| !line.contains(words))?;
        found.with_context(|| format!("it does not say {words:?}:\n{}", self.said))
    }

    /// Reads to its end and waits for it; the exit code.
    fn end(&mut self) -> Result<Option<i32>> {
        self.read_while(|_| true)?;
        Ok(self.child.wait()?.code())
    }

    fn read_while(&mut self, go_on: impl Fn(&str) -> bool) -> Result<Option<String>> {
        for line in self.lines.by_ref() {
            let line = line?;
            note(&line);
            self.said.push_str(&line);
            self.said.push('\n');
            if let Some(name) = line.split_whitespace().find(|word| word.ends_with("-client")) {
                // pmt-PID-COUNTER-client
                let parts: Vec<_> = name.split('-').take(2).collect();
                self.prefix.get_or_insert_with(|| format!("{}-", parts.join("-")));
            }
            if !go_on(&line) {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    fn prefix(&self) -> Result<&str> {
        self.prefix.as_deref().context("it named no namespace")
    }

    /// What there is of it on this machine: namespaces, pins, directories, processes.
    fn traces(&self) -> Result<Vec<String>> {
        let prefix = self.prefix()?;
        let mut traces = Vec::new();
        for place in [Path::new("/run/netns"), Path::new("/sys/fs/bpf"), &std::env::temp_dir()] {
            for entry in fs::read_dir(place).with_context(|| format!("list {}", place.display()))? {
                let path = entry?.path();
                let ours = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(prefix);
                if path.file_name().is_some_and(ours) {
                    traces.push(path.display().to_string());
                }
            }
        }
        for entry in fs::read_dir("/proc")? {
            // A process may end while it is looked at.
            let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(prefix) {
                traces.push(line);
            }
        }
        Ok(traces)
    }

    fn require_no_trace(&self) -> Result<()> {
        let traces = self.traces()?;
        ensure!(traces.is_empty(), "left behind: {traces:#?}");
        Ok(())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Of a test that failed half-way: the demo itself cleans up at SIGTERM.
        let pid = self.prefix.as_deref().and_then(|prefix| prefix.split('-').nth(1)?.parse().ok());
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), pid) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            let _ = self.end();
        }
    }
}

/// The command that the demo printed in the line that has these words.
fn printed(said: &str, words: &str) -> Result<String> {
    let line = said.lines().find(|line| line.contains(words));
    Ok(line.with_context(|| format!("no command with {words:?} in:\n{said}"))?.trim().to_owned())
}

fn shell(command: &str) -> Result<String> {
    output(Command::new("sh").args(["-c", command]))
}

#[test]
fn every_step_holds_and_what_was_kept_can_be_explored_and_stopped() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let pid_file: PathBuf = directory.path().join("demo.pid");
    let mut demo = Demo::start(command(&pid_file, &["--keep"]))?;
    demo.read_to("--stop, ends it")?;
    for step in 1..=STEPS {
        let title = format!("{step:>2}. ");
        ensure!(demo.said.lines().any(|line| line.starts_with(&title)), "no step {step}");
    }
    for words in ["s0 is DOWN", "UDP over IPv6: 3000 good (s1 ", "s0 is UP", "SHA-256"] {
        ensure!(demo.said.contains(words), "does not say {words:?}");
    }
    ensure!(demo.traces()?.len() > 5, "{:?}", demo.traces()?);

    // What it says can be tried, tried.
    let status = shell(&printed(&demo.said, "pointsman status --socket")?)?;
    ensure!(status.contains("line4/s0") && status.contains("native"), "{status}");
    let answer = shell(&printed(&demo.said, "curl -s 'http://198.51.100.10:80/'")?)?;
    ensure!(["s0", "s1", "s2"].contains(&answer.trim()), "{answer}");
    let answer = shell(&printed(&demo.said, "curl -s --unix-socket")?)?;
    ensure!(serde_json::from_str::<serde_json::Value>(&answer)?["vips"].is_array(), "{answer}");
    let net = shell(&printed(&demo.said, "bpftool net show")?)?;
    ensure!(net.contains("client0"), "{net}");

    // A second one to keep is refused: `--stop` could not tell the two apart.
    let mut second = Demo::start(command(&pid_file, &["--keep"]))?;
    ensure!(second.end()? == Some(1), "a second demo was kept");
    ensure!(second.said.contains("demo --stop"), "{}", second.said);

    output(&mut command(&pid_file, &["--stop"]))?;
    ensure!(demo.end()? == Some(0), "the demo failed in the end");
    ensure!(demo.said.contains(&format!("All {STEPS} steps held")), "{}", demo.said);
    demo.require_no_trace()?;
    ensure!(!pid_file.exists(), "{} is left", pid_file.display());
    let mut nothing = Demo::start(command(&pid_file, &["--stop"]))?;
    ensure!(nothing.end()? == Some(1) && nothing.said.contains("no demo was left running"));
    Ok(())
}

/// Somebody pulls the client's cable before the traffic starts.
#[test]
fn a_step_that_does_not_hold_fails_the_demo_which_cleans_up() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut demo = Demo::start(command(&directory.path().join("demo.pid"), &[]))?;
    demo.read_to(" 3. Start pointsman")?;
    let client = shell(&format!("ls /run/netns | grep '^{}.*-client$'", demo.prefix()?))?;
    output(Command::new("ip").args(["-n", client.trim(), "link", "set", "eth0", "down"]))?;
    let code = demo.end()?;
    ensure!(code == Some(1), "exit code {code:?}");
    ensure!(demo.said.contains("FAILED: step 4 did not hold: TCP through"), "{}", demo.said);
    ensure!(!demo.said.contains("steps held"), "{}", demo.said);
    wait_until("nothing to be left", Duration::from_secs(5), || demo.require_no_trace())?;
    Ok(())
}
