//! Memory of the maps as the kernel accounts for it, and of the agent.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use lb_common::abi::map;
use pointsman::datapath::batch::BatchMap;

use crate::{Options, figure::Figure, scene::Scene};

const MIB: f64 = 1_048_576.0;

/// What flows, prefixes and rings take, each, and all maps together.
///
/// # Errors
/// If a map can not be inspected.
pub(crate) fn measure(scene: &Scene<'_>, options: &Options) -> Result<Vec<Figure>> {
    let mut all = 0;
    let (mut flows, mut prefixes) = (0, 0);
    for name in map::ALL {
        let bytes = accounted(scene.map(name)?.fd().as_fd())?;
        all += bytes;
        match name {
            map::FLOWS4 => flows = bytes,
            map::ACCESS4 => prefixes = bytes,
            _ => {}
        }
    }
    let rings = rings(scene)?;
    let (count, ring_bytes) = (rings.len(), rings.iter().sum::<u64>());
    let each = |bytes: u64, count: f64| bytes as f64 / count;
    Ok(vec![
        Figure::new("a flow of IPv4", each(flows, options.flows.into()), "B"),
        Figure::new("a prefix", each(prefixes, f64::from(options.prefixes.max(1))), "B"),
        Figure::new("a ring", each(ring_bytes, count.max(1) as f64) / 1024.0, "KiB"),
        Figure::new("all rings", ring_bytes as f64 / MIB, "MiB"),
        Figure::new("all maps", (all + ring_bytes) as f64 / MIB, "MiB"),
        Figure::new("the agent", resident(scene.pid()?)? as f64 / MIB, "MiB"),
    ])
}

/// Bytes of each ring.
fn rings(scene: &Scene<'_>) -> Result<Vec<u64>> {
    let mut rings = Vec::new();
    for name in [map::RINGS, map::LARGE_RINGS] {
        let ids = BatchMap::<u32, u32>::new(name, scene.map(name)?)?;
        for backend in 0..ids.capacity() {
            if let Some(id) = ids.get(&backend)? {
                rings.push(accounted(MapInfo::from_id(id)?.fd()?.as_fd())?);
            }
        }
    }
    Ok(rings)
}

/// What the kernel says that a map takes, bytes (`memlock` of its descriptor's information).
fn accounted(map: BorrowedFd<'_>) -> Result<u64> {
    number(&format!("/proc/self/fdinfo/{}", map.as_raw_fd()), "memlock:")
}

/// What a process has in memory, bytes.
fn resident(pid: i32) -> Result<u64> {
    Ok(number(&format!("/proc/{pid}/status"), "VmRSS:")? * 1024)
}

/// The first number behind a word in a file of the kernel's.
fn number(path: &str, word: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let rest = text.lines().find_map(|line| line.strip_prefix(word));
    let number = rest.and_then(|rest| rest.split_whitespace().next());
    number.with_context(|| format!("no {word} in {path}"))?.parse().context("a number")
}
