//! How much memory the maps take: what the configuration asks for, reckoned from the object,
//! and what pinned maps have, as the kernel says (`/proc/PID/fdinfo/FD`, `memlock`).

use std::{fs, os::fd::AsRawFd as _};

use aya::maps::{MapData, MapType};
use aya_obj::Object;
use lb_common::abi::map;

use super::{
    error::ProgramFault,
    object::PROGRAM_OBJECT,
    pins::Pins,
    shape::{self, Capacities, Shape},
};
use crate::model::snapshot::Datapath;

/// Of each entry of a hash map: its place in chains and lists, its hash, its bucket
/// (`struct htab_elem`, `struct bucket` in `kernel/bpf/hashtab.c`).
const HASH_BYTES: u64 = 64;
/// Of each node of a trie, of which there may be one without an entry for each with one
/// (`struct lpm_trie_node` in `kernel/bpf/lpm_trie.c`).
const TRIE_BYTES: u64 = 2 * 40;

/// Bytes that the maps of a configuration take, once lists and tables are full. Rings, which
/// are made as backends need them, are not among them.
///
/// # Errors
/// If the embedded object lacks a map.
pub fn needed(configuration: &Datapath) -> Result<u64, ProgramFault> {
    let object = Object::parse(PROGRAM_OBJECT).map_err(|_| ProgramFault::Lacks("maps"))?;
    let capacities = Capacities::of(configuration);
    let processors = aya::util::nr_cpus().map_or(1, |count| count as u64);
    let sizes = map::ALL
        .into_iter()
        .map(|name| Ok(size(shape::wanted(&object, name, capacities)?, processors)));
    sizes.sum()
}

/// Bytes that the pinned maps have, without rings; none if there are no maps, or the kernel
/// does not say of one.
#[must_use]
pub fn held(pins: &Pins) -> Option<u64> {
    map::ALL.into_iter().map(|name| of_map(&MapData::from_pin(pins.map(name)).ok()?)).sum()
}

fn of_map(map: &MapData) -> Option<u64> {
    use std::os::fd::AsFd as _;
    let number = map.fd().as_fd().as_raw_fd();
    memlock(&fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?)
}

fn memlock(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

fn size(shape: Shape, processors: u64) -> u64 {
    let (key, value) = (u64::from(shape.key), u64::from(shape.value).next_multiple_of(8));
    let each = match shape.kind {
        MapType::Hash | MapType::LruHash => key.next_multiple_of(8) + value + HASH_BYTES,
        MapType::PerCpuHash | MapType::LruPerCpuHash => {
            key.next_multiple_of(8) + value * processors + HASH_BYTES
        }
        MapType::PerCpuArray => value * processors,
        MapType::LpmTrie => key + value + TRIE_BYTES,
        // Entries are bytes.
        MapType::RingBuf => 1,
        _ => value,
    };
    u64::from(shape.entries).saturating_mul(each)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture;

    fn shape(kind: MapType) -> Shape {
        Shape { kind, key: 12, value: 20, entries: 10, flags: 0 }
    }

    #[test]
    fn each_kind_of_map_has_its_price() {
        assert_eq!(size(shape(MapType::Array), 4), 10 * 24);
        assert_eq!(size(shape(MapType::PerCpuArray), 4), 10 * 4 * 24);
        assert_eq!(size(shape(MapType::LruHash), 4), 10 * (16 + 24 + 64));
        assert_eq!(size(shape(MapType::PerCpuHash), 4), 10 * (16 + 4 * 24 + 64));
        assert_eq!(size(shape(MapType::LpmTrie), 4), 10 * (12 + 24 + 80));
        assert_eq!(size(shape(MapType::RingBuf), 4), 10);
    }

    #[test]
    fn more_flows_need_more() {
        let mut config = fixture::snapshot(&[]).datapath;
        let little = needed(&config).expect("the object has every map");
        config.max_flows += 1000;
        let more = needed(&config).expect("the object has every map");
        // Two entries of two families each, of more than 100 bytes and less than 300.
        assert!((400_000..1_200_000).contains(&(more - little)), "{}", more - little);
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(memlock("map_type:\t1\nmemlock:\t4096\nmap_id:\t3\n"), Some(4096));
        assert_eq!(memlock("pos:\t0\n"), None);
    }
}
