//! `bench datapath` with few and small batches: it runs, and its JSON is as documented. The
//! figures of an unoptimised program in so little time are worth nothing.

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
