//! A hundred thousand networks on a list: how long they take to be in force, what they take
//! of memory, and that one more does not write them all again.

use std::{
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use testbed::{
    agent::Agent,
    bed::{Bed, Mode},
    configuration::Service,
    report::note,
};

const NETWORKS: u32 = 100_000;

/// Distinct networks of lengths from 20 to 32 that no test is in.
fn networks() -> String {
    let mut text = String::new();
    for number in 0..NETWORKS {
        let length = 20 + number % 13;
        let bits = (number.wrapping_mul(0x9e37_79b9) >> 4) & (u32::MAX << (32 - length));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}/{length}", std::net::Ipv4Addr::from(bits));
    }
    text
}

/// Bytes that the kernel says a pinned map takes.
fn memory(agent: &Agent<'_>, map: &str) -> Result<u64> {
    let path = agent.pin_directory().join(map);
    let output = std::process::Command::new("bpftool")
        .args(["-j", "map", "show", "pinned"])
        .arg(path)
        .output()
        .context("bpftool")?;
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    shown["bytes_memlock"].as_u64().context("bytes_memlock")
}

#[test]
fn a_hundred_thousand_networks_are_in_force_in_seconds_and_one_more_in_far_less() -> Result<()> {
    let bed = Bed::new(1, Mode::from_environment()?)?;
    let mut agent = Agent::install(&bed)?;
    let file = bed.directory().join("deny.txt");
    fs::write(&file, networks())?;
    let mut configuration = agent.configuration(Service::all_embedded(&bed));
    configuration.datapath_options = vec![format!("deny_file: {}", file.display())];
    agent.configure(&configuration)?;
    let start = Instant::now();
    agent.start()?;
    let started = start.elapsed();
    let listed = agent.status()?.datapath.rules.listed;
    ensure!(listed > 90_000, "{listed} distinct networks");
    let start = Instant::now();
    agent.cli_good(&["block", "192.0.2.7", "--for", "1h"])?;
    let blocked = start.elapsed();
    fs::write(&file, networks() + "192.0.2.0/24\n")?;
    let start = Instant::now();
    agent.reload()?;
    let reloaded = start.elapsed();
    let bytes = memory(&agent, "ACCESS4")?;
    note(format!(
        "{listed} networks: start {started:?}, block {blocked:?}, reload {reloaded:?}, \
         {bytes} bytes"
    ));
    ensure!(agent.status()?.datapath.rules.listed == listed + 1);
    // Generous, for machines that others share.
    ensure!(blocked < Duration::from_secs(2), "a block took {blocked:?}");
    agent.kill();
    let start = Instant::now();
    agent.start()?;
    note(format!("a restart took {:?}", start.elapsed()));
    ensure!(agent.status()?.datapath.rules.listed == listed + 1);
    Ok(())
}
