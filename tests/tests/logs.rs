//! The access log end to end: rotation, syslog, templates, targets that do not open. And the
//! agent's own log in the journal. On loopback; a fake journal, and a filesystem that does not
//! answer, need mounts.

use std::{
    fs::{self, File, OpenOptions},
    net::{TcpListener, UdpSocket},
    os::{fd::AsRawFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};
use testbed::{
    loopback::{Loopback, PATIENCE, free, text},
    namespace::require_root,
    process::{Process, wait_until},
    web::{WebClient, server},
};

/// A request with a header that has to be escaped; how long it took.
fn get(client: &mut WebClient, path: &str) -> Result<Duration> {
    Ok(client.get(path, "user-agent: \"t\"\r\n")?.1)
}

/// An agent with one frontend and this access log, and a client of it.
fn start(place: &mut Loopback, access_log: String) -> Result<WebClient> {
    Ok(start_with(place, access_log)?.0)
}

/// The same, and what it was configured with.
fn start_with(place: &mut Loopback, access_log: String) -> Result<(WebClient, String)> {
    let (front, server) = (free()?, server("ok")?);
    place.access_log = access_log;
    let sections = format!(
        "frontends: {{web: {{mode: http, bind: [\"{front}\"], backend: app}}}}\n\
         backends: {{app: {{servers: {{s1: \"{server}\"}}}}}}\n"
    );
    place.start(&sections)?;
    Ok((WebClient::connect(front)?, sections))
}

/// A filesystem (fuse(4)) that never answers: whoever opens anything in it waits. When it is
/// dropped it is gone, and whoever waited is told so.
struct Mute {
    at: PathBuf,
    _server: File,
}

impl Mute {
    fn mount(at: PathBuf) -> Result<Self> {
        fs::create_dir(&at)?;
        let server = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        mount(Some("mute"), &at, Some("fuse"), MsFlags::empty(), Some(&*options))
            .context("mount a filesystem that does not answer")?;
        Ok(Self { at, _server: server })
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        // What can not be unmounted ends with its server all the same.
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

#[test]
fn sigusr1_opens_a_file_again_and_no_line_is_lost() -> Result<()> {
    let mut place = Loopback::new()?;
    let (path, rotated) = (place.path("a.log"), place.path("a.log.1"));
    let log = format!("{{target: {}, template: {{http: \"${{request.uri}}\"}}}}", text(&path));
    let mut client = start(&mut place, log)?;
    for number in 0..200 {
        if number == 100 {
            // What is still on its way may go to either file.
            fs::rename(&path, &rotated)?;
            place.signal(Signal::SIGUSR1)?;
        }
        get(&mut client, &format!("/{number}"))?;
    }
    wait_until("both files have their lines", PATIENCE, || {
        let old = fs::read_to_string(&rotated)?;
        let new = fs::read_to_string(&path)?;
        ensure!(!new.is_empty(), "the new file is empty");
        let all: Vec<_> = old.lines().chain(new.lines()).map(str::to_owned).collect();
        let expected: Vec<_> = (0..200).map(|number| format!("/{number}")).collect();
        ensure!(all == expected, "{all:?}");
        Ok(())
    })?;
    let log = place.status()?.agent.access_log;
    ensure!(log.is_some_and(|log| (log.written, log.lost) == (200, 0)), "{log:?}");
    Ok(())
}

#[test]
fn lines_reach_syslog_daemons_in_the_users_form() -> Result<()> {
    let mut place = Loopback::new()?;
    let path = place.path("log.sock");
    let daemon = UnixDatagram::bind(&path)?;
    daemon.set_read_timeout(Some(PATIENCE))?;
    let template = "template: {http: \"${request.header.user-agent} ${response.header.server} \
                    ${response.status} ${rule}\"}";
    let log = format!(
        "{{target: unix@{}, {template}, syslog: {{facility: local1, hostname: h}}}}",
        text(&path)
    );
    let mut client = start(&mut place, log)?;
    get(&mut client, "/")?;
    let mut buffer = [0; 2000];
    let length = daemon.recv(&mut buffer)?;
    let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
    ensure!(message.starts_with("<142>1 ") && message.contains(" h pointsman "), "{message}");
    ensure!(message.ends_with(" access - %22t%22 s 200 -"), "{message}");
    Ok(())
}

#[test]
fn a_syslog_daemon_that_is_dead_or_clogged_slows_no_request() -> Result<()> {
    // One listens and never reads, another is not there.
    let clogged = TcpListener::bind("127.0.0.1:0")?;
    let dead = free()?;
    let gone = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let targets =
        [format!("tcp@{}", clogged.local_addr()?), format!("tcp@{dead}"), format!("udp@{gone}")];
    for target in targets {
        let mut place = Loopback::new()?;
        let mut client = start(&mut place, format!("{{target: \"{target}\", format: json}}"))?;
        let long = format!("/{}", "x".repeat(6000));
        let mut slow = 0;
        for _ in 0..2000 {
            // Half of what a daemon is waited for.
            slow += u32::from(get(&mut client, &long)? > Duration::from_millis(250));
        }
        ensure!(slow < 3, "{slow} requests were slow with {target}");
        wait_until("every line is written or lost", PATIENCE, || {
            let log = place.status()?.agent.access_log;
            let done = log.map_or(0, |log| log.written + log.lost);
            ensure!(done == 2000, "{log:?}");
            ensure!(log.is_some_and(|log| log.lost > 100), "{log:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// An agent that logs to the journal, where `/run` is empty but for what is in `run`. The
/// mounts are its own and go with it.
fn with_a_run_directory_of_its_own(place: &Loopback, run: &Path) -> Result<Command> {
    let front = free()?;
    let sections = format!(
        "datapath: {{mode: off}}\n\
         admin: {{socket: {}}}\n\
         log: {{target: journald}}\n\
         frontends: {{web: {{mode: http, bind: [\"{front}\"], backend: app}}}}\n\
         backends: {{app: {{servers: {{s1: \"127.0.0.1:1\"}}}}}}\n",
        text(&place.path("admin.sock"))
    );
    let configuration = place.path("pointsman.yaml");
    fs::write(&configuration, sections)?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /run && exec \"$@\""]).arg(run);
    command.arg(testbed::agent::binary()?).arg("run").arg("--config").arg(configuration);
    Ok(command)
}

/// The value of a field in a datagram of the journal's native protocol, in either form:
/// `NAME=VALUE`, or the name, the length in eight bytes and the value.
fn field(entry: &[u8], name: &str) -> Option<String> {
    let mut rest = entry;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&rest[..end]).ok()?;
        rest = &rest[end + 1..];
        let (found, value) = if let Some((found, value)) = line.split_once('=') {
            (found, value.to_owned())
        } else {
            let (length, after) = rest.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            rest = after.get(length + 1..)?;
            (line, String::from_utf8_lossy(&after[..length]).into_owned())
        };
        if found == name {
            return Some(value);
        }
    }
    None
}

#[test]
fn the_agents_own_log_reaches_the_journal_with_its_fields() -> Result<()> {
    let place = Loopback::new()?;
    let run = place.path("run");
    fs::create_dir_all(run.join("systemd/journal"))?;
    let journal = UnixDatagram::bind(run.join("systemd/journal/socket"))?;
    journal.set_read_timeout(Some(PATIENCE))?;
    let log = place.path("stderr.log");
    let mut agent = Process::start(&mut with_a_run_directory_of_its_own(&place, &run)?, &log)?;
    let mut buffer = vec![0; 65_536];
    let entry = loop {
        let length = journal.recv(&mut buffer).with_context(|| agent.last_output())?;
        let entry = &buffer[..length];
        if field(entry, "MESSAGE").as_deref() == Some("ready") {
            break entry.to_owned();
        }
    };
    let is = |name: &str, value: &str| -> Result<()> {
        let found = field(&entry, name);
        ensure!(found.as_deref() == Some(value), "{name} is {found:?}");
        Ok(())
    };
    is("SYSLOG_IDENTIFIER", "pointsman")?;
    is("TARGET", "pointsman::app")?;
    // Notice: what `info` is in the journal.
    is("PRIORITY", "5")?;
    agent.signal(Signal::SIGTERM)?;
    ensure!(agent.wait(PATIENCE)?.success(), "{}", agent.last_output());
    ensure!(agent.output().is_empty(), "on standard error too: {}", agent.output());
    Ok(())
}

#[test]
fn a_machine_without_a_journal_is_told_what_to_do() -> Result<()> {
    let place = Loopback::new()?;
    let run = place.path("run");
    fs::create_dir(&run)?;
    let output = with_a_run_directory_of_its_own(&place, &run)?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("set log.target to stderr"), "{said}");
    Ok(())
}

#[test]
fn a_target_that_does_not_open_is_refused_and_holds_nobody_up() -> Result<()> {
    require_root()?;
    let mut place = Loopback::new()?;
    let (old, new) = (place.path("old.log"), place.path("new.log"));
    let log = |path: &PathBuf| format!("{{target: {}, format: json}}", text(path));
    let (mut client, sections) = start_with(&mut place, log(&old))?;
    let mute = Mute::mount(place.path("mute"))?;
    place.access_log = log(&place.path("mute/access.log"));
    let (refused, mut requests, slowest) = thread::scope(|scope| {
        let reload = scope.spawn(|| place.reload(&sections));
        let (mut requests, mut slowest) = (0, Duration::ZERO);
        while !reload.is_finished() {
            slowest = slowest.max(get(&mut client, "/")?);
            requests += 1;
        }
        let refused = reload.join().ok().context("the thread of the reload")?;
        anyhow::Ok((refused, requests, slowest))
    })?;
    let refused = format!("{:#}", refused.expect_err("it can not be opened"));
    ensure!(refused.contains("does not open within"), "{refused}");
    ensure!(slowest < Duration::from_millis(250), "a request took {slowest:?}");
    // The old one is still in force.
    requests += 1;
    get(&mut client, "/")?;
    wait_until("the old log has all lines", PATIENCE, || {
        let lines = fs::read_to_string(&old)?.lines().count();
        ensure!(lines == requests, "{lines} of {requests}");
        Ok(())
    })?;
    drop(mute);
    place.access_log = log(&new);
    place.reload(&sections)?;
    get(&mut client, "/")?;
    wait_until("the new log has the line", PATIENCE, || {
        ensure!(fs::read_to_string(&new)?.lines().count() == 1);
        Ok(())
    })?;
    Ok(())
}
