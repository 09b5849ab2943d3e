//! The real `pointsman` binary in the balancer's namespace: started, killed, asked, and
//! gone without a trace in the end.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use pointsman::{
    admin::api::{ServerView, StatusView},
    model::state::ServerState,
};

use crate::{
    bed::Bed,
    bpffs::PinDirectory,
    configuration::{Configuration, Service},
    namespace::unique_name,
    process::{Process, wait_until},
    report::note,
};

/// How long the agent may take to start, stop or follow a change before a test fails.
const PATIENCE: Duration = Duration::from_secs(15);

/// An agent with a configuration file, a pin directory and an admin socket of its own.
/// Dropping it ends the process and removes the pins, which detaches the program.
#[derive(Debug)]
pub struct Agent<'bed> {
    bed: &'bed Bed,
    directory: PathBuf,
    process: Option<Process>,
    pins: PinDirectory,
    report: bool,
}

impl<'bed> Agent<'bed> {
    /// Chooses the places and starts nothing.
    ///
    /// # Errors
    /// When the directory can not be made.
    pub fn install(bed: &'bed Bed) -> Result<Self> {
        let directory = bed.directory().join(unique_name());
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        let pins = PinDirectory::unique();
        Ok(Self { bed, directory, process: None, pins, report: true })
    }

    /// An agent that runs with these services and is ready.
    ///
    /// # Errors
    /// When it does not get ready; the error holds its output.
    pub fn launch(bed: &'bed Bed, services: Vec<Service>) -> Result<Self> {
        let mut agent = Self::install(bed)?;
        agent.configure(&agent.configuration(services))?;
        agent.start()?;
        Ok(agent)
    }

    /// Does not print the agent's output in the end. (Tests print it, and the test runner
    /// shows it if the test failed.)
    pub fn without_report(&mut self) {
        self.report = false;
    }

    /// A configuration with the places of this agent, on every interface of the balancer.
    #[must_use]
    pub fn configuration(&self, services: Vec<Service>) -> Configuration {
        Configuration {
            interfaces: self.bed.interfaces(),
            mode: self.bed.mode.name().to_owned(),
            pin_directory: self.pins.path().to_owned(),
            datapath_options: Vec::new(),
            socket: self.socket(),
            access_log: self.directory.join("access.log"),
            services,
        }
    }

    /// Writes the configuration file; a running agent reads it at the next reload.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn configure(&self, configuration: &Configuration) -> Result<()> {
        self.configure_text(&configuration.render())
    }

    /// Writes the configuration file from text, which may be faulty.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn configure_text(&self, text: &str) -> Result<()> {
        fs::write(self.configuration_file(), text).context("write the configuration")
    }

    /// The configuration file.
    #[must_use]
    pub fn configuration_file(&self) -> PathBuf {
        self.directory.join("pointsman.yaml")
    }

    /// The admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("admin.sock")
    }

    /// The file of finished flows, one JSON object a line.
    #[must_use]
    pub fn access_log(&self) -> PathBuf {
        self.directory.join("access.log")
    }

    /// The pin directory.
    #[must_use]
    pub fn pin_directory(&self) -> &Path {
        self.pins.path()
    }

    /// Starts the agent and waits until it answers and its maps are as configured.
    ///
    /// # Errors
    /// When it ends or is not ready in time; the error holds its output.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// [`Agent::start`] with further arguments of `pointsman run`.
    ///
    /// # Errors
    /// When it ends or is not ready in time; the error holds its output.
    pub fn start_with(&mut self, arguments: &[&str]) -> Result<()> {
        let mut command = self.run_command()?;
        command.args(arguments);
        self.start_command(command, None)
    }

    /// [`Agent::start`] where the data plane can not be as configured yet: waits until the agent
    /// says so in these words.
    ///
    /// # Errors
    /// When it ends or does not say so in time; the error holds its output.
    pub fn start_lacking(&mut self, words: &str) -> Result<()> {
        let command = self.run_command()?;
        self.start_command(command, Some(words))
    }

    /// [`Agent::start`] with these capabilities and no others (`net_raw`), as root still.
    ///
    /// # Errors
    /// When it ends or is not ready in time; the error holds its output.
    pub fn start_confined(&mut self, capabilities: &[String]) -> Result<()> {
        let set: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
        let mut command = self.bed.balancer.command("setpriv");
        command.args([&format!("--bounding-set=-all{set}"), "--no-new-privs"]);
        command.arg(binary()?).arg("run").arg("--config").arg(self.configuration_file());
        self.start_command(command, None)
    }

    fn start_command(&mut self, mut command: Command, lacking: Option<&str>) -> Result<()> {
        ensure!(self.process.is_none(), "the agent runs already");
        self.process = Some(Process::start(&mut command, &self.directory.join("agent.log"))?);
        let ready = wait_until("the agent to be ready", PATIENCE, || {
            self.require_alive()?;
            let error = self.status()?.datapath.apply_error;
            let as_expected = match lacking {
                None => error.is_none(),
                Some(words) => error.as_ref().is_some_and(|error| error.contains(words)),
            };
            ensure!(as_expected, "{error:?}");
            Ok(())
        });
        ready.map(drop).map_err(|error| error.context(self.last_output()))
    }

    /// Runs the agent where it is expected to give up, and returns what it said.
    ///
    /// # Errors
    /// When it does not end by itself.
    pub fn run_to_end(&self) -> Result<Finished> {
        Finished::of(&mut self.run_command()?, &self.directory.join("refused.log"))
    }

    /// The command that runs the agent in the foreground.
    ///
    /// # Errors
    /// When the binary is not built.
    pub fn run_command(&self) -> Result<Command> {
        let mut command = self.command()?;
        command.arg("run").arg("--config").arg(self.configuration_file());
        Ok(command)
    }

    /// SIGKILL: a crash. The data plane stays.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM: an orderly end. The data plane stays.
    ///
    /// # Errors
    /// When it does not end in time, or not well.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the agent does not run")?;
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(PATIENCE)?;
        ensure!(status.success(), "the agent ended with {status}; {}", process.last_output());
        Ok(())
    }

    /// Sends a signal to the running agent.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("the agent does not run")?.signal(signal)
    }

    /// Runs `pointsman ARGUMENTS` against this agent's socket.
    ///
    /// # Errors
    /// When it can not be started.
    pub fn cli(&self, arguments: &[&str]) -> Result<Finished> {
        let output = self
            .command()?
            .args(arguments)
            .arg("--socket")
            .arg(self.socket())
            .output()
            .context("start the command line")?;
        Ok(Finished::from(output))
    }

    /// Runs `pointsman ARGUMENTS` and returns its standard output.
    ///
    /// # Errors
    /// When it exits with anything but 0; the error holds what it printed.
    pub fn cli_good(&self, arguments: &[&str]) -> Result<String> {
        let finished = self.cli(arguments)?;
        ensure!(finished.code == Some(0), "pointsman {arguments:?} failed: {finished:?}");
        Ok(finished.stdout)
    }

    /// `pointsman status --json`.
    ///
    /// # Errors
    /// When the agent does not answer or the answer is not as documented.
    pub fn status(&self) -> Result<StatusView> {
        serde_json::from_str(&self.cli_good(&["status", "--json"])?).context("read the status")
    }

    /// What the agent knows of one server.
    ///
    /// # Errors
    /// When there is no such server.
    pub fn server(&self, backend: &str, server: &str) -> Result<ServerView> {
        let backends = self.status()?.backends;
        let found = backends.into_iter().find(|view| view.name == backend);
        let servers = found.with_context(|| format!("no backend {backend}"))?.servers;
        let found = servers.into_iter().find(|view| view.name == server);
        found.with_context(|| format!("no server {server}"))
    }

    /// Waits until a server is in a state, in every backend that has it.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn wait_for_state(&self, server: &str, state: ServerState) -> Result<Duration> {
        let what = format!("{server} to be {state:?}");
        let ((), elapsed) = wait_until(&what, PATIENCE, || {
            for backend in self.status()?.backends {
                for view in backend.servers.iter().filter(|view| view.name == server) {
                    ensure!(view.state == state, "{}/{server} is {view:?}", backend.name);
                }
            }
            Ok(())
        })?;
        Ok(elapsed)
    }

    /// Waits until one server is in a state.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn wait_for_server(&self, backend: &str, server: &str, state: ServerState) -> Result<()> {
        let what = format!("{backend}/{server} to be {state:?}");
        let waited = wait_until(&what, PATIENCE, || {
            let view = self.server(backend, server)?;
            ensure!(view.state == state, "it is {view:?}");
            Ok(())
        });
        waited.map(drop)
    }

    /// `pointsman reload`, expected to be taken.
    ///
    /// # Errors
    /// When it is refused.
    pub fn reload(&self) -> Result<()> {
        self.cli_good(&["reload"]).map(drop)
    }

    /// Everything the agent printed since it was installed.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("agent.log")).unwrap_or_default()
    }

    /// Fails if the agent has ended.
    ///
    /// # Errors
    /// Its exit status and last output.
    pub fn require_alive(&mut self) -> Result<()> {
        let process = self.process.as_mut().context("the agent does not run")?;
        match process.ended()? {
            None => Ok(()),
            Some(status) => bail!("the agent ended with {status}"),
        }
    }

    fn last_output(&self) -> String {
        self.process.as_ref().map_or_else(String::new, Process::last_output)
    }

    fn command(&self) -> Result<Command> {
        let binary = binary()?;
        let path = binary.to_str().with_context(|| format!("{} is not UTF-8", binary.display()))?;
        Ok(self.bed.balancer.command(path))
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        self.kill();
        if self.report {
            note(format_args!("--- output of the agent ---\n{}", self.log()));
        }
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Runs a command to its end; both outputs end up in `stderr`.
    fn of(command: &mut Command, log: &Path) -> Result<Self> {
        // A fresh file, so that only this run's words are in it.
        let _ = fs::remove_file(log);
        let mut process = Process::start(command, log)?;
        let status = process.wait(PATIENCE).map_err(|error| anyhow!("{command:?}: {error:#}"))?;
        Ok(Self { code: status.code(), stdout: String::new(), stderr: process.output() })
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The agent's binary: `POINTSMAN_BINARY`, or the one next to this program's own
/// directory of the same profile (`cargo build -p lb-userspace` puts it there).
///
/// # Errors
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("POINTSMAN_BINARY") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("find this program")?;
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join("pointsman")).find(|path| {
        fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 1 == 1)
    });
    found.with_context(|| {
        format!("no pointsman binary near {}: run cargo build -p lb-userspace", own.display())
    })
}
