//! `--keep`: says how to look inside, waits, and is ended by Ctrl-C or `--stop`.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::Interruption;
use crate::{
    agent::{self, Agent},
    bed::{Bed, Family},
    process::wait_until,
    report::note,
};

/// Holds the process id of the demo that was left running.
const PID_FILE: &str = "/run/pointsman-demo.pid";
/// Names another file, so that a test leaves a user's demo alone.
const PID_FILE_VARIABLE: &str = "POINTSMAN_DEMO_PID_FILE";

/// Prints what can be tried and waits for a signal. `requests` are commands for the
/// client's namespace.
pub(super) fn keep(
    bed: &Bed,
    agent: &Agent<'_>,
    requests: &[String],
    interruption: &Interruption,
) -> Result<()> {
    let pid_file = pid_file();
    fs::write(&pid_file, std::process::id().to_string())
        .with_context(|| format!("write {}", pid_file.display()))?;
    let pins = agent.pin_directory().display();
    let socket = agent.socket();
    let socket = socket.display();
    let binary = agent::binary()?;
    let (binary, client, balancer) = (binary.display(), bed.client.path(), bed.balancer.path());
    let server = bed.server(0)?;
    note("\nEverything keeps running. In another terminal, as root:\n");
    let commands = |title: &str, lines: &[String]| {
        note(format_args!("  {title}"));
        lines.iter().for_each(|line| note(format_args!("    {line}")));
    };
    let inside = |command: &String| format!("nsenter --net={} {command}", client.display());
    commands("be a client", &requests.iter().map(inside).collect::<Vec<_>>());
    let ask = |command: &str| format!("{binary} {command} --socket {socket}");
    commands("ask the agent", &["status", "flows", "drops"].map(ask));
    let admin = format!("curl -s --unix-socket {socket} http://localhost/v1/status");
    commands("the same over HTTP", &[admin]);
    commands(
        "look at the kernel's side",
        &[
            format!("bpftool map dump pinned {pins}/SERVERS | less"),
            format!("bpftool map dump pinned {pins}/FLOWS4 | less"),
            format!("nsenter --net={} bpftool net show", balancer.display()),
        ],
    );
    commands(
        "take server s0 away, and give it back",
        &[
            format!("ip -n {} link set eth0 down", server.name()),
            format!("ip -n {} link set eth0 up", server.name()),
        ],
    );
    commands("read the access log", &[format!("tail -f {}", agent.access_log().display())]);
    commands("configuration", &[agent.configuration_file().display().to_string()]);
    note("\nCtrl-C here, or cargo xtask demo --stop, ends it and cleans up.");
    interruption.wait();
    // Gone already: nothing is lost.
    let _ = fs::remove_file(&pid_file);
    note("\nCleaning up.");
    Ok(())
}

/// The VIP's address as it stands in a URL.
pub(super) fn url(family: Family) -> String {
    format!("http://{}/", Bed::vip(family, 80))
}

/// Fails if a demo was left running: `--stop` could end only one of the two.
///
/// # Errors
/// When there is one.
pub(super) fn require_none() -> Result<()> {
    if let Some(pid) = left_running()? {
        bail!("a demo was left running as process {pid}: cargo xtask demo --stop ends it");
    }
    Ok(())
}

/// Ends the demo that was left running.
///
/// # Errors
/// When there is none, or it does not end.
pub fn stop() -> Result<()> {
    let pid = left_running()?.context("no demo was left running")?;
    kill(pid, Signal::SIGTERM).context("end the demo")?;
    wait_until("the demo to end", Duration::from_secs(20), || {
        ensure!(!is_demo(pid), "it is still running");
        Ok(())
    })?;
    note("The demo has ended.");
    Ok(())
}

/// The demo that was left running and still is.
fn left_running() -> Result<Option<Pid>> {
    let file = pid_file();
    let Ok(text) = fs::read_to_string(&file) else { return Ok(None) };
    let pid = text.trim().parse().with_context(|| format!("read {}", file.display()))?;
    let pid = Pid::from_raw(pid);
    Ok(is_demo(pid).then_some(pid))
}

/// Whether a process runs and is a demo: its number may belong to somebody else by now, or to
/// one that has ended and whose parent has not asked yet.
fn is_demo(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.contains("(demo) ") && !status.contains("(demo) Z")
}

fn pid_file() -> PathBuf {
    std::env::var_os(PID_FILE_VARIABLE).map_or_else(|| PID_FILE.into(), PathBuf::from)
}
