//! An agent on loopback without a data plane, and who is around it. Needs no privilege.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::Signal,
    unistd::{Gid, Uid, chown, geteuid},
};
use pointsman::admin::api::StatusView;
use tempfile::TempDir;

use crate::{
    agent::binary,
    ports,
    process::{Process, wait_until},
};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Who owns nothing.
const NOBODY: u32 = 65_534;

/// A directory, and an agent once it is started.
#[derive(Debug)]
pub struct Loopback {
    /// For whatever is needed; gone in the end.
    pub directory: TempDir,
    /// What the configuration says of the access log; `access.log` in JSON at first.
    pub access_log: String,
    /// What `datapath` has besides its mode, `, KEY: VALUE`.
    pub datapath: String,
    /// What the agent's command line is preceded by.
    runner: Vec<String>,
    agent: Option<Process>,
    others: Vec<Process>,
}

impl Loopback {
    /// Starts nothing.
    ///
    /// # Errors
    /// When there is no place for the directory.
    pub fn new() -> Result<Self> {
        let directory = TempDir::with_prefix("pointsman-")?;
        let log = directory.path().join("access.log");
        let access_log = format!("{{target: {}, format: json}}", log.display());
        Ok(Self {
            directory,
            access_log,
            datapath: String::new(),
            runner: Vec::new(),
            agent: None,
            others: Vec::new(),
        })
    }

    /// The same for an agent that is nobody and has no capability, if this process is root;
    /// else it has what this process has.
    ///
    /// # Errors
    /// When the directory can not be given away, or the binary not be copied to where
    /// nobody can run it.
    pub fn unprivileged() -> Result<Self> {
        let mut place = Self::new()?;
        if !geteuid().is_root() {
            return Ok(place);
        }
        // By a process of its own: a file that this one has open for writing, children that
        // are started meanwhile have open, too, and then it can not be run (ETXTBSY).
        succeed(Command::new("cp").arg(binary()?).arg(place.path("pointsman")))?;
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        chown(place.directory.path(), Some(user), Some(group))?;
        let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
        let nothing = ["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
        let runner = ["setpriv", &user, &group].into_iter().chain(nothing);
        place.runner = runner.map(str::to_owned).collect();
        Ok(place)
    }

    /// A place in the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration: `sections` and what every agent here has.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn configure(&self, sections: &str) -> Result<()> {
        let directory = self.directory.path().display();
        let text = format!(
            "datapath: {{mode: off{}}}\n\
             admin: {{socket: {directory}/admin.sock}}\n\
             log: {{access: {}}}\n\
             {sections}",
            self.datapath, self.access_log
        );
        fs::write(self.path("pointsman.yaml"), text).context("write the configuration")
    }

    /// Starts an agent and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get there; the error has what it said.
    pub fn start(&mut self, sections: &str) -> Result<()> {
        self.configure(sections)?;
        let mut command = match self.runner.split_first() {
            None => Command::new(binary()?),
            Some((runner, arguments)) => {
                let mut command = Command::new(runner);
                command.args(arguments).arg(self.path("pointsman"));
                command
            }
        };
        command.arg("run").arg("--config").arg(self.path("pointsman.yaml"));
        let mut agent = Process::start(&mut command, &self.path("agent.log"))?;
        wait_until("the agent is ready", PATIENCE, || {
            ensure!(agent.ended()?.is_none(), "the agent ended: {}", agent.last_output());
            ensure!(agent.output().contains("ready"), "not yet: {}", agent.last_output());
            Ok(())
        })?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Ends the agent, and starts another.
    ///
    /// # Errors
    /// When it does not end, or the other does not start.
    pub fn restart(&mut self, sections: &str) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        if let Some(agent) = &mut self.agent {
            wait_until("the agent ends", PATIENCE, || agent.ended()?.context("not yet"))?;
        }
        // Whether the next one is ready is read there, too.
        fs::rename(self.path("agent.log"), self.path("agent-before.log"))?;
        self.start(sections)
    }

    /// Takes another configuration.
    ///
    /// # Errors
    /// When it is refused.
    pub fn reload(&self, sections: &str) -> Result<()> {
        self.configure(sections)?;
        self.command(&["reload"]).map(drop)
    }

    /// Sends a signal to the agent.
    ///
    /// # Errors
    /// When there is none.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal)
    }

    /// Resident memory of the agent, KiB.
    ///
    /// # Errors
    /// When there is none.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = self.process_file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).context("no VmRSS of the agent")
    }

    /// `pointsman status --json`.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status(&self) -> Result<StatusView> {
        serde_json::from_str(&self.command(&["status", "--json"])?).context("read the status")
    }

    /// `/proc/PID/NAME` of the agent.
    ///
    /// # Errors
    /// When there is none.
    pub fn process_file(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(format!("/proc/{}/{name}", self.running()?.pid()?))?)
    }

    /// `pointsman doctor` for the configuration.
    ///
    /// # Errors
    /// When it finds a problem.
    pub fn doctor(&self) -> Result<String> {
        let mut command = Command::new(binary()?);
        succeed(command.arg("doctor").arg("--config").arg(self.path("pointsman.yaml")))
    }

    /// What `pointsman check` has to say against the configuration.
    ///
    /// # Errors
    /// When it has nothing.
    pub fn check(&self) -> Result<String> {
        let mut command = Command::new(binary()?);
        let output = command.arg("check").arg(self.path("pointsman.yaml")).output()?;
        ensure!(output.status.code() == Some(1), "{}: {}", output.status, said(&output));
        Ok(said(&output))
    }

    fn running(&self) -> Result<&Process> {
        self.agent.as_ref().context("the agent does not run")
    }

    /// Another process that lives as long as the bed, once it takes connections.
    ///
    /// # Errors
    /// When it ends or takes none in time.
    pub fn beside(&mut self, command: &mut Command, address: SocketAddr) -> Result<()> {
        self.beside_once(command, || Ok(TcpStream::connect(address)?)).map(drop)
    }

    /// The same, once `is_ready` says so; its number among these processes.
    ///
    /// # Errors
    /// When it ends or does not get ready in time.
    pub fn beside_once<T>(
        &mut self,
        command: &mut Command,
        mut is_ready: impl FnMut() -> Result<T>,
    ) -> Result<usize> {
        let log = self.path(&format!("other-{}.log", self.others.len()));
        let mut process = Process::start(command, &log)?;
        wait_until("a server takes connections", PATIENCE, || {
            ensure!(process.ended()?.is_none(), "it ended: {}", process.last_output());
            is_ready()
        })?;
        self.others.push(process);
        Ok(self.others.len() - 1)
    }

    /// Sends a signal to a process beside the agent.
    ///
    /// # Errors
    /// When there is none of this number.
    pub fn signal_beside(&self, number: usize, signal: Signal) -> Result<()> {
        self.others.get(number).context("no such process")?.signal(signal)
    }

    /// nginx with this `server` section, TLS and PROXY headers as it says.
    ///
    /// # Errors
    /// When it does not start.
    pub fn nginx(&mut self, listen: SocketAddr, server: &str) -> Result<()> {
        let mut command = self.nginx_command(&listen.port().to_string(), server)?;
        self.beside(&mut command, listen)
    }

    /// The command that starts it; `name` tells several apart.
    ///
    /// # Errors
    /// When its files can not be written.
    pub fn nginx_command(&self, name: &str, server: &str) -> Result<Command> {
        let directory = self.path(&format!("nginx-{name}"));
        fs::create_dir(&directory)?;
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};", directory.display()));
        let text = format!(
            "daemon off; master_process off; pid {0}/pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; {1}\n server {{ {server} }} }}\n",
            directory.display(),
            temporary.join(" ")
        );
        let file = directory.join("nginx.conf");
        fs::write(&file, text)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&directory).arg("-c").arg(&file).args(["-e", "stderr"]);
        Ok(command)
    }

    /// A command of pointsman's to the agent.
    ///
    /// # Errors
    /// When it fails.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("--socket").arg(self.path("admin.sock"));
        succeed(&mut command)
    }

    /// What the agent has said.
    #[must_use]
    pub fn said(&self) -> String {
        self.agent.as_ref().map(Process::output).unwrap_or_default()
    }

    /// The lines of the access log, once there are `count` of them.
    ///
    /// # Errors
    /// When they do not come.
    pub fn log(&self, count: usize) -> Result<Vec<serde_json::Value>> {
        let read = || {
            let text = fs::read_to_string(self.path("access.log")).unwrap_or_default();
            let lines: Vec<_> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
            ensure!(lines.len() >= count, "{} lines of {count}: {text}", lines.len());
            Ok(lines)
        };
        Ok(wait_until("sessions are logged", PATIENCE, read)?.0)
    }
}

/// A port nobody listens on, for a server that is told where to.
///
/// # Errors
/// When there is none.
pub fn free() -> Result<SocketAddr> {
    Ok(ports::free(Ipv4Addr::LOCALHOST.into()))
}

/// Runs a command that has to succeed; what it printed.
///
/// # Errors
/// When it fails.
pub fn succeed(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let said = said(&output);
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    Ok(said)
}

/// Everything a command printed.
#[must_use]
pub fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

/// A server that greets each connection with a text and then sends back what it gets.
///
/// # Errors
/// When it can not listen.
pub fn greeter(text: &'static str) -> Result<SocketAddr> {
    greeter_on(text, Ipv4Addr::LOCALHOST.into())
}

/// The same at another address of this host.
///
/// # Errors
/// When it can not listen.
pub fn greeter_on(text: &'static str, host: IpAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind((host, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                if stream.write_all(text.as_bytes()).is_ok() {
                    let _ = std::io::copy(&mut stream.try_clone()?, &mut stream);
                }
                std::io::Result::Ok(())
            });
        }
    });
    Ok(address)
}

/// A server that greets each connection with a text and has no more to say.
///
/// # Errors
/// When it can not listen.
pub fn herald(text: &'static str) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                stream.write_all(text.as_bytes())?;
                stream.shutdown(Shutdown::Write)?;
                std::io::copy(&mut stream, &mut std::io::sink())
            });
        }
    });
    Ok(address)
}

/// What a client is greeted with.
///
/// # Errors
/// When it is not.
pub fn greeting(address: SocketAddr, length: usize) -> Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = vec![0; length];
    stream.read_exact(&mut text)?;
    Ok((stream, String::from_utf8(text)?))
}

/// Lets a socket live through exec(2); its number.
///
/// # Errors
/// When the kernel refuses.
pub fn inheritable(listener: &TcpListener) -> Result<i32> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(listener, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(listener.as_raw_fd())
}

/// A path as text.
#[must_use]
pub fn text(path: &Path) -> String {
    path.display().to_string()
}
