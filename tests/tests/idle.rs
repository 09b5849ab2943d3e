//! What a crowd of connections costs that have nothing to say. On loopback, without privilege.

use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use testbed::{
    loopback::{Loopback, PATIENCE, free},
    process::wait_until,
    web::{WebClient, server},
};

/// Few enough for the usual limit on open files.
const CROWD: usize = 400;
/// Of resident memory, at most. While requests come it is several times as much: buffers
/// alone are more.
const KIB_EACH: u64 = 8;

/// The agent, which inherits it, has one worker then, and all of the crowd is that one's.
fn stay_on_one_processor() -> Result<()> {
    let own = Pid::from_raw(0);
    let allowed = sched_getaffinity(own)?;
    let first = (0..CpuSet::count()).find(|index| allowed.is_set(*index).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(first.context("no processor")?)?;
    Ok(sched_setaffinity(own, &one)?)
}

#[test]
fn a_crowd_at_rest_gives_its_memory_back() -> Result<()> {
    stay_on_one_processor()?;
    let mut place = Loopback::new()?;
    let (front, server) = (free()?, server("ok")?);
    place.start(&format!(
        "frontends: {{web: {{mode: http, bind: [\"{front}\"], backend: app}}}}\n\
         backends: {{app: {{servers: {{s1: \"{server}\"}}}}}}\n"
    ))?;
    let greet = || -> Result<WebClient> {
        let mut client = WebClient::connect(front)?;
        client.get("/", "")?;
        Ok(client)
    };
    // What the first ones bring for all does not count.
    let first = greet()?;
    let before = place.resident_kib()?;
    let mut crowd = (0..CROWD).map(|_| greet()).collect::<Result<Vec<_>>>()?;
    wait_until("memory is given back", PATIENCE, || {
        let grown = place.resident_kib()?.saturating_sub(before);
        ensure!(grown <= KIB_EACH * CROWD as u64, "{grown} KiB for {CROWD} connections");
        Ok(())
    })?;
    for client in &mut crowd {
        client.get("/", "")?;
    }
    drop(first);
    Ok(())
}
