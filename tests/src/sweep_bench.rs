//! What sweeping a full flow table costs: time in all, and the longest single call. Fills
//! pinned tables of its own, without traffic.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use lb_common::{
    abi::map,
    address::{Address4, Be16},
    flow::{Direction, FlowEntry4, FlowKey4},
    tcp_state::Progress,
    timeouts::Timeouts,
};
use pointsman::{
    clock::Moment,
    datapath::{
        Capacities, DataPlane, FlowTables, LockedPins, Pins, Settler,
        batch::BatchMap,
        sweep::{SweepReport, sweep},
    },
};
use serde::Serialize;

use crate::bpffs::{self, PinDirectory};

/// The figures of one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SweepFigures {
    /// Flows in the table; two entries each.
    pub flows: u32,
    /// A sweep that finds nothing to do, in milliseconds.
    pub idle_ms: f64,
    /// The longest call that read a batch, in milliseconds.
    pub idle_longest_ms: f64,
    /// A sweep that deletes half of the flows, in milliseconds.
    pub half_ms: f64,
    /// The longest it took to delete what had expired of one batch, in milliseconds.
    pub half_longest_ms: f64,
}

/// Fills a table with that many flows and sweeps it twice: none expired, half expired.
///
/// # Errors
/// Without root, without the memory, or if a sweep does not find what it should.
pub fn run(flows: u32) -> Result<SweepFigures> {
    bpffs::mount_if_missing()?;
    let directory = PinDirectory::unique();
    let pins = LockedPins::acquire(Pins::new(directory.path()))?;
    let plane = DataPlane::load(
        pins,
        Capacities { flows: 2 * flows, half_open: 256, prefixes: 1024, sources: 1024 },
    )?;
    let confirmed = MapData::from_pin(plane.pins().map(map::FLOWS4))?;
    fill(&BatchMap::new(map::FLOWS4, confirmed)?, flows)?;
    let tables = FlowTables::open(plane.pins())?;

    let settler = Settler::open(plane.pins())?;
    let idle = sweep(&tables, settler.expirer(), &Timeouts::default(), 0, |_| {})?;
    ensure!(idle.expired == 0, "{} flows expired too early", idle.expired);
    ensure!(entries(&idle) == u64::from(flows) * 2, "not every entry was seen: {idle:?}");

    let mut reported = 0_u32;
    let short = Timeouts { udp_ns: 1, ..Timeouts::default() };
    let half = sweep(&tables, settler.expirer(), &short, 0, |_| reported += 1)?;
    ensure!(half.expired == u64::from(flows / 2), "{} flows expired", half.expired);
    ensure!(reported == flows / 2, "{reported} flows were reported");
    Ok(SweepFigures {
        flows,
        idle_ms: milliseconds(idle.took),
        idle_longest_ms: milliseconds(idle.longest_read.max(idle.longest_batch)),
        half_ms: milliseconds(half.took),
        half_longest_ms: milliseconds(half.longest_read.max(half.longest_batch)),
    })
}

/// Puts flows into a table: TCP and UDP in turns, established and seen now; the UDP ones can be
/// made to expire.
///
/// # Errors
/// If the table has no room, or takes too long.
pub fn fill(table: &BatchMap<FlowKey4, FlowEntry4>, flows: u32) -> Result<()> {
    let now_ns = Moment::now().monotonic_ns;
    let (mut keys, mut entries) = (Vec::new(), Vec::new());
    for index in 0..flows {
        let (forward, reply) = pair(index, now_ns)?;
        keys.extend([forward.0, reply.0]);
        entries.extend([forward.1, reply.1]);
    }
    let start = Instant::now();
    table.update(&keys, &entries)?;
    ensure!(start.elapsed() < Duration::from_secs(60), "filling the table takes too long");
    Ok(())
}

type Entry = (FlowKey4, FlowEntry4);

fn pair(index: u32, now_ns: u64) -> Result<(Entry, Entry)> {
    let [_, a, b, c] = index.to_be_bytes();
    let client = Address4::new([10, a, b, c]);
    let vip = Address4::new([192, 0, 2, 1]);
    let snat = Address4::new([198, 51, a, b]);
    let server = Address4::new([203, 0, 113, c]);
    let protocol = if index.is_multiple_of(2) { 6 } else { 17 };
    let snat_port = Be16::new(u16::try_from(index % 30_000 + 1024).context("a port")?);
    let key = FlowKey4 {
        source: client,
        destination: vip,
        source_port: Be16::new(40_000),
        destination_port: Be16::new(5432),
        protocol,
        padding: [0; 3],
    };
    let entry = FlowEntry4 {
        last_seen_ns: now_ns,
        created_ns: now_ns,
        packets: 3,
        bytes: 300,
        source: snat,
        destination: server,
        source_port: snat_port,
        destination_port: Be16::new(5432),
        progress: if protocol == 6 { ESTABLISHED } else { 0 },
        direction: Direction::Forward.to_raw(),
        protocol,
        ..FlowEntry4::default()
    };
    let answer = FlowEntry4 {
        source: vip,
        destination: client,
        source_port: Be16::new(5432),
        destination_port: Be16::new(40_000),
        direction: Direction::Reply.to_raw(),
        ..entry
    };
    Ok(((key, entry), (entry.partner_key(), answer)))
}

const ESTABLISHED: u32 = Progress::SYN | Progress::SYN_ACK | Progress::CONFIRMED;

fn entries(report: &SweepReport) -> u64 {
    report.fill.iter().map(|table| table.entries).sum()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
