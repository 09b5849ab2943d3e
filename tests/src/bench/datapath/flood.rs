//! Packets by the million through the data plane and out of a link, in the driver's own frames
//! (`BPF_F_TEST_XDP_LIVE_FRAMES`, `net/bpf/test_run.c`): the kernel takes frames from a pool of
//! pages, runs the program, and does what the verdict says.
//!
//! The link is a veth pair. What is sent to its far end meets a program there that counts and
//! drops it, on the same processor.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::{
    TestRunOptions,
    maps::{Map, PerCpuArray},
    programs::{TestRun as _, TestRunAttrs, XdpMode},
};
use lb_common::bench::Measurement;
use nix::net::if_::if_nametoindex;
use pointsman::datapath::stages;

use super::{measure::Loop, scenario::Scenario};
use crate::namespace::Namespace;

/// Frames that are taken from the pool at once: as many as drivers take from a queue.
const BATCH: u32 = 64;
/// Time without an arrival after which nothing is under way.
const SETTLED: Duration = Duration::from_millis(5);
const NEAR: &str = "near";
const FAR: &str = "far";

/// What one call of the kernel did.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// Packets that the program has seen.
    pub packets: u32,
    /// From the first of them until after the last, in nanoseconds.
    pub ns: u64,
    /// How many came to the far end of the link.
    pub arrived: u64,
}

/// What programs are told of a packet (`struct xdp_md`): all of its frame, from queue 0 of an
/// interface.
pub(super) fn context(frame: &[u8], ifindex: u32) -> [u8; 24] {
    let end = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    // data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    let words = [0, end, 0, ifindex, 0, 0];
    let mut bytes = [0; 24];
    for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *bytes = u32::to_ne_bytes(word);
    }
    bytes
}

impl Loop {
    /// Makes the link in a namespace; from now on packets come in by it. The thread that runs
    /// them has to be in that namespace.
    ///
    /// # Errors
    /// If the link can not be made, or its far end takes no program.
    pub fn connect(&mut self, namespace: &Namespace) -> Result<()> {
        namespace.ip(&["link", "add", NEAR, "type", "veth", "peer", "name", FAR])?;
        for end in [NEAR, FAR] {
            // No packets of its own: they would be counted.
            namespace.ip(&["link", "set", end, "addrgenmode", "none", "up"])?;
        }
        let sink = stages::program(&mut self.driver, "sink")?;
        let ifindex = namespace.run(|| {
            sink.attach(FAR, XdpMode::Driver).context("attach the sink")?;
            Ok(if_nametoindex(NEAR)?)
        })?;
        self.ifindex = Some(ifindex);
        Ok(())
    }

    /// Sends `packets` packets of a scenario through, going on with the flows where burst
    /// `burst - 1` stopped.
    ///
    /// # Errors
    /// If there is no link, or the kernel refuses or ends the burst early.
    pub fn flood(
        &mut self,
        scenario: Scenario,
        flows: u32,
        burst: u32,
        packets: u32,
    ) -> Result<Burst> {
        let ifindex = self.ifindex.context("there is no link")?;
        let order = scenario.order(flows, burst, packets);
        self.prepare(scenario, &order)?;
        let before = self.arrived()?;
        let frame: Vec<u8> = order.bytes().collect();
        let context = context(&frame, ifindex);
        let options = TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            // Once more for the time.
            repeat: packets + 1,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        stages::program(&mut self.driver, "drive")?.test_run(options)?;
        let measured = self.array::<Measurement>("MEASUREMENT")?.get(&0, 0)?;
        ensure!(measured.packets == packets, "the kernel ended the burst early");
        let arrived = self.settled()? - before;
        Ok(Burst { packets, ns: measured.end_ns - measured.start_ns, arrived })
    }

    /// What has arrived once nothing is under way any more: the far end is polled by the kernel,
    /// on a busy machine later.
    fn settled(&self) -> Result<u64> {
        let mut last = self.arrived()?;
        loop {
            thread::sleep(SETTLED);
            match self.arrived()? {
                now if now == last => return Ok(now),
                now => last = now,
            }
        }
    }

    fn arrived(&self) -> Result<u64> {
        let map = self.driver.map("ARRIVED").context("no map ARRIVED")?;
        let Map::PerCpuArray(_) = map else { anyhow::bail!("ARRIVED is of another type") };
        let counts = PerCpuArray::<_, u64>::try_from(map)?.get(&0, 0)?;
        Ok(counts.iter().sum())
    }
}
