//! `setup`: install what is missing. The other commands call [`ensure`] as far as they need.

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::install::{
    bpffs,
    debian::{self, Need, program, python_module, served, versioned},
    python,
    toolchain::{self, BPF_LINKER, CARGO_DENY, HTTPWG},
};

/// Install what is missing on this machine: toolchain parts, programs, Debian packages
#[derive(Args)]
pub(crate) struct Options {
    /// How much; everything by default
    #[arg(value_enum)]
    level: Option<Level>,
}

/// What the machine is to be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Building the XDP program and the agent
    Build,
    /// Lints and the tests that need no privilege
    Unit,
    /// Running: the BPF file system, and what makes and inspects network namespaces
    Run,
    /// The demo with real servers: PostgreSQL, Redis, RabbitMQ
    Servers,
    /// All tests
    Test,
    /// The benchmarks against nginx, HAProxy and nftables
    Bench,
}

/// To make the bed of network namespaces, and to look inside.
const RUN: [Need; 4] = [
    program("ip", "iproute2"),
    program("ethtool", "ethtool"),
    program("bpftool", "bpftool"),
    program("curl", "curl"),
];

/// Peers of the proxy in the agent's own tests, which need no privilege, and the compiler of
/// the fuzzer.
const PEERS: [Need; 6] = [
    program("c++", "g++"),
    program("curl", "curl"),
    served("nginx", "nginx-light", "nginx"),
    program("openssl", "openssl"),
    program("h2load", "nghttp2-client"),
    program("tinyproxy", "tinyproxy-bin"),
];

/// Peers of the proxy in the bed.
const BED_PEERS: [Need; 1] = [program("node", "nodejs")];

/// Readers of files that are written in the bed.
const READERS: [Need; 1] = [program("tcpdump", "tcpdump")];

/// Real servers behind the balancer, and their clients.
const SERVERS: [Need; 6] = [
    versioned("/usr/lib/postgresql", "bin/postgres", "postgresql", "postgresql"),
    program("pgbench", "postgresql-contrib"),
    served("redis-server", "redis-server", "redis-server"),
    program("redis-benchmark", "redis-tools"),
    served("rabbitmq-server", "rabbitmq-server", "rabbitmq-server"),
    python_module("ensurepip", "python3-venv"),
];

/// What pointsman is compared with, and the load.
const BENCH: [Need; 7] = [
    served("nginx", "nginx-light", "nginx"),
    versioned("/usr/lib/nginx", "ngx_stream_module.so", "libnginx-mod-stream", "nginx"),
    served("haproxy", "haproxy", "haproxy"),
    program("nft", "nftables"),
    program("wrk", "wrk"),
    program("h2load", "nghttp2-client"),
    program("openssl", "openssl"),
];

/// Runs the command.
///
/// # Errors
/// Something is missing and could not be installed.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(level) = options.level {
        ensure(level)?;
    } else {
        ensure(Level::Test)?;
        ensure(Level::Bench)?;
    }
    println!("setup: nothing is missing");
    Ok(())
}

/// Makes the machine ready for `level`; fast and silent if it is.
///
/// # Errors
/// Something is missing and could not be installed.
pub(crate) fn ensure(level: Level) -> Result<()> {
    toolchain::ensure_components()?;
    toolchain::ensure_program(&BPF_LINKER)?;
    if matches!(level, Level::Unit | Level::Test) {
        toolchain::ensure_program(&CARGO_DENY)?;
    }
    if level == Level::Test {
        toolchain::ensure_program(&HTTPWG)?;
    }
    debian::ensure(&needs(level))?;
    if matches!(level, Level::Servers | Level::Test) {
        python::ensure()?;
    }
    if !matches!(level, Level::Build | Level::Unit) {
        bpffs::ensure()?;
    }
    Ok(())
}

fn needs(level: Level) -> Vec<Need> {
    match level {
        Level::Build => Vec::new(),
        Level::Unit => PEERS.to_vec(),
        Level::Run => RUN.to_vec(),
        Level::Servers => [&RUN[..], &SERVERS[..]].concat(),
        Level::Test => [&RUN[..], &SERVERS[..], &PEERS[..], &BED_PEERS[..], &READERS[..]].concat(),
        Level::Bench => [&RUN[..], &BENCH[..]].concat(),
    }
}
