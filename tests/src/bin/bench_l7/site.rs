//! Where everything happens: a network namespace with a loopback interface, a directory,
//! a certificate, and the server behind the proxy.

use std::{
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};
use tempfile::TempDir;
use testbed::{
    bench::nginx,
    namespace::{Namespace, output},
    process::Process,
};

/// The name in the certificate.
pub(crate) const HOST: &str = "bench.test";

/// The processor of the proxy.
const PROXY_PROCESSOR: usize = 0;
/// The processor of everything else.
const OTHER_PROCESSOR: usize = 1;

/// Open files of each process: idle connections and some.
const DESCRIPTORS: u64 = 12_000;

/// Where the server answers.
pub(crate) const SERVER: SocketAddr = local(8000);
/// Where the proxy answers HTTP.
pub(crate) const HTTP: SocketAddr = local(8080);
/// Where the proxy answers TCP, which is HTTP too.
pub(crate) const TCP: SocketAddr = local(8090);
/// Where the proxy answers HTTPS, with HTTP/2.
pub(crate) const HTTPS: SocketAddr = local(8443);

const fn local(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// Where everything happens.
#[derive(Debug)]
pub(crate) struct Site {
    // In this order: the server goes before what it runs in.
    _server: Process,
    pub(crate) namespace: Namespace,
    directory: TempDir,
}

impl Site {
    /// Makes it. This process moves to the processor that is not the proxy's.
    ///
    /// # Errors
    /// Without root, with fewer than two processors, or when nginx or openssl fails.
    pub(crate) fn new() -> Result<Self> {
        let mut others = CpuSet::new();
        others.set(OTHER_PROCESSOR)?;
        sched_setaffinity(Pid::from_raw(0), &others).context("two processors are needed")?;
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        ensure!(most >= DESCRIPTORS, "{DESCRIPTORS} open files are needed, {most} are allowed");
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;

        let namespace = Namespace::create("l7")?;
        // Ten thousand idle connections, and those before them that are not forgotten yet.
        output(namespace.command("sysctl").args([
            "-q",
            "-w",
            "net.ipv4.ip_local_port_range=10000 65535",
        ]))?;
        let directory = TempDir::new().context("make a directory")?;
        let wrap = |program: &str| namespace.command(program);
        let server = nginx::start(&namespace, wrap, SERVER, &directory.path().join("server"))?;
        certify(directory.path())?;
        Ok(Self { _server: server, namespace, directory })
    }

    /// A directory for one turn of a contender, empty.
    ///
    /// # Errors
    /// When it can not be made.
    pub(crate) fn turn_directory(&self) -> Result<PathBuf> {
        let directory = self.directory.path().join("turn");
        if directory.exists() {
            fs::remove_dir_all(&directory).context("clear the last turn's directory")?;
        }
        fs::create_dir(&directory).context("make a directory")?;
        Ok(directory)
    }

    /// A file of certificate and key, PEM.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.path().join("site.pem")
    }

    /// A file that goes with the site.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command that will run inside, on the proxy's processor, as the process itself.
    pub(crate) fn proxy_command(
        &self,
        program: impl AsRef<OsStr>,
        arguments: &[&OsStr],
    ) -> Command {
        let mut command = self.namespace.command("taskset");
        command.args(["--cpu-list", &PROXY_PROCESSOR.to_string()]);
        command.arg(program).args(arguments);
        command
    }
}

/// A self-signed certificate of P-256.
fn certify(directory: &Path) -> Result<()> {
    let (key, certificate) = (directory.join("key.pem"), directory.join("cert.pem"));
    output(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "7", "-subj", &format!("/CN={HOST}")])
            .args(["-addext", &format!("subjectAltName=DNS:{HOST}")])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    )?;
    let both = [fs::read(&certificate)?, fs::read(&key)?].concat();
    fs::write(directory.join("site.pem"), both).context("write certificate and key")
}
