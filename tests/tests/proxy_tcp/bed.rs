//! An agent on loopback without a data plane, and how to talk to it.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use testbed::{
    agent::binary,
    process::{Process, wait_until},
};

use crate::authority::Authority;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory, an authority in it, and an agent once it is started.
pub(crate) struct Bed {
    pub(crate) directory: TempDir,
    pub(crate) authority: Authority,
    agent: Option<Process>,
    others: Vec<Process>,
}

impl Bed {
    pub(crate) fn new() -> Result<Self> {
        let directory = TempDir::with_prefix("pointsman-tcp-")?;
        let authority = Authority::new(directory.path())?;
        Ok(Self { directory, authority, agent: None, others: Vec::new() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration: `sections` and what every agent here has.
    pub(crate) fn configure(&self, sections: &str) -> Result<()> {
        let directory = self.directory.path().display();
        let text = format!(
            "datapath: {{mode: off}}\n\
             admin: {{socket: {directory}/admin.sock}}\n\
             log: {{access: {{target: {directory}/access.log, format: json}}}}\n\
             {sections}"
        );
        fs::write(self.path("pointsman.yaml"), text).context("write the configuration")
    }

    /// Starts an agent and waits until it is ready.
    pub(crate) fn start(&mut self, sections: &str) -> Result<()> {
        self.configure(sections)?;
        let mut command = Command::new(binary()?);
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

    /// Another process that lives as long as the bed, once it takes connections.
    pub(crate) fn beside(&mut self, command: &mut Command, address: SocketAddr) -> Result<()> {
        let log = self.path(&format!("other-{}.log", self.others.len()));
        let mut process = Process::start(command, &log)?;
        wait_until("a server takes connections", PATIENCE, || {
            ensure!(process.ended()?.is_none(), "it ended: {}", process.last_output());
            Ok(TcpStream::connect(address)?)
        })?;
        self.others.push(process);
        Ok(())
    }

    /// nginx with this `server` section, TLS and PROXY headers as it says.
    pub(crate) fn nginx(&mut self, listen: SocketAddr, server: &str) -> Result<()> {
        let directory = self.path(&format!("nginx-{}", listen.port()));
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
        self.beside(&mut command, listen)
    }

    /// A command of pointsman's to the agent.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("--socket").arg(self.path("admin.sock"));
        succeed(&mut command)
    }

    /// What the agent has said.
    pub(crate) fn said(&self) -> String {
        self.agent.as_ref().map(Process::output).unwrap_or_default()
    }

    /// The lines of the access log, once there are `count` of them.
    pub(crate) fn log(&self, count: usize) -> Result<Vec<serde_json::Value>> {
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
pub(crate) fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Runs a command that has to succeed; what it printed.
pub(crate) fn succeed(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let said = said(&output);
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    Ok(said)
}

/// Everything a command printed.
pub(crate) fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

/// A server that greets each connection with a text and then sends back what it gets.
pub(crate) fn greeter(text: &'static str) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
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
pub(crate) fn herald(text: &'static str) -> Result<SocketAddr> {
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
pub(crate) fn greeting(address: SocketAddr, length: usize) -> Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = vec![0; length];
    stream.read_exact(&mut text)?;
    Ok((stream, String::from_utf8(text)?))
}

/// Lets a socket live through exec(2); its number.
pub(crate) fn inheritable(listener: &TcpListener) -> Result<i32> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(listener, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(listener.as_raw_fd())
}

/// A path as text.
pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}
