//! What packets cost with as many ids and prefixes, by `bench_datapath`.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tempfile::NamedTempFile;

use crate::figure::Figure;

/// What is taken from `bench_datapath`'s figures.
#[derive(Deserialize)]
struct Line {
    scenario: String,
    flows: u32,
    ns_p50: f64,
    ratio: f64,
}

/// The scenarios, and what their figures are called. Beside flows, the tables are the same.
const SCENARIOS: [(&str, [&str; 4]); 2] = [
    (
        "nat4_tcp_hit",
        [
            "nat4_tcp_hit, 1 flow",
            "nat4_tcp_hit, all flows",
            "nat4_tcp_hit, growth",
            "nat4_tcp_hit / calibration, all flows",
        ],
    ),
    (
        "nat4_tcp_hit_full",
        [
            "nat4_tcp_hit_full, 1 flow",
            "nat4_tcp_hit_full, all flows",
            "nat4_tcp_hit_full, growth",
            "nat4_tcp_hit_full / calibration, all",
        ],
    ),
];

/// Nanoseconds a packet at 1 flow and at `flows`, which is at most 1,000,000, in one run.
///
/// # Errors
/// If the benchmark fails or is not built.
pub(crate) fn measure(flows: u32) -> Result<Vec<Figure>> {
    let flows = flows.min(1_000_000);
    let file = NamedTempFile::new().context("make a file")?;
    let program = std::env::current_exe()?.with_file_name("bench_datapath");
    let mut command = Command::new(program);
    command.arg("--spread").arg("--json").arg(file.path());
    command.args(["--flows", &format!("1,{flows}")]);
    for (scenario, _) in SCENARIOS {
        command.args(["--only", scenario]);
    }
    let output = command.output().context("start bench_datapath")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Line> = serde_json::from_slice(&fs::read(file.path())?)?;
    let mut figures = Vec::new();
    for (scenario, [one, all, growth, ratio]) in SCENARIOS {
        let at = |flows| {
            let line = lines.iter().find(|line| line.scenario == scenario && line.flows == flows);
            line.with_context(|| format!("no {scenario} at {flows} flows"))
        };
        let (few, many) = (at(1)?, at(flows)?);
        figures.extend([
            Figure::new(one, few.ns_p50, "ns"),
            Figure::new(all, many.ns_p50, "ns"),
            Figure::new(growth, many.ns_p50 / few.ns_p50, "times").goal(1.3),
            Figure::new(ratio, many.ratio, "times"),
        ]);
    }
    Ok(figures)
}
