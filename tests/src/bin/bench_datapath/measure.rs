//! One loaded copy of the benchmark's programs: orders in, measurements out.

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRunOptions,
    maps::{Array, Map, MapData},
    programs::{TestRun as _, Xdp},
};
use lb_common::{
    abi::map,
    bench::{Measurement, Order},
    flow::Direction,
};
use pointsman::datapath::{Maps, object::BENCH_OBJECT};

use crate::{
    scenario::Scenario,
    tables::{self, Tables},
};

/// Packets that a scenario is verified with, before it is timed.
const VERIFIED: u32 = 10_000;

/// Room in each table of flows: two entries each for a million flows.
const TABLE_ENTRIES: u32 = 2_097_152;

/// The programs and their maps.
pub(crate) struct Loop {
    ebpf: Ebpf,
}

impl Loop {
    /// Loads the object.
    ///
    /// # Errors
    /// If the verifier refuses a program; root is needed.
    pub(crate) fn load() -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for table in [map::FLOWS4, map::FLOWS6, "CALIBRATION"] {
            loader.map_max_entries(table, TABLE_ENTRIES);
        }
        let mut ebpf = loader.load(BENCH_OBJECT).context("could not load the object")?;
        for name in ["floor", "calibration", "balancer"] {
            let program: &mut Xdp =
                ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
            program.load().with_context(|| format!("the verifier refused {name}"))?;
        }
        Ok(Self { ebpf })
    }

    /// The maps of configuration and counters.
    ///
    /// # Errors
    /// If one is missing.
    pub(crate) fn maps(&self) -> Result<Maps> {
        Ok(Maps::of_object(&self.ebpf)?)
    }

    /// A hash map or an array of the object.
    ///
    /// # Errors
    /// If it is missing or of another type.
    pub(crate) fn map(&self, name: &str) -> Result<MapData> {
        match self.ebpf.map(name).with_context(|| format!("no map {name}"))? {
            Map::HashMap(data) | Map::LruHashMap(data) | Map::Array(data) => {
                tables::duplicate(data)
            }
            _ => anyhow::bail!("{name} is neither a hash map nor an array"),
        }
    }

    /// Nanoseconds a packet of one batch.
    ///
    /// # Errors
    /// If a packet got another verdict than it must.
    pub(crate) fn batch(
        &mut self,
        scenario: Scenario,
        flows: u32,
        batch: u32,
        packets: u32,
        tables: &mut Tables,
    ) -> Result<f64> {
        let packets = scenario.packets(packets);
        tables.switch(scenario)?;
        if scenario.opens() {
            // Too short a batch to warm the caches by itself.
            let warm_up = scenario.order(flows, 2 * batch, packets);
            self.run(scenario, &warm_up)?;
            tables.forget(&warm_up)?;
            let order = scenario.order(flows, 2 * batch + 1, packets);
            let measurement = self.run(scenario, &order)?;
            tables.forget(&order)?;
            return Ok(ns_each(&measurement, packets));
        }
        let measurement = self.run(scenario, &scenario.order(flows, batch, packets))?;
        Ok(ns_each(&measurement, packets))
    }

    /// Checks that the scenario does what its name says: verdicts, counters, and for hits
    /// that no flow was opened on the way.
    ///
    /// # Errors
    /// What it did instead.
    pub(crate) fn verify(
        &mut self,
        scenario: Scenario,
        flows: u32,
        tables: &mut Tables,
    ) -> Result<()> {
        tables.switch(scenario)?;
        let before = counters(tables)?;
        let packets = scenario.packets(VERIFIED);
        let order = scenario.order(flows, 0, packets);
        self.run(scenario, &order)?;
        let after = counters(tables)?;
        if scenario.opens() {
            tables.forget(&order)?;
        }
        let opened = if scenario.opens() { packets } else { 0 };
        let forward = scenario.direction() == Some(Direction::Forward);
        let drops = if scenario == Scenario::Deny4 { packets } else { 0 };
        let reply = scenario.direction() == Some(Direction::Reply);
        for (name, before, after, expected) in [
            ("flows opened", before.flows, after.flows, opened),
            ("packets forward", before.forward, after.forward, u32::from(forward) * packets),
            ("packets back", before.reply, after.reply, u32::from(reply) * packets),
            ("drops", before.drops, after.drops, drops),
        ] {
            let got = after - before;
            ensure!(got == u64::from(expected), "{name}: {got}, expected {expected}");
        }
        Ok(())
    }

    fn run(&mut self, scenario: Scenario, order: &Order) -> Result<Measurement> {
        self.array::<Order>("ORDER")?.set(0, order, 0)?;
        self.array::<Measurement>("MEASUREMENT")?.set(0, Measurement::default(), 0)?;
        let program: &Xdp =
            self.ebpf.program(scenario.program()).context("no such program")?.try_into()?;
        let frame: Vec<u8> = order.bytes().collect();
        program.test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() })?;
        let measurement = self.array::<Measurement>("MEASUREMENT")?.get(&0, 0)?;
        let got = measurement.verdicts[scenario.verdict()];
        ensure!(
            got == u64::from(order.iterations),
            "verdicts by number {:?}, expected {} times {}",
            measurement.verdicts,
            order.iterations,
            scenario.verdict()
        );
        Ok(measurement)
    }

    fn array<V: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        let map = self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
        Ok(map.try_into()?)
    }
}

/// A batch takes far less than 2^52 ns, so the conversion is exact.
fn ns_each(measurement: &Measurement, packets: u32) -> f64 {
    measurement.elapsed_ns as f64 / f64::from(packets)
}

/// Counters over all VIPs, and all drops.
struct Counters {
    flows: u64,
    forward: u64,
    reply: u64,
    drops: u64,
}

fn counters(tables: &Tables) -> Result<Counters> {
    let drops = tables.maps.drops().with_context(|| format!("read {}", map::DROP_COUNTERS))?;
    let mut sum =
        Counters { flows: 0, forward: 0, reply: 0, drops: drops.iter().map(|(_, n)| n).sum() };
    for id in 0..4 {
        let vip = tables.maps.vip_counters(id)?;
        sum.flows += vip.flows;
        sum.forward += vip.forward_packets;
        sum.reply += vip.reply_packets;
    }
    Ok(sum)
}
