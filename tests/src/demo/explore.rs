//! `--keep`: says how to look inside, waits, and is ended by Ctrl-C or `--stop`.

use std::{fs, path::Path, time::Duration};

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

/// Process id of the demo that was left running.
const PID_FILE: &str = "/run/pointsman-demo.pid";

/// Prints what can be tried and waits for a signal. `requests` are commands for the
/// client's namespace.
pub(super) fn keep(
    bed: &Bed,
    agent: &Agent<'_>,
    requests: &[String],
    interruption: &Interruption,
) -> Result<()> {
    fs::write(PID_FILE, std::process::id().to_string()).context("write the process id")?;
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
    // Somebody else's, or gone: nothing of ours is lost.
    let _ = fs::remove_file(PID_FILE);
    note("\nCleaning up.");
    Ok(())
}

/// The VIP's address as it stands in a URL.
pub(super) fn url(family: Family) -> String {
    format!("http://{}/", Bed::vip(family, 80))
}

/// Ends the demo that was left running.
///
/// # Errors
/// When there is none, or it does not end.
pub fn stop() -> Result<()> {
    let Ok(text) = fs::read_to_string(PID_FILE) else { bail!("no demo was left running") };
    let pid: i32 = text.trim().parse().with_context(|| format!("read {PID_FILE}"))?;
    let process = Path::new("/proc").join(pid.to_string());
    // The number may belong to somebody else by now.
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    if name.trim() != "demo" {
        fs::remove_file(PID_FILE).context("remove the stale process id")?;
        bail!("the demo that was left running has ended already");
    }
    kill(Pid::from_raw(pid), Signal::SIGTERM).context("end the demo")?;
    wait_until("the demo to end", Duration::from_secs(20), || {
        ensure!(!process.exists(), "it is still running");
        Ok(())
    })?;
    note("The demo has ended.");
    Ok(())
}
