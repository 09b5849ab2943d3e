//! The access log end to end: rotation, syslog, templates. On loopback, without privilege.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixDatagram,
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use testbed::{
    loopback::{Loopback, PATIENCE, free, text},
    process::wait_until,
    web::{WebClient, server},
};

/// A request with a header that has to be escaped; how long it took.
fn get(client: &mut WebClient, path: &str) -> Result<Duration> {
    Ok(client.get(path, "user-agent: \"t\"\r\n")?.1)
}

/// An agent with one frontend and this access log, and a client of it.
fn start(place: &mut Loopback, access_log: String) -> Result<WebClient> {
    let (front, server) = (free()?, server("ok")?);
    place.access_log = access_log;
    place.start(&format!(
        "frontends: {{web: {{mode: http, bind: [\"{front}\"], backend: app}}}}\n\
         backends: {{app: {{servers: {{s1: \"{server}\"}}}}}}\n"
    ))?;
    WebClient::connect(front)
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
