//! `bench datapath` and `bench flood` with few and small batches: they run, and their JSON is as
//! documented. Figures of so little time are worth nothing.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{namespace::output, report::note};

#[test]
fn the_datapath_benchmark_writes_every_scenario() -> Result<()> {
    const SCENARIOS: [&str; 8] = [
        "floor",
        "calibration",
        "pass_other4",
        "nat4_tcp_hit",
        "nat4_tcp_reply",
        "nat6_tcp_hit",
        "nat4_udp_hit",
        "nat4_tcp_new",
    ];
    let keys = BTreeSet::from(["scenario", "flows", "ns_p10", "ns_p50", "ns_p90", "ratio"]);
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("figures.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench_datapath"));
    command.args(["--batches", "2", "--packets", "200", "--flows", "1,10", "--json"]).arg(&file);
    note(output(&mut command)?);
    let figures: Vec<Value> = serde_json::from_str(&fs::read_to_string(&file)?)?;
    for figure in &figures {
        let figure = figure.as_object().context("an object")?;
        ensure!(figure.keys().map(String::as_str).collect::<BTreeSet<_>>() == keys, "{figure:?}");
        let number = |key: &str| figure[key].as_f64().with_context(|| format!("{key}: {figure:?}"));
        let (low, middle, high) = (number("ns_p10")?, number("ns_p50")?, number("ns_p90")?);
        ensure!(0.0 < low && low <= middle && middle <= high, "{figure:?}");
        ensure!(number("ratio")? > 0.0, "{figure:?}");
    }
    for scenario in SCENARIOS {
        for flows in [1, 10] {
            let this = |figure: &&Value| figure["scenario"] == scenario && figure["flows"] == flows;
            let count = figures.iter().filter(this).count();
            ensure!(count == 1, "{scenario} at {flows} flows is there {count} times");
        }
    }
    Ok(())
}

#[test]
fn the_flood_benchmark_sends_what_it_counts() -> Result<()> {
    let keys = BTreeSet::from([
        "scenario",
        "flows",
        "mpps",
        "mpps_low",
        "mpps_high",
        "ns",
        "packets",
        "arrived",
    ]);
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("figures.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench_flood"));
    command.args(["--seconds", "0.1", "--rounds", "2", "--packets", "20000", "--flows", "10"]);
    command.arg("--json").arg(&file);
    for scenario in ["deny4", "nat4_tcp_hit", "ipip4_hit"] {
        command.args(["--only", scenario]);
    }
    note(output(&mut command)?);
    let figures: Vec<Value> = serde_json::from_str(&fs::read_to_string(&file)?)?;
    ensure!(figures.len() == 3, "{figures:?}");
    for figure in &figures {
        let figure = figure.as_object().context("an object")?;
        ensure!(figure.keys().map(String::as_str).collect::<BTreeSet<_>>() == keys, "{figure:?}");
        let number = |key: &str| figure[key].as_f64().with_context(|| format!("{key}: {figure:?}"));
        let (low, middle, high) = (number("mpps_low")?, number("mpps")?, number("mpps_high")?);
        ensure!(0.0 < low && low <= middle && middle <= high, "{figure:?}");
        ensure!(number("packets")? >= 40_000.0, "{figure:?}");
        // What is denied goes nowhere; of what is forwarded little is lost, however busy the
        // core is with other tests.
        let arrived = number("arrived")? / number("packets")?;
        let denied = figure["scenario"] == "deny4";
        let expected = if denied { 0.0..=0.0 } else { 0.95..=1.0 };
        ensure!(expected.contains(&arrived), "{arrived}: {figure:?}");
    }
    Ok(())
}
