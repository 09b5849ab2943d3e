//! The BPF objects that `build.rs` compiled, as bytes in this binary.

/// The data plane: program `pointsman` and every pinned map.
pub static PROGRAM_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pointsman.o"));

/// The data plane that shows its packets.
pub static TRACED_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/traced.o"));

/// The classifiers that send checks the way of traffic.
pub static CHECKS_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/checks.o"));

/// The data plane inside a timing loop; for the benchmarks.
#[cfg(feature = "test-objects")]
pub static BENCH_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.o"));

/// Stubs and packet generators of the test bed.
#[cfg(feature = "test-objects")]
pub static TESTBED_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/testbed.o"));
