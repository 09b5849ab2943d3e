//! One loaded copy of the benchmark's programs: orders in, measurements out.

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRunOptions,
    maps::{Array, Map, MapData, ProgramArray, RingBuf},
    programs::{TestRun as _, XdpMode},
};
use lb_common::{
    abi::{self, map},
    bench::{Measurement, Order},
    flow::Direction,
    trace::Filter,
};
use pointsman::datapath::{
    Maps,
    object::{BENCH_OBJECT, PROGRAM_OBJECT, TRACED_OBJECT},
    stages,
};

use super::{
    flood,
    scenario::Scenario,
    tables::{self, Tables},
};
use crate::namespace::Namespace;

/// Packets that a scenario is verified with, before it is timed.
const VERIFIED: u32 = 10_000;

/// Room in each table of flows: two entries each for a million flows.
const TABLE_ENTRIES: u32 = 2_097_152;

/// The product's programs and those that drive them, with their maps.
pub struct Loop {
    product: Ebpf,
    /// What a traced data plane tells.
    records: Option<RingBuf<MapData>>,
    pub(super) driver: Ebpf,
    /// The program that is driven.
    measured: Option<&'static str>,
    /// The interface that packets come in by; loopback if there is none.
    pub(super) ifindex: Option<u32>,
    /// Where the driver is attached; nothing comes in there.
    _idle: Namespace,
}

impl Loop {
    /// Loads the objects; with a filter, the data plane that is traced in place of the other.
    ///
    /// # Errors
    /// If the verifier refuses a program; root is needed.
    pub fn load(traced: Option<&Filter>) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for table in [map::FLOWS4, map::FLOWS6] {
            loader.map_max_entries(table, TABLE_ENTRIES);
        }
        let object = if traced.is_some() { TRACED_OBJECT } else { PROGRAM_OBJECT };
        let mut product = loader.load(object).context("could not load the product")?;
        stages::load(&mut product)?;
        let records = traced.map(|filter| trace(&mut product, filter)).transpose()?;
        let mut driver = EbpfLoader::new()
            .map_max_entries("CALIBRATION", TABLE_ENTRIES)
            .load(BENCH_OBJECT)
            .context("could not load the benchmark")?;
        for name in ["drive", "floor", "floor_resized", "calibration", "discard", "bounce", "sink"]
        {
            let program = stages::program(&mut driver, name)?;
            program.load().with_context(|| format!("the verifier refused {name}"))?;
        }
        let idle = Namespace::create("idle")?;
        attach(&mut driver, &idle)?;
        Ok(Self { product, records, driver, measured: None, ifindex: None, _idle: idle })
    }

    /// The maps of configuration and counters.
    ///
    /// # Errors
    /// If one is missing.
    pub fn maps(&self) -> Result<Maps> {
        Ok(Maps::of_object(&self.product)?)
    }

    /// A hash map or an array of the objects.
    ///
    /// # Errors
    /// If it is missing or of another type.
    pub fn map(&self, name: &str) -> Result<MapData> {
        let map = self.product.map(name).or_else(|| self.driver.map(name));
        match map.with_context(|| format!("no map {name}"))? {
            Map::HashMap(data) | Map::LruHashMap(data) | Map::Array(data) => {
                tables::duplicate(data)
            }
            _ => anyhow::bail!("{name} is neither a hash map nor an array"),
        }
    }

    /// Nanoseconds a packet of one batch.
    ///
    /// # Errors
    /// If the kernel refuses, or ends the batch early.
    pub fn batch(
        &mut self,
        scenario: Scenario,
        flows: u32,
        batch: u32,
        packets: u32,
        tables: &mut Tables,
    ) -> Result<f64> {
        let packets = scenario.packets(packets);
        tables.switch(scenario)?;
        // Room for those of this batch.
        while self.records.as_mut().is_some_and(|records| records.next().is_some()) {}
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
    pub fn verify(&mut self, scenario: Scenario, flows: u32, tables: &mut Tables) -> Result<()> {
        tables.switch(scenario)?;
        let before = counters(tables)?;
        let packets = scenario.packets(VERIFIED);
        let order = scenario.order(flows, 0, packets);
        self.step(scenario, &order)?;
        let after = counters(tables)?;
        if scenario.opens() {
            tables.forget(&order)?;
        }
        let floods = scenario == Scenario::SynFlood4;
        let opened = scenario.opens() || floods;
        let opened = if opened { packets } else { 0 };
        let forward = scenario.direction() == Some(Direction::Forward);
        // A SYN answered with a cookie is counted among them.
        let dropped = matches!(scenario, Scenario::Deny4 | Scenario::SynCookie4);
        // In a flood, flows that others push out count as drops, too.
        let drops = if floods {
            u32::try_from(after.drops - before.drops)?
        } else {
            u32::from(dropped) * packets
        };
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

    /// Runs an order in one call, and once more for the time.
    fn run(&mut self, scenario: Scenario, order: &Order) -> Result<Measurement> {
        self.prepare(scenario, order)?;
        self.drive(order, order.iterations + 1)?;
        let measurement = self.array::<Measurement>("MEASUREMENT")?.get(&0, 0)?;
        ensure!(measurement.packets == order.iterations, "the kernel ended the batch early");
        Ok(measurement)
    }

    /// Runs an order packet by packet and checks each verdict.
    fn step(&mut self, scenario: Scenario, order: &Order) -> Result<()> {
        self.prepare(scenario, order)?;
        for number in 0..order.iterations {
            let (got, expected) = (self.drive(order, 1)?, scenario.verdict());
            ensure!(got == expected, "packet {number} got verdict {got}, expected {expected}");
        }
        Ok(())
    }

    /// The verdict of the last of `packets` runs.
    fn drive(&mut self, order: &Order, packets: u32) -> Result<u32> {
        let frame: Vec<u8> = order.bytes().collect();
        let context = self.ifindex.map(|ifindex| flood::context(&frame, ifindex));
        let options = TestRunOptions {
            data_in: Some(&frame),
            ctx_in: context.as_ref().map(<[u8; 24]>::as_slice),
            repeat: packets,
            ..TestRunOptions::default()
        };
        Ok(stages::program(&mut self.driver, "drive")?.test_run(options)?.return_value)
    }

    pub(super) fn prepare(&mut self, scenario: Scenario, order: &Order) -> Result<()> {
        self.array::<Order>("ORDER")?.set(0, order, 0)?;
        self.array::<Measurement>("MEASUREMENT")?.set(0, Measurement::default(), 0)?;
        let name = scenario.program();
        if self.measured == Some(name) {
            return Ok(());
        }
        let object = if name == abi::PROGRAM { &mut self.product } else { &mut self.driver };
        let measured = stages::program(object, name)?.fd()?.try_clone()?;
        let map = self.driver.map_mut("MEASURED").context("no map MEASURED")?;
        ProgramArray::try_from(map)?.set(0, &measured, 0)?;
        self.measured = Some(name);
        Ok(())
    }

    pub(super) fn array<V: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        let map = self.driver.map_mut(name).with_context(|| format!("no map {name}"))?;
        Ok(map.try_into()?)
    }
}

/// Says which packets are wanted of a traced data plane.
fn trace(product: &mut Ebpf, filter: &Filter) -> Result<RingBuf<MapData>> {
    let map = product.map_mut("TRACE_FILTER").context("no map TRACE_FILTER")?;
    Array::<_, Filter>::try_from(map)?.set(0, filter, 0)?;
    let map = product.take_map("TRACE_RECORDS").context("no map TRACE_RECORDS")?;
    Ok(RingBuf::try_from(map)?)
}

/// Makes the driver known to the kernel's dispatcher of XDP programs for good. Else every run
/// of many packets would change the dispatcher before and after, and sleep for that, which
/// leaves caches cold.
fn attach(driver: &mut Ebpf, idle: &Namespace) -> Result<()> {
    let program = stages::program(driver, "drive")?;
    idle.run(|| Ok(program.attach("lo", XdpMode::Skb).map(drop)?)).context("attach the driver")
}

/// A batch takes far less than 2^52 ns, so the conversion is exact.
fn ns_each(measurement: &Measurement, packets: u32) -> f64 {
    (measurement.end_ns - measurement.start_ns) as f64 / f64::from(packets)
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
    for id in tables.vip_ids() {
        let vip = tables.maps.vip_counters(id)?;
        sum.flows += vip.flows;
        sum.forward += vip.forward_packets;
        sum.reply += vip.reply_packets;
    }
    Ok(sum)
}
