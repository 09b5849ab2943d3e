//! HTTP/2 as httpwg has it (the cases of h2spec, and more), against the proxy with nginx
//! behind it. Cases that the proxy does not pass are named in docs/http2-conformance.md,
//! with why; one that is named there and passes is a failure, too, unless it is up to timing.

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use testbed::{
    agent::binary,
    loopback::free,
    process::{Process, wait_until},
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a case waits for a frame that is due, or makes sure that none comes.
const FRAME_MS: &str = "2000";

const EXCEPTIONS: &str = include_str!("../../docs/http2-conformance.md");

fn started(directory: &Path, name: &str, command: &mut Command, at: SocketAddr) -> Result<Process> {
    let mut process = Process::start(command, &directory.join(format!("{name}.log")))?;
    wait_until("connections are taken", PATIENCE, || {
        ensure!(process.ended()?.is_none(), "{name} ended: {}", process.last_output());
        Ok(TcpStream::connect(at)?)
    })?;
    Ok(process)
}

fn nginx(directory: &Path, address: SocketAddr) -> Result<Process> {
    let root = directory.display();
    let file = directory.join("nginx.conf");
    fs::write(
        &file,
        format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
             events {{}}\nhttp {{ access_log off; client_body_temp_path {root}/tmp;\n\
             server {{ listen {address}; client_max_body_size 0; location / {{ return 200 well; }} }} }}\n"
        ),
    )?;
    let mut command = Command::new("nginx");
    command.args(["-p", &root.to_string(), "-e", "error.log", "-c"]).arg(file);
    started(directory, "nginx", &mut command, address)
}

fn agent(directory: &Path, address: SocketAddr, server: SocketAddr) -> Result<Process> {
    let file = directory.join("pointsman.yaml");
    let socket = directory.join("admin.sock");
    fs::write(
        &file,
        format!(
            "datapath: {{mode: off}}\nadmin: {{socket: {}}}\n\
             frontends: {{web: {{mode: http, bind: [\"{address}\"], backend: app}}}}\n\
             backends: {{app: {{servers: {{s1: \"{server}\"}}}}}}\n",
            socket.display()
        ),
    )?;
    let mut command = Command::new(binary()?);
    command.arg("run").arg("--config").arg(file);
    started(directory, "agent", &mut command, address)
}

/// Cases between backticks in the rows of the page's table that begin with `mark`.
fn exceptions(mark: &str) -> BTreeSet<&'static str> {
    EXCEPTIONS.lines().filter_map(|line| line.strip_prefix(mark)?.split('`').next()).collect()
}

#[test]
fn every_case_passes_or_is_an_exception_with_a_reason() -> Result<()> {
    let directory = TempDir::with_prefix("pointsman-http2-")?;
    let (server, address) = (free()?, free()?);
    let _nginx = nginx(directory.path(), server)?;
    let _agent = agent(directory.path(), address, server)?;
    let output = Command::new("httpwg")
        .args(["--address", &address.to_string()])
        .args(["--connect-timeout", "5000", "--frame-timeout", FRAME_MS])
        .output()
        .context("httpwg is missing: `cargo xtask setup test` installs it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let cases = |mark: &str| {
        let lines = said.lines().filter_map(|line| line.split_once(mark));
        lines.map(|(_, case)| case.trim()).collect::<BTreeSet<&str>>()
    };
    let (passed, failed) = (cases("Test passed: "), cases("Test failed: "));
    ensure!(passed.len() + failed.len() > 90, "not all cases were run: {said}");
    let timing = exceptions("| now and then: `");
    let certain: BTreeSet<&str> = failed.difference(&timing).copied().collect();
    ensure!(certain == exceptions("| `"), "failed: {failed:#?}\nof {}; {said}", passed.len());
    Ok(())
}
